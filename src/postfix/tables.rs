//! Directory → lookup tables, in the source form that postmap(1) reads.
//!
//! One line an entry, key and value separated by one space, sorted: the same directory always gives the
//! same bytes. Nothing needs quoting, since [`Address`] and domains hold no character that a table
//! would read as anything but itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::custody::custody;
use crate::api::DomainClass;
use crate::api::address::Address;
use crate::custody::CUSTODY_FILE;
use crate::directory::{Directory, ServedDomain};
use crate::revision::{DOMAINS_FILE, DomainLine, DomainState, content_hash};

/// Bytes for addresses that vanished: they must not burst what the ConfigMap holds besides them.
const VANISHED_ROOM: usize = 32 * 1024;

/// The tables of one cell and the list of its domains, by file name.
///
/// `recorded` says whether a domain's record is written: without one, a domain is in no table, because
/// nothing would remember to withdraw it. `vanished` are addresses that were served a moment ago; they
/// get a temporary answer, so that a slip costs no mail. Of mailboxes, those alone that are `wanted` have their lines.
pub fn tables(
    directory: &Directory,
    cell: &str,
    hostname: &str,
    recorded: impl Fn(&str) -> bool,
    vanished: &BTreeSet<Address>,
    wanted: impl Fn(&Address) -> bool,
) -> BTreeMap<String, String> {
    let domains: BTreeMap<&str, &ServedDomain> = directory
        .domains
        .iter()
        .filter(|(domain, served)| served.spec.cell == cell && recorded(domain))
        .map(|(domain, served)| (domain.as_str(), served))
        .collect();
    let here = |address: &&Address| domains.contains_key(address.domain());

    let mut list = String::new();
    let mut mailbox_domains = String::new();
    let mut alias_domains = BTreeSet::from([hostname]);
    let mut access = BTreeMap::new();
    for (&domain, served) in &domains {
        let state = served.state;
        let hash = domain_hash(directory, domain).unwrap_or_default();
        push(&mut list, DomainLine { domain: domain.to_owned(), hash, state });
        match served.spec.class {
            DomainClass::Mailbox => push(&mut mailbox_domains, format_args!("{domain} OK")),
            DomainClass::Alias => {
                alias_domains.insert(domain);
            }
        }
        if state == DomainState::Draining {
            access.insert(
                domain.to_owned(),
                "DEFER_IF_REJECT 4.2.1 this domain is being moved, try again later",
            );
        }
    }
    let mut room = VANISHED_ROOM;
    for address in vanished.iter().filter(here).filter(|address| !directory.accepts(address)) {
        let Some(left) = room.checked_sub(room_of(address)) else { break };
        room = left;
        let action = "DEFER_IF_REJECT 4.2.1 this mailbox is not available, try again later";
        access.insert(address.to_string(), action);
    }
    // Elsewhere they are unknown anyway.
    for address in directory.dead.iter().filter(here) {
        let domain = domains[address.domain()];
        if directory.catch_all(address.domain()).is_some() {
            let temporary = domain.state == DomainState::Draining || vanished.contains(address);
            let action = if temporary {
                "450 4.2.1 this address is not available, try again later"
            } else {
                "550 5.1.1 nobody is behind this address"
            };
            access.insert(address.to_string(), action);
        }
    }

    let mut mailboxes = String::new();
    let mut alias_lines = BTreeMap::new();
    let ours = domains.keys().flat_map(|domain| directory.mailboxes_of(domain));
    let ours: Vec<_> = ours.filter(|(address, _)| wanted(address)).collect();
    for (address, _) in &ours {
        push(&mut mailboxes, format_args!("{address} {}", maildir(address)));
        // Postfix asks the aliases first, for the whole domain too: without a line of its own, a mailbox would lose its
        // mail to the catch-all (VIRTUAL_README). An alias to itself ends there (virtual(5)).
        if directory.catch_all(address.domain()).is_some() {
            alias_lines.insert(*address, address.to_string());
        }
    }
    for (address, targets) in &directory.aliases {
        if here(&address) || address.domain() == hostname {
            let targets: Vec<String> = targets.iter().map(Address::to_string).collect();
            alias_lines.insert(address, targets.join(", "));
        }
    }
    let mut aliases = String::new();
    for (address, targets) in alias_lines {
        push(&mut aliases, format_args!("{address} {targets}"));
    }
    let alias_domains: String = alias_domains.iter().map(|domain| format!("{domain} OK\n")).collect();
    let mut recipient_access = String::new();
    for (key, action) in access {
        push(&mut recipient_access, format_args!("{key} {action}"));
    }

    let custody = custody(directory, cell, &domains, &ours);
    [
        (CUSTODY_FILE, custody),
        (DOMAINS_FILE, list),
        ("virtual_mailbox_maps", mailboxes),
        ("virtual_alias_maps", aliases),
        ("virtual_mailbox_domains", mailbox_domains),
        ("virtual_alias_domains", alias_domains),
        ("check_recipient_access", recipient_access),
    ]
    .map(|(name, content)| (name.to_owned(), content))
    .into()
}

/// Whether there is room for a temporary answer to each of these addresses, so that none depends on another.
pub fn all_have_room(vanished: &BTreeSet<Address>) -> bool {
    vanished.iter().map(room_of).sum::<usize>() <= VANISHED_ROOM
}

fn room_of(address: &Address) -> usize {
    address.domain().len() + address.local().len() + 80
}

fn push(to: &mut String, line: impl std::fmt::Display) {
    // Writing to a String cannot fail.
    let _ = writeln!(to, "{line}");
}

