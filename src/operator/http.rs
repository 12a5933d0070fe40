//! Health and metrics of the operator.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;

/// The reconcile loop turns at least this often, events or not.
pub const TURN_EVERY: Duration = Duration::from_secs(5);
const STALLED_AFTER: Duration = Duration::from_secs(60);

/// What the endpoints tell.
#[derive(Clone)]
pub struct Health(Arc<Inner>);

struct Inner {
    started: Instant,
    last_turn: AtomicU64,
    ready: watch::Sender<bool>,
    metrics: watch::Sender<String>,
}

impl Default for Health {
    fn default() -> Self {
        Self(Arc::new(Inner {
            started: Instant::now(),
            last_turn: AtomicU64::new(0),
            ready: watch::Sender::new(false),
            metrics: watch::Sender::new(String::new()),
        }))
    }
}

impl Health {
    /// The loop turned; `ready` once everything was listed.
    pub fn turned(&self, ready: bool, metrics: String) {
        self.0.last_turn.store(self.0.started.elapsed().as_secs(), Ordering::Relaxed);
        self.0.ready.send_replace(ready);
        self.0.metrics.send_replace(metrics);
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
            get(move |State(health): State<Health>| async move {
                verdict(health.alive() && *health.0.ready.borrow())
            }),
        )
        .route(
            "/metrics",
            get(|State(health): State<Health>| async move { health.0.metrics.borrow().clone() }),
        )
        .with_state(health);
    crate::http::serve(listener, app).await;
}
