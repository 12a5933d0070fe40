//! What differs between a directory and the one before it, so that nobody has to look at all of both.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use super::{Directory, ObjectId};
use crate::api::address::Address;

/// What differs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Nothing was known before: all is new, and nothing else is listed here.
    pub all: bool,
    /// Addresses of mailboxes and aliases that are served otherwise now, and whether they were served before.
    pub addresses: BTreeMap<Address, bool>,
    /// Mailboxes of which something else is said.
    pub mailboxes: BTreeSet<ObjectId>,
    /// MailAliases of which something else is said.
    pub aliases: BTreeSet<ObjectId>,
    /// Whether anything else differs that tables are made of, or something else is said of MailDomains.
    pub rest: bool,
}

impl Change {
    /// What differs in `new`.
    pub fn between(old: &Directory, new: &Directory) -> Self {
        let mut change = Self::default();
        for address in differing(&old.mailboxes, &new.mailboxes) {
            change.addresses.insert(address.clone(), old.serves(address));
        }
        for address in differing(&old.keeping, &new.keeping) {
            change.addresses.insert(address.clone(), old.serves(address));
        }
        for address in differing(&old.aliases, &new.aliases) {
            change.addresses.insert(address.clone(), old.serves(address));
            change.rest |= [old, new].iter().any(|directory| directory.has_lines_elsewhere(address));
        }
        change.mailboxes.extend(differing(&old.mailbox_verdicts, &new.mailbox_verdicts).cloned());
        change.aliases.extend(differing(&old.alias_verdicts, &new.alias_verdicts).cloned());
        change.rest |= old.domains != new.domains
            || old.dead != new.dead
            || old.claims != new.claims
            || old.domain_verdicts != new.domain_verdicts;
        change
    }

    /// Adds what changed after this.
    pub fn add(&mut self, later: &Self) {
        self.all |= later.all;
        for (address, served) in &later.addresses {
            // As it was in the beginning.
            self.addresses.entry(address.clone()).or_insert(*served);
        }
        self.mailboxes.extend(later.mailboxes.iter().cloned());
        self.aliases.extend(later.aliases.iter().cloned());
        self.rest |= later.rest;
    }

    /// Whether tables are what they were.
    pub fn leaves_tables(&self) -> bool {
        !self.all && !self.rest && self.addresses.is_empty()
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.leaves_tables() && self.mailboxes.is_empty() && self.aliases.is_empty()
    }
}

impl Directory {
    /// Whether an alias has a part in lines of the tables that are not its own: a catch-all in that of its domain and in
    /// those of the mailboxes beside it, one that leads to another cell in the route there.
    fn has_lines_elsewhere(&self, alias: &Address) -> bool {
        let cell_of = |address: &Address| Some(&self.domains.get(address.domain())?.spec.cell);
        let here = cell_of(alias);
        let leads_away = |target: &Address| cell_of(target).is_some_and(|cell| Some(cell) != here);
        let targets = self.aliases.get(alias);
        targets.is_some_and(|targets| alias.is_catch_all() || targets.iter().any(leads_away))
    }

    /// Whether an address has a mailbox or an alias of its own.
    fn serves(&self, address: &Address) -> bool {
        self.mailboxes.contains_key(address) || self.aliases.contains_key(address)
    }
}

/// The keys whose values differ, or that only one side has.
fn differing<'a, K: Ord, V: PartialEq>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    std::iter::from_fn(move || {
        loop {
            let order = match (old.peek(), new.peek()) {
                (Some((before, _)), Some((after, _))) => before.cmp(after),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return None,
            };
            match order {
                Ordering::Less => return old.next().map(|(key, _)| key),
                Ordering::Greater => return new.next().map(|(key, _)| key),
                Ordering::Equal => {
                    let (before, after) = (old.next()?, new.next()?);
                    if before.1 != after.1 {
                        return Some(after.0);
                    }
                }
            }
        }
    })
}
