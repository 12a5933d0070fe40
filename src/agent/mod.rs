//! The supervisor of Postfix in its pod: install a revision, run Postfix, prove, report.
//!
//! The files of a revision come through a mounted volume ([`mounted`]). A new one is compiled beside the
//! live one and renamed into place ([`install`], [`tables`]); a new configuration is shown to Postfix's programs first ([`check`]). Postfix is started or reloaded
//! ([`postfix`]), and asked over SMTP whether it does as the revision says ([`proof`]). What fails as a
//! whole is rolled back; [`keeper`] has the order of all this. Mail on disk that lost its owner is moved as its owner said
//! ([`custody`], [`ledger`], [`volume`]). The operator reads the outcome over HTTP
//! ([`report`]).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecursiveMode, Watcher as _};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior};

use crate::http;
use crate::postfix::main_cf;
use crate::revision::{FORMAT, Report, Storage};

pub mod check;
pub mod closing;
pub mod command;
pub mod custody;
pub mod edit;
pub mod init;
pub mod install;
pub mod keeper;
pub mod leaving;
pub mod ledger;
pub mod maillog;
pub mod metrics;
pub mod missing;
pub mod mounted;
pub mod postfix;
pub mod proof;
pub mod queue;
pub mod report;
pub mod saved;
pub mod smtp;
pub mod spool;
pub mod storage;
pub mod tables;
pub mod tls;
pub mod volume;

use keeper::Keeper;
use metrics::Metrics;
use queue::{Emptied, Watched};
use report::{Endpoint, Pulse};

/// The port on which Postfix serves everybody, seen from inside the pod.
const PUBLIC: &str = "127.0.0.1:25";

/// How often the storage is tried, and the queue of draining domains counted.
const OBSERVE: Duration = Duration::from_secs(10);

/// What one look at storage or queue may take.
const LOOK: Duration = Duration::from_secs(30);

/// What Postfix gets to stop in an orderly way, out of the pod's termination grace period.
const STOP: Duration = Duration::from_secs(15);

/// What `vmail-operator agent` is told.
#[derive(Clone, Debug, clap::Args)]
pub struct AgentOptions {
    /// Where the ConfigMaps of the revision are mounted.
    #[arg(long, env = "VMAIL_REVISION_DIR", default_value = "/etc/vmail-operator/revision")]
    pub revision_dir: PathBuf,
    /// Configuration directory of the running Postfix; written by the agent, may be lost.
    #[arg(long, env = "MAIL_CONFIG", default_value = "/run/vmail-operator/postfix")]
    pub config_dir: PathBuf,
    /// Postfix's data directory; may be lost.
    #[arg(long, env = "VMAIL_DATA_DIR", default_value = main_cf::DATA_DIRECTORY)]
    pub data_dir: PathBuf,
    /// The volume with the Maildirs.
    #[arg(long, env = "VMAIL_DIR", default_value = main_cf::MAILBOX_BASE)]
    pub vmail_dir: PathBuf,
    /// The volume with the Postfix queue (`postfix/`) and the last good revision (`last-good/`).
    #[arg(long, env = "VMAIL_SPOOL_DIR", default_value = "/var/spool/vmail")]
    pub spool_dir: PathBuf,
    /// Where probes, metrics and the report are served.
    #[arg(long, env = "VMAIL_LISTEN", default_value = "[::]:8025")]
    pub listen: SocketAddr,
    /// File with the token that the operator must send to read the report.
    #[arg(long, env = "VMAIL_TOKEN_FILE", default_value = "/etc/vmail-operator/token/token")]
    pub token_file: PathBuf,
    /// Where the Secret with the certificate of port 25 is mounted, as `tls.crt` and `tls.key`; it may be missing.
    #[arg(long, env = "VMAIL_TLS_DIR", default_value = "/etc/vmail-operator/tls")]
    pub tls_dir: PathBuf,
    /// UID of this pod, for the report.
    #[arg(long, env = "POD_UID", default_value = "")]
    pub pod_uid: String,
    /// On a spool volume without a last good revision, or when a revision lacks what nobody withdrew: seconds for which
    /// unknown destinations and recipients get a temporary answer.
    #[arg(long, env = "VMAIL_SETTLE_SECONDS", default_value_t = 0)]
    pub settle_seconds: u64,
    /// Seconds for which mail must have no owner before its deletion policy is followed.
    #[arg(long, env = "VMAIL_DELETION_HOLD_SECONDS", default_value_t = 3600)]
    pub deletion_hold_seconds: u64,
    /// Seconds for which mail lies in the trash before it is erased.
    #[arg(long, env = "VMAIL_TRASH_SECONDS", default_value_t = 604_800)]
    pub trash_seconds: u64,
}

