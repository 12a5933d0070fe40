//! What was seen of the cluster, as projections: the objects the rules look at, their statuses, the domain
//! records and the ConfigMaps of the cells.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::runtime::watcher::Event;
use tracing::{error, warn};

use crate::api::address::Address;
use crate::directory::brake::Asked;
use crate::directory::{ObjectId, Objects, dense};
use crate::records::Record;

use super::objects::{self, Present, RECORD_KEY};
use super::seen::{Known, Seen, SeenAlias, SeenDomain, SeenMailbox, version};

/// A record with what is needed to replace it.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The record.
    pub record: Record,
    /// Replacing it fails when somebody else did so first.
    pub resource_version: String,
    /// An administrator gave up the DNS server (`vmail.dev/abandon-dns`).
    pub abandon_dns: bool,
    /// What of it this version does not understand, if anything: the domain then stays as it is, in the tables, in DNS
    /// and in the record.
    pub unknown: Option<String>,
}

/// The pod of a cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSeen {
    /// Identifies it for as long as it lives; an address may be used again by a stranger.
    pub uid: String,
    /// Where its agent answers; absent until it has an address.
    pub ip: Option<String>,
    /// Why it has no node, or a container of it does not run, if that is so.
    pub waiting: Option<String>,
}

/// Everything that was seen.
#[derive(Debug, Default)]
pub struct Index {
    /// What the rules look at.
    pub objects: Objects,
    /// Statuses of MailDomains.
    pub domains: BTreeMap<ObjectId, Known>,
    /// Statuses of Mailboxes.
    pub mailboxes: BTreeMap<ObjectId, Known>,
    /// Statuses of MailAliases.
    pub aliases: BTreeMap<ObjectId, Known>,
    /// Domain records by domain.
    pub records: BTreeMap<String, Stored>,
    /// The cells' ConfigMaps by name: resource version, and a hash of each value.
    pub tables: Present,
    /// What the administrator confirmed on one of these ConfigMaps, by its name.
    pub confirmed: BTreeMap<String, String>,
    /// The cells' ConfigMaps as they were found, until somebody takes them.
    pub found: Option<BTreeMap<String, ConfigMap>>,
    /// What was deleted and may still be served.
    pub asked: Asked,
    /// Pods by cell.
    pub pods: BTreeMap<String, PodSeen>,
    /// A record that cannot be read: nothing may be concluded from its absence.
    unreadable_records: BTreeSet<String>,
    lists: Lists,
    /// What changed of all that the rules look at, since that was last asked for.
    pub changes: Changes,
    /// Objects that were seen anew since somebody looked whether their statuses say what they should.
    pub touched: BTreeSet<(Kind, ObjectId)>,
    /// The namespace of the ConfigMaps: that of the installation.
    namespace: String,
}

/// The kinds of objects with a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// MailDomain
    Domain,
    /// Mailbox
    Mailbox,
    /// MailAlias
    Alias,
}

/// What changed of all that the rules look at.
#[derive(Debug, Default)]
pub struct Changes {
    /// Mailboxes, each with the address that it declared before.
    pub mailboxes: BTreeMap<ObjectId, Option<Address>>,
    /// Domain records.
    pub records: bool,
    /// Anything else.
    pub other: bool,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.mailboxes.is_empty() && !self.records && !self.other
    }

    fn note_mailbox(&mut self, id: &ObjectId, before: Option<&Address>) {
        self.mailboxes.entry(id.clone()).or_insert_with(|| before.cloned());
    }
}

/// Which lists have come in completely, and which objects the list under way has named so far.
#[derive(Debug, Default)]
struct Lists {
    complete: [bool; 4],
    listing: [BTreeSet<ObjectId>; 4],
    /// Cells whose pod the list under way has named.
    pods: BTreeSet<String>,
}

const DOMAINS: usize = 0;
const MAILBOXES: usize = 1;
const ALIASES: usize = 2;
const CONFIG_MAPS: usize = 3;

