//! One cell: what was rendered for it, what its agent reports, and what follows from both.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::api::address::Address;
use crate::api::conditions::Reason;
use crate::config::{CellConfig, Config};
use crate::directory::{Directory, ObjectId};
use crate::postfix::revision_files;
use crate::postfix::shards::{self, Packed};
use crate::postfix::tables::domain_hash;
use crate::records::Record;
use crate::revision::{DomainState, Report};
use crate::status::Programmed;

use super::metrics::CellState;

/// A burst of changes is gathered for this long after a round; the first goes at once.
const GATHER: Duration = Duration::from_millis(200);
/// A new round waits this long for the agent to acknowledge the one before: kubelet must not mix rounds for
/// ever, and etcd must not fill with history.
const ACKNOWLEDGE: Duration = Duration::from_secs(5);
/// Pauses between pokes of a kubelet while the agent still reports an older revision.
const FIRST_POKE: Duration = Duration::from_secs(1);
const LAST_POKE: Duration = Duration::from_secs(30);
/// Directories kept for revisions that an agent may still acknowledge.
const REMEMBERED: usize = 4;

/// A revision ready to be written.
pub struct Rendered {
    /// Its content.
    pub packed: Arc<Packed>,
    directory: Arc<Directory>,
}

/// The state of one cell.
pub struct Cell {
    name: String,
    config: CellConfig,
    /// Newest last.
    written: VecDeque<(String, Arc<Directory>)>,
    written_at: Option<Instant>,
    /// When the revision was written that the agent has not reported as live yet.
    awaited: Option<Instant>,
    poke: Option<(Instant, Duration)>,
    live: Option<Arc<Directory>>,
    report: Option<Report>,
    /// Whether the agent answers now, or why not; `None` before it was asked.
    answers: Option<Result<(), String>>,
    vanished: BTreeMap<Address, Instant>,
    /// What was rendered last.
    packed: Option<Arc<Packed>>,
}

impl Cell {
    /// A cell of which nothing is known yet.
    pub fn new(name: &str, config: &CellConfig) -> Self {
        Self {
            name: name.to_owned(),
            config: config.clone(),
            written: VecDeque::new(),
            written_at: None,
            awaited: None,
            poke: None,
            live: None,
            report: None,
            answers: None,
            vanished: BTreeMap::new(),
            packed: None,
        }
    }

    /// The host name that MX records of the cell's domains point to.
    pub fn hostname(&self) -> &str {
        &self.config.hostname
    }

    /// The name of the cell's pod.
    pub fn pod(&self) -> &str {
        &self.config.pod
    }

    /// Renders the directory for this cell. `sharded`: the tables that stand there are in shards.
    ///
    /// # Errors
    /// When a parameter of the configuration is not allowed, or the tables are too large.
    pub fn render(
        &mut self,
        directory: &Arc<Directory>,
        records: &BTreeMap<String, Record>,
        config: &Config,
        sharded: bool,
        now: Instant,
    ) -> Result<Rendered, String> {
        self.note_vanished(directory, Duration::from_secs(config.vanished_seconds.into()), now);
        let vanished: BTreeSet<Address> = self.vanished.keys().cloned().collect();
        let recorded = |domain: &str| records.get(domain).is_some_and(Record::in_tables);
        let hostname = &self.config.hostname;
        let files = revision_files(directory, &self.name, hostname, config, recorded, &vanished);
        let files = files.map_err(|error| error.to_string())?;
        let packed = Arc::new(shards::pack(&self.name, files, sharded, self.packed.as_deref())?);
        self.packed = Some(packed.clone());
        Ok(Rendered { packed, directory: directory.clone() })
    }

    /// Remembers which addresses were served in the last written revision and no longer are.
    fn note_vanished(&mut self, directory: &Directory, hold: Duration, now: Instant) {
        self.vanished.retain(|address, until| *until > now && !directory.accepts(address));
        if let Some((_, last)) = self.written.back() {
            for address in last.mailboxes.keys().chain(last.aliases.keys()) {
                if !address.is_catch_all() && !directory.accepts(address) {
                    self.vanished.entry(address.clone()).or_insert(now + hold);
                }
            }
        }
    }