/// Why the agent ended other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A directory that Postfix needs cannot be made.
    #[error("cannot prepare the directories of Postfix: {0}; are the volumes mounted and writable?")]
    Prepare(std::io::Error),
    /// The HTTP endpoint cannot be opened.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The operating system's error.
        error: std::io::Error,
    },
    /// The runtime cannot be started, or signals cannot be had.
    #[error("cannot set up the process: {0}")]
    Process(std::io::Error),
    /// Postfix's master process ended.
    #[error("the Postfix master process ended by itself ({0}); its log, above, says why")]
    PostfixEnded(String),
    /// The last good configuration cannot be brought back.
    #[error("cannot return to the last good revision: {0}")]
    RollBack(String),
    /// A configuration that was proved relays all the same.
    #[error("Postfix accepts mail for others: {0}")]
    Relays(String),
}

/// Runs the agent in a runtime of its own.
pub fn run_blocking(options: AgentOptions) -> Result<(), AgentError> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(AgentError::Process)?;
    let result = runtime.block_on(run(options));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// Runs the agent until SIGTERM or SIGINT; Postfix is stopped in any case.
pub async fn run(options: AgentOptions) -> Result<(), AgentError> {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    // What a program of Postfix's has in memory when it crashes, such as mail and the key, stays off every volume.
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0)
        .map_err(|error| AgentError::Process(error.into()))?;
    let mut signals = Signals::new().map_err(AgentError::Process)?;
    let (report, _) = watch::channel(Report {
        format: FORMAT,
        pod_uid: options.pod_uid.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        storage: Storage { writable: false, message: "not tried yet".into() },
        ..Report::default()
    });
    let report = Arc::new(report);
    let pulse = Pulse::new(Duration::from_secs(60));
    let metrics = Metrics::default();
    let measured = metrics.clone();

    let listener = http::listen(options.listen)
        .await
        .map_err(|error| AgentError::Listen { address: options.listen, error })?;
    let endpoint = Endpoint {
        report: report.subscribe(),
        pulse: pulse.clone(),
        metrics: metrics.clone(),
        token_file: options.token_file.clone(),
        public: PUBLIC.into(),
    };
    let server = tokio::spawn(http::serve(listener, report::router(endpoint)));

    let _claim = tokio::select! {
        claim = claim(&options.spool_dir, &report, &pulse) => claim?,
        signal = signals.next() => {
            tracing::info!("{signal}: ending");
            server.abort();
            return Ok(());
        }
    };
    let (watched, counted) = watch::channel(Watched::default());
    let volumes = [("vmail", options.vmail_dir.clone()), ("spool", options.spool_dir.clone())];
    let storage = tokio::spawn(watch_storage(volumes, report.clone()));
    let queue = tokio::spawn(watch_queue(options.config_dir.clone(), counted, report.clone()));

    let changed = Arc::new(Notify::new());
    let watcher = watch_directory(&options.revision_dir, changed.clone());
    let mut keeper = Keeper::new(&options, report, watched, pulse, metrics, PUBLIC)?;
    // Now that the directories are there.
    let measure = tokio::spawn(measure_queue(options.spool_dir.join("postfix"), measured));
    let result = tokio::select! {
        result = keeper.run(changed) => result,
        signal = signals.next() => {
            tracing::info!("{signal}: stopping Postfix");
            Ok(())
        }
    };
    keeper.stop(STOP).await;
    drop(watcher);
    for task in [storage, queue, measure] {
        task.abort();
    }
    server.abort();
    result
}