impl Index {
    /// An index of which nothing was seen yet, of the installation in `namespace`.
    pub fn new(namespace: &str) -> Self {
        // Without any object there is something to serve, too: the hosts' own addresses.
        let changes = Changes { other: true, ..Changes::default() };
        Self { namespace: namespace.to_owned(), changes, found: Some(BTreeMap::new()), ..Self::default() }
    }

    /// Whether all kinds and the records have listed: before that, what is missing may only be unseen.
    pub fn complete(&self) -> bool {
        self.lists.complete.iter().all(|complete| *complete) && self.unreadable_records.is_empty()
    }

    /// Takes in one event; whether anything is known then that was not.
    pub fn see(&mut self, seen: Seen) -> bool {
        match seen {
            Seen::Domain(event) => {
                self.walk(DOMAINS, event, |seen| seen.id.clone(), Self::apply_domain, Self::drop_domain)
            }
            Seen::Mailbox(event) => {
                self.walk(MAILBOXES, event, |seen| seen.id.clone(), Self::apply_mailbox, Self::drop_mailbox)
            }
            Seen::Alias(event) => {
                self.walk(ALIASES, event, |seen| seen.id.clone(), Self::apply_alias, Self::drop_alias)
            }
            Seen::ConfigMap(event) => {
                let id = |map: &ConfigMap| ObjectId::of(&map.metadata);
                self.walk(CONFIG_MAPS, event, id, Self::apply_config_map, Self::drop_config_map)
            }
            Seen::Pod(cell, event) => {
                self.see_pod(cell, *event);
                true
            }
        }
    }