    /// Whether a new revision may be written now, or when.
    pub fn may_write(&self, now: Instant) -> Result<(), Instant> {
        let Some(at) = self.written_at else { return Ok(()) };
        let acknowledged = self.wanted().is_none_or(|wanted| self.answered(wanted));
        let free = if acknowledged { at + GATHER } else { at + ACKNOWLEDGE };
        if now >= free { Ok(()) } else { Err(free) }
    }

    /// Whether the agent took or refused what was written last.
    pub fn settled(&self) -> bool {
        self.wanted().is_some_and(|wanted| self.answered(wanted))
    }

    /// The revision that the agent shall have.
    fn wanted(&self) -> Option<&str> {
        self.written.back().map(|(revision, _)| revision.as_str())
    }

    /// Whether the agent took or refused a revision.
    fn answered(&self, revision: &str) -> bool {
        self.report.as_ref().is_some_and(|report| {
            report.revision.as_deref() == Some(revision)
                || report.rejected.as_ref().is_some_and(|rejected| rejected.revision == revision)
        })
    }

    /// Notes that a revision stands in the ConfigMaps; `now` when it was written just now.
    pub fn stands(&mut self, rendered: Rendered, now: Option<Instant>) {
        if let Some(now) = now {
            self.written_at = Some(now);
            self.awaited = Some(now);
        }
        match self.written.back_mut() {
            Some((revision, directory)) if *revision == rendered.packed.index.revision => {
                *directory = rendered.directory;
            }
            _ => {
                self.written.push_back((rendered.packed.index.revision.clone(), rendered.directory));
                // What stood there before is on its way already, or live: the agent may only not have said so yet.
                self.poke = Some((now.unwrap_or_else(|| Instant::now() + FIRST_POKE), FIRST_POKE));
            }
        }
        while self.written.len() > REMEMBERED {
            self.written.pop_front();
        }
        self.find_live();
    }

    /// The value to poke the pod with, if that is due.
    pub fn poke_due(&mut self, now: Instant) -> Option<String> {
        let wanted = self.wanted()?.to_owned();
        if !self.may_poke() {
            return None;
        }
        if self.answered(&wanted) {
            self.poke = None;
            return None;
        }
        let (at, pause) = self.poke?;
        if now < at {
            return None;
        }
        self.poke = Some((now + pause, (pause * 2).min(LAST_POKE)));
        Some(format!("{wanted}/{}", jiff::Timestamp::now().as_millisecond()))
    }

    /// An operator that wrote nothing since it started asks the agent first, which may have it already. Until that answers
    /// the kubelet comes by itself.
    fn may_poke(&self) -> bool {
        match &self.answers {
            None => false,
            Some(Err(_)) => self.written_at.is_some(),
            Some(Ok(())) => true,
        }
    }

    /// When the cell is to be looked at again without an event.
    pub fn next_look(&self) -> Option<Instant> {
        let poke = self.poke.filter(|_| self.may_poke()).map(|(at, _)| at);
        poke.into_iter().chain(self.vanished.values().copied()).min()
    }

    /// Takes in what the agent said, or why it said nothing. Gives the time since a revision was written that is live now.
    pub fn hear(&mut self, report: Result<Report, String>) -> Option<Duration> {
        match report {
            Ok(report) => {
                self.report = Some(report);
                self.answers = Some(Ok(()));
                self.find_live();
            }
            Err(why) => self.answers = Some(Err(why)),
        }
        self.state().current.then(|| self.awaited.take()).flatten().map(|written| written.elapsed())
    }

    /// What the gauges say.
    pub fn state(&self) -> CellState {
        let report = self.heard();
        let wanted = self.wanted();
        let rejected = report.and_then(|report| report.rejected.as_ref());
        let all = report.map_or(0, |report| report.domains.len());
        let proved =
            report.map_or(0, |report| report.domains.values().filter(|proof| proof.accepted).count());
        CellState {
            up: report.is_some(),
            current: wanted.is_some() && report.and_then(|report| report.revision.as_deref()) == wanted,
            rejected: rejected.is_some_and(|rejected| Some(rejected.revision.as_str()) == wanted),
            domains: (proved, all - proved),
        }
    }

    fn find_live(&mut self) {
        let Some(revision) = self.report.as_ref().and_then(|report| report.revision.as_ref()) else { return };
        if let Some((_, directory)) = self.written.iter().find(|(written, _)| written == revision) {
            self.live = Some(directory.clone());
        }
    }

