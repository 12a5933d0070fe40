//! Directory → whose mail lies where, for the agent.

use std::collections::BTreeMap;

use crate::api::address::Address;
use crate::custody::{Custody, DomainOwner, Owner, Place};
use crate::directory::{Directory, ServedDomain};

/// Bytes for what is claimed and not served. There is no bound to what can be declared and refused.
const CLAIMS_ROOM: usize = 16 * 1024;

/// What one cell is told. `domains` are those in its tables.
pub fn custody(directory: &Directory, cell: &str, domains: &BTreeMap<&str, &ServedDomain>) -> Custody {
    let mut custody = Custody { unknown_claims: directory.claims.unknown, ..Custody::default() };
    for (domain, served) in domains {
        let owner = DomainOwner { namespace: served.namespace.clone(), policy: served.spec.deletion_policy };
        custody.domains.insert((*domain).to_owned(), owner);
    }
    for (address, id) in
        directory.mailboxes.iter().filter(|(address, _)| domains.contains_key(address.domain()))
    {
        let keeping = directory.keeping.get(address).cloned().unwrap_or_default();
        let owner = Owner { namespace: id.namespace.clone(), uid: keeping.uid, policy: keeping.policy };
        custody.mailboxes.insert(place(address), owner);
    }
    // Where a domain's mail lies that is not served, nobody says: it may be here.
    let elsewhere =
        |domain: &str| directory.domains.get(domain).is_some_and(|served| served.spec.cell != cell);
    let mut room = CLAIMS_ROOM;
    let mut fits = |bytes: usize| match room.checked_sub(bytes) {
        Some(left) => {
            room = left;
            true
        }
        None => false,
    };
    for domain in directory.claims.domains.iter().filter(|domain| !elsewhere(domain)) {
        if fits(domain.len() + 4) {
            custody.claimed_domains.insert(domain.clone());
        } else {
            custody.unknown_claims = true;
        }
    }
    for address in directory.claims.mailboxes.iter().filter(|address| !elsewhere(address.domain())) {
        if fits(address.domain().len() + address.local().len() + 4) {
            custody.claims.insert(place(address));
        } else {
            custody.unknown_claims = true;
        }
    }
    custody
}

/// The Maildir of a mailbox.
fn place(address: &Address) -> Place {
    Place { domain: address.domain().to_owned(), local: address.local().to_owned() }
}
