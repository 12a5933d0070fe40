//! A hand-made Postfix's lists → the objects that serve the same addresses.

use std::collections::{BTreeMap, BTreeSet};

use super::report::Report;
use super::table::Entry;
use super::text::Place;
use crate::api::DomainClass;
use crate::api::address::{Address, is_domain};

/// The lists of a hand-made Postfix.
#[derive(Debug, Default)]
pub struct Old {
    /// `virtual_mailbox_domains`.
    pub mailbox_domains: Vec<(String, Place)>,
    /// `virtual_alias_domains`.
    pub alias_domains: Vec<(String, Place)>,
    /// `virtual_mailbox_maps`.
    pub mailboxes: Vec<Entry>,
    /// `virtual_alias_maps`.
    pub aliases: Vec<Entry>,
    /// `virtual_mailbox_base`, where it is known.
    pub mailbox_base: Option<String>,
}

/// What is to be declared.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct New {
    /// By name.
    pub domains: BTreeMap<String, NewDomain>,
    /// Mailboxes.
    pub mailboxes: BTreeSet<Address>,
    /// Aliases with their targets.
    pub aliases: BTreeMap<Address, BTreeSet<Address>>,
}

/// A domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDomain {
    /// Its class.
    pub class: DomainClass,
    /// Its catch-all.
    pub catch_all: Option<Address>,
}

/// The most targets of a MailAlias.
const TARGETS: usize = 100;

/// Translates; what cannot be carried over, and what is left to do, is reported.
pub fn translate(old: &Old, report: &mut Report) -> New {
    let mut new = New::default();
    domains(old, &mut new, report);
    let places = mailboxes(old, &mut new, report);
    let (wildcards, entries): (Vec<&Entry>, Vec<&Entry>) =
        old.aliases.iter().partition(|entry| entry.key.starts_with('@'));
    for entry in entries {
        alias(entry, old, &mut new, &places, report);
    }
    for entry in wildcards {
        wildcard(entry, &mut new, report);
    }
    // A Maildir for all that is left, after what the aliases say.
    for entry in old.mailboxes.iter().filter(|entry| entry.key.starts_with('@')) {
        mailbox_wildcard(entry, old, &mut new, report);
    }
    new
}

fn domains(old: &Old, new: &mut New, report: &mut Report) {
    for (list, class) in
        [(&old.mailbox_domains, DomainClass::Mailbox), (&old.alias_domains, DomainClass::Alias)]
    {
        for (name, place) in list {
            // virtual_alias_domains is virtual_alias_maps by default: only keys that are domains count.
            if name.contains('@') {
                continue;
            }
            if !is_domain(name) || name.len() > 239 {
                report.left_out(
                    place,
                    name,
                    "it is no domain such as example.org, though Postfix takes each word of this list for one",
                    "remove it; write an international name as A-labels (xn--...)",
                );
                continue;
            }
            let before = new.domains.insert(name.clone(), NewDomain { class, catch_all: None });
            if before.is_some_and(|before| before.class != class) {
                report.note(
                    place,
                    name,
                    "it is listed as a mailbox domain and as an alias domain, and Postfix takes the latter",
                    "it becomes a MailDomain of class Alias; its mailboxes are left out",
                );
            }
        }
    }
}

/// Where each mailbox stands.
fn mailboxes(old: &Old, new: &mut New, report: &mut Report) -> BTreeMap<Address, Place> {
    let mut places = BTreeMap::new();
    for Entry { place, key, value } in old.mailboxes.iter().filter(|entry| !entry.key.starts_with('@')) {
        let says = format!("{key} {value}");
        let Some(address) = Address::own(key) else {
            report.left_out(place, &says, &unserved(key), "give the mailbox another address");
            continue;
        };
        match new.domains.get(address.domain()).map(|domain| domain.class) {
            Some(DomainClass::Mailbox) => {}
            Some(DomainClass::Alias) => {
                report.left_out(
                    place,
                    &says,
                    "its domain is an alias domain, in which Postfix looks for no mailboxes",
                    "decide for one of the two",
                );
                continue;
            }
            None => {
                report.left_out(
                    place,
                    &says,
                    "its domain is in no list, so Postfix does not serve it",
                    "add the domain, or remove the mailbox",
                );
                continue;
            }
        }
        let wanted = format!("{}/{}/", address.domain(), address.local());
        let base = old
            .mailbox_base
            .as_deref()
            .map_or(String::new(), |base| format!("{}/", base.trim_end_matches('/')));
        if !value.ends_with('/') {
            report.note(
                place,
                &says,
                "it is a mailbox file (mbox), and here every mailbox is a Maildir",
                &format!("convert {base}{value} into the Maildir /var/vmail/{wanted}"),
            );
        } else if *value != wanted {
            report.note(
                place,
                &says,
                &format!("its Maildir will be /var/vmail/{wanted}"),
                &format!("move {base}{value} there"),
            );
        }
        places.insert(address.clone(), place.clone());
        new.mailboxes.insert(address);
    }
    places
}

