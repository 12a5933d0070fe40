//! The tables as Postfix reads them: parsed by a grammar of their own, and followed to the end.

use std::collections::{BTreeMap, BTreeSet};

use vmail_operator::custody::{CUSTODY_FILE, Custody};
use vmail_operator::directory::Directory;
use vmail_operator::postfix::tables::tables;

use crate::reference::End;
use crate::sets::HOST;

/// Key to value, by the name of the table.
#[derive(Debug, PartialEq)]
pub struct Tables(BTreeMap<String, BTreeMap<String, String>>);

impl Tables {
    pub fn of(directory: &Directory) -> Self {
        Self::of_cell(directory, "default", HOST)
    }

    /// Panics with the line that is not of the table's form.
    pub fn of_cell(directory: &Directory, cell: &str, host: &str) -> Self {
        let files = tables(directory, cell, host, |_| true, &BTreeSet::new(), |_| true);
        Self(files.into_iter().map(|(name, text)| (name.clone(), parse(&name, &text))).collect())
    }

    /// Lines and bytes of all tables.
    pub fn size(&self) -> (usize, usize) {
        let entries = self.0.values().flatten();
        entries.fold((0, 0), |(lines, bytes), (key, value)| (lines + 1, bytes + key.len() + value.len() + 2))
    }

    fn has(&self, table: &str, key: &str) -> bool {
        self.0[table].contains_key(key)
    }

    fn is_ours(&self, domain: &str) -> bool {
        self.has("virtual_mailbox_domains", domain) || self.has("virtual_alias_domains", domain)
    }

    /// cleanup(8) and virtual(8): aliases to the end, then mailboxes. `None` bounces.
    pub fn ends(&self, address: &str, depth: usize) -> BTreeSet<Option<End>> {
        assert!(depth < 1000, "{address} leads in a circle");
        let (local, domain) = address.rsplit_once('@').unwrap();
        let local = local.to_lowercase();
        let base = local.split_once('+').map_or(local.as_str(), |(base, _)| base);
        let keys = [format!("{local}@{domain}"), format!("{base}@{domain}"), format!("@{domain}")];
        let maps = &self.0["virtual_alias_maps"];
        if let Some(targets) = keys.iter().find_map(|key| maps.get(key)) {
            let same = format!("{local}@{domain}");
            return targets
                .split(", ")
                .flat_map(|target| match target == same {
                    true => self.deliver(target),
                    false => self.ends(target, depth + 1),
                })
                .collect();
        }
        self.deliver(address)
    }

    fn deliver(&self, address: &str) -> BTreeSet<Option<End>> {
        let (local, domain) = address.rsplit_once('@').unwrap();
        if !self.is_ours(domain) {
            return BTreeSet::from([Some(End::Remote(address.to_owned()))]);
        }
        let local = local.to_lowercase();
        let base = local.split_once('+').map_or(local.as_str(), |(base, _)| base);
        let maps = &self.0["virtual_mailbox_maps"];
        let found = [&local, base].map(|local| format!("{local}@{domain}"));
        let mailbox = found.into_iter().find(|key| maps.contains_key(key));
        BTreeSet::from([mailbox.filter(|_| self.has("virtual_mailbox_domains", domain)).map(End::Maildir)])
    }
}

/// One entry a line, in the order of domains, keys never twice, and nothing in it that postmap(1) or Postfix could read as
/// anything else.
fn parse(table: &str, text: &str) -> BTreeMap<String, String> {
    let mut entries = BTreeMap::new();
    assert!(text.is_empty() || text.ends_with('\n'), "{table} ends within a line");
    for line in text.split_terminator('\n') {
        assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{table}: {line:?}");
        let (key, value) = line.split_once(' ').unwrap_or_else(|| panic!("{table}: {line:?} has no value"));
        assert!(is_entry(table, key, value), "{table}: {line:?} is no entry");
        let twice = entries.insert(key.to_owned(), value.to_owned());
        assert!(twice.is_none(), "{table}: {key} is there twice");
    }
    entries
}

fn is_entry(table: &str, key: &str, value: &str) -> bool {
    match table {
        CUSTODY_FILE => format!("{key} {value}").parse::<Custody>().is_ok(),
        "domains" => {
            let hash = value.strip_suffix(" serving").or(value.strip_suffix(" draining"));
            let hex = |hash: &str| hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
            is_domain(key) && hash.is_some_and(hex)
        }
        "virtual_mailbox_domains" | "virtual_alias_domains" => is_domain(key) && value == "OK",
        "virtual_mailbox_maps" => {
            let path = key.split_once('@').map(|(local, domain)| format!("{domain}/{local}/"));
            is_own(key) && path.is_some_and(|path| value == path)
        }
        "virtual_alias_maps" => {
            let targets: Vec<&str> = value.split(", ").collect();
            let once: BTreeSet<&str> = targets.iter().copied().collect();
            (is_own(key) || key.strip_prefix('@').is_some_and(is_domain))
                && once.len() == targets.len()
                && targets.into_iter().all(|target| is_address(target, "._=~-+&*?^{}$#'"))
        }
        "check_recipient_access" => {
            let actions = ["DEFER_IF_REJECT 4.2.1 ", "450 4.2.1 ", "550 5.1.1 "];
            (is_own(key) || is_domain(key)) && actions.iter().any(|action| value.starts_with(action))
        }
        _ => false,
    }
}

fn is_own(text: &str) -> bool {
    is_address(text, "._=~-") && !text.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_address(text: &str, special: &str) -> bool {
    let Some((local, domain)) = text.split_once('@') else { return false };
    let starts = local.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    starts && local.chars().all(|c| c.is_ascii_alphanumeric() || special.contains(c)) && is_domain(domain)
}

fn is_domain(text: &str) -> bool {
    let labels: Vec<&str> = text.split('.').collect();
    let label = |label: &&str| {
        let inner = label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        inner && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    };
    labels.len() > 1 && labels.iter().all(label)
}