/// The Maildir of a mailbox, below `/var/vmail/`. The slash at the end makes it one (virtual(8)).
pub fn maildir(address: &Address) -> String {
    format!("{}/{}/", address.domain(), address.local())
}

/// Names a served domain's own lines. It does not change with the domain's mailboxes and aliases, so that a
/// published domain stays proved while these come and go.
pub fn domain_hash(directory: &Directory, domain: &str) -> Option<String> {
    let ServedDomain { state, spec, .. } = directory.domains.get(domain)?;
    let state = match state {
        DomainState::Serving => "serving",
        DomainState::Draining => "draining",
    };
    let class = match spec.class {
        DomainClass::Mailbox => "mailbox",
        DomainClass::Alias => "alias",
    };
    let catch_all = directory.catch_all(domain).map(Address::to_string).unwrap_or_default();
    Some(content_hash(format!("{domain}\n{class}\n{state}\n{catch_all}"))[..16].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::MailDomainSpec;
    use crate::directory::ObjectId;

    fn directory() -> Directory {
        let served = |domain: &str, state| {
            let spec: MailDomainSpec = serde_yaml::from_str(&format!("domain: {domain}")).expect("valid");
            (domain.to_owned(), ServedDomain { state, claim: None, namespace: "mail".to_owned(), spec })
        };
        let own = |text| Address::own(text).expect("valid");
        let object = ObjectId::new("mail", "x");
        Directory {
            domains: [
                served("example.org", DomainState::Serving),
                served("example.net", DomainState::Draining),
            ]
            .into(),
            mailboxes: [(own("you@example.org"), object)].into(),
            aliases: [
                (own("abuse@example.org"), [own("you@example.org"), own("x@remote.example")].into()),
                (own("postmaster@mail.example.test"), [own("x@remote.example")].into()),
            ]
            .into(),
            ..Directory::default()
        }
    }

    #[test]
    fn tables_as_postmap_reads_them() {
        let gone = Address::own("gone@example.org").expect("valid");
        let tables = tables(&directory(), "default", "mail.example.test", |_| true, &[gone].into(), |_| true);
        assert_eq!(tables["virtual_mailbox_domains"], "example.net OK\nexample.org OK\n");
        assert_eq!(tables["virtual_mailbox_maps"], "you@example.org example.org/you/\n");
        assert_eq!(
            tables["virtual_alias_maps"],
            "abuse@example.org you@example.org, x@remote.example\npostmaster@mail.example.test x@remote.example\n"
        );
        assert_eq!(tables["virtual_alias_domains"], "mail.example.test OK\n");
        let access = &tables["check_recipient_access"];
        assert!(access.starts_with("example.net DEFER_IF_REJECT 4.2.1 "), "{access}");
        assert!(access.contains("\ngone@example.org DEFER_IF_REJECT 4.2.1 "), "{access}");
        assert!(!access.contains("example.org DEFER_IF_REJECT 4.2.1 this domain"), "{access}");
    }

    #[test]
    fn without_a_record_a_domain_is_in_no_table() {
        let tables = tables(
            &directory(),
            "default",
            "mail.example.test",
            |domain| domain != "example.org",
            &BTreeSet::new(),
            |_| true,
        );
        for (name, text) in tables {
            assert!(!text.contains("example.org"), "{name}: {text}");
        }
    }

    #[test]
    fn the_domain_hash_is_about_the_domain_alone() {
        let hash = |directory: &Directory| domain_hash(directory, "example.org").expect("served");
        let before = hash(&directory());
        assert_ne!(Some(before.clone()), domain_hash(&directory(), "example.net"));
        let mut without = directory();
        without.mailboxes.clear();
        assert_eq!(before, hash(&without));

        let mut draining = directory();
        served(&mut draining).state = DomainState::Draining;
        let mut of_aliases = directory();
        served(&mut of_aliases).spec.class = DomainClass::Alias;
        let mut with_catch_all = directory();
        let target = Address::own("you@example.org").expect("valid");
        with_catch_all.aliases.insert(Address::catch_all("example.org"), [target].into());
        for other in [draining, of_aliases, with_catch_all] {
            assert_ne!(before, hash(&other));
        }
    }

    fn served(directory: &mut Directory) -> &mut ServedDomain {
        directory.domains.get_mut("example.org").expect("served")
    }

    #[test]
    fn a_catch_all_comes_after_every_mailbox() {
        let mut directory = directory();
        let you = Address::own("you@example.org").expect("valid");
        let both = Address::own("both@example.org").expect("valid");
        directory.mailboxes.insert(both.clone(), directory.mailboxes[&you].clone());
        directory
            .aliases
            .insert(both.clone(), [both, Address::own("x@remote.example").expect("valid")].into());
        directory.aliases.insert(Address::catch_all("example.org"), [you].into());
        let tables = tables(&directory, "default", "mail.example.test", |_| true, &BTreeSet::new(), |_| true);
        assert_eq!(
            tables["virtual_alias_maps"],
            "@example.org you@example.org\n\
             abuse@example.org you@example.org, x@remote.example\n\
             both@example.org both@example.org, x@remote.example\n\
             you@example.org you@example.org\n\
             postmaster@mail.example.test x@remote.example\n"
        );
    }

    #[test]
    fn an_alias_domain_is_in_its_own_table() {
        let mut directory = directory();
        served(&mut directory).spec.class = DomainClass::Alias;
        let tables = tables(&directory, "default", "mail.example.test", |_| true, &BTreeSet::new(), |_| true);
        assert_eq!(tables["virtual_alias_domains"], "example.org OK\nmail.example.test OK\n");
        assert_eq!(tables["virtual_mailbox_domains"], "example.net OK\n");
    }
}
