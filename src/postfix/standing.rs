//! Lookup tables → what of the directory they came from: what an operator that starts knows of the addresses that
//! were served before. The way back of [`tables`](super::tables).

use std::collections::BTreeMap;

use crate::api::address::Address;
use crate::custody::{self, CUSTODY_FILE};
use crate::directory::{Directory, Keeping, ObjectId, UidStart};

/// Adds the mailboxes and aliases of a cell's tables to `directory`. The tables come in parts, each by file name, and all
/// lines of an address in one part. The objects' names are not in the tables. A line that cannot be read says nothing.
pub fn read(directory: &mut Directory, parts: impl IntoIterator<Item = BTreeMap<String, String>>) {
    // Without names, they are the same for all of a namespace, and share its text.
    let mut owners = BTreeMap::new();
    for files in parts {
        let text = |name: &str| files.get(name).map_or("", String::as_str);
        for (place, owner) in custody::mailboxes(text(CUSTODY_FILE)) {
            let Some(address) = Address::own(&place.address()) else { continue };
            let keeping = Keeping { uid: UidStart::of(&owner.uid), policy: owner.policy };
            directory.keeping.insert(address.clone(), keeping);
            let id =
                owners.entry(owner.namespace).or_insert_with_key(|namespace| ObjectId::new(namespace, ""));
            directory.mailboxes.insert(address, id.clone());
        }
        read_aliases(directory, text("virtual_alias_maps"));
    }
}

fn read_aliases(directory: &mut Directory, text: &str) {
    for line in text.lines() {
        let Some((key, targets)) = line.split_once(' ') else { continue };
        let address = match key.strip_prefix('@') {
            Some(domain) => Some(Address::catch_all(domain)),
            None => Address::own(key),
        };
        let Some(address) = address else { continue };
        // The line of a mailbox beside a catch-all.
        if targets == key && directory.mailboxes.contains_key(&address) {
            continue;
        }
        directory.aliases.insert(address, targets.split(", ").filter_map(Address::target).collect());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::api::{DeletionPolicy, MailDomainSpec};
    use crate::directory::ServedDomain;
    use crate::postfix::tables::tables;
    use crate::revision::DomainState;

    fn own(text: &str) -> Address {
        Address::own(text).expect("valid")
    }

    #[test]
    fn what_the_tables_say_is_what_was_served() {
        let spec: MailDomainSpec = serde_yaml::from_str("domain: a.example").expect("valid");
        let (state, namespace) = (DomainState::Serving, "mail".to_owned());
        let served = ServedDomain { state, claim: None, namespace: namespace.clone(), spec };
        let id = |name: &str| ObjectId::new(namespace.as_str(), name);
        let keeping = Keeping { uid: UidStart::of("12345678"), policy: DeletionPolicy::Delete };
        let alias = |from: Address, to: &[&str]| {
            (from, to.iter().map(|to| Address::target(to).expect("valid")).collect::<BTreeSet<_>>())
        };
        let mut directory = Directory {
            domains: [("a.example".to_owned(), served)].into(),
            mailboxes: [(own("you@a.example"), id("you")), (own("copy@a.example"), id("copy"))].into(),
            aliases: [
                alias(own("copy@a.example"), &["copy@a.example", "O'Brien@remote.example"]),
                alias(own("postmaster@a.example"), &["you@a.example"]),
                alias(Address::catch_all("a.example"), &["you@a.example"]),
            ]
            .into(),
            keeping: [(own("you@a.example"), keeping), (own("copy@a.example"), keeping)].into(),
            ..Directory::default()
        };
        let tables = tables(&directory, "default", "mail.us.example", |_| true, &BTreeSet::new(), |_| true);
        let mut read_back = Directory::default();
        read(&mut read_back, [tables]);
        for id in directory.mailboxes.values_mut() {
            *id = ObjectId::new(namespace.as_str(), "");
        }
        directory.domains.clear();
        assert_eq!(read_back, directory);
    }
}
