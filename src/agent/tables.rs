//! The sources of Postfix lookup tables, and the order in which changed ones go live (pure).
//!
//! Tables go live one by one, and mail comes in meanwhile. So first everything that is added goes in,
//! mailboxes and routes before the aliases that lead to them, domains last; then what is taken away goes out in the
//! reverse order. A table that both gains and loses entries passes through a state with all of the new
//! and whatever of the old is not in the new: no address is ever missing that both revisions have.

use std::collections::BTreeMap;

use crate::custody::CUSTODY_FILE;
use crate::postfix::main_cf::TABLES;
use crate::revision::{DOMAINS_FILE, ELSEWHERE_FILE};

/// Additions in this order, removals in the reverse. Tables that this version does not know come third.
const ORDER: [&str; 6] = [
    ROUTES,
    "check_recipient_access",
    "virtual_mailbox_maps",
    "virtual_alias_maps",
    "virtual_mailbox_domains",
    "virtual_alias_domains",
];

/// Whether a file of a revision is a lookup table.
pub fn is_table(name: &str) -> bool {
    !["main.cf", "master.cf", DOMAINS_FILE, ELSEWHERE_FILE, CUSTODY_FILE].contains(&name)
}

/// Whether a table says which domains are served, or where mail to a domain goes: running processes remember that,
/// so a change needs a reload.
pub fn decides_domains(name: &str) -> bool {
    name == ROUTES || ["virtual_mailbox_domains", "virtual_alias_domains"].contains(&name)
}

/// The table that says where mail to domains of other cells goes. trivial-rewrite(8) looks for a new one every ten
/// seconds, and qmgr(8) remembers the last answer: what is added must be in use before aliases lead there.
pub const ROUTES: &str = "transport_maps";

/// Sorts table names into the order of additions.
pub fn order(names: &mut [String]) {
    names.sort_by_key(|name| {
        let place = ORDER.iter().position(|known| known == name);
        place.map_or(2, |place| if place < 2 { place } else { place + 1 })
    });
}

/// The entries of a table source: one `key value` a line.
///
/// Postfix would also take comments, quotes and continued lines, and skips with a warning what it cannot
/// read. The operator writes none of these, so whatever is not a plain entry is a mistake.
pub fn entries(text: &str) -> Result<BTreeMap<&str, &str>, String> {
    let mut entries = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        let (key, value) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        if key.is_empty() || key.starts_with(['#', '"']) || value.trim().is_empty() {
            return Err(format!("line {number}: `{line}` is not of the form `key value`"));
        }
        if entries.insert(key, value).is_some() {
            return Err(format!("line {number}: `{key}` is there twice"));
        }
    }
    Ok(entries)
}

/// How one table gets from its old to its new content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steps {
    /// What goes live while everything is added; absent when nothing is.
    pub adding: Option<String>,
    /// What goes live while everything is removed; absent when nothing is.
    pub removing: Option<String>,
}

/// The steps from `old` (none: there is no such table yet) to `new`.
pub fn steps(old: Option<&str>, new: &str) -> Result<Steps, String> {
    let after = entries(new)?;
    let Some(old) = old else {
        return Ok(Steps { adding: Some(new.to_owned()), removing: None });
    };
    if old == new {
        return Ok(Steps { adding: None, removing: None });
    }
    let before = entries(old)?;
    let gains = after.iter().any(|(key, value)| before.get(key) != Some(value));
    let lost: Vec<_> = before.iter().filter(|(key, _)| !after.contains_key(*key)).collect();
    if lost.is_empty() {
        return Ok(Steps { adding: Some(new.to_owned()), removing: None });
    }
    let removing = Some(new.to_owned());
    if !gains {
        return Ok(Steps { adding: None, removing });
    }
    let mut both = new.to_owned();
    if !both.is_empty() && !both.ends_with('\n') {
        both.push('\n');
    }
    for (key, value) in lost {
        both.push_str(&format!("{key} {value}\n"));
    }
    Ok(Steps { adding: Some(both), removing })
}

/// Whether unknown recipients of `domain` are accepted, that is whether a table has `@domain`.
pub fn has_catch_all(files: &BTreeMap<String, String>, domain: &str) -> bool {
    let begins = |text: &str| {
        text.strip_prefix('@')
            .and_then(|rest| rest.strip_prefix(domain))
            .is_some_and(|rest| rest.starts_with([' ', '\t']))
    };
    let tables = TABLES.iter().filter(|name| name.ends_with("_maps")).filter_map(|name| files.get(*name));
    tables.into_iter().any(|text| text.lines().any(begins))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table() -> impl Strategy<Value = BTreeMap<String, String>> {
        proptest::collection::btree_map("[a-d]@[xy]", "[1-3]", 0..8)
    }

    fn text(entries: &BTreeMap<String, String>) -> String {
        entries.iter().map(|(key, value)| format!("{key} {value}\n")).collect()
    }

    proptest! {
        #[test]
        fn between_two_revisions_nothing_is_missing_that_either_has(old in table(), new in table()) {
            let steps = steps(Some(&text(&old)), &text(&new)).unwrap();
            let mut live = text(&old);
            if let Some(adding) = steps.adding {
                live = adding;
                let live = entries(&live).unwrap();
                for (key, value) in &new {
                    prop_assert_eq!(live.get(key.as_str()), Some(&value.as_str()));
                }
                for key in old.keys() {
                    prop_assert!(live.contains_key(key.as_str()));
                }
            }
            if let Some(removing) = steps.removing {
                live = removing;
            }
            prop_assert_eq!(live, text(&new));
        }
    }

    #[test]
    fn one_more_mailbox_is_one_step() {
        let steps = steps(Some("a@x a/\n"), "a@x a/\nb@x b/\n").unwrap();
        assert_eq!(steps, Steps { adding: Some("a@x a/\nb@x b/\n".into()), removing: None });
    }

    #[test]
    fn what_is_no_plain_entry_is_named() {
        for (text, complaint) in [
            ("a@x a/\nb@x\n", "line 2: `b@x` is not of the form"),
            ("a@x a/\n b@x c\n", "line 2:"),
            ("# no\n", "line 1:"),
            ("a@x a/\n\n", "line 2:"),
            ("a@x a/\na@x b/\n", "line 2: `a@x` is there twice"),
        ] {
            let error = entries(text).unwrap_err();
            assert!(error.starts_with(complaint), "{error}");
        }
    }

    #[test]
    fn mailboxes_come_before_aliases_and_domains_last() {
        let mut names: Vec<String> = TABLES.iter().map(|name| name.to_string()).collect();
        names.push("another".into());
        order(&mut names);
        let expected = [ORDER[0], ORDER[1], "another", ORDER[2], ORDER[3], ORDER[4], ORDER[5]];
        assert_eq!(names, expected);
    }

    #[test]
    fn a_catch_all_is_found_for_its_own_domain_alone() {
        let files = BTreeMap::from([("virtual_alias_maps".to_string(), "@a.b x@y\n".to_string())]);
        assert!(has_catch_all(&files, "a.b"));
        assert!(!has_catch_all(&files, "a.bc") && !has_catch_all(&files, "a"));
    }
}
