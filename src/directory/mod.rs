//! The directory: who is served, and a verdict for every object. A pure function of the set of all
//! objects, the domain records and the configuration - never of the order of events.

mod addresses;
pub mod brake;
mod capacity;
mod change;
mod custody;
mod domains;
mod expansion;
mod objects;
#[cfg(test)]
mod tests;
pub mod trace;
mod update;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use capacity::Fill;
use capacity::Shares;
pub use change::Change;
pub use custody::Claims;
pub(crate) use domains::unmanaged;
pub use objects::{AliasSpec, Keeping, Object, ObjectId, Objects, UidStart};
pub use update::Ties;

use crate::api::MailDomainSpec;
use crate::api::address::Address;
use crate::api::conditions::Reason;
use crate::config::Config;
use crate::records::Record;
use crate::revision::DomainState;

/// Why something is not so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason of the condition.
    pub reason: Reason,
    /// What happened, to which object, and what to do.
    pub message: String,
}

impl Refusal {
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// What the rules say of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it was let in.
    pub accepted: Result<(), Refusal>,
    /// What its owner should know although it was let in.
    pub warning: Option<String>,
    /// Whether what it refers to exists.
    pub resolved_refs: Result<(), Refusal>,
    /// The MailDomain that it belongs to.
    pub domain: Option<ObjectId>,
}

/// What is said of each object. What is the same for all of a domain is there once.
pub type Verdicts = BTreeMap<ObjectId, Arc<Verdict>>;

/// A domain that Postfix shall accept mail for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedDomain {
    /// Serving while an accepted MailDomain lives, else draining.
    pub state: DomainState,
    /// The accepted MailDomain.
    pub claim: Option<ObjectId>,
    /// The namespace that owns the domain.
    pub namespace: String,
    /// The MailDomain's spec, or the last one accepted.
    pub spec: MailDomainSpec,
}

/// Who is served, and why the others are not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// By domain name.
    pub domains: BTreeMap<String, ServedDomain>,
    /// Every mailbox that is live.
    pub mailboxes: BTreeMap<Address, ObjectId>,
    /// Every alias that is live, role addresses and catch-alls included, with its live targets.
    pub aliases: BTreeMap<Address, BTreeSet<Address>>,
    /// Aliases that lead nowhere. They are refused, and not left to a catch-all: it takes nobody's mail.
    pub dead: BTreeSet<Address>,
    /// What each live mailbox says about its Maildir.
    pub keeping: BTreeMap<Address, Keeping>,
    /// What is declared and not live.
    pub claims: Claims,
    /// What is said of each MailDomain.
    pub domain_verdicts: Verdicts,
    /// What is said of each Mailbox.
    pub mailbox_verdicts: Verdicts,
    /// What is said of each MailAlias.
    pub alias_verdicts: Verdicts,
    /// How much of the room in its tables each cell has taken.
    pub fill: Vec<Fill>,
    /// What makes the verdict on one Mailbox depend on another.
    pub ties: Ties,
}

/// What the rules look at besides the objects.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    /// The administrator's decisions.
    pub config: &'a Config,
    /// The namespace of the installation, which may claim any domain.
    pub namespace: &'a str,
    /// The domain records by domain.
    pub records: &'a BTreeMap<String, Record>,
}

impl Directory {
    /// Applies all rules across objects.
    pub fn compute(objects: &Objects, rules: Rules<'_>) -> Self {
        let tenancy = &rules.config.tenancy;
        let mut shares =
            [Shares::of_domains(tenancy), Shares::of_mailboxes(tenancy), Shares::of_aliases(tenancy)];
        let [of_domains, of_mailboxes, of_aliases] = &mut shares;
        let (domains, mut domain_verdicts) = domains::judge(objects, rules, of_domains);
        let (mailboxes, aliases) = addresses::judge(objects, &domains, of_mailboxes);
        let expanded = expansion::expand(&domains, &mailboxes.live, aliases, rules.config, of_aliases);
        for (id, refusal) in expanded.unresolved {
            if let Some(verdict) = domain_verdicts.get_mut(&id) {
                Arc::make_mut(verdict).resolved_refs = Err(refusal);
            }
        }
        Self {
            keeping: custody::keeping(objects, &mailboxes.live),
            claims: custody::claims(objects, &domains, &mailboxes.live),
            domains,
            mailboxes: mailboxes.live,
            aliases: expanded.live,
            dead: expanded.dead,
            domain_verdicts,
            mailbox_verdicts: mailboxes.verdicts,
            alias_verdicts: expanded.verdicts,
            fill: shares.iter().flat_map(Shares::fill).collect(),
            ties: Ties { used: shares[1].used(), ..mailboxes.ties },
        }
    }

    /// The live mailboxes of a domain.
    pub fn mailboxes_of(&self, domain: &str) -> impl Iterator<Item = (&Address, &ObjectId)> {
        let from = self.mailboxes.range(Address::catch_all(domain)..);
        from.take_while(move |(address, _)| address.domain() == domain)
    }

    /// Where mail for unknown addresses of a domain goes, if anywhere.
    pub fn catch_all(&self, domain: &str) -> Option<&Address> {
        self.aliases.get(&Address::catch_all(domain))?.first()
    }

    /// Whether a recipient would be accepted: what RCPT TO must answer.
    pub fn accepts(&self, address: &Address) -> bool {
        let lines = |key: &Address| self.aliases.contains_key(key) || self.mailboxes.contains_key(key);
        let found = address.lookup_order().find(|key| lines(key) || self.dead.contains(key));
        found.is_some_and(|key| lines(&key))
    }
}

/// The same map, with its nodes full. Where keys come in order, each node that is split stays half empty, since what
/// follows goes into the other half; a map that is collected is built of full ones.
pub(crate) fn dense<K: Ord, V>(map: BTreeMap<K, V>) -> BTreeMap<K, V> {
    map.into_iter().collect()
}

/// Objects in the order in which they win: the older first, then by namespace and name.
fn by_age<S>(objects: &BTreeMap<ObjectId, Object<S>>) -> Vec<(&ObjectId, &Object<S>)> {
    let mut sorted: Vec<_> = objects.iter().collect();
    sorted.sort_by_key(|(id, object)| (object.created, *id));
    sorted
}

/// How a user in `namespace` is told of another object: in full only where it may know more than the namespace.
fn named(kind: &str, id: &ObjectId, namespace: &str) -> String {
    if id.namespace() == namespace {
        format!("{kind} {}", id.name())
    } else {
        format!("a {kind} in namespace {}", id.namespace())
    }
}
