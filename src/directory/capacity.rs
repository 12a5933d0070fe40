//! What is shared out: the room in the tables of each cell, and the quota of each namespace.
//!
//! The shards of a cell hold 60 MiB of text, 960 KiB each on average, and a third less once it is compressed, whatever
//! addresses somebody thinks of; a ConfigMap holds 1 MiB (Kubernetes documentation, ConfigMaps). The room is shared out
//! between the kinds, so that nobody's mailing list keeps somebody else's mailbox out. What is refused takes nothing: it
//! changes nobody else's verdict.

use std::collections::BTreeMap;

use super::{AliasSpec, ObjectId, Refusal};
use crate::api::MailDomainSpec;
use crate::api::address::Address;
use crate::api::conditions::Reason;
use crate::config::{Quota, Tenancy};

const DOMAINS: &str = "domains";

/// What is left for one kind. Who asks first was there first.
pub struct Shares<'a> {
    kind: &'static str,
    tenancy: &'a Tenancy,
    limit: fn(&Quota) -> Option<usize>,
    /// Bytes of table text that a cell has for this kind.
    room: usize,
    taken: BTreeMap<String, usize>,
    used: BTreeMap<String, usize>,
}

/// How much of the room for one kind a cell has taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fill {
    /// The cell.
    pub cell: String,
    /// What it is room for, as messages call it.
    pub kind: &'static str,
    /// Bytes of table text that are taken.
    pub taken: usize,
    /// Bytes of table text that there are.
    pub room: usize,
}

impl<'a> Shares<'a> {
    /// For MailDomains, with their role addresses.
    pub fn of_domains(tenancy: &'a Tenancy) -> Self {
        Self::new(DOMAINS, 8 << 20, tenancy, |quota| quota.domains)
    }

    /// For Mailboxes.
    pub fn of_mailboxes(tenancy: &'a Tenancy) -> Self {
        Self::new("mailboxes", 36 << 20, tenancy, |quota| quota.mailboxes)
    }

    /// For the targets of MailAliases, and for what catch-alls need.
    pub fn of_aliases(tenancy: &'a Tenancy) -> Self {
        Self::new("targets of aliases", 16 << 20, tenancy, |quota| quota.alias_targets)
    }

    /// What each cell has taken.
    pub fn fill(&self) -> impl Iterator<Item = Fill> {
        let Self { kind, room, .. } = *self;
        self.taken.iter().map(move |(cell, &taken)| Fill { cell: cell.clone(), kind, taken, room })
    }

    fn new(
        kind: &'static str,
        room: usize,
        tenancy: &'a Tenancy,
        limit: fn(&Quota) -> Option<usize>,
    ) -> Self {
        Self { kind, tenancy, limit, room, taken: BTreeMap::new(), used: BTreeMap::new() }
    }

    /// How much each namespace has.
    pub fn used(&self) -> BTreeMap<String, usize> {
        self.used.clone()
    }

    /// Goes on from what was shared out before.
    pub fn resume(&mut self, fill: &[Fill], used: &BTreeMap<String, usize>) {
        let own = fill.iter().filter(|fill| fill.kind == self.kind);
        self.taken = own.map(|fill| (fill.cell.clone(), fill.taken)).collect();
        self.used.clone_from(used);
    }

    /// Puts what is taken now in the place of what was taken before, among other kinds.
    pub fn replace(&self, fill: &mut Vec<Fill>) {
        let at = fill.iter().position(|fill| fill.kind == self.kind);
        // Domains come first, and without any there is no mailbox.
        let at = at.unwrap_or_else(|| fill.iter().take_while(|fill| fill.kind == DOMAINS).count());
        fill.retain(|fill| fill.kind != self.kind);
        fill.splice(at..at, self.fill());
    }

    /// Takes one back that was counted before.
    pub fn give_back(&mut self, namespace: &str, cell: &str, bytes: usize) {
        less(&mut self.used, namespace, 1);
        less(&mut self.taken, cell, bytes);
    }

    /// Counts `count` more for a namespace, with `bytes` in the tables of a cell, or says what is used up.
    pub fn take(&mut self, namespace: &str, cell: &str, count: usize, bytes: usize) -> Result<(), Refusal> {
        let used = self.used.get(namespace).copied().unwrap_or(0) + count;
        let limit = self.tenancy.quota(namespace).and_then(self.limit);
        if let Some(limit) = limit.filter(|limit| used > *limit) {
            let message = format!(
                "namespace {namespace} may have {limit} {} and would have {used}; delete what is not needed, or ask the administrator to raise the chart's value tenancy.quotas",
                self.kind
            );
            return Err(Refusal::new(Reason::CapacityExceeded, message));
        }
        self.take_room(cell, bytes)?;
        self.used.insert(namespace.to_owned(), used);
        Ok(())
    }

    /// Takes room in the tables of a cell alone.
    pub fn take_room(&mut self, cell: &str, bytes: usize) -> Result<(), Refusal> {
        let taken = self.taken.get(cell).copied().unwrap_or(0) + bytes;
        if taken > self.room {
            let message = format!(
                "the tables of cell {cell} have no room for more {}; delete what is not needed, or ask the administrator for another cell",
                self.kind
            );
            return Err(Refusal::new(Reason::CapacityExceeded, message));
        }
        self.taken.insert(cell.to_owned(), taken);
        Ok(())
    }
}

fn less(of: &mut BTreeMap<String, usize>, key: &str, count: usize) {
    if let Some(left) = of.get_mut(key) {
        *left = left.saturating_sub(count);
        if *left == 0 {
            of.remove(key);
        }
    }
}

/// Upper bound for a domain: its lines in three tables and in the list of owners, and its role addresses.
pub fn domain(spec: &MailDomainSpec, namespace: &str, default_postmaster: &str) -> usize {
    let postmaster = spec
        .postmaster
        .as_deref()
        .map_or(0, str::len)
        .max(default_postmaster.len())
        .max("postmaster@".len() + spec.domain.len());
    let roles = spec.role_addresses.iter().map(|local| local.len() + spec.domain.len() + postmaster + 3);
    3 * spec.domain.len() + 120 + roles.sum::<usize>() + spec.domain.len() + namespace.len() + 10
}

/// A mailbox: address, path, separators; in the list of owners the address again, with namespace, policy and the
/// beginning of its UID.
pub fn mailbox(address: &Address, namespace: &str) -> usize {
    line(address) + address.domain().len() + address.local().len() + namespace.len() + 20
}

fn line(address: &Address) -> usize {
    2 * (address.domain().len() + address.local().len()) + 5
}

/// An alias: address, targets, separators.
pub fn alias(spec: &AliasSpec) -> usize {
    let length = |address: &Address| address.domain().len() + address.local().len() + 3;
    length(&spec.address) + spec.targets.iter().map(length).sum::<usize>()
}

/// A catch-all's own line.
pub fn catch_all(target: &Address) -> usize {
    2 * target.domain().len() + target.local().len() + 5
}

/// The lines that a catch-all needs for the mailboxes of its domain, which must be found before it.
pub fn lines_beside(catch_all: &Address, mailboxes: &BTreeMap<Address, ObjectId>) -> usize {
    let from = mailboxes.range(catch_all..).map(|(address, _)| address);
    from.take_while(|address| address.domain() == catch_all.domain()).map(line).sum()
}
