//! Lookup tables and pattern lists: what a parameter of main.cf refers to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::report::Report;
use super::text::{self, Line, Place};
use crate::api::address::is_domain;

/// Types whose source is a text file of the same name (DATABASE_README).
const TEXT_TYPES: [&str; 8] = ["hash", "btree", "cdb", "lmdb", "dbm", "sdbm", "texthash", "file"];

/// One entry of a table. Keys are in lower case, as Postfix folds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands.
    pub place: Place,
    /// What is looked up.
    pub key: String,
    /// What is found.
    pub value: String,
}

/// Splits a parameter's value at commas and white space, but not within braces (postconf(5)).
pub fn items(value: &str) -> Vec<String> {
    let (mut all, mut item, mut depth) = (Vec::new(), String::new(), 0usize);
    for c in value.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 && (c == ',' || c.is_ascii_whitespace()) {
            all.push(std::mem::take(&mut item));
        } else {
            item.push(c);
        }
    }
    all.push(item);
    all.retain(|item| !item.is_empty());
    all
}

/// The entries of all tables that a `…_maps` parameter names. What cannot be read as a text file is reported.
///
/// # Errors
/// When a file cannot be read.
pub fn entries(parameter: &str, value: &str, at: &Place, report: &mut Report) -> Result<Vec<Entry>, String> {
    let mut all = Vec::new();
    for item in items(value) {
        match source(&item) {
            Source::File(file) => all.extend(read_table(&file, report)?),
            Source::Name(_) | Source::Other => report.left_out(
                at,
                &format!("{parameter} = {item}"),
                "only tables that are compiled from a text file can be read",
                "write its entries into a text file and import that with --domains, --mailboxes or --aliases",
            ),
        }
    }
    // Each table is asked in turn, and the first that knows the key answers.
    Ok(first_of_each(all, report))
}

enum Source {
    File(PathBuf),
    Name(String),
    Other,
}

fn source(item: &str) -> Source {
    let item = item.strip_prefix("proxy:").unwrap_or(item);
    match item.split_once(':') {
        Some((kind, file)) if TEXT_TYPES.contains(&kind) => Source::File(PathBuf::from(file)),
        Some(_) => Source::Other,
        None if item.starts_with('/') => Source::File(PathBuf::from(item)),
        None => Source::Name(item.to_owned()),
    }
}

/// The entries of a table's source, as postmap(1) reads them.
///
/// # Errors
/// When the file cannot be read.
pub fn read_table(file: &Path, report: &mut Report) -> Result<Vec<Entry>, String> {
    let mut all = Vec::new();
    for Line { place, text } in text::read(file)? {
        let text = match text {
            Ok(text) => text,
            Err(why) => {
                report.left_out(&place, "the line", &why, "write it in plain ASCII");
                continue;
            }
        };
        let (key, value) = split_key(&text);
        if value.is_empty() {
            report.left_out(&place, &text, "it has a key and no value, so Postfix ignores it", "remove it");
            continue;
        }
        all.push(Entry { place, key: key.to_lowercase(), value: value.to_owned() });
    }
    Ok(first_of_each(all, report))
}

/// postmap(1) warns of a key that is there twice, and keeps the first.
fn first_of_each(all: Vec<Entry>, report: &mut Report) -> Vec<Entry> {
    let mut seen: BTreeMap<String, Place> = BTreeMap::new();
    let mut first = Vec::new();
    for entry in all {
        match seen.get(&entry.key) {
            None => {
                seen.insert(entry.key.clone(), entry.place.clone());
                first.push(entry);
            }
            // The same table, named twice.
            Some(place) if *place == entry.place => {}
            Some(place) => report.left_out(
                &entry.place,
                &format!("{} {}", entry.key, entry.value),
                &format!(
                    "{} stands in line {} of {} already, and Postfix takes that",
                    entry.key,
                    place.line,
                    place.file.display()
                ),
                "remove one of the two",
            ),
        }
    }
    first
}

/// The key ends at the first white space outside double quotes.
fn split_key(text: &str) -> (&str, &str) {
    let mut quoted = false;
    let end = text.char_indices().find(|(_, c)| {
        quoted ^= *c == '"';
        !quoted && c.is_ascii_whitespace()
    });
    let end = end.map_or(text.len(), |(at, _)| at);
    (&text[..end], text[end..].trim())
}

/// The names that a `…_domains` parameter lists: literal ones, the patterns in a `/file`, and the keys of tables
/// (postconf(5), mydestination).
///
/// # Errors
/// When a file cannot be read.
pub fn names(
    parameter: &str,
    value: &str,
    at: &Place,
    report: &mut Report,
) -> Result<Vec<(String, Place)>, String> {
    let mut all = Vec::new();
    for item in items(value) {
        match source(&item) {
            _ if item.starts_with('!') => report.left_out(
                at,
                &format!("{parameter} = {item}"),
                "exceptions cannot be carried over",
                "list the domains that are served",
            ),
            Source::Name(name) => all.push((name.to_lowercase(), at.clone())),
            Source::File(file) if item.starts_with('/') => {
                for Line { place, text } in text::read(&file)? {
                    match text {
                        Ok(text) => {
                            for (number, word) in items(&text).iter().enumerate() {
                                // `domain OK`: meant for a table, and Postfix takes each word for a domain.
                                if number > 0 && !is_domain(word) {
                                    report.note(
                                        &place,
                                        word,
                                        "Postfix takes each word of this list for a domain",
                                        "it is not carried over",
                                    );
                                } else {
                                    all.extend(names(parameter, word, &place, report)?);
                                }
                            }
                        }
                        Err(why) => report.left_out(&place, "the line", &why, "write it in plain ASCII"),
                    }
                }
            }
            Source::File(file) => {
                all.extend(read_table(&file, report)?.into_iter().map(|entry| (entry.key, entry.place)));
            }
            Source::Other => report.left_out(
                at,
                &format!("{parameter} = {item}"),
                "only tables that are compiled from a text file can be read",
                "write the domains into a text file and import that with --domains",
            ),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_split_outside_braces() {
        assert_eq!(
            items("hash:/a, cdb:/b\tinline:{ {a=b}, {c=d} } x"),
            ["hash:/a", "cdb:/b", "inline:{ {a=b}, {c=d} }", "x"]
        );
    }

    #[test]
    fn a_quoted_key_is_one_key() {
        assert_eq!(split_key("\"a b\"@x.example  y"), ("\"a b\"@x.example", "y"));
        assert_eq!(split_key("alone"), ("alone", ""));
    }
}
