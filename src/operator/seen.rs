//! What is kept of an object that a watch brought. An object takes up to ten times as much as it came.

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::core::ObjectMeta;
use kube::runtime::watcher::Event;
use tracing::warn;

use crate::api::address::Address;
use crate::api::conditions::Reason;
use crate::api::{MailAlias, MailAliasSpec, MailDomain, MailDomainSpec, Mailbox};
use crate::directory::{AliasSpec, Keeping, Object, ObjectId};

use super::compact_status::CompactStatus;
use super::guarded::{Guarded, Undecodable};

/// One event of one watch.
#[derive(Debug)]
pub enum Seen {
    /// A MailDomain, or one that this version cannot decode.
    Domain(Event<SeenDomain>),
    /// A Mailbox.
    Mailbox(Event<SeenMailbox>),
    /// A MailAlias.
    Alias(Event<SeenAlias>),
    /// A ConfigMap of ours: domain records and tables.
    ConfigMap(Event<ConfigMap>),
    /// The pod of a cell.
    Pod(String, Box<Event<Pod>>),
}

impl Seen {
    /// An event of the watch of MailDomains.
    pub fn domain(event: Event<Guarded<MailDomain>>) -> Self {
        Self::Domain(kept(event))
    }

    /// An event of the watch of Mailboxes.
    pub fn mailbox(event: Event<Guarded<Mailbox>>) -> Self {
        Self::Mailbox(kept(event))
    }

    /// An event of the watch of MailAliases.
    pub fn alias(event: Event<Guarded<MailAlias>>) -> Self {
        Self::Alias(kept(event))
    }
}

fn kept<A, B: From<A>>(event: Event<A>) -> Event<B> {
    match event {
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(object.into()),
        Event::InitDone => Event::InitDone,
        Event::Apply(object) => Event::Apply(object.into()),
        Event::Delete(object) => Event::Delete(object.into()),
    }
}

/// The status that an object has, and the generation of its spec.
#[derive(Clone, Debug)]
pub struct Known {
    /// The object's resource version. What is seen of an older one is a late echo and changes nothing.
    pub version: u64,
    /// `metadata.generation`.
    pub generation: i64,
    /// As last seen, or as last written.
    pub status: CompactStatus,
    /// The reason of `Ready` that was said last.
    pub ready: Option<Reason>,
}

/// A MailDomain.
#[derive(Debug)]
pub struct SeenDomain {
    /// Which.
    pub id: ObjectId,
    /// What it declares.
    pub object: Object<MailDomainSpec>,
    /// Its status.
    pub known: Known,
    /// Its domain, where this version cannot decode its spec.
    pub undecodable: Option<String>,
}

/// A Mailbox.
#[derive(Debug)]
pub struct SeenMailbox {
    /// Which.
    pub id: ObjectId,
    /// What it declares.
    pub object: Object<Address>,
    /// What shall become of its mail.
    pub keeping: Keeping,
    /// Its status.
    pub known: Known,
}

/// A MailAlias.
#[derive(Debug)]
pub struct SeenAlias {
    /// Which.
    pub id: ObjectId,
    /// What it declares.
    pub object: Object<AliasSpec>,
    /// Its status.
    pub known: Known,
}

impl From<Guarded<MailDomain>> for SeenDomain {
    fn from(guarded: Guarded<MailDomain>) -> Self {
        let (meta, id) = (guarded.metadata(), guarded.id.clone());
        let status = guarded.object.as_ref().ok().and_then(|domain| domain.status.as_ref());
        let known = known(meta, status);
        let spec = match &guarded.object {
            Ok(domain) => Ok(domain.spec.clone()),
            // What its domain was served as, the record says.
            Err(undecodable) => Err(unknown("MailDomain", &id, undecodable)),
        };
        let undecodable = guarded.object.as_ref().err().and_then(|undecodable| undecodable.text("domain"));
        Self { object: Object::new(meta, spec), known, undecodable: undecodable.map(str::to_owned), id }
    }
}

impl From<Guarded<Mailbox>> for SeenMailbox {
    fn from(guarded: Guarded<Mailbox>) -> Self {
        let (meta, id) = (guarded.metadata(), guarded.id.clone());
        let status = guarded.object.as_ref().ok().and_then(|mailbox| mailbox.status.as_ref());
        let known = known(meta, status);
        let (policy, spec) = match &guarded.object {
            Ok(mailbox) => (mailbox.spec.deletion_policy, Address::try_from(&mailbox.spec)),
            Err(undecodable) => {
                // A policy of a newer version may be anything: nothing is done that it may not mean.
                let policy = undecodable.text("deletionPolicy").and_then(|text| text.parse().ok());
                let message = unknown("Mailbox", &id, undecodable);
                let address = undecodable.text("address").and_then(Address::own);
                (policy.unwrap_or_default(), address.ok_or(message))
            }
        };
        Self { object: Object::new(meta, spec), keeping: Keeping::new(meta, policy), known, id }
    }
}

impl From<Guarded<MailAlias>> for SeenAlias {
    fn from(guarded: Guarded<MailAlias>) -> Self {
        let (meta, id) = (guarded.metadata(), guarded.id.clone());
        let status = guarded.object.as_ref().ok().and_then(|alias| alias.status.as_ref());
        let known = known(meta, status);
        let spec = match &guarded.object {
            Ok(alias) => AliasSpec::try_from(&alias.spec),
            Err(undecodable) => {
                let message = unknown("MailAlias", &id, undecodable);
                let address = undecodable.text("address").map(str::to_owned);
                let spec = address.zip(undecodable.texts("targets"));
                spec.map(|(address, targets)| MailAliasSpec { address, targets })
                    .ok_or(message)
                    .and_then(|spec| AliasSpec::try_from(&spec))
            }
        };
        Self { object: Object::new(meta, spec), known, id }
    }
}

fn known<T: Default>(meta: &ObjectMeta, status: Option<&T>) -> Known
where
    CompactStatus: for<'a> From<&'a T>,
{
    let status = status.map_or_else(|| CompactStatus::from(&T::default()), CompactStatus::from);
    Known { version: version(meta), generation: meta.generation.unwrap_or(0), status, ready: None }
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
