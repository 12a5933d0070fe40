//! The operator: the only Kubernetes client. Watches come in at one end, writes go out at the other,
//! and what lies between is pure.

mod agents;
mod cells;
mod compact_status;
mod desired_status;
mod guarded;
mod http;
mod index;
pub mod lease;
mod limits;
pub mod metrics;
pub mod objects;
mod pauses;
mod publish;
mod reconcile;
mod record_events;
mod report_status;
mod seen;
pub mod snapshot;
mod standing;
mod watch;
pub mod write;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use rand::Rng;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use crate::config::Config;

use reconcile::{Message, Reconciler};

/// Longest time that one answer of the API server may take to begin, and to go on.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// What is brought up to date is compared with what is made anew, in builds with assertions, up to so many objects.
#[cfg(debug_assertions)]
const CHECKED: usize = 500;

/// How the operator is started. What an administrator decides is in the configuration file.
#[derive(Args, Clone, Debug)]
pub struct RunOptions {
    /// The configuration file, rendered by the chart
    #[arg(long, default_value = "/etc/vmail-operator/config.yaml")]
    config: PathBuf,
    /// Namespace of this installation
    #[arg(long, env = "POD_NAMESPACE")]
    namespace: String,
    /// Name of this process in the Lease
    #[arg(long, env = "POD_NAME", default_value = "vmail-operator")]
    identity: String,
    /// File with the token that the agents ask for
    #[arg(long, default_value = "/etc/vmail-operator/agent-token/token")]
    agent_token_file: PathBuf,
    /// Where health and metrics are served
    #[arg(long, default_value = "[::]:8080")]
    listen: SocketAddr,
}

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// The API server cannot be used.
    #[error("cannot work with the API server: {0}")]
    Kubernetes(#[from] kube::Error),
    /// There is no way to the API server.
    #[error("cannot find out how to reach the API server: {0}")]
    Client(#[from] kube::config::InferConfigError),
    /// DNS cannot be used.
    #[error(transparent)]
    Dns(#[from] crate::dns::DnsError),
    /// Something of the system cannot be used.
    #[error("{0}")]
    System(String),
    /// Another operator may be writing now.
    #[error("the lease could not be renewed; ending, so that two operators never write at once")]
    LeaseLost,
}

/// Runs the operator until it is told to stop.
pub async fn run(options: RunOptions) -> Result<(), RunError> {
    let config = Arc::new(Config::read(&options.config)?);
    let mut kube_config = kube::Config::infer().await.map_err(|error| RunError::System(error.to_string()))?;
    // Every call has a timeout of its own, and is tried again by whoever knows whether it still makes sense.
    kube_config.default_retry = false;
    // Lists have no other, and would be waited for without end. Watches are shorter.
    kube_config.read_timeout = Some(READ_TIMEOUT);
    kube_config.reset_reader_on_write = true;
    let client = Client::try_from(kube_config)?;

    let metrics = metrics::Metrics::default();
    let health = http::Health::new(metrics.clone());
    let listener = crate::http::listen(options.listen)
        .await
        .map_err(|error| RunError::System(format!("cannot listen on {}: {error}", options.listen)))?;
    tokio::spawn(http::serve(listener, health.clone()));

    let identity = format!("{}_{:08x}", options.identity, rand::random::<u32>());
    let (lost, mut lease_lost) = mpsc::channel::<()>(1);
    let held =
        lease::compete(client.clone(), &options.namespace, &config.name, identity.clone(), move || {
            drop(lost)
        });
    let mut terminate =
        signal(SignalKind::terminate()).map_err(|error| RunError::System(error.to_string()))?;
    let mut interrupt =
        signal(SignalKind::interrupt()).map_err(|error| RunError::System(error.to_string()))?;

    let work = async {
        held.acquired().await;
        let publisher = publish::Publisher::new(&config, cluster_uid(&client).await, held.clone())?;
        let writer = write::Writer::new(client.clone(), &options.namespace, &config.name, held.clone())
            .counted_by(metrics.clone());
        let (to, from) = mpsc::channel::<Message>(4096);
        let pods: BTreeMap<String, String> =
            config.cells.iter().map(|(name, cell)| (name.clone(), cell.pod.clone())).collect();
        watch::start(&client, &options.namespace, &config.name, pods, &metrics, &to);
        let mut reconciler =
            Reconciler::new(config.clone(), &options.namespace, writer, publisher, held.clone(), to);
        reconciler
            .ask_agents(&options.agent_token_file)
            .map_err(|error| RunError::System(error.to_string()))?;
        info!(installation = config.name, version = env!("CARGO_PKG_VERSION"), "the operator runs");
        reconciler.run(from, &health).await;
        Ok::<(), RunError>(())
    };
    let ended = tokio::select! {
        result = work => result,
        _ = lease_lost.recv() => {
            error!("the lease is lost");
            return Err(RunError::LeaseLost);
        }
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    lease::release(client, &options.namespace, &config.name, &identity, &held).await;
    ended
}

/// Tells clusters apart that share an owner id in DNS: the namespace that every cluster has, with the
/// one UID that a rebuilt cluster does not have again. Asked for until there is an answer: an API server that is
/// overloaded is not helped by processes that end and start again.
async fn cluster_uid(client: &Client) -> String {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let mut pause = FIRST_RETRY;
    loop {
        let why = match timeout(READ_TIMEOUT, namespaces.get_metadata("kube-system")).await {
            Ok(Ok(namespace)) => return namespace.metadata.uid.unwrap_or_default(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", READ_TIMEOUT.as_secs()),
        };
        warn!("the namespace kube-system cannot be read, and is asked for again: {why}");
        sleep(pause.mul_f64(rand::rng().random_range(0.8..1.2))).await;
        pause = (pause * 2).min(LAST_RETRY);
    }
}
