//! The agent's HTTP endpoint: `/livez`, `/readyz`, `/metrics`, and the report to the operator.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::metrics::Metrics;
use super::proof;
use crate::metrics::CONTENT_TYPE;
use crate::revision::{LONG_POLL, Report};

/// What the endpoint answers from.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The report; every change wakes the long polls.
    pub report: watch::Receiver<Report>,
    /// Whether the agent's loop turns.
    pub pulse: Pulse,
    /// What happened so far.
    pub metrics: Metrics,
    /// The file with the token that the operator sends. Read anew for each question, since Secrets change.
    pub token_file: PathBuf,
    /// Where Postfix serves everybody.
    pub public: String,
}

/// Says until when the agent's loop may be silent.
#[derive(Clone, Debug)]
pub struct Pulse {
    started: Instant,
    silent_until: Arc<AtomicU64>,
}

impl Pulse {
    /// A pulse that may be silent for `patience` from now.
    pub fn new(patience: Duration) -> Self {
        let pulse = Self { started: Instant::now(), silent_until: Arc::default() };
        pulse.allow(patience);
        pulse
    }

    /// The loop turns, and its next step may take this long.
    pub fn allow(&self, patience: Duration) {
        let until = self.started.elapsed() + patience;
        self.silent_until.store(until.as_millis().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether the loop is still within what it was allowed.
    pub fn beats(&self) -> bool {
        self.started.elapsed().as_millis() <= u128::from(self.silent_until.load(Ordering::Relaxed))
    }
}

/// The routes.
pub fn router(endpoint: Endpoint) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/v1/status", get(status))
        .with_state(endpoint)
}

async fn livez(State(endpoint): State<Endpoint>) -> Response {
    if endpoint.pulse.beats() {
        return "ok\n".into_response();
    }
    (StatusCode::INTERNAL_SERVER_ERROR, "the agent's loop is stuck; see its log\n").into_response()
}

async fn readyz(State(endpoint): State<Endpoint>) -> Response {
    if endpoint.report.borrow().revision.is_none() {
        let message = "no revision is live, port 25 is closed; is the operator running?\n";
        return (StatusCode::SERVICE_UNAVAILABLE, message).into_response();
    }
    match proof::answers(&endpoint.public).await {
        Ok(()) => "ok\n".into_response(),
        Err(error) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("Postfix does not answer: {error}\n")).into_response()
        }
    }
}

#[derive(Deserialize)]
struct After {
    after: Option<String>,
}

async fn status(
    State(endpoint): State<Endpoint>,
    Query(query): Query<After>,
    headers: HeaderMap,
) -> Response {
    if !may_read(&endpoint, &headers).await {
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
        return (StatusCode::UNAUTHORIZED, challenge, "the token is missing or wrong\n").into_response();
    }
    let mut report = endpoint.report.clone();
    if let Some(after) = query.after {
        let changed = report.wait_for(|report| report.etag() != after);
        let _ = tokio::time::timeout(LONG_POLL, changed).await;
    }
    let report = report.borrow().clone();
    let etag = [(header::ETAG, format!("\"{}\"", report.etag()))];
    (etag, axum::Json(report)).into_response()
}

async fn may_read(endpoint: &Endpoint, headers: &HeaderMap) -> bool {
    let sent = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    let Some(sent) = sent else { return false };
    match tokio::fs::read_to_string(&endpoint.token_file).await {
        Ok(token) => !token.trim().is_empty() && same(token.trim(), sent.trim()),
        Err(error) => {
            tracing::warn!("nobody may read the report: {}: {error}", endpoint.token_file.display());
            false
        }
    }
}

/// Compares in a time that tells nothing about where two strings differ.
fn same(left: &str, right: &str) -> bool {
    let (left, right) = (Sha256::digest(left.as_bytes()), Sha256::digest(right.as_bytes()));
    left.iter().zip(right.iter()).fold(0, |differ, (left, right)| differ | (left ^ right)) == 0
}

async fn metrics(State(endpoint): State<Endpoint>) -> Response {
    let text = endpoint.metrics.text(&endpoint.report.borrow());
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pulse_stops_when_nothing_happens() {
        let pulse = Pulse::new(Duration::from_millis(20));
        assert!(pulse.beats());
        std::thread::sleep(Duration::from_millis(40));
        assert!(!pulse.beats());
        pulse.allow(Duration::from_secs(60));
        assert!(pulse.beats());
    }

    #[test]
    fn only_the_same_token_is_the_same() {
        assert!(same("abc", "abc"));
        assert!(!same("abc", "abd") && !same("abc", "ab") && !same("", "a"));
    }
}
