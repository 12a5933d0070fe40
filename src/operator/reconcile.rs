//! The loop: events in, and for whatever then differs from what is wanted, effects out.
//!
//! The order of effects is the promise: record, tables, proof, MX on the way in; MX, drain, tables on the
//! way out. Every pass starts from all that is known, so that it does not matter where the one before
//! it stopped.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::iter;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use crate::config::Config;
use crate::directory::{Change, Directory};
use crate::records::{self, Absent, DnsTask, Facts, Limits, Phase, Record};

use super::agents::{self, Answer, Asker};
use super::cells::Cell;
use super::http::{Health, TURN_EVERY};
use super::index::{Index, PodSeen, Stored};
use super::lease::Held;
use super::limits::Limits as CellLimits;
use super::metrics::phase_name;
use super::pauses::Pauses;
use super::publish::{Desk, Found, Outcome, Publisher};
use super::report_status::{StatusWriter, Written};
use super::seen::Seen;
use super::write::{WriteError, Writer};
use brake::HeldBack;

/// Writes of one pass that are under way at the same time.
pub const WRITES_AT_ONCE: usize = 16;
/// How often the gauges are brought up to date.
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// A record changes at most this often in one pass: its machine has fewer states.
const STEPS: usize = 8;

mod brake;
mod directory;
mod dns;
mod tables;

/// What wakes the loop.
pub enum Message {
    /// Something was seen in the cluster.
    Seen(Box<Seen>),
    /// An agent answered, or not.
    Agent(Box<Answer>),
    /// A DNS task ended.
    Dns(Outcome),
    /// Statuses were written, or not.
    Status(Written),
}

impl From<Seen> for Message {
    fn from(seen: Seen) -> Self {
        Self::Seen(Box::new(seen))
    }
}
impl From<Answer> for Message {
    fn from(answer: Answer) -> Self {
        Self::Agent(Box::new(answer))
    }
}
impl From<Outcome> for Message {
    fn from(outcome: Outcome) -> Self {
        Self::Dns(outcome)
    }
}
impl From<Written> for Message {
    fn from(written: Written) -> Self {
        Self::Status(written)
    }
}

/// Everything the loop holds.
pub struct Reconciler {
    config: Arc<Config>,
    namespace: String,
    index: Index,
    /// What the rules make of all that is known.
    directory: Arc<Directory>,
    /// What was served before, where that is not brought up to date in place.
    before: Option<Arc<Directory>>,
    /// What of that is served otherwise now.
    change: Change,
    cells: BTreeMap<String, Cell>,
    desk: Desk,
    statuses: StatusWriter,
    writer: Writer,
    publisher: Publisher,
    held: Held,
    to_self: mpsc::Sender<Message>,
    pods: BTreeMap<String, watch::Sender<Option<PodSeen>>>,
    /// Domains whose record, and cells whose tables, could not be written.
    record_pauses: Pauses<String>,
    table_pauses: Pauses<String>,
    /// When the gauges were last brought up to date.
    measured: Option<Instant>,
    complaint: String,
    limits: CellLimits,
    held_back: HeldBack,
}

impl Reconciler {
    /// A loop of which nothing is known yet.
    pub fn new(
        config: Arc<Config>,
        namespace: &str,
        writer: Writer,
        publisher: Publisher,
        held: Held,
        to_self: mpsc::Sender<Message>,
    ) -> Self {
        let cells = config.cells.iter().map(|(name, cell)| (name.clone(), Cell::new(name, cell))).collect();
        Self {
            namespace: namespace.to_owned(),
            index: Index::new(namespace),
            directory: Arc::default(),
            before: None,
            change: Change::default(),
            cells,
            desk: Desk::default(),
            statuses: StatusWriter::new(writer.clone(), to_self.clone()),
            writer,
            publisher,
            held,
            to_self,
            pods: BTreeMap::new(),
            record_pauses: Pauses::default(),
            table_pauses: Pauses::default(),
            measured: None,
            complaint: String::new(),
            limits: CellLimits::default(),
            held_back: HeldBack::default(),
            config,
        }
    }

    /// Starts to ask the agent of each cell.
    pub fn ask_agents(&mut self, token_file: &Path) -> reqwest::Result<()> {
        let client = agents::client()?;
        for (name, cell) in &self.config.cells {
            let (sender, pod) = watch::channel(None);
            self.pods.insert(name.clone(), sender);
            let asker =
                Asker { cell: name.clone(), port: cell.agent_port, token_file: token_file.to_owned(), pod };
            tokio::spawn(asker.run(client.clone(), self.to_self.clone()));
        }
        Ok(())
    }

