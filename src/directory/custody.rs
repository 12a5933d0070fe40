//! What is said about mail on disk: by the Mailboxes that are live, and by every object that claims a place.

use std::collections::{BTreeMap, BTreeSet};

use super::{Keeping, ObjectId, Objects, ServedDomain};
use crate::api::address::{Address, is_domain};

/// What objects declare that are not live, for whatever reason: nobody's mail there is taken for forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// Addresses of Mailboxes.
    pub mailboxes: BTreeSet<Address>,
    /// Domains.
    pub domains: BTreeSet<String>,
    /// Whether an object declares something that this version cannot read.
    pub unknown: bool,
}

/// What each live mailbox says about its Maildir.
pub fn keeping(objects: &Objects, live: &BTreeMap<Address, ObjectId>) -> BTreeMap<Address, Keeping> {
    let said = |id| objects.keeping.get(id).copied().unwrap_or_default();
    live.iter().map(|(address, id)| (address.clone(), said(id))).collect()
}

/// What else is declared, by objects that are being deleted too.
pub fn claims(
    objects: &Objects,
    domains: &BTreeMap<String, ServedDomain>,
    live: &BTreeMap<Address, ObjectId>,
) -> Claims {
    let mut claims = Claims::default();
    for object in objects.mailboxes.values() {
        match &object.spec {
            Ok(address) if live.contains_key(address) => {}
            Ok(address) => drop(claims.mailboxes.insert(address.clone())),
            Err(_) => claims.unknown = true,
        }
    }
    for (id, object) in &objects.domains {
        match object.spec.as_ref().map(|spec| &spec.domain).ok().or_else(|| objects.undecodable.get(id)) {
            Some(domain) if domains.get(domain).is_some_and(|served| served.claim.is_some()) => {}
            // What is no domain names no place on disk.
            Some(domain) if is_domain(domain) => drop(claims.domains.insert(domain.clone())),
            Some(_) => {}
            None => claims.unknown = true,
        }
    }
    claims
}