    /// What the agent said last, be it that it does not answer now.
    pub fn report(&self) -> Option<&Report> {
        self.report.as_ref()
    }

    /// The report, while the agent answers.
    pub fn heard(&self) -> Option<&Report> {
        self.report.as_ref().filter(|_| self.answers == Some(Ok(())))
    }

    /// Whether Postfix proved that it accepts the domain: the ground on which an MX is published.
    pub fn programmed(&self, domain: &str, directory: &Directory) -> Programmed {
        let Some(report) = self.heard() else { return self.on_its_way() };
        let Some(proof) = report.domains.get(domain) else { return self.on_its_way() };
        let wanted = domain_hash(directory, domain);
        if Some(&proof.hash) != wanted.as_ref() || report.revision.is_none() {
            return self.on_its_way();
        }
        if !proof.accepted {
            let message = format!("Postfix does not accept mail for {domain}: {}", proof.message);
            return Programmed::No(Reason::ProofFailed, message);
        }
        if !report.storage.writable {
            return self.not_writable(report);
        }
        Programmed::Yes
    }

    fn not_writable(&self, report: &Report) -> Programmed {
        let message =
            format!("mail cannot be written to the volume of cell {}: {}", self.name, report.storage.message);
        Programmed::No(Reason::StorageNotWritable, message)
    }

    /// Whether the live tables have a mailbox as the directory wants it.
    pub fn has_mailbox(&self, address: &Address, id: &ObjectId, directory: &Directory) -> Programmed {
        if let Some(report) = self.heard()
            && report.kept.held_back.contains(&address.to_string())
        {
            if !report.storage.writable {
                return self.not_writable(report);
            }
            let message = format!(
                "mail for {address} is answered 450 until the mail volume has its owner noted, what another namespace left there is archived, and nothing is queued for it; the agent's log says what is in the way"
            );
            return Programmed::No(Reason::Pending, message);
        }
        match self.live.as_ref().is_some_and(|live| live.mailboxes.get(address) == Some(id)) {
            true => self.programmed(address.domain(), directory),
            false => self.on_its_way(),
        }
    }

    /// Whether the live tables have an alias as `directory` wants it.
    pub fn has_alias(&self, address: &Address, directory: &Directory) -> Programmed {
        let wanted = directory.aliases.get(address);
        match self.live.as_ref().is_some_and(|live| wanted.is_some() && live.aliases.get(address) == wanted) {
            true => self.programmed(address.domain(), directory),
            false if wanted.is_none() => {
                Programmed::No(Reason::TargetNotFound, format!("no target of {address} can take its mail"))
            }
            false => self.on_its_way(),
        }
    }

    fn on_its_way(&self) -> Programmed {
        match &self.answers {
            None => return Programmed::NotAsked,
            Some(Err(why)) => return Programmed::AsBefore(Reason::AgentUnreachable, why.clone()),
            Some(Ok(())) => {}
        }
        let wanted = self.wanted().unwrap_or_default();
        let rejected = self.report.as_ref().and_then(|report| report.rejected.as_ref());
        match rejected.filter(|rejected| rejected.revision == wanted) {
            Some(rejected) => Programmed::AsBefore(Reason::RevisionRejected, rejected.in_words()),
            None => {
                Programmed::AsBefore(Reason::Pending, "the new tables are on their way to Postfix".to_owned())
            }
        }
    }

    /// Recipients queued for a draining domain; `None` while that is not known.
    pub fn queued(&self, domain: &str, directory: &Directory) -> Option<u64> {
        let report = self.heard()?;
        directory.domains.get(domain).filter(|served| served.state == DomainState::Draining)?;
        let draining = domain_hash(directory, domain)?;
        report.domains.get(domain).filter(|proof| proof.hash == draining)?;
        report.queued.get(domain).copied()
    }

    /// Whether the running Postfix no longer has the domain.
    pub fn left(&self, domain: &str) -> bool {
        let written = self.written.back().is_some_and(|(revision, directory)| {
            self.answered(revision) && !directory.domains.contains_key(domain)
        });
        written && self.heard().is_some_and(|report| !report.domains.contains_key(domain))
    }
}
