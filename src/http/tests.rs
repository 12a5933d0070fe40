//! Clients that mean harm, against a real listener.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use axum::routing::get;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;

use super::*;

/// More than any step here takes on a machine with other work.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server whose `/slow` never answers.
async fn server() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes =
        Router::new().route("/", get(|| async { "here" })).route("/slow", get(std::future::pending::<()>));
    tokio::spawn(serve(listener, routes));
    address
}

/// A connection from a loopback address of one's own.
async fn connect(server: SocketAddr, from: [u8; 4]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::from(from), 0).into()).unwrap();
    socket.connect(server).await.unwrap()
}

/// What comes until the server closes the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    // Reset or closed in order: over it is.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut text)).await.expect("the server closes it");
    String::from_utf8_lossy(&text).into_owned()
}

async fn ask(server: SocketAddr, from: [u8; 4], request: &str) -> String {
    let mut stream = connect(server, from).await;
    // A server that has heard enough closes while we still send.
    let _ = stream.write_all(request.as_bytes()).await;
    rest(&mut stream).await
}

const PROBE: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
const KUBELET: [u8; 4] = [127, 0, 0, 9];

#[tokio::test]
async fn silent_and_slow_clients_are_left_and_keep_nobody_out() {
    let server = server().await;
    let mut waiting = connect(server, [127, 0, 0, 8]).await;
    waiting.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..3 * CONNECTIONS {
        silent.push(connect(server, [127, 0, 0, 7]).await);
        assert!(silent.len() % 50 != 0 || ask(server, KUBELET, PROBE).await.ends_with("here"));
    }
    // Headers without an end.
    let (mut reading, mut writing) = connect(server, [127, 0, 0, 6]).await.into_split();
    let drip = tokio::spawn(async move {
        while writing.write_all(b"X-A: b\r\n").await.is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(ask(server, KUBELET, PROBE).await.ends_with("here"));
    let mut text = Vec::new();
    let _ = timeout(PATIENCE, reading.read_to_end(&mut text)).await.expect("the server closes it");
    timeout(PATIENCE, drip).await.expect("the server closes it").unwrap();
    for stream in &mut silent {
        assert_eq!(rest(stream).await, "");
    }
    // The flood was not at the cost of one that waits for an answer.
    let mut byte = [0];
    let answer = timeout(Duration::from_millis(100), waiting.read(&mut byte)).await;
    assert!(answer.is_err(), "{answer:?}");
}

#[tokio::test]
async fn a_flood_from_everywhere_leaves_a_newcomer_the_time_to_ask() {
    let server = server().await;
    let mut flood = Vec::new();
    for number in 0..3 * CONNECTIONS {
        let mut stream = connect(server, [127, 1, (number / 250) as u8, (number % 250) as u8 + 1]).await;
        stream.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        flood.push(stream);
    }
    assert!(ask(server, KUBELET, PROBE).await.ends_with("here"));
    // Not only once its time is over.
    timeout(CONNECTION / 2, rest(&mut flood[0])).await.expect("the oldest makes room");
}

#[tokio::test]
async fn huge_requests_are_refused_or_not_read() {
    let server = server().await;
    let begun = Instant::now();
    let long = "a".repeat(1 << 20);
    for (request, status) in [
        (format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n"), "HTTP/1.1 4"),
        (format!("GET / HTTP/1.1\r\nHost: x\r\nX: {long}\r\n\r\n"), "HTTP/1.1 431"),
        (format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(10_000)), "HTTP/1.1 431"),
        (format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n{long}"), "HTTP/1.1 405"),
        (
            "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".into(),
            "HTTP/1.1 400",
        ),
        ("EHLO x\r\n".into(), "HTTP/1.1 400"),
        ("\u{16}\u{3}\u{1}\0".into(), "HTTP/1.1 400"),
    ] {
        let answer = ask(server, KUBELET, &request).await;
        // A reset may take the answer with it; an answer is never a good one.
        assert!(answer.is_empty() || answer.starts_with(status), "{status}: {answer}");
    }
    // The second request on one connection is not heard.
    let answer = ask(server, KUBELET, &PROBE.repeat(2)).await;
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 1, "{answer}");
    assert!(begun.elapsed() < PATIENCE);
}