    /// Runs until nobody can send a message any more, which does not happen.
    pub async fn run(&mut self, mut from: mpsc::Receiver<Message>, health: &Health) {
        let mut messages = Vec::new();
        let mut wake = Instant::now();
        loop {
            // Much of what comes in is what was written a moment ago.
            let mut news = match timeout_at(wake, from.recv_many(&mut messages, 1024)).await {
                Ok(0) => return,
                Ok(_) => false,
                Err(_) => true,
            };
            for message in messages.drain(..) {
                news |= self.take_in(message);
            }
            if !news && Instant::now() < wake {
                continue;
            }
            let complete = self.index.complete();
            let looks = complete && self.held.now();
            if looks {
                self.pass().await;
            }
            self.measure();
            health.turned(complete);
            wake = self.next_look().min(Instant::now() + TURN_EVERY);
            // What a pass wrote at its end, no event tells: it is known.
            if looks && !self.index.changes.is_empty() {
                wake = Instant::now();
            }
        }
    }

    /// Takes in a message; whether it says anything new.
    fn take_in(&mut self, message: Message) -> bool {
        let news = match message {
            Message::Seen(seen) => self.index.see(*seen),
            Message::Agent(answer) => {
                let Answer { cell: name, report } = *answer;
                if let Some(cell) = self.cells.get_mut(&name) {
                    let refused = cell.report().and_then(|report| report.rejected.clone());
                    if let Some(time) = cell.hear(report) {
                        self.writer.metrics.live_after(&name, time);
                    }
                    self.statuses.tell_of_revision(cell, refused.as_ref());
                }
                true
            }
            Message::Dns(outcome) => {
                let failed = outcome.result.as_ref().err().map(|refusal| refusal.reason.as_str());
                self.writer.metrics.dns(outcome.task.verb(), failed);
                if let Err(refusal) = &outcome.result {
                    warn!(
                        domain = outcome.domain,
                        task = outcome.task.verb(),
                        reason = refusal.reason.as_str(),
                        "{}",
                        refusal.message
                    );
                }
                let interval = Duration::from_secs(self.config.dns.check_interval_seconds.into());
                self.desk.note(outcome, interval, Instant::now());
                true
            }
            Message::Status(written) => self.statuses.note(written, &mut self.index),
        };
        for (cell, sender) in &self.pods {
            let seen = self.index.pods.get(cell);
            sender.send_if_modified(|known| {
                let differs = known.as_ref() != seen;
                if differs {
                    *known = seen.cloned();
                }
                differs
            });
        }
        news
    }

    fn next_look(&self) -> Instant {
        let now = Instant::now();
        let cells = self.cells.values().filter_map(|cell| cell.next_look(now));
        let writes = self.cells.values().filter_map(|cell| cell.may_write(now).err());
        let drains = self.index.records.values().filter_map(|stored| match stored.record.phase {
            Phase::Draining { until: at } | Phase::Withdrawn { check: at } => {
                Duration::try_from(at - Timestamp::now()).ok().map(|left| now + left)
            }
            _ => None,
        });
        // One that is due and was not begun waits for something else.
        let dns = self.desk.next_look().map(|at| at.max(now + Duration::from_secs(1)));
        let failed = [
            self.record_pauses.next_look(now),
            self.table_pauses.next_look(now),
            self.statuses.next_look(now),
        ];
        let all = cells.chain(writes).chain(drains).chain(dns).chain(failed.into_iter().flatten());
        // Not at once again and again for something that stays due.
        all.min().map_or(now + TURN_EVERY, |at| at.max(now + Duration::from_millis(20)))
    }

    #[tracing::instrument(target = "timing", level = "debug", skip_all)]
    async fn pass(&mut self) {
        self.hold_domains();
        self.settle_records().await;
        let directory = self.served();
        for name in self.cells.keys().cloned().collect::<Vec<_>>() {
            self.write_tables(&name, &directory).await;
        }
        self.tell_what_is_held().await;
        let reports = self.cells.iter().filter_map(|(name, cell)| Some((name.as_str(), cell.report()?)));
        self.limits.look(&directory.fill, reports);
        self.writer.metrics.tables(&directory.fill);
        self.start_dns_tasks(&directory).await;
        let publications = self.publications(&directory);
        self.statuses.report(&mut self.index, &directory, &mut self.cells, publications);
    }

    fn drain_limits(&self) -> Limits {
        Limits {
            drain_margin: Duration::from_secs(self.config.dns.drain_margin_seconds.into()),
            queue_deadline: Duration::from_secs(self.config.dns.queue_deadline_seconds.into()),
        }
    }

