//! `withdraw`: domains out of service in order, before an uninstall or a move.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use tokio::time::{Instant, sleep};

use super::{UNREADABLE, complain, print};
use crate::operator::snapshot::{Installation, SnapshotError};
use crate::records::{Phase, Record};

/// The exit code when time ran out.
const NOT_WITHDRAWN: u8 = 1;
/// Pause between two looks at the records.
const PAUSE: Duration = Duration::from_secs(1);

/// Take domains out of service in order, and wait until they are
///
/// The running operator takes the MX out of DNS, accepts mail for as long as
/// resolvers may still hold it, waits for the queue, and takes the domain out of
/// Postfix. This command asks for it, in an annotation on each domain's record, and
/// tells how far it is. It may be ended and run again.
///
/// MailDomains need not be deleted: they say `Withdrawn`, and stay out of service
/// until --undo. Mail on disk stays. With --all, a domain that is declared while the
/// command runs is taken out, too; one that is declared later is served.
///
/// The exit code is 0 when all is done, 1 when time ran out, and 2 when something
/// cannot be read or written.
#[derive(Args, Clone, Debug)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  kubectl -n mail exec deploy/vmail-operator -- vmail-operator withdraw --all
  vmail-operator withdraw example.org --release-namespace mail --timeout 7200
  vmail-operator withdraw example.org --release-namespace mail --undo"
)]
pub struct WithdrawOptions {
    /// The domains
    #[arg(value_name = "DOMAIN", required_unless_present = "all", conflicts_with = "all")]
    domains: Vec<String>,
    /// Every domain of the installation
    #[arg(long)]
    all: bool,
    /// Bring the domains back into service, wherever they are on the way
    #[arg(long, conflicts_with = "timeout")]
    undo: bool,
    /// Seconds to wait; what was asked for goes on afterwards. By default as long as it takes
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Namespace of the release
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE")]
    release_namespace: Option<String>,
}

/// Runs `withdraw`.
pub async fn withdraw(options: &WithdrawOptions) -> ExitCode {
    match attempt(options).await {
        Ok(code) => code,
        Err(message) => {
            complain(&message);
            ExitCode::from(UNREADABLE)
        }
    }
}

async fn attempt(options: &WithdrawOptions) -> Result<ExitCode, String> {
    let text = |error: SnapshotError| error.to_string();
    let installation = Installation::find(options.release_namespace.as_deref()).await.map_err(text)?;
    let records = installation.records().await.map_err(text)?;
    if let Some(unknown) = options.domains.iter().find(|domain| !records.contains_key(*domain)) {
        return Err(format!(
            "{unknown} has no record in namespace {}: it is not in service there",
            installation.namespace
        ));
    }
    let named: BTreeSet<&str> = options.domains.iter().map(String::as_str).collect();
    let meant = |domain: &str| options.all || named.contains(domain);
    if options.undo {
        for record in records.values().filter(|record| meant(&record.domain) && record.withdraw) {
            installation.order_withdrawal(&record.domain, false).await.map_err(text)?;
            say(&record.domain, "back into service, if a MailDomain declares it")?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    watch(&installation, meant, options.timeout.map(Duration::from_secs)).await
}

/// Orders it for whatever is meant and not yet ordered, and tells each step until all are out.
async fn watch(
    installation: &Installation,
    meant: impl Fn(&str) -> bool,
    limit: Option<Duration>,
) -> Result<ExitCode, String> {
    let began = Instant::now();
    let mut told: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let records = installation.records().await.map_err(|error| error.to_string())?;
        let records: BTreeMap<&str, &Record> = records
            .iter()
            .map(|(domain, record)| (domain.as_str(), record))
            .filter(|(domain, _)| meant(domain))
            .collect();
        for record in records.values().filter(|record| !record.withdraw) {
            installation.order_withdrawal(&record.domain, true).await.map_err(|error| error.to_string())?;
        }
        for (domain, record) in &records {
            let step = step(record);
            if told.get(*domain) != Some(&step) {
                say(domain, &step)?;
                told.insert((*domain).to_owned(), step);
            }
        }
        let gone: Vec<String> =
            told.keys().filter(|domain| !records.contains_key(domain.as_str())).cloned().collect();
        for domain in gone {
            told.remove(&domain);
            say(&domain, "withdrawn, and its record is removed")?;
        }
        let waiting: Vec<&str> =
            records.values().filter(|record| !is_out(record)).map(|record| record.domain.as_str()).collect();
        if waiting.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        if limit.is_some_and(|limit| began.elapsed() >= limit) {
            complain(&format!(
                "not withdrawn in time: {}. The operator goes on; its log says what it waits for. Do not uninstall yet",
                waiting.join(", ")
            ));
            return Ok(ExitCode::from(NOT_WITHDRAWN));
        }
        sleep(PAUSE).await;
    }
}

/// Whether the domain is out of DNS and of Postfix, and was ordered to stay out.
fn is_out(record: &Record) -> bool {
    record.withdraw && matches!(record.phase, Phase::Withdrawn { .. })
}

fn step(record: &Record) -> String {
    match &record.phase {
        Phase::Serving => "in service; the operator was asked to withdraw it".to_owned(),
        Phase::Withdrawing { .. } => "its MX is being taken out of DNS".to_owned(),
        Phase::Draining { until } if *until > Timestamp::now() => {
            format!("no MX in DNS; mail is accepted until {until:.0}, since resolvers may hold it")
        }
        Phase::Draining { .. } => "no resolver holds the MX any more; waiting for queued mail".to_owned(),
        Phase::Leaving => "leaving Postfix".to_owned(),
        Phase::Withdrawn { .. } => "withdrawn".to_owned(),
    }
}

fn say(domain: &str, step: &str) -> Result<(), String> {
    print(format!("{domain}: {step}\n").as_bytes())
}
