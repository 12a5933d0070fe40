//! What leaves service although nobody asked for it: found, and kept in the tables.
//!
//! An object that is deleted is seen to be deleted. What merely is not there (any more) may be the fault of whoever
//! looks: an API server that was restored, a configuration that lost a cell, a newer version that refuses what an older
//! one served. One such object goes its way; when many do at once, the administrator is asked first.

use std::collections::{BTreeMap, BTreeSet};

use super::capacity::Shares;
use super::{Directory, ObjectId, Objects, Rules, Verdict, domains};
use crate::api::address::Address;
use crate::api::conditions::Reason;
use crate::config::BrakeConfig;
use crate::records::Phase;

/// What somebody asked to go.
#[derive(Debug, Default)]
pub struct Asked {
    /// Domains whose MailDomain was deleted.
    pub domains: BTreeSet<String>,
    /// Addresses whose Mailbox or MailAlias was deleted.
    pub addresses: BTreeSet<Address>,
}

/// Whether so many of those that are live may not go unasked.
pub fn brakes(going: usize, live: usize, config: &BrakeConfig) -> bool {
    going >= config.minimum.max(1) && going.saturating_mul(100) > live.saturating_mul(config.share.into())
}

/// What is found of the domains in service.
#[derive(Debug, Default)]
pub struct Found {
    /// No MailDomain claims them, although none was deleted and the administrator did not order it.
    pub missing: BTreeSet<String>,
    /// Role addresses that a MailDomain no longer lists.
    pub dropped: BTreeSet<Address>,
}

/// Looks for domains in service that are to leave it unasked.
pub fn domains(objects: &Objects, rules: Rules<'_>, asked: &Asked) -> Found {
    let (served, _) = domains::judge(objects, rules, &mut Shares::of_domains(&rules.config.tenancy));
    let mut found = Found::default();
    for (domain, record) in rules.records.iter().filter(|(_, record)| record.phase == Phase::Serving) {
        match served.get(domain).filter(|served| served.claim.is_some()) {
            Some(served) => {
                let roles = &served.spec.role_addresses;
                let dropped = record.spec.role_addresses.iter().filter(|role| !roles.contains(role));
                found.dropped.extend(dropped.filter_map(|role| Address::role(role, domain)));
            }
            None if !record.withdraw && !asked.domains.contains(domain) => {
                found.missing.insert(domain.clone());
            }
            _ => {}
        }
    }
    found
}

/// Whether somebody asked for all that changed Mailboxes declare no longer, so that none of it is missing.
/// `changed` has the address that each declared before, if any.
pub fn all_asked(objects: &Objects, changed: &BTreeMap<ObjectId, Option<Address>>, asked: &Asked) -> bool {
    let still = |id: &ObjectId, address: &Address| {
        objects.mailboxes.get(id).is_some_and(|now| now.spec.as_ref() == Ok(address))
    };
    changed.iter().all(|(id, before)| {
        before.as_ref().is_none_or(|address| asked.addresses.contains(address) || still(id, address))
    })
}

/// Addresses that were served before and are not any more in `after`, or belong to another namespace, although nothing was
/// deleted. What leads nowhere, because its targets are gone, is not among them, nor what is refused for something that
/// users declared. Neither are addresses of domains that left service.
pub fn missing_addresses(
    before: &Directory,
    after: &Directory,
    objects: &Objects,
    asked: &Asked,
) -> BTreeSet<Address> {
    let of_another = |(address, id): &(&Address, &ObjectId)| {
        after.mailboxes.get(*address).is_none_or(|now| now.namespace() != id.namespace())
    };
    let mailboxes = before.mailboxes.iter().filter(of_another).map(|(address, _)| address);
    let gone = |address: &&Address| !after.aliases.contains_key(*address) && !after.dead.contains(*address);
    let aliases = before.aliases.keys().filter(gone);
    let unasked = |address: &&Address| {
        !address.is_catch_all()
            && after.domains.contains_key(address.domain())
            && !asked.addresses.contains(*address)
    };
    let missing: BTreeSet<&Address> = mailboxes.chain(aliases).filter(unasked).collect();
    if missing.is_empty() {
        return BTreeSet::new();
    }
    let refused = refused_for_what_users_say(objects, after);
    missing.difference(&refused).map(|address| (*address).clone()).collect()
}

