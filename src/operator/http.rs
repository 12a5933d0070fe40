//! Health and metrics of the operator.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::metrics::CONTENT_TYPE;

use super::metrics::Metrics;

/// The reconcile loop turns at least this often, events or not.
pub const TURN_EVERY: Duration = Duration::from_secs(5);
const STALLED_AFTER: Duration = Duration::from_secs(60);

/// What the endpoints tell.
#[derive(Clone)]
pub struct Health(Arc<Inner>);

struct Inner {
    started: Instant,
    last_turn: AtomicU64,
    complete: AtomicBool,
    metrics: Metrics,
}

impl Health {
    /// Nothing has turned yet.
    pub fn new(metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            started: Instant::now(),
            last_turn: AtomicU64::new(0),
            complete: AtomicBool::new(false),
            metrics,
        }))
    }

    /// The loop turned; `complete` once everything was listed.
    pub fn turned(&self, complete: bool) {
        self.0.last_turn.store(self.0.started.elapsed().as_secs(), Ordering::Relaxed);
        self.0.complete.store(complete, Ordering::Relaxed);
        self.0.metrics.ready(self.ready().is_ok());
    }

    /// Whether what the operator goes by is the present state of the cluster, or why not.
    fn ready(&self) -> Result<(), String> {
        if !self.alive() {
            return Err("the loop stands still".to_owned());
        }
        if !self.0.complete.load(Ordering::Relaxed) {
            return Err("not everything is listed yet, or another process holds the lease".to_owned());
        }
        match self.0.metrics.broken_watch(Instant::now()) {
            Some(resource) => Err(format!("the watch of {resource} goes on failing; the log says why")),
            None => Ok(()),
        }
    }

    /// A process that waits for the lease is alive; one whose loop has begun and stands still is not.
    fn alive(&self) -> bool {
        let last = self.0.last_turn.load(Ordering::Relaxed);
        last == 0 || self.0.started.elapsed().as_secs().saturating_sub(last) < STALLED_AFTER.as_secs()
    }
}

/// Serves `/livez`, `/readyz` and `/metrics`.
pub async fn serve(listener: TcpListener, health: Health) {
    let verdict = |good: bool| if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let app = Router::new()
        .route("/livez", get(move |State(health): State<Health>| async move { verdict(health.alive()) }))
        .route(
            "/readyz",
            get(|State(health): State<Health>| async move {
                match health.ready() {
                    Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
                    Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n"),
                }
            }),
        )
        .route(
            "/metrics",
            get(|State(health): State<Health>| async move {
                ([(header::CONTENT_TYPE, CONTENT_TYPE)], health.0.metrics.text())
            }),
        )
        .with_state(health);
    crate::http::serve(listener, app).await;
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn there_is_nothing_but_health_and_counts() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, Health::new(Metrics::default())));
        for (request, code) in [
            ("GET /livez", "200"),
            ("GET /metrics", "200"),
            ("GET /readyz", "503"),
            ("POST /metrics", "405"),
            ("DELETE /livez", "405"),
            ("GET /", "404"),
            ("GET /v1/status", "404"),
            ("GET //metrics", "404"),
            ("GET /Metrics", "404"),
            ("GET /livez/../config", "404"),
            ("GET /%6detrics", "404"),
            ("GET /debug/pprof/", "404"),
            ("GET /var/run/secrets", "404"),
        ] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let text = format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n");
            stream.write_all(text.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer.split(' ').nth(1), Some(code), "{request}: {answer}");
            let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
            assert!(code != "404" || body.is_empty(), "{request}: {answer}");
        }
    }
}