    /// A re-list names what is there; what it does not name vanished meanwhile.
    fn walk<T>(
        &mut self,
        list: usize,
        event: Event<T>,
        id: impl Fn(&T) -> ObjectId,
        apply: impl Fn(&mut Self, T) -> bool,
        drop: impl Fn(&mut Self, &ObjectId),
    ) -> bool {
        match event {
            Event::Init => {
                self.lists.listing[list].clear();
                false
            }
            Event::InitApply(object) => {
                self.lists.listing[list].insert(id(&object));
                apply(self, object)
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.lists.listing[list]);
                for gone in self.ids(list).into_iter().filter(|id| !listed.contains(id)) {
                    drop(self, &gone);
                }
                if !std::mem::replace(&mut self.lists.complete[list], true) {
                    self.close_gaps(list);
                }
                true
            }
            Event::Apply(object) => apply(self, object),
            Event::Delete(object) => {
                let id = id(&object);
                self.note_asked(list, &id);
                drop(self, &id);
                true
            }
        }
    }

    /// A list comes in order, all of it the first time.
    fn close_gaps(&mut self, list: usize) {
        fn close<V>(map: &mut BTreeMap<ObjectId, V>) {
            *map = dense(std::mem::take(map));
        }
        match list {
            MAILBOXES => {
                close(&mut self.objects.mailboxes);
                close(&mut self.objects.keeping);
                close(&mut self.mailboxes);
            }
            ALIASES => {
                close(&mut self.objects.aliases);
                close(&mut self.aliases);
            }
            _ => {}
        }
    }

    /// Notes that an object is, or is about to be, deleted: what it declares may go.
    fn note_asked(&mut self, list: usize, id: &ObjectId) {
        match list {
            DOMAINS => {
                let spec = self.objects.domains.get(id).and_then(|object| object.spec.as_ref().ok());
                let domain = spec.map(|spec| &spec.domain).or_else(|| self.objects.undecodable.get(id));
                let stranger = |domain: &&String| {
                    self.records.get(*domain).is_some_and(|stored| stored.record.namespace != id.namespace())
                };
                self.asked.domains.extend(domain.filter(|domain| !stranger(domain)).cloned());
            }
            MAILBOXES => {
                let object = self.objects.mailboxes.get(id);
                self.asked.addresses.extend(object.and_then(|object| object.spec.clone().ok()));
            }
            ALIASES => {
                let spec = self.objects.aliases.get(id).and_then(|object| object.spec.as_ref().ok());
                self.asked.addresses.extend(spec.map(|spec| spec.address.clone()));
            }
            _ => {}
        }
    }

    fn ids(&self, list: usize) -> Vec<ObjectId> {
        let config_map = |name: String| ObjectId::new(self.namespace.as_str(), name);
        match list {
            DOMAINS => self.objects.domains.keys().cloned().collect(),
            MAILBOXES => self.objects.mailboxes.keys().cloned().collect(),
            ALIASES => self.objects.aliases.keys().cloned().collect(),
            _ => {
                let records = self.records.keys().map(|domain| objects::record_name(domain));
                records.chain(self.tables.keys().cloned()).map(config_map).collect()
            }
        }
    }

    fn apply_domain(&mut self, seen: SeenDomain) -> bool {
        let SeenDomain { id, object, mut known, undecodable } = seen;
        let Some(mut news) = news(self.domains.get(&id), &mut known) else { return false };
        if self.objects.domains.get(&id) != Some(&object)
            || self.objects.undecodable.get(&id) != undecodable.as_ref()
        {
            self.changes.other = true;
            news = true;
        }
        match undecodable {
            Some(domain) => self.objects.undecodable.insert(id.clone(), domain),
            None => self.objects.undecodable.remove(&id),
        };
        let deleting = object.deleting;
        self.objects.domains.insert(id.clone(), object);
        self.touched.insert((Kind::Domain, id.clone()));
        self.domains.insert(id.clone(), known);
        if deleting {
            self.note_asked(DOMAINS, &id);
        }
        news
    }

    fn drop_domain(&mut self, id: &ObjectId) {
        self.objects.undecodable.remove(id);
        self.changes.other |= self.objects.domains.remove(id).is_some();
        self.domains.remove(id);
    }

    fn apply_mailbox(&mut self, seen: SeenMailbox) -> bool {
        let SeenMailbox { id, object, keeping, mut known } = seen;
        let Some(mut news) = news(self.mailboxes.get(&id), &mut known) else { return false };
        let deleting = object.deleting;
        let before = self.objects.mailboxes.get(&id);
        if before != Some(&object) || self.objects.keeping.get(&id) != Some(&keeping) {
            self.changes.note_mailbox(&id, before.and_then(|before| before.spec.as_ref().ok()));
            self.objects.keeping.insert(id.clone(), keeping);
            self.objects.mailboxes.insert(id.clone(), object);
            news = true;
        }
        self.touched.insert((Kind::Mailbox, id.clone()));
        self.mailboxes.insert(id.clone(), known);
        if deleting {
            self.note_asked(MAILBOXES, &id);
        }
        news
    }

    fn drop_mailbox(&mut self, id: &ObjectId) {
        if let Some(before) = self.objects.mailboxes.remove(id) {
            self.changes.note_mailbox(id, before.spec.as_ref().ok());
        }
        self.objects.keeping.remove(id);
        self.mailboxes.remove(id);
    }

    fn apply_alias(&mut self, seen: SeenAlias) -> bool {
        let SeenAlias { id, object, mut known } = seen;
        let Some(mut news) = news(self.aliases.get(&id), &mut known) else { return false };
        let deleting = object.deleting;
        if self.objects.aliases.get(&id) != Some(&object) {
            self.changes.other = true;
            self.objects.aliases.insert(id.clone(), object);
            news = true;
        }
        self.touched.insert((Kind::Alias, id.clone()));
        self.aliases.insert(id.clone(), known);
        if deleting {
            self.note_asked(ALIASES, &id);
        }
        news
    }

    fn drop_alias(&mut self, id: &ObjectId) {
        self.changes.other |= self.objects.aliases.remove(id).is_some();
        self.aliases.remove(id);
    }

    /// Takes in a ConfigMap, seen or just written. An older version than the known one is a late
    /// echo and changes nothing. Whether anything is known then that was not.
    pub fn apply_config_map(&mut self, map: ConfigMap) -> bool {
        let name = map.metadata.name.clone().unwrap_or_default();
        let version = version(&map.metadata);
        if let Some(domain) = objects::record_domain(&name) {
            let known = self.records.get(domain);
            let known_version = known.map(|stored| stored.resource_version.parse().unwrap_or(0));
            if known_version.is_some_and(|known| known > version) {
                return false;
            }
            match objects::read_record(&map) {
                Ok(mut stored) => {
                    if let Some(unknown) = &stored.unknown {
                        warn!(
                            config_map = name,
                            "the domain record was written by a newer version ({unknown}); {domain} stays as it is until the operator is upgraded again"
                        );
                    }
                    // What the brake holds is in no ConfigMap of a record.
                    stored.record.held = known.is_some_and(|known| known.record.held);
                    let mended = self.unreadable_records.remove(&name);
                    let same = known.is_some_and(|known| known.record == stored.record);
                    let seen = same && known_version == Some(version);
                    self.changes.records |= !same;
                    self.records.insert(domain.to_owned(), stored);
                    mended || !seen
                }
                Err(message) => {
                    error!(
                        config_map = name,
                        "the domain record cannot be read: {message}; nothing is written until its key `{RECORD_KEY}` is mended"
                    );
                    self.unreadable_records.insert(name);
                    true
                }
            }
        } else if self.tables.get(&name).is_none_or(|(known, _)| *known < version) {
            match objects::confirmed(&map) {
                Some(what) => self.confirmed.insert(name.clone(), what),
                None => self.confirmed.remove(&name),
            };
            self.tables.insert(name.clone(), (version, objects::content_hashes(&map)));
            if let Some(found) = &mut self.found {
                found.insert(name, map);
            }
            true
        } else {
            false
        }
    }

    fn drop_config_map(&mut self, id: &ObjectId) {
        self.unreadable_records.remove(id.name());
        self.tables.remove(id.name());
        self.confirmed.remove(id.name());
        if let Some(found) = &mut self.found {
            found.remove(id.name());
        }
        if let Some(domain) = objects::record_domain(id.name()) {
            self.remove_record(domain);
        }
    }

    /// Forgets the record of a domain, which is gone.
    pub fn remove_record(&mut self, domain: &str) {
        self.changes.records |= self.records.remove(domain).is_some();
    }

    fn see_pod(&mut self, cell: String, event: Event<Pod>) {
        match event {
            Event::Init => {
                self.lists.pods.remove(&cell);
            }
            Event::InitDone => {
                if !self.lists.pods.contains(&cell) {
                    self.pods.remove(&cell);
                }
            }
            Event::InitApply(pod) => {
                self.lists.pods.insert(cell.clone());
                self.pods.insert(cell, pod_seen(&pod));
            }
            Event::Apply(pod) => {
                self.pods.insert(cell, pod_seen(&pod));
            }
            Event::Delete(pod) => {
                let uid = pod.metadata.uid.unwrap_or_default();
                if self.pods.get(&cell).is_some_and(|known| known.uid == uid) {
                    self.pods.remove(&cell);
                }
            }
        }
    }
}