fn refused_for_what_users_say<'a>(objects: &'a Objects, directory: &Directory) -> BTreeSet<&'a Address> {
    const SAID: [Reason; 5] = [
        Reason::AliasLoop,
        Reason::AliasTooLarge,
        Reason::NotAllowedByDomain,
        Reason::RestrictedAddress,
        Reason::ShadowsMailbox,
    ];
    let said =
        |verdict: &Verdict| verdict.accepted.as_ref().is_err_and(|refusal| SAID.contains(&refusal.reason));
    let mailboxes = directory.mailbox_verdicts.iter().filter(|(_, verdict)| said(verdict));
    let mailboxes = mailboxes.filter_map(|(id, _)| objects.mailboxes.get(id)?.spec.as_ref().ok());
    let aliases = directory.alias_verdicts.iter().filter(|(_, verdict)| said(verdict));
    let aliases = aliases.filter_map(|(id, _)| objects.aliases.get(id)?.spec.as_ref().ok());
    mailboxes.chain(aliases.map(|spec| &spec.address)).collect()
}

/// Puts addresses back as they were in `before`, and whatever led to them.
pub fn keep(after: &mut Directory, before: &Directory, held: &BTreeSet<Address>, objects: &Objects) {
    for address in held {
        put(&mut after.mailboxes, address, before.mailboxes.get(address));
        put(&mut after.keeping, address, before.keeping.get(address));
        put(&mut after.aliases, address, before.aliases.get(address));
        after.dead.remove(address);
    }
    // Only what its owner still declares so.
    let specs = objects.aliases.values().filter_map(|object| object.spec.as_ref().ok());
    let declared: BTreeMap<&Address, &BTreeSet<Address>> =
        specs.map(|spec| (&spec.address, &spec.targets)).collect();
    let mut back: BTreeSet<Address> = held.clone();
    loop {
        // Refused before, as an alias is that closed a loop through what is kept, so that its mail was a catch-all's: it
        // leads nowhere merely while that is away.
        let led_to_back = |address: &&Address| {
            let targets = declared.get(address).copied().into_iter().flatten();
            !before.dead.contains(*address)
                && !before.aliases.contains_key(*address)
                && targets.flat_map(Address::lookup_order).any(|key| back.contains(&key))
        };
        let refused: Vec<Address> = after.dead.iter().filter(led_to_back).cloned().collect();
        for address in &refused {
            after.dead.remove(address);
        }
        back.extend(refused);
        let mut led = Vec::new();
        for (address, targets) in &before.aliases {
            let present = after.aliases.get(address);
            let Some(domain) = after.domains.get(address.domain()) else { continue };
            let catches_all = address.is_catch_all() && domain.spec.catch_all.is_some();
            let stays = present.is_some() || after.dead.contains(address) || catches_all;
            if held.contains(address) || !stays {
                continue;
            }
            let wanted = |target: &&Address| {
                target.lookup_order().any(|key| back.contains(&key))
                    && present.is_none_or(|present| !present.contains(*target))
                    && declared.get(address).is_none_or(|declared| declared.contains(*target))
            };
            led.extend(targets.iter().filter(wanted).map(|target| (address.clone(), target.clone())));
        }
        if led.is_empty() {
            return;
        }
        for (address, target) in led {
            after.dead.remove(&address);
            after.aliases.entry(address.clone()).or_default().insert(target);
            back.insert(address);
        }
    }
}

fn put<V: Clone>(map: &mut BTreeMap<Address, V>, address: &Address, value: Option<&V>) {
    match value {
        Some(value) => drop(map.insert(address.clone(), value.clone())),
        None => drop(map.remove(address)),
    }
}

#[cfg(test)]
#[path = "brake_test.rs"]
mod brake_test;
