//! Strings that want to be more than one name, as if the API server had let them in: they never reach a table as
//! anything but themselves.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::select;
use vmail_operator::api::address::Address;
use vmail_operator::api::{MailAliasSpec, MailDomainSpec, MailboxSpec};
use vmail_operator::custody::{CUSTODY_FILE, Custody};
use vmail_operator::directory::{AliasSpec, Directory, Object, ObjectId, Objects, Rules};
use vmail_operator::postfix::tables::tables;

use crate::sets::{HOST, config};

/// Parts of names, good and bad.
const PARTS: [&str; 44] = [
    "a",
    "b",
    "you",
    "one",
    "example",
    "two.example",
    "one.example",
    ".",
    "..",
    "@",
    "@one.example",
    "+",
    "-",
    "_",
    "=",
    "\n",
    "\r\n",
    "\t",
    " ",
    "\0",
    ",",
    ", ",
    "\"",
    "'",
    "#",
    "/",
    "/../",
    "|",
    "|cmd",
    ":include:",
    "!",
    "%",
    "\\",
    "<",
    ">",
    "[",
    "]",
    "*",
    "$x",
    "${x}",
    "A",
    "ü",
    "\u{212a}",
    "type:table",
];

fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(select(&PARTS[..]), 0..6).prop_map(|parts| parts.concat())
}

/// Mostly a good text, to get far.
fn or(good: &'static str) -> impl Strategy<Value = String> {
    prop_oneof![2 => Just(good.to_owned()), 1 => text(), 1 => text().prop_map(move |bad| format!("{good}{bad}"))]
}

fn domain() -> impl Strategy<Value = MailDomainSpec> {
    let roles = prop::collection::vec(or("abuse"), 0..4);
    let names = prop::collection::vec(text(), 0..2);
    (or("one.example"), or("you@one.example"), or("you@one.example"), roles, names, or("default")).prop_map(
        |(domain, postmaster, catch_all, role_addresses, names, cell)| {
            let mut spec: MailDomainSpec = serde_yaml::from_str("domain: x.example").expect("a spec");
            spec.domain = domain;
            spec.postmaster = Some(postmaster);
            spec.catch_all = Some(catch_all);
            spec.role_addresses = role_addresses;
            spec.allowed_namespaces.names = names;
            spec.cell = cell;
            spec
        },
    )
}

fn object<S>(spec: Result<S, String>) -> Object<S> {
    Object { created: 0, changed: 0, deleting: false, spec }
}

fn objects() -> impl Strategy<Value = Objects> {
    let mailboxes = prop::collection::vec(or("you@one.example"), 0..5);
    let targets = prop::collection::vec(or("you@one.example"), 1..4);
    let aliases = prop::collection::vec((or("list@one.example"), targets), 0..5);
    (prop::collection::vec(domain(), 1..4), mailboxes, aliases).prop_map(|(domains, mailboxes, aliases)| {
        let id = |number: usize| ObjectId::new("mail", format!("o{number}"));
        let mailboxes = mailboxes.into_iter().map(|address| {
            object(Address::try_from(&MailboxSpec { address, deletion_policy: Default::default() }))
        });
        let aliases = aliases
            .into_iter()
            .map(|(address, targets)| object(AliasSpec::try_from(&MailAliasSpec { address, targets })));
        Objects {
            domains: domains
                .into_iter()
                .map(|spec| object(Ok(spec)))
                .enumerate()
                .map(|(n, o)| (id(n), o))
                .collect(),
            mailboxes: mailboxes.enumerate().map(|(n, o)| (id(n), o)).collect(),
            aliases: aliases.enumerate().map(|(n, o)| (id(n), o)).collect(),
            ..Objects::default()
        }
    })
}

fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.contains('.') && text.split('.').all(label)
}

fn is_address(text: &str, extra: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let plain = |c: char| c.is_ascii_alphanumeric() || "._=~-".contains(c) || extra.contains(c);
    is_domain(domain) && local.chars().all(plain) && !local.contains("..") && !local.starts_with(['.', '-'])
}

/// Each line of a table, read strictly.
fn read(files: &BTreeMap<String, String>) -> Result<(), String> {
    for (name, text) in files {
        let mut keys = BTreeSet::new();
        for line in text.split_terminator('\n') {
            let bad = || format!("{name}: {line:?}");
            let (key, value) = line.split_once(' ').ok_or_else(bad)?;
            if !keys.insert(key) {
                return Err(format!("{name}: {key} twice"));
            }
            let fine = match name.as_str() {
                "virtual_mailbox_domains" | "virtual_alias_domains" => is_domain(key) && value == "OK",
                "virtual_mailbox_maps" => {
                    let (local, domain) = key.split_once('@').ok_or_else(bad)?;
                    is_address(key, "") && value == format!("{domain}/{local}/")
                }
                "virtual_alias_maps" => {
                    (is_address(key, "") || key.strip_prefix('@').is_some_and(is_domain))
                        && value.split(", ").all(|target| is_address(target, "+&*?^{}$#'"))
                }
                "check_recipient_access" => {
                    (is_address(key, "") || is_domain(key))
                        && ["DEFER_IF_REJECT 4.2.1 ", "550 5.1.1 ", "450 4.2.1 "]
                            .iter()
                            .any(|known| value.starts_with(known))
                }
                CUSTODY_FILE => line.parse::<Custody>().is_ok(),
                "domains" => is_domain(key) && value.split(' ').count() == 2,
                other => return Err(format!("a table that this test does not know: {other}")),
            };
            if !fine {
                return Err(bad());
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("VMAIL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(2000),
        ..ProptestConfig::default()
    })]

    #[test]
    fn hostile_names_reach_no_table(objects in objects()) {
        let rules = Rules { config: config(), namespace: "mail", records: &BTreeMap::new() };
        let directory = Directory::compute(&objects, rules);
        let files = tables(&directory, "default", HOST, |_| true, &BTreeSet::new(), |_| true);
        if let Err(line) = read(&files) {
            prop_assert!(false, "{}", line);
        }
        // Messages are shown on terminals and stand in logs.
        let verdicts = directory.domain_verdicts.values().chain(directory.mailbox_verdicts.values()).chain(directory.alias_verdicts.values());
        for refusal in verdicts.flat_map(|verdict| [&verdict.accepted, &verdict.resolved_refs]).filter_map(|said| said.as_ref().err()) {
            prop_assert!(!refusal.message.chars().any(char::is_control), "{:?}", refusal.message);
        }
    }
}

#[test]
fn the_strict_reader_can_fail() {
    for (table, line) in [
        ("virtual_mailbox_maps", "a@one.example one.example/b/\n"),
        ("virtual_alias_maps", "a@one.example b@one.example c@one.example\n"),
        ("virtual_alias_maps", "a@one.example |cmd\n"),
        ("virtual_mailbox_domains", "one.example,two.example OK\n"),
    ] {
        let files = BTreeMap::from([(table.to_owned(), line.to_owned())]);
        assert!(read(&files).is_err(), "{line}");
    }
}