/// Whether the metadata or the status of an object is news; `None` where the object is seen as it was before we wrote to
/// it.
fn news(before: Option<&Known>, seen: &mut Known) -> Option<bool> {
    let Some(before) = before else { return Some(true) };
    seen.ready = before.ready;
    let same = (before.version, before.generation) == (seen.version, seen.generation);
    (before.version <= seen.version).then_some(!same)
}

fn pod_seen(pod: &Pod) -> PodSeen {
    let status = pod.status.as_ref();
    let said = |reason: &Option<String>, message: &Option<String>| {
        format!("{} {}", reason.as_deref().unwrap_or("waiting"), message.as_deref().unwrap_or(""))
    };
    let conditions = status.and_then(|status| status.conditions.as_ref());
    let unscheduled = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
        .map(|condition| said(&condition.reason, &condition.message));
    let containers = status.and_then(|status| status.container_statuses.as_ref());
    let waiting = containers.into_iter().flatten().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        Some(said(&waiting.reason, &waiting.message))
    });
    let waiting = unscheduled.or(waiting);
    PodSeen {
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        ip: status.and_then(|status| status.pod_ip.clone()),
        waiting: waiting.map(|text| text.trim_end().to_owned()),
    }
}

#[cfg(test)]
#[path = "index_test.rs"]
mod index_test;
