//! What a revision lacks although nobody said that it goes (pure).
//!
//! On its usual way out a domain drains first, and an address that vanished is answered 450 for a time. What is missing
//! without either may only not be there yet: the objects of a restored cluster come in one after the other, while the MX
//! of all of them lead here. A domain is then served on as it was, since its queued mail would go wherever DNS says;
//! and what is unknown is asked to come again, for as long as on a spool volume without a past. So it is when a domain
//! that drained is back, since its mailboxes may come after it.

use std::collections::{BTreeSet, HashSet};

use super::mounted::{Revision, domain_of, key};
use crate::revision::{DOMAINS_FILE, DomainState};

/// The tables whose keys are addresses.
const ADDRESSES: [&str; 2] = ["virtual_mailbox_maps", "virtual_alias_maps"];
/// The tables that a domain is served by.
const TABLES: [&str; 5] = [
    "virtual_mailbox_maps",
    "virtual_alias_maps",
    "virtual_mailbox_domains",
    "virtual_alias_domains",
    "check_recipient_access",
];

/// See the module.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Domains that were served, and did not drain.
    pub domains: BTreeSet<String>,
    /// How many addresses of other domains.
    pub addresses: usize,
    /// How many domains are back that drained.
    pub back: usize,
}

/// What `known` serves, and `next` has not.
pub fn missing(known: &Revision, next: &Revision) -> Missing {
    let stays: HashSet<&str> = next.domains.iter().map(|line| line.domain.as_str()).collect();
    // While a domain drains, all of its missing recipients are asked to come again.
    let strict = next.domains.iter().filter(|line| line.state == DomainState::Serving);
    let strict: HashSet<&str> = strict.map(|line| line.domain.as_str()).collect();
    let serving = known.domains.iter().filter(|line| line.state == DomainState::Serving);
    let domains = serving.filter(|line| !stays.contains(line.domain.as_str()));
    let draining = known.domains.iter().filter(|line| line.state == DomainState::Draining);
    let mut missing = Missing {
        domains: domains.map(|line| line.domain.clone()).collect(),
        addresses: 0,
        back: draining.filter(|line| strict.contains(line.domain.as_str())).count(),
    };
    if ADDRESSES.iter().any(|table| known.file(table) != next.file(table)) {
        let has: HashSet<&str> = TABLES.iter().flat_map(|table| next.keys(table)).collect();
        let gone = ADDRESSES.iter().flat_map(|table| known.keys(table)).filter(|key| {
            // A catch-all may go at once: nobody is behind the addresses that it took.
            !key.starts_with('@') && strict.contains(domain_of(key)) && !has.contains(key)
        });
        missing.addresses = gone.collect::<HashSet<_>>().len();
    }
    missing
}

/// `next` with these domains as `known` has them.
pub fn keep(mut next: Revision, known: &Revision, domains: &BTreeSet<String>) -> Revision {
    let kept = known.domains.iter().filter(|line| domains.contains(&line.domain));
    next.domains.extend(kept.cloned());
    for table in TABLES.iter().copied().chain([DOMAINS_FILE]) {
        let lines = known.file(table).lines().filter(|line| domains.contains(domain_of(key(line))));
        let text: String = lines.map(|line| format!("{line}\n")).collect();
        if !text.is_empty() {
            next.files.entry(table.to_owned()).or_default().push_str(&text);
        }
    }
    next
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::revision::{DomainLine, Index};

    fn revision(domains: &[&str], files: &[(&str, &str)]) -> Revision {
        let files: BTreeMap<String, String> =
            files.iter().map(|(name, text)| ((*name).to_owned(), text.replace('|', "\n"))).collect();
        let index = Index::new("default", &files, BTreeMap::new());
        let domains = domains.iter().map(|line| line.parse::<DomainLine>().expect("valid")).collect();
        Revision { index, files, domains, shards: BTreeMap::new() }
    }

    fn before() -> Revision {
        revision(
            &["a.b 1 serving", "c.d 2 serving", "e.f 3 draining"],
            &[
                ("virtual_mailbox_domains", "a.b OK|c.d OK|e.f OK|"),
                ("virtual_mailbox_maps", "x@a.b a.b/x/|y@c.d c.d/y/|z@e.f e.f/z/|"),
                ("virtual_alias_maps", "@c.d y@c.d|y@c.d y@c.d|l@a.b x@a.b|"),
            ],
        )
    }

    fn missing_in(domains: &[&str], files: &[(&str, &str)]) -> (Vec<String>, usize) {
        let found = missing(&before(), &revision(domains, files));
        (found.domains.into_iter().collect(), found.addresses)
    }

    #[test]
    fn what_drained_or_is_answered_450_goes_as_it_should() {
        assert_eq!(missing(&before(), &before()), Missing::default());
        let drains = ["a.b 1 serving", "c.d 2 draining"];
        let announced = [
            ("virtual_mailbox_maps", "x@a.b a.b/x/|"),
            ("check_recipient_access", "l@a.b DEFER_IF_REJECT 4.2.1 try again|"),
        ];
        assert_eq!(missing_in(&drains, &announced), (vec![], 0));
    }

    #[test]
    fn what_is_only_not_there_is_missing() {
        assert_eq!(missing_in(&[], &[]), (vec!["a.b".to_owned(), "c.d".to_owned()], 0));
        let domains = ["a.b 1 serving", "c.d 2 serving"];
        assert_eq!(missing_in(&domains, &[]), (vec![], 3));
        assert_eq!(missing_in(&domains, &[("virtual_alias_maps", "x@a.b o@a.b|l@a.b o@a.b|")]), (vec![], 1));
    }

    #[test]
    fn a_domain_that_drained_may_come_before_its_mailboxes() {
        let next = ["a.b 1 serving", "c.d 2 serving", "e.f 4 serving"];
        let next = Revision { domains: next.map(|line| line.parse().expect("valid")).into(), ..before() };
        assert_eq!(missing(&before(), &next), Missing { back: 1, ..Missing::default() });
        assert_eq!(missing(&next, &before()), Missing::default());
    }

    #[test]
    fn a_missing_domain_is_kept_whole_and_nothing_else_is() {
        let next = revision(
            &["a.b 9 serving"],
            &[("virtual_mailbox_maps", "n@a.b a.b/n/|"), ("virtual_mailbox_domains", "a.b OK|")],
        );
        let kept = keep(next, &before(), &["c.d".to_owned()].into());
        assert_eq!(kept.file("virtual_mailbox_domains"), "a.b OK\nc.d OK\n");
        assert_eq!(kept.file("virtual_mailbox_maps"), "n@a.b a.b/n/\ny@c.d c.d/y/\n");
        assert_eq!(kept.file("virtual_alias_maps"), "@c.d y@c.d\ny@c.d y@c.d\n");
        let domains: Vec<String> = kept.domains.iter().map(ToString::to_string).collect();
        assert_eq!(domains, ["a.b 9 serving", "c.d 2 serving"]);
    }
}
