//! Directory → lookup tables, in the source form that postmap(1) reads.
//!
//! One line an entry, key and value separated by one space, sorted: the same directory always gives the
//! same bytes. Nothing needs quoting, since [`Address`] and domains hold no character that a table
//! would read as anything but itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::api::address::Address;
use crate::directory::Directory;
use crate::revision::{DOMAINS_FILE, DomainLine, DomainState, content_hash};

/// Names of the lookup tables: the Postfix parameter, or restriction, that refers to each.
pub const TABLES: [&str; 5] = [
    "virtual_mailbox_maps",
    "virtual_alias_maps",
    "virtual_mailbox_domains",
    "virtual_alias_domains",
    "check_recipient_access",
];

/// Bytes for addresses that vanished: they must not burst what the ConfigMap holds besides them.
const VANISHED_ROOM: usize = 32 * 1024;

/// The tables of one cell and the list of its domains, by file name.
///
/// `recorded` says whether a domain's record is written: without one, a domain is in no table, because
/// nothing would remember to withdraw it. `vanished` are addresses that were served a moment ago; they
/// get a temporary answer, so that a slip costs no mail.
pub fn tables(
    directory: &Directory,
    cell: &str,
    hostname: &str,
    recorded: impl Fn(&str) -> bool,
    vanished: &BTreeSet<Address>,
) -> BTreeMap<String, String> {
    let domains: BTreeMap<&str, DomainState> = directory
        .domains
        .iter()
        .filter(|(domain, served)| served.spec.cell == cell && recorded(domain))
        .map(|(domain, served)| (domain.as_str(), served.state))
        .collect();
    let here = |address: &&Address| domains.contains_key(address.domain());

    let mut list = String::new();
    let mut mailbox_domains = String::new();
    let mut access = BTreeMap::new();
    for (&domain, &state) in &domains {
        let line = DomainLine { domain: domain.to_owned(), hash: domain_hash(domain, state), state };
        push(&mut list, line);
        push(&mut mailbox_domains, format_args!("{domain} OK"));
        if state == DomainState::Draining {
            access.insert(domain.to_owned(), "4.2.1 this domain is being moved, try again later");
        }
    }
    let mut room = VANISHED_ROOM;
    for address in vanished.iter().filter(here).filter(|address| !directory.accepts(address)) {
        let Some(left) = room.checked_sub(address.domain().len() + address.local().len() + 80) else { break };
        room = left;
        access.insert(address.to_string(), "4.2.1 this mailbox is not available, try again later");
    }

    let mut mailboxes = String::new();
    for address in directory.mailboxes.keys().filter(here) {
        push(&mut mailboxes, format_args!("{address} {}", maildir(address)));
    }
    let mut aliases = String::new();
    for (address, targets) in &directory.aliases {
        if here(&address) || address.domain() == hostname {
            let targets: Vec<String> = targets.iter().map(Address::to_string).collect();
            push(&mut aliases, format_args!("{address} {}", targets.join(", ")));
        }
    }
    let mut recipient_access = String::new();
    for (key, text) in access {
        push(&mut recipient_access, format_args!("{key} DEFER_IF_REJECT {text}"));
    }

    [
        (DOMAINS_FILE, list),
        ("virtual_mailbox_maps", mailboxes),
        ("virtual_alias_maps", aliases),
        ("virtual_mailbox_domains", mailbox_domains),
        ("virtual_alias_domains", format!("{hostname} OK\n")),
        ("check_recipient_access", recipient_access),
    ]
    .map(|(name, content)| (name.to_owned(), content))
    .into()
}

fn push(to: &mut String, line: impl std::fmt::Display) {
    // Writing to a String cannot fail.
    let _ = writeln!(to, "{line}");
}

/// The Maildir of a mailbox, below `/var/vmail/`. The slash at the end makes it one (virtual(8)).
pub fn maildir(address: &Address) -> String {
    format!("{}/{}/", address.domain(), address.local())
}

/// Names a domain's own lines. It does not change with the domain's mailboxes and aliases, so that a
/// published domain stays proved while these come and go.
pub fn domain_hash(domain: &str, state: DomainState) -> String {
    let state = match state {
        DomainState::Serving => "serving",
        DomainState::Draining => "draining",
    };
    content_hash(&format!("{domain}\nmailbox\n{state}\n"))[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::MailDomainSpec;
    use crate::directory::{ObjectId, ServedDomain};

    fn directory() -> Directory {
        let served = |domain: &str, state| {
            let spec: MailDomainSpec = serde_yaml::from_str(&format!("domain: {domain}")).expect("valid");
            (domain.to_owned(), ServedDomain { state, claim: None, namespace: "mail".to_owned(), spec })
        };
        let own = |text| Address::own(text).expect("valid");
        let object = ObjectId { namespace: "mail".to_owned(), name: "x".to_owned() };
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
        let tables = tables(&directory(), "default", "mail.example.test", |_| true, &[gone].into());
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
        );
        for name in TABLES {
            assert!(!tables[name].contains("example.org"), "{name}: {}", tables[name]);
        }
    }

    #[test]
    fn the_domain_hash_is_about_the_domain_alone() {
        let serving = domain_hash("example.org", DomainState::Serving);
        assert_ne!(serving, domain_hash("example.org", DomainState::Draining));
        assert_ne!(serving, domain_hash("example.net", DomainState::Serving));
    }
}
