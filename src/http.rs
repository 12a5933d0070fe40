//! The HTTP server of operator and agent, for a few known clients among many who are not meant.
//!
//! `axum::serve` lets anybody hold any number of connections for any time without asking anything, until no file
//! descriptor is left for the kubelet's probes, which then kill the pod. Here a connection has one request, which
//! must be there soon, and room is made for the newest.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::errno::Errno;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::revision::LONG_POLL;

/// What the request line and all headers may take until they are there.
const HEADERS: Duration = Duration::from_secs(5);

/// What a connection may take in all: the longest answer is a long poll, and has to be read.
const CONNECTION: Duration = LONG_POLL.saturating_add(Duration::from_secs(15));

/// The most bytes of request line and headers; more are answered with 431.
const HEADERS_SIZE: usize = 16 * 1024;

/// The most connections at once.
const CONNECTIONS: usize = 128;

/// What to wait after a connection could not be taken, such as for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Listens at an address. Where there is no IPv6, `[::]` means every address of IPv4.
///
/// # Errors
/// Those of bind(2).
pub async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    let no_ipv6 = |error: &std::io::Error| {
        matches!(error.kind(), ErrorKind::AddrNotAvailable | ErrorKind::Unsupported)
            || error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32)
    };
    match listener {
        Err(error) if address.ip() == IpAddr::from(Ipv6Addr::UNSPECIFIED) && no_ipv6(&error) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        other => other,
    }
}

/// Serves the routes until it is dropped.
pub async fn serve(listener: TcpListener, routes: Router) {
    let mut open = VecDeque::new();
    let mut tasks = JoinSet::new();
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("a connection could not be taken: {error}");
                sleep(PAUSE).await;
                continue;
            }
        };
        while tasks.try_join_next().is_some() {}
        make_room(&mut open);
        open.push_back((peer.ip(), tasks.spawn(answer(stream, routes.clone()))));
    }
}

/// When there are as many connections as may be, the oldest of the peer that has the most is closed. So a flood of
/// one peer's keeps nobody else out, and one of many peers' leaves each newcomer the time to ask.
fn make_room(open: &mut VecDeque<(IpAddr, AbortHandle)>) {
    open.retain(|(_, task)| !task.is_finished());
    if open.len() < CONNECTIONS {
        return;
    }
    let of = |peer: &IpAddr| open.iter().filter(|(other, _)| other == peer).count();
    let most = open.iter().map(|(peer, _)| of(peer)).max();
    let oldest = open.iter().position(|(peer, _)| Some(of(peer)) == most);
    if let Some((_, task)) = oldest.and_then(|oldest| open.remove(oldest)) {
        task.abort();
    }
}

async fn answer(stream: TcpStream, routes: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(HEADERS_SIZE)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    // What a client did wrong is told to it, and nobody else needs to know.
    let _ = timeout(CONNECTION, connection).await;
}

#[cfg(test)]
mod tests;
