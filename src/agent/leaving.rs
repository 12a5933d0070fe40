//! Mailboxes that are gone while mail is queued for them: what was accepted is delivered, and no more is taken (pure).
//!
//! A mailbox leaves `virtual_mailbox_maps` at once, so that smtpd(8) refuses what comes from then on. virtual(8) alone has
//! one more table, in which it stays until the queue has nothing for it. Without that, its mail would wait as for somebody
//! unknown, and return to its sender after days.

use std::collections::{BTreeSet, HashSet};

use super::mounted::{Revision, domain_of};
use crate::custody::Place;

/// The table that only virtual(8) has.
pub const TABLE: &str = "leaving_mailboxes";

const MAILBOXES: &str = "virtual_mailbox_maps";

/// Where virtual(8) looks for mailboxes: `maps` is what `main.cf` says for all programs.
pub fn maps(maps: &str) -> String {
    let own = format!("cdb:$config_directory/tables/{TABLE}");
    let all = maps.split([',', ' ', '\t']).filter(|map| !map.is_empty()).chain([own.as_str()]);
    all.collect::<Vec<_>>().join(",")
}

/// The text of the table.
pub fn table(leaving: &BTreeSet<Place>) -> String {
    leaving.iter().map(|place| format!("{} {place}/\n", place.address())).collect()
}

/// The mailboxes that `live` has in its tables, and `next` has not.
pub fn gone(live: &Revision, next: &Revision) -> BTreeSet<Place> {
    if live.file(MAILBOXES) == next.file(MAILBOXES) {
        return BTreeSet::new();
    }
    let stays: HashSet<&str> = next.keys(MAILBOXES).collect();
    let gone = live.keys(MAILBOXES).filter(|address| !stays.contains(address));
    gone.filter_map(Place::of_address).collect()
}

/// Those of `places` that may be in the table beside a revision: it does not have them, and delivers to their domains.
pub fn beside(mut places: BTreeSet<Place>, revision: &Revision) -> BTreeSet<Place> {
    if places.is_empty() {
        return places;
    }
    let domains: HashSet<&str> = revision.keys("virtual_mailbox_domains").collect();
    places.retain(|place| domains.contains(place.domain.as_str()));
    for address in revision.keys(MAILBOXES).filter(|address| domains.contains(domain_of(address))) {
        if let Some(place) = Place::of_address(address) {
            places.remove(&place);
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::revision::Index;

    fn revision(mailboxes: &str) -> Revision {
        let files = BTreeMap::from([
            (MAILBOXES.to_owned(), mailboxes.to_owned()),
            ("virtual_mailbox_domains".to_owned(), "a.b OK\n".to_owned()),
        ]);
        let index = Index::new("default", &files, BTreeMap::new());
        Revision { index, files, domains: Vec::new(), shards: BTreeMap::new() }
    }

    #[test]
    fn what_is_gone_is_delivered_to_while_its_domain_is() {
        let live = revision("x@a.b a.b/x/\ny@a.b a.b/y/\nz@c.d c.d/z/\n");
        let next = revision("x@a.b a.b/x/\n");
        assert_eq!(gone(&live, &live), BTreeSet::new());
        let gone = gone(&live, &next);
        assert_eq!(table(&gone), "y@a.b a.b/y/\nz@c.d c.d/z/\n");
        assert_eq!(table(&beside(gone.clone(), &next)), "y@a.b a.b/y/\n");
        assert_eq!(beside(gone, &live), BTreeSet::new());
    }

    #[test]
    fn virtual_looks_into_one_more_table() {
        assert_eq!(maps("cdb:a, cdb:b"), "cdb:a,cdb:b,cdb:$config_directory/tables/leaving_mailboxes");
    }
}
