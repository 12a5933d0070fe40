//! The directory after a few Mailboxes changed, without a look at all objects.
//!
//! Of a hundred thousand Mailboxes most depend on nothing but their domain. Where one depends on another object, or
//! another on it, all is computed anew: there is one place where the rules are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::addresses::{joined, verdict_in};
use super::capacity::{self, Shares};
use super::{Change, Directory, ObjectId, Objects, Rules, ServedDomain, Verdict};
use crate::api::address::Address;

/// What makes the verdict on one Mailbox depend on another Mailbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ties {
    /// What refused Mailboxes declare.
    pub contested: BTreeSet<Address>,
    /// Whether one was refused because there is no room or no quota left.
    pub full: bool,
    /// How many are live, by namespace.
    pub used: BTreeMap<String, usize>,
}

impl Directory {
    /// Makes the directory what [`Directory::compute`] would make of `objects`, after Mailboxes changed and nothing
    /// else; what differs then. `changed` has the address that each declared before, if any. `None`, and nothing done,
    /// where that takes a look at all objects.
    pub fn update(
        &mut self,
        objects: &Objects,
        changed: &BTreeMap<ObjectId, Option<Address>>,
        rules: Rules<'_>,
    ) -> Option<Change> {
        if self.ties.full {
            return None;
        }
        let mut shares = Shares::of_mailboxes(&rules.config.tenancy);
        shares.resume(&self.fill, &self.ties.used);
        let (mut gone, mut come) = (Vec::new(), BTreeMap::new());
        let mut said: BTreeMap<&str, Arc<Verdict>> = BTreeMap::new();
        for (id, declared) in changed {
            if let Some(verdict) = self.mailbox_verdicts.get(id) {
                let address = declared.as_ref().filter(|_| verdict.accepted.is_ok())?;
                let domain = self.domains.get(address.domain())?;
                shares.give_back(
                    id.namespace(),
                    &domain.spec.cell,
                    capacity::mailbox(address, id.namespace()),
                );
                gone.push((id, address.clone()));
            }
        }
        for id in changed.keys() {
            let Some(object) = objects.mailboxes.get(id) else { continue };
            let (address, domain) = joined(id, object, &self.domains).ok()?;
            let verdict = said.entry(address.domain()).or_insert_with(|| self.said_beside(address, domain));
            let owner = self.mailboxes.get(address);
            let free = owner.is_none_or(|owner| owner == id) && !come.contains_key(address);
            if !free || verdict.accepted.is_err() {
                return None;
            }
            let bytes = capacity::mailbox(address, id.namespace());
            shares.take(id.namespace(), &domain.spec.cell, 1, bytes).ok()?;
            come.insert(address.clone(), (id, verdict.clone()));
        }
        let touched: BTreeSet<&Address> =
            gone.iter().map(|(_, address)| address).chain(come.keys()).collect();
        if touched.iter().any(|address| self.ties.contested.contains(*address))
            || self.concerns_aliases(&touched, objects, rules)
        {
            return None;
        }

        let mut change = Change::default();
        change.mailboxes.extend(changed.keys().cloned());
        for address in touched {
            change.addresses.insert(address.clone(), self.mailboxes.contains_key(address));
        }
        for (id, address) in gone {
            self.mailboxes.remove(&address);
            self.keeping.remove(&address);
            self.mailbox_verdicts.remove(id);
        }
        for (address, (id, verdict)) in come {
            self.keeping.insert(address.clone(), objects.keeping.get(id).copied().unwrap_or_default());
            self.mailboxes.insert(address, id.clone());
            self.mailbox_verdicts.insert(id.clone(), verdict);
        }
        shares.replace(&mut self.fill);
        self.ties.used = shares.used();
        Some(change)
    }

    /// What is said of a mailbox in a domain, shared with the first one there.
    fn said_beside(&self, address: &Address, domain: &ServedDomain) -> Arc<Verdict> {
        let said = verdict_in(domain);
        let beside = self.mailboxes_of(address.domain()).next();
        let beside = beside.and_then(|(_, id)| self.mailbox_verdicts.get(id));
        // An address that the brake keeps may belong to an object of which something else is said.
        beside.filter(|beside| ***beside == said).cloned().unwrap_or_else(|| Arc::new(said))
    }

    /// Whether an alias, declared or implied by a MailDomain, has to do with one of these addresses.
    fn concerns_aliases(&self, touched: &BTreeSet<&Address>, objects: &Objects, rules: Rules<'_>) -> bool {
        let reaches = |target: &Address| target.lookup_order().any(|key| touched.contains(&key));
        let named = |text: &str| Address::target(text).is_some_and(|target| reaches(&target));
        let declared = |address: &&Address| {
            let Some(served) = self.domains.get(address.domain()) else { return true };
            let roles = &served.spec.role_addresses;
            served.spec.catch_all.is_some()
                || address.local() == "postmaster"
                || roles.iter().any(|local| local == address.local())
        };
        let of_domains = self.domains.values().any(|served| {
            let spec = &served.spec;
            [&spec.catch_all, &spec.postmaster].into_iter().flatten().any(|text| named(text))
        });
        let mut aliases = objects.aliases.values().filter_map(|alias| alias.spec.as_ref().ok());
        touched.iter().any(declared)
            || of_domains
            || named(&rules.config.postmaster)
            || aliases.any(|spec| touched.contains(&spec.address) || spec.targets.iter().any(&reaches))
    }
}