fn alias(entry: &Entry, old: &Old, new: &mut New, places: &BTreeMap<Address, Place>, report: &mut Report) {
    let Entry { place, key, value } = entry;
    let says = format!("{key} {value}");
    if !key.contains('@') {
        // `domain anything` marks an alias domain, see above.
        if !new.domains.contains_key(key) || !old.alias_domains.iter().any(|(name, _)| name == key) {
            report.left_out(
                place,
                &says,
                "it is about a local user of the old server",
                "write the whole address, if it is one of a domain here",
            );
        }
        return;
    }
    let Some(address) = Address::own(key) else {
        report.left_out(place, &says, &unserved(key), "give the alias another address");
        return;
    };
    if !new.domains.contains_key(address.domain()) {
        report.left_out(
            place,
            &says,
            "its domain is in no list, so Postfix does not serve it",
            "add the domain, or remove the alias",
        );
        return;
    }
    let targets = targets(&address, value, place, report);
    let itself = targets.contains(&address);
    if targets.is_empty() {
        report.left_out(
            place,
            &says,
            "it has no target that can be carried over",
            "the address will not be served",
        );
    } else if targets.len() > TARGETS {
        report.left_out(
            place,
            &says,
            &format!("it has {} targets, and a MailAlias has at most {TARGETS}", targets.len()),
            "use a mailing list program, or several aliases in turn",
        );
    } else if targets.len() == 1 && itself {
        // There to keep a catch-all away from a mailbox; here that needs no line.
        if !new.mailboxes.contains(&address) {
            report.left_out(
                place,
                &says,
                "it leads to itself, and there is no mailbox of that address",
                "add the mailbox, or remove the alias",
            );
        }
    } else {
        if let (Some(mailbox), false) = (places.get(&address), itself) {
            new.mailboxes.remove(&address);
            report.left_out(
                mailbox,
                key,
                &format!("the alias in line {} of {} takes all its mail", place.line, place.file.display()),
                &format!("add {address} to the alias to keep a copy in the mailbox, or remove the mailbox"),
            );
        }
        new.aliases.insert(address, targets);
    }
}

/// The targets that can be carried over; the others are reported.
fn targets(address: &Address, value: &str, place: &Place, report: &mut Report) -> BTreeSet<Address> {
    let mut found = BTreeSet::new();
    for (number, text) in words(value).into_iter().enumerate() {
        // `@other` keeps the local part, for the first address alone (virtual(5)).
        let whole = match text.strip_prefix('@') {
            Some(domain) if number == 0 => format!("{}@{domain}", address.local()),
            _ => text.clone(),
        };
        // Postfix folds what it looks up: a target of ours counts in lower case.
        let target = Address::target(&whole).or_else(|| Address::own(&whole.to_lowercase()));
        match target {
            Some(target) if Address::own(&target.to_string().to_lowercase()).as_ref() == Some(address) => {
                found.insert(address.clone());
            }
            Some(target) => {
                found.insert(target);
            }
            None => {
                let why = if text.starts_with(['|', '/']) || text.starts_with(":include:") {
                    "commands, files and :include: are no mail addresses"
                } else if !text.contains('@') {
                    "it is a local user of the old server"
                } else {
                    "it is not a plain address"
                };
                report.left_out(
                    place,
                    &format!("{address} -> {text}"),
                    why,
                    "the other targets are carried over; write a whole, plain address",
                );
            }
        }
    }
    found
}