    /// The records that are to change: domain, and the new record or `None` to remove it.
    fn record_changes(&self, directory: &Directory) -> Vec<(String, Option<Record>)> {
        let (limits, now) = (self.drain_limits(), Timestamp::now());
        let claims = directory
            .domains
            .iter()
            .filter(|(domain, served)| served.claim.is_some() && !self.index.records.contains_key(*domain));
        let new = claims.map(|(domain, served)| {
            (domain.clone(), Some(Record::new(domain, &served.namespace, served.spec.clone())))
        });
        let understood = self.index.records.iter().filter(|(_, stored)| stored.unknown.is_none());
        let moved = understood.filter_map(|(domain, stored)| {
            let facts = self.facts(domain, stored, directory);
            let next = records::step(&stored.record, &facts, limits, now);
            (next.as_ref() != Some(&stored.record)).then(|| (domain.clone(), next))
        });
        let now = Instant::now();
        new.chain(moved).filter(|(domain, _)| !self.record_pauses.holds(domain, now)).collect()
    }

    fn facts<'a>(&'a self, domain: &str, stored: &Stored, directory: &'a Directory) -> Facts<'a> {
        let served = directory.domains.get(domain).filter(|served| served.claim.is_some());
        let cell = self.cells.get(&stored.record.spec.cell);
        let absent = match self.desk.last(domain, &DnsTask::Withdraw) {
            Some(Ok(Found::Absent(absent))) => Some(*absent),
            _ if stored.abandon_dns => Some(Absent::default()),
            _ => None,
        };
        Facts {
            claim: served.map(|served| (&served.spec, served.namespace.as_str())),
            declared: served.is_some() || self.index.objects.declare(domain),
            absent,
            queued: self.queued(&stored.record, directory),
            left_tables: cell.is_none_or(|cell| cell.left(domain)),
        }
    }

    /// Recipients still queued for a draining domain, in its own cell and in those whose aliases led there; `None` when that
    /// is not known. A cell that was taken away has no queue that anybody could wait for. One that serves nothing and
    /// does not answer is not there yet.
    fn queued(&self, record: &Record, directory: &Directory) -> Option<u64> {
        let Record { domain, spec, .. } = record;
        let Some(cell) = self.cells.get(&spec.cell) else { return Some(0) };
        let here = cell.queued(domain, directory)?;
        let serves = |name: &str| directory.domains.values().any(|served| served.spec.cell == name);
        let others = self.cells.iter().filter(|(name, _)| **name != spec.cell);
        let elsewhere = others.map(|(name, cell)| match cell.heard() {
            Some(report) => report.queued.get(domain).copied(),
            None => (!serves(name)).then_some(0),
        });
        Some(here + elsewhere.sum::<Option<u64>>()?)
    }

    async fn store(&mut self, changes: Vec<(String, Option<Record>)>) {
        let writer = &self.writer;
        let records = &self.index.records;
        let writes = changes.into_iter().map(|(domain, record)| async move {
            let stored = records.get(&domain);
            let result: Result<Option<ConfigMap>, WriteError> = match (&record, stored) {
                (Some(record), stored) => writer.record(record, stored).await.map(Some),
                (None, Some(stored)) => writer.remove_record(stored).await.map(|()| None),
                (None, None) => Ok(None),
            };
            (domain, record, result)
        });
        let results: Vec<_> = iter(writes).buffer_unordered(WRITES_AT_ONCE).collect().await;
        for (domain, record, result) in results {
            match result {
                Ok(Some(map)) => {
                    let before =
                        self.index.records.get(&domain).map(|stored| phase_name(&stored.record.phase));
                    let after = record.as_ref().map(|record| phase_name(&record.phase));
                    if before != after {
                        info!(domain, from = before, to = after, "domain record");
                        // What was found before says nothing about the end of the drain.
                        if matches!(record.as_ref().map(|record| &record.phase), Some(Phase::Draining { .. }))
                        {
                            self.desk.forget(&domain);
                        }
                    }
                    self.index.apply_config_map(map);
                    self.record_pauses.over(&domain);
                }
                Ok(None) => {
                    info!(domain, "domain record removed: the domain is withdrawn");
                    self.index.remove_record(&domain);
                    self.desk.forget(&domain);
                    self.record_pauses.over(&domain);
                }
                Err(error) => {
                    warn!(what = error.what(), "{error}");
                    self.record_pauses.failed(domain, Instant::now());
                }
            }
        }
    }

    /// Brings the gauges up to date, once a second at most: this walks through all records and cells.
    fn measure(&mut self) {
        let metrics = &self.writer.metrics;
        metrics.lease(self.held.now());
        let now = Instant::now();
        if self.measured.is_some_and(|measured| now - measured < MEASURE_EVERY) {
            return;
        }
        self.measured = Some(now);
        let records = self.index.records.iter();
        metrics.records(records.map(|(domain, stored)| (domain.as_str(), &stored.record.phase)));
        for (name, cell) in &self.cells {
            metrics.cell(name, &cell.state());
        }
    }
}