/// Waits until no other agent works on the volume with the queue.
async fn claim(
    spool: &Path,
    report: &watch::Sender<Report>,
    pulse: &Pulse,
) -> Result<spool::Claim, AgentError> {
    let mut told = false;
    loop {
        if let Some(claim) = spool::claim(spool).map_err(AgentError::Prepare)? {
            return Ok(claim);
        }
        if !told {
            let message = format!(
                "the agent of another pod still works on {}; this one waits until it has ended. If it does not end, see \
                 whether a node runs on that cannot be reached",
                spool.display()
            );
            tracing::warn!("{message}");
            report.send_modify(|report| report.storage.message = message);
            told = true;
        }
        pulse.allow(Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Wakes the keeper when kubelet swaps `..data`. Without it, the keeper's timer finds the change.
fn watch_directory(directory: &Path, changed: Arc<Notify>) -> Option<notify::RecommendedWatcher> {
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            changed.notify_one();
        }
    });
    let watching = watcher.and_then(|mut watcher| {
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    watching
        .inspect_err(|error| {
            tracing::warn!("changes are found by looking only: {}: {error}", directory.display())
        })
        .ok()
}

async fn watch_storage(volumes: [(&'static str, PathBuf); 2], report: Arc<watch::Sender<Report>>) {
    let directory = &volumes[0].1;
    let mut timer = tokio::time::interval(OBSERVE);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        let storage = storage::ask(directory, LOOK).await;
        let mut fills = BTreeMap::new();
        for (name, directory) in &volumes {
            if let Some(fill) = storage::fill(directory, LOOK).await {
                fills.insert((*name).to_owned(), fill);
            }
        }
        report.send_if_modified(|report| {
            let filled = report.volumes != fills;
            report.volumes = fills;
            if report.storage == storage {
                return filled;
            }
            match storage.writable {
                true => tracing::info!("{} is writable", directory.display()),
                false => tracing::error!("mail cannot be stored: {}", storage.message),
            }
            report.storage = storage;
            true
        });
    }
}

/// Measures the queue. On a volume that hangs, the last figures stay.
async fn measure_queue(directory: PathBuf, metrics: Metrics) {
    let mut timer = tokio::time::interval(OBSERVE);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        let directory = directory.clone();
        match tokio::task::spawn_blocking(move || queue::look(&directory)).await {
            Ok(Ok(queue)) => metrics.queue(&queue),
            Ok(Err(error)) => tracing::warn!("the queue cannot be measured: {error}"),
            Err(error) => tracing::error!("measuring the queue failed: {error}"),
        }
    }
}

async fn watch_queue(
    config: PathBuf,
    mut watched: watch::Receiver<Watched>,
    report: Arc<watch::Sender<Report>>,
) {
    let mut emptied = Emptied::default();
    loop {
        let now = watched.borrow_and_update().clone();
        let domains = &now.here | &now.elsewhere;
        let mut queued = BTreeMap::new();
        if !domains.is_empty() {
            let listing = queue::list(&config, LOOK).await.map_err(|error| error.to_string());
            match listing.and_then(|listing| queue::count(&listing, &domains)) {
                Ok(counts) => queued = counts,
                Err(error) => tracing::warn!("cannot count what is queued for draining domains: {error}"),
            }
        }
        queued = emptied.told(&now, queued, Instant::now(), OBSERVE);
        report.send_if_modified(|report| {
            let differs = report.queued != queued;
            report.queued = queued;
            differs
        });
        tokio::select! {
            changed = watched.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(OBSERVE) => {}
        }
    }
}
