//! Asking the agents: one long poll for each Postfix pod.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tracing::debug;

use crate::revision::{LONG_POLL, Report};

use super::index::PodSeen;

/// What came of asking the agent of a cell.
#[derive(Debug)]
pub struct Answer {
    /// The cell.
    pub cell: String,
    /// The report, or why there is none.
    pub report: Result<Report, String>,
}

const RETRY_EVERY: Duration = Duration::from_millis(500);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Asks the agent of one cell for as long as `to` is read.
pub struct Asker {
    /// The cell.
    pub cell: String,
    /// The port of the agent on the pod.
    pub port: u16,
    /// File with the token that both sides know.
    pub token_file: PathBuf,
    /// The pod as it is now.
    pub pod: watch::Receiver<Option<PodSeen>>,
}

impl Asker {
    /// Sends an answer whenever the report changes, and when the agent ceases to answer.
    pub async fn run<M: From<Answer>>(self, client: reqwest::Client, to: mpsc::Sender<M>) {
        let mut changes = self.pod.clone();
        let mut etag = String::new();
        let mut failed: Option<String> = None;
        loop {
            let pod = changes.borrow_and_update().clone();
            let report = tokio::select! {
                report = self.ask(&client, pod.as_ref(), &etag) => report,
                changed = changes.changed() => match changed {
                    // Another pod, another address: the question under way is void.
                    Ok(()) => continue,
                    Err(_) => return,
                },
            };
            match &report {
                Ok(report) => {
                    let new = report.etag();
                    if new == etag && failed.is_none() {
                        continue;
                    }
                    etag = new;
                    failed = None;
                }
                Err(message) => {
                    debug!(cell = self.cell, message, "the agent was not reached");
                    etag.clear();
                    // The pod that was asked may be gone by now, or have come only now.
                    if let Ok(Ok(())) = timeout(RETRY_EVERY, changes.changed()).await {
                        continue;
                    }
                    if failed.as_ref() == Some(message) {
                        continue;
                    }
                    failed = Some(message.clone());
                }
            }
            if to.send(Answer { cell: self.cell.clone(), report }.into()).await.is_err() {
                return;
            }
        }
    }

    async fn ask(
        &self,
        client: &reqwest::Client,
        pod: Option<&PodSeen>,
        etag: &str,
    ) -> Result<Report, String> {
        let pod = pod.ok_or_else(|| format!("the pod of cell {} does not exist", self.cell))?;
        let ip = pod.ip.as_deref().ok_or_else(|| match &pod.waiting {
            Some(why) => format!("the Postfix pod of cell {} does not start: {why}", self.cell),
            None => format!("the Postfix pod of cell {} has no address yet", self.cell),
        })?;
        let token = tokio::fs::read_to_string(&self.token_file).await.map_err(|error| {
            format!("the agent's token {} cannot be read: {error}", self.token_file.display())
        })?;
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        let request = client
            .get(format!("http://{host}:{}/v1/status", self.port))
            .query(&[("after", etag)])
            .bearer_auth(token.trim())
            .timeout(LONG_POLL + Duration::from_secs(10));
        let unreachable = |error: reqwest::Error| match &pod.waiting {
            Some(why) => format!("the Postfix pod of cell {} does not run: {why}", self.cell),
            None => format!("the agent of cell {} does not answer: {}", self.cell, error.without_url()),
        };
        let response = request.send().await.map_err(unreachable)?;
        if !response.status().is_success() {
            return Err(format!("the agent of cell {} answers {}", self.cell, response.status()));
        }
        let report: Report = response.json().await.map_err(unreachable)?;
        if report.pod_uid != pod.uid {
            return Err(format!("{host} answers for another pod than that of cell {}", self.cell));
        }
        Ok(report)
    }
}

/// A client for [`Asker`].
pub fn client() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).no_proxy().build()
}
