//! What was seen of the cluster, as projections: the objects the rules look at, their statuses, the domain
//! records and the ConfigMaps of the cells.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::core::ObjectMeta;
use kube::runtime::watcher::Event;
use tracing::{error, warn};

use crate::api::address::Address;
use crate::api::{
    MailAlias, MailAliasSpec, MailAliasStatus, MailDomain, MailDomainStatus, Mailbox, MailboxStatus,
};
use crate::directory::brake::Asked;
use crate::directory::{AliasSpec, Keeping, Object, ObjectId, Objects};
use crate::records::Record;

use super::guarded::{Guarded, Undecodable};
use super::objects::{self, RECORD_KEY};

/// One event of one watch.
#[derive(Debug)]
pub enum Seen {
    /// A MailDomain, or one that this version cannot decode.
    Domain(Event<Guarded<MailDomain>>),
    /// A Mailbox.
    Mailbox(Event<Guarded<Mailbox>>),
    /// A MailAlias.
    Alias(Event<Guarded<MailAlias>>),
    /// A ConfigMap of ours: domain records and tables.
    ConfigMap(Event<ConfigMap>),
    /// The pod of a cell.
    Pod(String, Box<Event<Pod>>),
}

/// The status that an object has, and the generation of its spec.
#[derive(Clone, Debug, Default)]
pub struct Known<T> {
    /// The object's resource version. What is seen of an older one is a late echo and changes nothing.
    pub version: u64,
    /// `metadata.generation`.
    pub generation: i64,
    /// As last seen, or as last written.
    pub status: T,
}

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
    pub domains: BTreeMap<ObjectId, Known<MailDomainStatus>>,
    /// Statuses of Mailboxes.
    pub mailboxes: BTreeMap<ObjectId, Known<MailboxStatus>>,
    /// Statuses of MailAliases.
    pub aliases: BTreeMap<ObjectId, Known<MailAliasStatus>>,
    /// Domain records by domain.
    pub records: BTreeMap<String, Stored>,
    /// The cells' ConfigMaps by name: resource version, and a hash of each value.
    pub tables: BTreeMap<String, (u64, BTreeMap<String, String>)>,
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
    /// The namespace of the ConfigMaps: that of the installation.
    namespace: String,
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
        Self { namespace: namespace.to_owned(), found: Some(BTreeMap::new()), ..Self::default() }
    }

    /// Whether all kinds and the records have listed: before that, what is missing may only be unseen.
    pub fn complete(&self) -> bool {
        self.lists.complete.iter().all(|complete| *complete) && self.unreadable_records.is_empty()
    }

    /// Takes in one event.
    pub fn see(&mut self, seen: Seen) {
        match seen {
            Seen::Domain(event) => {
                self.walk(
                    DOMAINS,
                    event,
                    |guarded| guarded.metadata().clone(),
                    Self::apply_domain,
                    Self::drop_domain,
                );
            }
            Seen::Mailbox(event) => {
                self.walk(
                    MAILBOXES,
                    event,
                    |guarded| guarded.metadata().clone(),
                    Self::apply_mailbox,
                    Self::drop_mailbox,
                );
            }
            Seen::Alias(event) => {
                self.walk(
                    ALIASES,
                    event,
                    |guarded| guarded.metadata().clone(),
                    Self::apply_alias,
                    Self::drop_alias,
                );
            }
            Seen::ConfigMap(event) => {
                self.walk(
                    CONFIG_MAPS,
                    event,
                    |map| map.metadata.clone(),
                    |index, _, map| index.apply_config_map(map),
                    Self::drop_config_map,
                );
            }
            Seen::Pod(cell, event) => self.see_pod(cell, *event),
        }
    }

    /// A re-list names what is there; what it does not name vanished meanwhile.
    fn walk<T>(
        &mut self,
        list: usize,
        event: Event<T>,
        meta: impl Fn(&T) -> ObjectMeta,
        apply: impl Fn(&mut Self, ObjectId, T),
        drop: impl Fn(&mut Self, &ObjectId),
    ) {
        let id = |object: &T| ObjectId::of(&meta(object));
        match event {
            Event::Init => self.lists.listing[list].clear(),
            Event::InitApply(object) => {
                let id = id(&object);
                self.lists.listing[list].insert(id.clone());
                let deleting = meta(&object).deletion_timestamp.is_some();
                apply(self, id.clone(), object);
                if deleting {
                    self.note_asked(list, &id);
                }
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.lists.listing[list]);
                for gone in self.ids(list).into_iter().filter(|id| !listed.contains(id)) {
                    drop(self, &gone);
                }
                self.lists.complete[list] = true;
            }
            Event::Apply(object) => {
                let id = id(&object);
                let deleting = meta(&object).deletion_timestamp.is_some();
                apply(self, id.clone(), object);
                if deleting {
                    self.note_asked(list, &id);
                }
            }
            Event::Delete(object) => {
                let id = id(&object);
                self.note_asked(list, &id);
                drop(self, &id);
            }
        }
    }

    /// Notes that an object is, or is about to be, deleted: what it declares may go.
    fn note_asked(&mut self, list: usize, id: &ObjectId) {
        match list {
            DOMAINS => {
                let spec = self.objects.domains.get(id).and_then(|object| object.spec.as_ref().ok());
                let domain = spec.map(|spec| &spec.domain).or_else(|| self.objects.undecodable.get(id));
                let stranger = |domain: &&String| {
                    self.records.get(*domain).is_some_and(|stored| stored.record.namespace != id.namespace)
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
        let config_map = |name: String| ObjectId { namespace: self.namespace.clone(), name };
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

    fn apply_domain(&mut self, id: ObjectId, guarded: Guarded<MailDomain>) {
        let meta = guarded.metadata();
        if is_late(self.domains.get(&id), meta) {
            return;
        }
        let mut known = known(meta);
        let spec = match &guarded.object {
            Ok(domain) => {
                known.status = domain.status.clone().unwrap_or_default();
                Ok(domain.spec.clone())
            }
            // What its domain was served as, the record says.
            Err(undecodable) => Err(unknown("MailDomain", &id, undecodable)),
        };
        match guarded.object.as_ref().err().and_then(|undecodable| undecodable.text("domain")) {
            Some(domain) => self.objects.undecodable.insert(id.clone(), domain.to_owned()),
            None => self.objects.undecodable.remove(&id),
        };
        self.objects.domains.insert(id.clone(), Object::new(meta, spec));
        self.domains.insert(id, known);
    }

    fn drop_domain(&mut self, id: &ObjectId) {
        self.objects.undecodable.remove(id);
        self.objects.domains.remove(id);
        self.domains.remove(id);
    }

    fn apply_mailbox(&mut self, id: ObjectId, guarded: Guarded<Mailbox>) {
        let meta = guarded.metadata();
        if is_late(self.mailboxes.get(&id), meta) {
            return;
        }
        let mut known = known(meta);
        let policy = match &guarded.object {
            Ok(mailbox) => mailbox.spec.deletion_policy,
            // A policy of a newer version may be anything: nothing is done that it may not mean.
            Err(undecodable) => {
                undecodable.text("deletionPolicy").and_then(|text| text.parse().ok()).unwrap_or_default()
            }
        };
        let spec = match &guarded.object {
            Ok(mailbox) => {
                known.status = mailbox.status.clone().unwrap_or_default();
                Address::try_from(&mailbox.spec)
            }
            Err(undecodable) => {
                let message = unknown("Mailbox", &id, undecodable);
                let address = undecodable.text("address").and_then(Address::own);
                address.ok_or(message)
            }
        };
        self.objects.keeping.insert(id.clone(), Keeping::new(meta, policy));
        self.objects.mailboxes.insert(id.clone(), Object::new(meta, spec));
        self.mailboxes.insert(id, known);
    }

    fn drop_mailbox(&mut self, id: &ObjectId) {
        self.objects.mailboxes.remove(id);
        self.objects.keeping.remove(id);
        self.mailboxes.remove(id);
    }

    fn apply_alias(&mut self, id: ObjectId, guarded: Guarded<MailAlias>) {
        let meta = guarded.metadata();
        if is_late(self.aliases.get(&id), meta) {
            return;
        }
        let mut known = known(meta);
        let spec = match &guarded.object {
            Ok(alias) => {
                known.status = alias.status.clone().unwrap_or_default();
                AliasSpec::try_from(&alias.spec)
            }
            Err(undecodable) => {
                let message = unknown("MailAlias", &id, undecodable);
                let address = undecodable.text("address").map(str::to_owned);
                let spec = address.zip(undecodable.texts("targets"));
                spec.map(|(address, targets)| MailAliasSpec { address, targets })
                    .ok_or(message)
                    .and_then(|spec| AliasSpec::try_from(&spec))
            }
        };
        self.objects.aliases.insert(id.clone(), Object::new(meta, spec));
        self.aliases.insert(id, known);
    }

    fn drop_alias(&mut self, id: &ObjectId) {
        self.objects.aliases.remove(id);
        self.aliases.remove(id);
    }

    /// Takes in a ConfigMap, seen or just written. An older version than the known one is a late
    /// echo and changes nothing.
    pub fn apply_config_map(&mut self, map: ConfigMap) {
        let name = map.metadata.name.clone().unwrap_or_default();
        let version = version(&map.metadata);
        if let Some(domain) = objects::record_domain(&name) {
            if self
                .records
                .get(domain)
                .is_some_and(|stored| stored.resource_version.parse().unwrap_or(0) > version)
            {
                return;
            }
            match objects::read_record(&map) {
                Ok(stored) => {
                    if let Some(unknown) = &stored.unknown {
                        warn!(
                            config_map = name,
                            "the domain record was written by a newer version ({unknown}); {domain} stays as it is until the operator is upgraded again"
                        );
                    }
                    self.unreadable_records.remove(&name);
                    self.records.insert(domain.to_owned(), stored);
                }
                Err(message) => {
                    error!(
                        config_map = name,
                        "the domain record cannot be read: {message}; nothing is written until its key `{RECORD_KEY}` is mended"
                    );
                    self.unreadable_records.insert(name);
                }
            }
        } else if self.tables.get(&name).is_none_or(|(known, _)| *known <= version) {
            match objects::confirmed(&map) {
                Some(what) => self.confirmed.insert(name.clone(), what),
                None => self.confirmed.remove(&name),
            };
            self.tables.insert(name.clone(), (version, objects::content_hashes(&map)));
            if let Some(found) = &mut self.found {
                found.insert(name, map);
            }
        }
    }

    fn drop_config_map(&mut self, id: &ObjectId) {
        self.unreadable_records.remove(&id.name);
        self.tables.remove(&id.name);
        self.confirmed.remove(&id.name);
        if let Some(found) = &mut self.found {
            found.remove(&id.name);
        }
        if let Some(domain) = objects::record_domain(&id.name) {
            self.records.remove(domain);
        }
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

fn known<T: Default>(meta: &ObjectMeta) -> Known<T> {
    Known { version: version(meta), generation: meta.generation.unwrap_or(0), status: T::default() }
}

/// What is said of an object that cannot be decoded. It is present, and what can be told of it counts.
fn unknown(kind: &str, id: &ObjectId, undecodable: &Undecodable) -> String {
    warn!(kind, %id, "cannot be decoded by this version: {}; what it is served as stays", undecodable.error);
    format!("this version cannot decode the {kind}: {}; what it is served as stays", undecodable.error)
}

/// Resource versions of one resource grow; only their order is used.
pub fn version(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// Whether an object is seen as it was before we wrote to it.
fn is_late<T>(known: Option<&Known<T>>, meta: &ObjectMeta) -> bool {
    known.is_some_and(|known| known.version > version(meta))
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
