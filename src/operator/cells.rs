//! One cell: what is rendered for it, and what is written.

mod answers;
#[cfg(test)]
mod answers_test;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::api::address::Address;
use crate::config::{CellConfig, Config};
use crate::directory::{Change, Directory};
use crate::postfix::revision_files;
use crate::postfix::shards::{self, Packed};
use crate::postfix::tables::all_have_room;
use crate::revision::Report;

/// A burst of changes is gathered for this long after a round; the first goes at once.
const GATHER: Duration = Duration::from_millis(200);
/// A new round waits this long for the agent to acknowledge the one before: kubelet must not mix rounds for
/// ever, and etcd must not fill with history.
const ACKNOWLEDGE: Duration = Duration::from_secs(5);
/// Pauses between pokes of a kubelet while the agent still reports an older revision.
const FIRST_POKE: Duration = Duration::from_secs(1);
const LAST_POKE: Duration = Duration::from_secs(30);
/// Revisions that an agent may still acknowledge.
const REMEMBERED: usize = 4;
/// From a change to its being live, two rounds of a busy agent: for as long that is waited for, rather than told to be on
/// its way.
const SOON: Duration = Duration::from_secs(10);

/// A revision ready to be written.
pub struct Rendered {
    /// Its content.
    pub packed: Arc<Packed>,
    directory: Arc<Directory>,
}

/// Objects whose statuses may have to say something else now.
#[derive(Debug, Default)]
pub struct Look {
    /// Every one.
    pub all: bool,
    /// Those that declare these addresses.
    pub addresses: BTreeSet<Address>,
}

/// A revision that stands in the ConfigMaps, or stood there.
struct Written {
    revision: String,
    /// The addresses that changed between the one before and it.
    addresses: BTreeSet<Address>,
    /// When the first of these changes was seen.
    since: Instant,
}

/// The state of one cell.
pub struct Cell {
    name: String,
    config: CellConfig,
    /// Revisions, the newest last.
    written: VecDeque<Written>,
    /// The domains of the newest.
    written_domains: BTreeSet<String>,
    /// What changed after it.
    since_written: Change,
    /// When the first of that was seen that tables are made of.
    changed_at: Option<Instant>,
    written_at: Option<Instant>,
    /// When the revision was written that the agent has not reported as live yet.
    awaited: Option<Instant>,
    poke: Option<(Instant, Duration)>,
    /// Addresses that the live revision does not have as they are wanted; `None` while it is not known which is live.
    pending: Option<BTreeSet<Address>>,
    look: Look,
    report: Option<Report>,
    /// Whether the agent answers now, or why not; `None` before it was asked.
    answers: Option<Result<(), String>>,
    vanished: BTreeMap<Address, Instant>,
    /// What was rendered last, with which vanished addresses, and what changed since then.
    packed: Option<(Arc<Packed>, BTreeSet<Address>)>,
    since_rendered: Change,
}

