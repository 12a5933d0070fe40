//! The domain record: the memory of everything that must not be forgotten about a domain, and its two
//! state machines, publish and withdraw. Pure.
//!
//! One record for each domain that was ever let in, written before the domain enters any table. Its
//! name is made of the domain, so that creating it is the claim. No object of a user's carries a
//! finalizer: the record alone knows what is still to be taken back.

mod step;

pub use step::{Absent, DnsTask, Facts, Limits, Rights, Serving, dns_task, may_leave, publish, step, wanted};

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::api::MailDomainSpec;
use crate::dns::MxSet;

/// The memory of one domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The domain.
    pub domain: String,
    /// The namespace that owns it.
    pub namespace: String,
    /// The spec last accepted: what is served while the domain drains.
    pub spec: MailDomainSpec,
    /// Where the domain stands.
    pub phase: Phase,
    /// What may stand in DNS. Written before the first write to DNS, and kept until what was written is
    /// read back as gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<Published>,
    /// Until when resolvers may hold an MX of ours that DNS no longer has, while the domain is served all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_until: Option<Timestamp>,
    /// The administrator takes the domain out of service, whoever declares it. Not the operator's to decide: it stands
    /// in an annotation beside the record, and not in it.
    #[serde(skip)]
    pub withdraw: bool,
    /// The brake holds the domain in service although no MailDomain claims it. Found anew in every pass.
    #[serde(skip)]
    pub held: bool,
    /// What a newer version remembers besides. This one does not know what it means.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, serde_json::Value>,
}

/// What may stand in DNS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Published {
    /// The zone it was read back from; absent while it is only intended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The records.
    pub mx: MxSet,
    /// Whether just these records were read back; until then they are only intended.
    #[serde(default)]
    pub confirmed: bool,
    /// The longest TTL in seconds that a resolver may still hold.
    pub held_ttl: u32,
    /// Seconds that secondary servers may lag behind.
    pub lag_seconds: u32,
    /// The cluster (UID of `kube-system`) whose operator read the records back; absent in records of earlier versions. A
    /// record that was carried into another cluster says so by this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// As in the record.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, serde_json::Value>,
}

/// Where a domain stands on its way in and out. Every way out of service is this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "name", deny_unknown_fields)]
pub enum Phase {
    /// An accepted MailDomain lives.
    Serving,
    /// The MX is being taken out of DNS. In the tables.
    Withdrawing {
        /// Since when.
        since: Timestamp,
    },
    /// The MX is gone from DNS, but resolvers may hold it. In the tables.
    Draining {
        /// When no resolver can hold it any more.
        until: Timestamp,
    },
    /// Out of the tables, as soon as the agent confirms it.
    Leaving,
    /// Out of everything. Kept until a later check has found no MX of ours again: a late write of a
    /// dead leader would have nobody else to take it back.
    Withdrawn {
        /// When that check is due.
        check: Timestamp,
    },
}

impl Record {
    /// A new claim.
    pub fn new(domain: &str, namespace: &str, spec: MailDomainSpec) -> Self {
        Self {
            domain: domain.to_owned(),
            namespace: namespace.to_owned(),
            spec,
            phase: Phase::Serving,
            published: None,
            held_until: None,
            withdraw: false,
            held: false,
            unknown: BTreeMap::new(),
        }
    }

    /// Names of fields that this version does not know.
    pub fn unknown_fields(&self) -> impl Iterator<Item = &str> {
        let published = self.published.iter().flat_map(|published| published.unknown.keys());
        self.unknown.keys().chain(published).map(String::as_str)
    }

    /// Whether Postfix must go on accepting mail for the domain, MailDomain or not.
    pub fn in_tables(&self) -> bool {
        match self.phase {
            Phase::Serving | Phase::Withdrawing { .. } | Phase::Draining { .. } => true,
            Phase::Leaving | Phase::Withdrawn { .. } => false,
        }
    }
}
