//! The objects as the rules see them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::api::address::Address;
use crate::api::{DeletionPolicy, MailAliasSpec, MailDomainSpec, MailboxSpec};
use crate::pair::Pair;

/// Namespace and name of an object. Ordered by namespace, then by name.
///
/// It stands in many places for each object, which share its text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(Pair);

impl ObjectId {
    /// That of an object with these names.
    pub fn new(namespace: impl AsRef<str>, name: impl AsRef<str>) -> Self {
        Self(Pair::new(namespace.as_ref(), name.as_ref()))
    }

    /// That of an object with this metadata.
    pub fn of(meta: &ObjectMeta) -> Self {
        Self::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        self.0.parts().0
    }

    /// The name.
    pub fn name(&self) -> &str {
        self.0.parts().1
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (namespace, name) = self.0.parts();
        write!(f, "{namespace}/{name}")
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// What the rules need to know of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object<S> {
    /// When it was created, in Unix seconds, as the API server keeps it: of two that declare the same, the older one
    /// wins.
    pub created: i64,
    /// When what it declares was last changed: of several that are too much together, the one that was left
    /// alone for longer wins.
    pub changed: i64,
    /// Whether it is being deleted: it then claims nothing.
    pub deleting: bool,
    /// What it declares, or why this version cannot take it.
    pub spec: Result<S, String>,
}

impl<S> Object<S> {
    /// An object with this metadata, without times the oldest of all.
    pub fn new(meta: &ObjectMeta, spec: Result<S, String>) -> Self {
        let created = meta.creation_timestamp.as_ref().map(|time| time.0.as_second()).unwrap_or_default();
        Self {
            created,
            changed: changed(meta).unwrap_or(created),
            deleting: meta.deletion_timestamp.is_some(),
            spec,
        }
    }
}

/// The last change besides those of the status. The API server notes it with the owner of each field, and leaves
/// it as it is where nothing changed (Kubernetes documentation, Server-Side Apply, field management).
fn changed(meta: &ObjectMeta) -> Option<i64> {
    let entries = meta.managed_fields.iter().flatten();
    let entries = entries.filter(|entry| entry.subresource.as_deref().unwrap_or_default().is_empty());
    entries.filter_map(|entry| entry.time.as_ref()).map(|time| time.0.as_second()).max()
}

/// What a MailAlias declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliasSpec {
    /// The address that is rewritten.
    pub address: Address,
    /// Where its mail goes.
    pub targets: BTreeSet<Address>,
}

impl TryFrom<&MailAliasSpec> for AliasSpec {
    type Error = String;

    fn try_from(spec: &MailAliasSpec) -> Result<Self, String> {
        let targets = spec.targets.iter().map(|target| {
            Address::target(target)
                .ok_or_else(|| format!("spec.targets: {target:?} is not an address such as you@example.org"))
        });
        Ok(Self { address: own_address(&spec.address)?, targets: targets.collect::<Result<_, _>>()? })
    }
}

impl TryFrom<&MailboxSpec> for Address {
    type Error = String;

    fn try_from(spec: &MailboxSpec) -> Result<Self, String> {
        own_address(&spec.address)
    }
}

fn own_address(text: &str) -> Result<Address, String> {
    Address::own(text).ok_or_else(|| {
        format!("spec.address: {text:?} is not an address that can be served, such as you@example.org")
    })
}

/// All objects of the three kinds.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// MailDomains.
    pub domains: BTreeMap<ObjectId, Object<MailDomainSpec>>,
    /// The domains of MailDomains whose spec this version cannot decode.
    pub undecodable: BTreeMap<ObjectId, String>,
    /// Mailboxes, each with its address.
    pub mailboxes: BTreeMap<ObjectId, Object<Address>>,
    /// MailAliases.
    pub aliases: BTreeMap<ObjectId, Object<AliasSpec>>,
    /// What the Mailboxes say about their Maildirs; one that is not listed says `Retain`.
    pub keeping: BTreeMap<ObjectId, Keeping>,
}

/// What shall become of a Mailbox's Maildir.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keeping {
    /// How the object's UID begins.
    pub uid: UidStart,
    /// `spec.deletionPolicy`.
    pub policy: DeletionPolicy,
}

impl Keeping {
    /// That of a Mailbox with this metadata.
    pub fn new(meta: &ObjectMeta, policy: DeletionPolicy) -> Self {
        Self { uid: UidStart::of(meta.uid.as_deref().unwrap_or_default()), policy }
    }
}

/// The first eight characters of a UID, enough to tell the Mailboxes apart that an address ever had: UIDs are random
/// (RFC 9562 5.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UidStart([u8; 8]);

impl UidStart {
    /// That of a UID.
    pub fn of(uid: &str) -> Self {
        let mut start = Self::default();
        for (to, from) in start.0.iter_mut().zip(uid.bytes().filter(u8::is_ascii_graphic)) {
            *to = from;
        }
        start
    }
}

impl fmt::Display for UidStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let characters = self.0.iter().take_while(|byte| **byte != 0);
        characters
            .map(|byte| char::from(*byte))
            .try_for_each(|character| fmt::Write::write_char(f, character))
    }
}

impl Objects {
    /// Whether a MailDomain declares the domain, or may do so: one that cannot be read may name any.
    pub fn declare(&self, domain: &str) -> bool {
        self.domains.iter().any(|(id, object)| match &object.spec {
            Ok(spec) => spec.domain == domain,
            Err(_) => self.undecodable.get(id).is_none_or(|named| named == domain),
        })
    }
}
