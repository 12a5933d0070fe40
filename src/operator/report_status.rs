//! Writing statuses: what is to be said of each object, written where it differs from what stands there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::api::conditions::Reason;
use crate::api::{MailAlias, MailDomain, Mailbox};
use crate::directory::{AliasSpec, Change, Directory};
use crate::events::{self, News};
use crate::revision::{Rejected, Storage};
use crate::status::{Programmed, Publication};

use super::cells::{Cell, Look};
use super::compact_status::CompactStatus;
use super::desired_status::{Key, Target, View};
use super::index::{Index, Kind};
use super::pauses::Pauses;
use super::reconcile::{Message, WRITES_AT_ONCE};
use super::record_events::EventRecorder;
use super::seen::{Known, version};
use super::write::{WriteError, Writer};

/// A status that was written, or not.
#[derive(Debug)]
pub struct Written {
    target: Target,
    /// The resource version of what was written.
    result: Result<u64, WriteError>,
}

/// Statuses that wait for their turn to be written, or for the answer. The others are not even made yet.
const UNDER_WAY: usize = 512;

/// What statuses in a cell follow from, whatever their domain: what is said of what is not live yet, and what the agent
/// holds back.
type SaidOfCell = (Programmed, Option<(BTreeSet<String>, Storage)>);

/// Writes statuses, one at a time for each object and a bounded number at once. What a written status changed is
/// told in Events.
pub struct StatusWriter {
    writer: Writer,
    at_once: Arc<Semaphore>,
    to: mpsc::Sender<Message>,
    under_way: BTreeSet<Key>,
    /// What could not be written, or not yet.
    again: BTreeSet<Key>,
    /// What waits for the agents, which are not late ([`View::comes_soon`]), and since when each cell is behind, with
    /// whether it comes soon, as it was when they were looked at.
    soon: BTreeSet<Key>,
    behind: BTreeMap<String, (Option<Instant>, bool)>,
    pauses: Pauses<Key>,
    events: EventRecorder,
    /// What changed since the last look.
    change: Change,
    /// What was said of all objects of a cell, and of a domain, at the last look.
    cells: BTreeMap<String, SaidOfCell>,
    domains: BTreeMap<String, Programmed>,
    publications: BTreeMap<String, Publication>,
}

impl StatusWriter {
    /// A writer whose results go to `to`.
    pub fn new(writer: Writer, to: mpsc::Sender<Message>) -> Self {
        let events = EventRecorder::start(writer.clone());
        let at_once = Arc::new(Semaphore::new(WRITES_AT_ONCE));
        Self {
            writer,
            at_once,
            to,
            under_way: BTreeSet::new(),
            again: BTreeSet::new(),
            soon: BTreeSet::new(),
            behind: BTreeMap::new(),
            pauses: Pauses::default(),
            events,
            change: Change::default(),
            cells: BTreeMap::new(),
            domains: BTreeMap::new(),
            publications: BTreeMap::new(),
        }
    }

    /// Takes in how the directory differs from the one before.
    pub fn changed(&mut self, change: &Change) {
        self.change.add(change);
    }

    /// Where Events go.
    pub fn events(&self) -> &EventRecorder {
        &self.events
    }