/// Splits at commas and white space outside double quotes.
fn words(value: &str) -> Vec<String> {
    let (mut all, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in value.chars() {
        quoted ^= c == '"';
        if !quoted && (c == ',' || c.is_ascii_whitespace()) {
            all.push(std::mem::take(&mut word));
        } else {
            word.push(c);
        }
    }
    all.push(word);
    all.retain(|word| !word.is_empty());
    all
}

/// `@domain …` among the aliases: a catch-all, or the same addresses in another domain.
fn wildcard(entry: &Entry, new: &mut New, report: &mut Report) {
    let Entry { place, key, value } = entry;
    let says = format!("{key} {value}");
    let domain = &key[1..];
    if !new.domains.contains_key(domain) {
        report.left_out(
            place,
            &says,
            "its domain is in no list, so Postfix does not serve it",
            "add the domain, or remove the line",
        );
        return;
    }
    match words(value).as_slice() {
        [other] if other.starts_with('@') => {
            let other = other[1..].to_lowercase();
            if !new.domains.contains_key(&other) {
                report.left_out(
                    place,
                    &says,
                    "all addresses of a domain go to another that is not served here",
                    "declare a MailAlias for each address",
                );
                return;
            }
            mirror(domain, &other, new);
            report.note(
                place,
                &says,
                "each address of the other domain became a MailAlias",
                "declare one for each address that is added later",
            );
        }
        [target] => catch_all(domain, target, &says, place, new, report),
        _ => report.left_out(
            place,
            &says,
            "a catch-all has one address",
            "make a MailAlias of these addresses, and name that in spec.catchAll",
        ),
    }
}

/// Gives `domain` an alias for each address of `other` that it does not have itself.
fn mirror(domain: &str, other: &str, new: &mut New) {
    let of_other = |address: &&Address| address.domain() == other;
    let all: BTreeSet<Address> =
        new.mailboxes.iter().chain(new.aliases.keys()).filter(of_other).cloned().collect();
    for target in all {
        if let Some(address) = Address::role(target.local(), domain)
            && !new.mailboxes.contains(&address)
        {
            new.aliases.entry(address).or_insert_with(|| [target].into());
        }
    }
    let inherited = new.domains.get(other).and_then(|other| other.catch_all.clone());
    if let Some(domain) = new.domains.get_mut(domain) {
        domain.catch_all = domain.catch_all.take().or(inherited);
    }
}

fn catch_all(domain: &str, target: &str, says: &str, place: &Place, new: &mut New, report: &mut Report) {
    let known = Address::own(&target.to_lowercase())
        .filter(|address| new.mailboxes.contains(address) || new.aliases.contains_key(address));
    match known {
        Some(address) => {
            if let Some(domain) = new.domains.get_mut(domain) {
                domain.catch_all = Some(address);
            }
        }
        None => report.left_out(
            place,
            says,
            "a catch-all must be a mailbox or an alias that is served here: what unknown senders invent is not forwarded",
            "make a MailAlias or Mailbox, and name that in spec.catchAll",
        ),
    }
}

/// `@domain path/` among the mailboxes: mail to unknown addresses, in one Maildir.
fn mailbox_wildcard(entry: &Entry, old: &Old, new: &mut New, report: &mut Report) {
    let Entry { place, key, value } = entry;
    let says = format!("{key} {value}");
    let domain = &key[1..];
    match new.domains.get(domain) {
        None => report.left_out(
            place,
            &says,
            "its domain is in no list, so Postfix does not serve it",
            "add the domain, or remove the line",
        ),
        Some(domain) if domain.catch_all.is_some() => {}
        Some(_) => {
            let whose =
                old.mailboxes.iter().find(|other| other.value == *value && !other.key.starts_with('@'));
            match whose {
                Some(mailbox) => catch_all(domain, &mailbox.key, &says, place, new, report),
                None => report.left_out(
                    place,
                    &says,
                    "no mailbox has this Maildir",
                    "make a Mailbox, move the Maildir there, and name its address in spec.catchAll",
                ),
            }
        }
    }
}

/// Why an address cannot be served.
fn unserved(key: &str) -> String {
    let local = key.rsplit_once('@').map_or(key, |(local, _)| local);
    if local.contains('+') {
        "mail for you+tag@example.org belongs to you@example.org here, so an address has no `+`".to_owned()
    } else if !key.contains('@') {
        "it is not a whole address".to_owned()
    } else if !key.is_ascii() {
        "an address has ASCII letters alone; write an international domain as A-labels (xn--...)".to_owned()
    } else {
        "an address has letters, digits and inner . _ = ~ - before the @, and a domain such as example.org behind it".to_owned()
    }
}