impl Cell {
    /// A cell of which nothing is known yet.
    pub fn new(name: &str, config: &CellConfig) -> Self {
        Self {
            name: name.to_owned(),
            config: config.clone(),
            written: VecDeque::new(),
            written_domains: BTreeSet::new(),
            since_written: Change::default(),
            changed_at: None,
            written_at: None,
            awaited: None,
            poke: None,
            pending: None,
            look: Look::default(),
            report: None,
            answers: None,
            vanished: BTreeMap::new(),
            packed: None,
            since_rendered: Change { all: true, ..Change::default() },
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

    /// Takes in how the directory differs from the one before.
    pub fn changed(&mut self, change: &Change, now: Instant) {
        if change.all || !change.leaves_tables() {
            self.changed_at.get_or_insert(now);
        }
        self.since_written.add(change);
        self.since_rendered.add(change);
        if let Some(pending) = &mut self.pending {
            pending.extend(change.addresses.keys().cloned());
        }
        self.look.addresses.extend(change.addresses.keys().cloned());
    }

    /// Which objects' statuses are to be looked at, since this was asked the last time.
    pub fn take_look(&mut self) -> Look {
        std::mem::take(&mut self.look)
    }

    /// Renders the directory for this cell. `recorded`: whether the tables may have a domain. `sharded`: the tables that
    /// stand there are in shards.
    ///
    /// # Errors
    /// When a parameter of the configuration is not allowed, or the tables are too large.
    #[tracing::instrument(target = "timing", level = "debug", skip_all, fields(cell = self.name))]
    pub fn render(
        &mut self,
        directory: &Arc<Directory>,
        recorded: &dyn Fn(&str) -> bool,
        config: &Config,
        sharded: bool,
        now: Instant,
    ) -> Result<Rendered, String> {
        self.note_vanished(directory, Duration::from_secs(config.vanished_seconds.into()), now);
        let vanished: BTreeSet<Address> = self.vanished.keys().cloned().collect();
        let files = |wanted: &dyn Fn(&Address) -> bool| {
            let hostname = &self.config.hostname;
            let files = revision_files(directory, &self.name, hostname, config, recorded, &vanished, wanted);
            files.map_err(|error| error.to_string())
        };
        let change = &self.since_rendered;
        let last = self.packed.as_ref().filter(|(last, _)| last.shards.is_empty() != sharded && !change.all);
        let unchanged = last.filter(|(_, before)| change.leaves_tables() && *before == vanished);
        let packed = match (unchanged, last) {
            (Some((last, _)), _) => Some(last.clone()),
            (None, Some((last, before)))
                if !change.rest && all_have_room(before) && all_have_room(&vanished) =>
            {
                let temporary = before.symmetric_difference(&vanished);
                match last.stale(change.addresses.keys().chain(temporary)) {
                    Some(stale) => {
                        let files = files(&|address| stale.has(address))?;
                        last.repack(&self.name, files, &stale)?.map(Arc::new)
                    }
                    None => None,
                }
            }
            _ => None,
        };
        let packed = match packed {
            Some(packed) => packed,
            None => {
                let last = self.packed.as_ref().map(|(last, _)| &**last);
                Arc::new(shards::pack(&self.name, files(&|_| true)?, sharded, last)?)
            }
        };
        #[cfg(debug_assertions)]
        if directory.mailboxes.len() + directory.aliases.len() <= super::CHECKED {
            let anew = shards::pack(&self.name, files(&|_| true)?, sharded, None)?;
            assert!(*packed == anew, "what changed is rendered: {:?}", self.since_rendered);
        }
        self.packed = Some((packed.clone(), vanished));
        self.since_rendered = Change::default();
        Ok(Rendered { packed, directory: directory.clone() })
    }

    /// Remembers which addresses were served in the last written revision and no longer are.
    fn note_vanished(&mut self, directory: &Directory, hold: Duration, now: Instant) {
        self.vanished.retain(|address, until| *until > now && !directory.accepts(address));
        if self.written.is_empty() {
            return;
        }
        let served = self.since_written.addresses.iter().filter(|(_, served)| **served);
        for (address, _) in served {
            if !address.is_catch_all() && !directory.accepts(address) {
                self.vanished.entry(address.clone()).or_insert(now + hold);
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
        self.written.back().map(|last| last.revision.as_str())
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
        let changed = std::mem::take(&mut self.since_written);
        let since = self.changed_at.take().unwrap_or_else(Instant::now);
        if changed.all || changed.rest || self.written.is_empty() {
            self.written_domains = rendered.directory.domains.keys().cloned().collect();
        }
        let revision = &rendered.packed.index.revision;
        if self.wanted() != Some(revision.as_str()) {
            let addresses = changed.addresses.into_keys().collect();
            self.written.push_back(Written { revision: revision.clone(), addresses, since });
            // What stood there before is on its way already, or live: the agent may only not have said so yet.
            self.poke = Some((now.unwrap_or_else(|| Instant::now() + FIRST_POKE), FIRST_POKE));
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
    pub fn next_look(&self, now: Instant) -> Option<Instant> {
        let poke = self.poke.filter(|_| self.may_poke()).map(|(at, _)| at);
        let late = self.late_at().filter(|at| *at > now);
        poke.into_iter().chain(late).chain(self.vanished.values().copied()).min()
    }
}