    /// Tells on the pod of a cell what its agent refuses, where that is something else than `before`.
    pub fn tell_of_revision(&self, cell: &Cell, before: Option<&Rejected>) {
        let Some(report) = cell.report() else { return };
        let Some(news) = events::revision(before, report.rejected.as_ref()) else { return };
        if report.rejected.is_some() {
            warn!(pod = cell.pod(), "{}", news.note);
        }
        let pod = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(self.writer.namespace().to_owned()),
            name: Some(cell.pod().to_owned()),
            uid: Some(report.pod_uid.clone()),
            ..ObjectReference::default()
        };
        self.events.record(&pod, vec![news]);
    }

    /// Starts to write every status that says something else than what is to be said. Looks at those alone of which
    /// something changed.
    pub fn report(
        &mut self,
        index: &mut Index,
        directory: &Directory,
        cells: &mut BTreeMap<String, Cell>,
        publications: BTreeMap<String, Publication>,
    ) {
        let change = std::mem::take(&mut self.change);
        let changed = !change.is_empty();
        let mut keys = std::mem::take(&mut index.touched);
        let mut look = Look { all: change.all, addresses: BTreeSet::new() };
        for cell in cells.values_mut() {
            let Look { all, mut addresses } = cell.take_look();
            look.all |= all;
            look.addresses.append(&mut addresses);
        }
        let said_of_cells: BTreeMap<String, SaidOfCell> =
            cells.iter().map(|(name, cell)| (name.clone(), (cell.on_its_way(), cell.held_back()))).collect();
        look.all |= said_of_cells != self.cells;
        self.cells = said_of_cells;
        let at = Instant::now();
        let behind: BTreeMap<String, (Option<Instant>, bool)> = cells
            .iter()
            .map(|(name, cell)| (name.clone(), (cell.behind_since(), cell.comes_soon(at))))
            .collect();
        if behind != self.behind {
            keys.append(&mut self.soon);
        }
        let soon: BTreeSet<&str> =
            behind.iter().filter(|(_, (_, soon))| *soon).map(|(name, _)| name.as_str()).collect();
        let said_of_domains: BTreeMap<String, Programmed> = directory
            .domains
            .iter()
            .filter_map(|(domain, served)| {
                Some((domain.clone(), cells.get(&served.spec.cell)?.programmed(domain, directory)))
            })
            .collect();
        let other_domains: BTreeSet<&str> = said_of_domains
            .iter()
            .filter(|(domain, said)| self.domains.get(*domain) != Some(*said))
            .map(|(domain, _)| domain.as_str())
            .collect();

        // A record that this pass wrote a moment ago tells what stands in DNS.
        let recorded = change.rest || index.changes.records;
        if look.all || recorded || !other_domains.is_empty() || publications != self.publications {
            keys.extend(directory.domain_verdicts.keys().map(|id| (Kind::Domain, id.clone())));
        }
        if look.all {
            keys.extend(directory.mailbox_verdicts.keys().map(|id| (Kind::Mailbox, id.clone())));
            keys.extend(directory.alias_verdicts.keys().map(|id| (Kind::Alias, id.clone())));
        } else {
            keys.extend(change.mailboxes.into_iter().map(|id| (Kind::Mailbox, id)));
            keys.extend(change.aliases.into_iter().map(|id| (Kind::Alias, id)));
            let owners = look.addresses.iter().filter_map(|address| directory.mailboxes.get(address));
            keys.extend(owners.map(|id| (Kind::Mailbox, id.clone())));
            for domain in &other_domains {
                keys.extend(directory.mailboxes_of(domain).map(|(_, id)| (Kind::Mailbox, id.clone())));
            }
            if !look.addresses.is_empty() || !other_domains.is_empty() {
                let declares = |spec: &AliasSpec| {
                    look.addresses.contains(&spec.address) || other_domains.contains(spec.address.domain())
                };
                let aliases = index.objects.aliases.iter();
                let aliases = aliases.filter(|(_, object)| object.spec.as_ref().is_ok_and(declares));
                keys.extend(aliases.map(|(id, _)| (Kind::Alias, id.clone())));
            }
        }
        let view = View {
            directory,
            cells,
            domains: &said_of_domains,
            publications: &publications,
            now: Timestamp::now(),
            soon: &soon,
        };
        // What is not looked at counts as before.
        let counted = changed || !keys.is_empty();
        for key in keys {
            self.look_at(key, &view, index);
        }
        let mut waiting = std::mem::take(&mut self.again);
        while self.under_way.len() < UNDER_WAY
            && let Some(key) = waiting.pop_first()
        {
            self.look_at(key, &view, index);
        }
        self.again.append(&mut waiting);
        #[cfg(debug_assertions)]
        self.assert_nothing_was_missed(&view, index);
        self.behind = behind;
        self.domains = said_of_domains;
        self.publications = publications;
        if counted {
            self.writer.metrics.objects(&counts(index));
        }
    }

    /// Whether every status says what is to be said, or is to be written.
    #[cfg(debug_assertions)]
    fn assert_nothing_was_missed(&self, view: &View<'_>, index: &mut Index) {
        let View { directory, .. } = view;
        if directory.mailbox_verdicts.len() + directory.alias_verdicts.len() > super::CHECKED {
            return;
        }
        let domains = directory.domain_verdicts.keys().map(|id| (Kind::Domain, id.clone()));
        let mailboxes = directory.mailbox_verdicts.keys().map(|id| (Kind::Mailbox, id.clone()));
        let aliases = directory.alias_verdicts.keys().map(|id| (Kind::Alias, id.clone()));
        for key in domains.chain(mailboxes).chain(aliases) {
            if self.soon.contains(&key) {
                assert!(view.comes_soon(&key, index), "nobody looked at {key:?}, which waited");
            } else if !self.under_way.contains(&key) && !self.again.contains(&key) {
                let missed = view.differing(&key, index);
                assert!(missed.is_none(), "nobody looked at {key:?}: {missed:?}");
            }
        }
    }

    /// Starts to write a status, if that differs; later, if many are under way.
    fn look_at(&mut self, key: Key, view: &View<'_>, index: &mut Index) {
        self.soon.remove(&key);
        if view.comes_soon(&key, index) {
            self.soon.insert(key);
            return;
        }
        // What stands there is not known before the write ends.
        if self.under_way.len() >= UNDER_WAY || self.under_way.contains(&key) {
            self.again.insert(key);
            return;
        }
        if let Some((target, news)) = view.differing(&key, index) {
            self.write(target, news);
        }
    }

    fn write(&mut self, target: Target, news: Vec<News>) {
        let (kind, id) = target.key();
        let key = (kind, id.clone());
        if self.pauses.holds(&key, Instant::now()) {
            self.again.insert(key);
            return;
        }
        self.under_way.insert(key);
        let (writer, at_once, to) = (self.writer.clone(), self.at_once.clone(), self.to.clone());
        let events = self.events.clone();
        tokio::spawn(async move {
            // The semaphore is never closed.
            let _permit = at_once.acquire().await;
            let result = match &target {
                Target::Domain(id, status) => writer.status::<MailDomain>(id, status).await.map(of),
                Target::Mailbox(id, status) => writer.status::<Mailbox>(id, status).await.map(of),
                Target::Alias(id, status) => writer.status::<MailAlias>(id, status).await.map(of),
            };
            let result = result.map(|(object, version)| {
                events.record(&object, news);
                version
            });
            // Nobody listens any more when the process ends.
            let _ = to.send(Written { target, result }.into()).await;
        });
    }

    /// Takes in how a write ended: what was written is known before the watch says so. Whether anything is left to do.
    pub fn note(&mut self, written: Written, index: &mut Index) -> bool {
        let (kind, id) = written.target.key();
        let key = (kind, id.clone());
        self.under_way.remove(&key);
        match written.result {
            Ok(version) => {
                self.pauses.over(&key);
                match &written.target {
                    Target::Domain(id, status) => note(index.domains.get_mut(id), status.into(), version),
                    Target::Mailbox(id, status) => note(index.mailboxes.get_mut(id), status.into(), version),
                    Target::Alias(id, status) => note(index.aliases.get_mut(id), status.into(), version),
                }
            }
            Err(error) if error.is_not_found() => {
                debug!("{error}: it was deleted meanwhile");
                self.pauses.over(&key);
            }
            Err(error) => {
                warn!(?kind, object = %id, "{error}");
                self.again.insert(key.clone());
                self.pauses.failed(key, Instant::now());
            }
        }
        // Not after each of many.
        !self.again.is_empty() && self.under_way.len() <= UNDER_WAY / 2
    }

    /// When a status that could not be written is to be tried again.
    pub fn next_look(&self, now: Instant) -> Option<Instant> {
        self.pauses.next_look(now)
    }
}

fn of<K: Resource<DynamicType = ()>>(object: K) -> (ObjectReference, u64) {
    (object.object_ref(&()), version(object.meta()))
}

fn note(known: Option<&mut Known>, status: CompactStatus, version: u64) {
    if let Some(known) = known.filter(|known| known.version <= version) {
        known.status = status;
        known.version = version;
    }
}

/// How many objects there are, by kind and by the reason of `Ready` that was said last.
fn counts(index: &Index) -> BTreeMap<(&'static str, &'static str), usize> {
    let mut counts = BTreeMap::new();
    for (kind, all) in
        [("MailDomain", &index.domains), ("Mailbox", &index.mailboxes), ("MailAlias", &index.aliases)]
    {
        // Not a search for each of a hundred thousand.
        let mut by_reason = [0; Reason::ALL.len()];
        for reason in all.values().filter_map(|known| known.ready) {
            by_reason[reason as usize] += 1;
        }
        let some = Reason::ALL.iter().zip(by_reason).filter(|(_, count)| *count > 0);
        counts.extend(some.map(|(reason, count)| ((kind, reason.as_str()), count)));
    }
    counts
}
