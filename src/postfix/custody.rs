//! Directory → whose mail lies where, for the agent.

use std::collections::BTreeMap;

use crate::api::address::Address;
use crate::custody::{Custody, Place, write_domain, write_mailbox};
use crate::directory::{Directory, Keeping, ObjectId, ServedDomain};

/// Bytes for what is claimed and not served. There is no bound to what can be declared and refused.
const CLAIMS_ROOM: usize = 16 * 1024;

/// What one cell is told, as the text of [`CUSTODY_FILE`](crate::custody::CUSTODY_FILE). `domains` and `mailboxes` are those
/// in its tables.
pub fn custody(
    directory: &Directory,
    cell: &str,
    domains: &BTreeMap<&str, &ServedDomain>,
    mailboxes: &[(&Address, &ObjectId)],
) -> String {
    // Writing to a String cannot fail.
    let mut text = String::new();
    for (domain, served) in domains {
        let _ = write_domain(&mut text, domain, &served.namespace, served.spec.deletion_policy);
    }
    for (address, id) in mailboxes {
        let Keeping { uid, policy } = directory.keeping.get(address).copied().unwrap_or_default();
        let _ = write_mailbox(&mut text, address, id.namespace(), policy, uid);
    }
    text + &claims(directory, cell).to_string()
}

/// What is declared and not served.
fn claims(directory: &Directory, cell: &str) -> Custody {
    let mut custody = Custody { unknown_claims: directory.claims.unknown, ..Custody::default() };
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
