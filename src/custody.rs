//! Whose mail lies where: what the operator tells the agent besides the lookup tables, in [`CUSTODY_FILE`]. Pure.
//!
//! One line an entry, `key value` with a key that stands once, so that an agent that does not know the file can take it
//! for one more lookup table and comes to no harm:
//!
//! * `example.org mail Delete`: the domain is in the tables for namespace `mail`, and says `deletionPolicy: Delete`;
//! * `you@example.org mail Retain 1b9d6bcd`: the mailbox is in the tables for an object of namespace `mail`, with its
//!   policy and the first eight characters of the object's UID. The key is that of the mailbox's other lines, so that all
//!   of them are in one shard;
//! * `example.org/ you` and `example.net/ *`: objects that are not served, accepted or not, claim these mailboxes, or the
//!   whole domain;
//! * `* *`: there are claims that cannot be listed, so nothing may be taken for unclaimed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::api::DeletionPolicy;

/// The file in a revision, see the module.
pub const CUSTODY_FILE: &str = "custody";

/// Stands for every mailbox of a domain, and for every domain.
const ALL: &str = "*";

/// A Maildir: `domain/local part`, below the volume. Both parts are plain names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Place {
    /// The domain.
    pub domain: String,
    /// The local part.
    pub local: String,
}

impl Place {
    /// That of an address as it stands in the tables, `local part@domain`; `None` where that is no address.
    pub fn of_address(address: &str) -> Option<Self> {
        let (local, domain) = address.rsplit_once('@')?;
        Some(Self { domain: domain.to_owned(), local: local.to_owned() })
    }

    /// The address whose mail lies there.
    pub fn address(&self) -> String {
        format!("{}@{}", self.local, self.domain)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.local)
    }
}

impl From<Place> for String {
    fn from(place: Place) -> Self {
        place.to_string()
    }
}

impl TryFrom<String> for Place {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once('/') {
            Some((domain, local)) if is_name(domain) && is_name(local) => {
                Ok(Self { domain: domain.to_owned(), local: local.to_owned() })
            }
            _ => Err(format!("`{text}` is not of the form `domain/local part`")),
        }
    }
}

/// Whether this is one name of a directory that belongs to a domain or a mailbox: it leads nowhere else, and is none
/// of the agent's own, which begin with a dot.
pub fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_graphic() && c != '/';
    !text.is_empty() && text.len() < 256 && !text.starts_with('.') && text.chars().all(plain)
}

/// Whose a Maildir is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The Mailbox's namespace.
    pub namespace: String,
    /// How the Mailbox's UID begins: for people who look for it. The namespace alone decides.
    pub uid: String,
    /// What shall become of the Maildir once nobody has it.
    pub policy: DeletionPolicy,
}

/// Whose a domain is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainOwner {
    /// The MailDomain's namespace.
    pub namespace: String,
    /// What shall become of what the domain leaves behind.
    pub policy: DeletionPolicy,
}

/// All that one revision says about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Custody {
    /// Domains in the tables.
    pub domains: BTreeMap<String, DomainOwner>,
    /// Mailboxes in the tables.
    pub mailboxes: BTreeMap<Place, Owner>,
    /// Mailboxes that are not served, and that some object declares all the same.
    pub claims: BTreeSet<Place>,
    /// Domains that are not served, and that some object declares, or too many mailboxes of which are claimed.
    pub claimed_domains: BTreeSet<String>,
    /// Whether there are claims that cannot be listed.
    pub unknown_claims: bool,
}

impl Custody {
    /// Whether some object, served or not, declares this mailbox or its whole domain.
    pub fn claims(&self, place: &Place) -> bool {
        self.unknown_claims
            || self.mailboxes.contains_key(place)
            || self.claims.contains(place)
            || self.claimed_domains.contains(&place.domain)
    }

    /// Whether some object declares the domain.
    pub fn claims_domain(&self, domain: &str) -> bool {
        self.unknown_claims || self.domains.contains_key(domain) || self.claimed_domains.contains(domain)
    }
}

impl fmt::Display for Custody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (domain, owner) in &self.domains {
            write_domain(f, domain, &owner.namespace, owner.policy)?;
        }
        for (Place { domain, local }, Owner { namespace, uid, policy }) in &self.mailboxes {
            write_mailbox(f, format_args!("{local}@{domain}"), namespace, *policy, uid)?;
        }
        let mut claims: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for place in &self.claims {
            claims.entry(&place.domain).or_default().push(&place.local);
        }
        for domain in &self.claimed_domains {
            claims.insert(domain, vec![ALL]);
        }
        for (domain, locals) in claims {
            writeln!(f, "{domain}/ {}", locals.join(" "))?;
        }
        if self.unknown_claims {
            writeln!(f, "{ALL} {ALL}")?;
        }
        Ok(())
    }
}

/// The line of a domain in the tables.
///
/// # Errors
/// As `to`.
pub fn write_domain(
    to: &mut impl fmt::Write,
    domain: &str,
    namespace: &str,
    policy: DeletionPolicy,
) -> fmt::Result {
    writeln!(to, "{domain} {namespace} {policy}")
}

/// The line of a mailbox in the tables.
///
/// # Errors
/// As `to`.
pub fn write_mailbox(
    to: &mut impl fmt::Write,
    address: impl fmt::Display,
    namespace: &str,
    policy: DeletionPolicy,
    uid: impl fmt::Display,
) -> fmt::Result {
    writeln!(to, "{address} {namespace} {policy} {uid}")
}

impl FromStr for Custody {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut custody = Self::default();
        for line in text.lines() {
            custody.read(line).ok_or_else(|| format!("{CUSTODY_FILE}: cannot read the line `{line}`"))?;
        }
        Ok(custody)
    }
}

impl Custody {
    fn read(&mut self, line: &str) -> Option<()> {
        let (key, value) = line.split_once(' ')?;
        if (key, value) == (ALL, ALL) {
            self.unknown_claims = true;
            return Some(());
        }
        if let Some((domain, "")) = key.split_once('/') {
            if value == ALL {
                self.claimed_domains.insert(domain.to_owned());
                return is_name(domain).then_some(());
            }
            for local in value.split(' ') {
                self.claims.insert(Place::try_from(format!("{domain}/{local}")).ok()?);
            }
            return Some(());
        }
        if key.contains('@') {
            let (place, owner) = mailbox(key, value)?;
            self.mailboxes.insert(place, owner);
            return Some(());
        }
        is_name(key).then_some(())?;
        let mut fields = value.split(' ');
        let namespace = fields.next()?.to_owned();
        let policy = fields.next()?.parse().ok()?;
        self.domains.insert(key.to_owned(), DomainOwner { namespace, policy });
        Some(())
    }
}

/// The mailboxes in the tables alone, one after the other, for who keeps little of each. A line that cannot be read says
/// nothing.
pub fn mailboxes(text: &str) -> impl Iterator<Item = (Place, Owner)> {
    text.lines().filter_map(|line| line.split_once(' ').and_then(|(key, value)| mailbox(key, value)))
}

/// What the line of a mailbox says; any other is none.
fn mailbox(key: &str, value: &str) -> Option<(Place, Owner)> {
    // Neither part of an address holds another `@`.
    let (local, domain) = key.split_once('@')?;
    let mut fields = value.split(' ');
    let namespace = fields.next()?.to_owned();
    let policy = fields.next()?.parse().ok()?;
    let owner = Owner { namespace, policy, uid: fields.next()?.to_owned() };
    Some((Place::try_from(format!("{domain}/{local}")).ok()?, owner))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Place {
        Place::try_from(text.to_owned()).expect("valid")
    }

    fn custody() -> Custody {
        let owner =
            |namespace: &str, policy| Owner { namespace: namespace.into(), uid: "1b9d6bcd".into(), policy };
        let domain = DomainOwner { namespace: "mail".into(), policy: DeletionPolicy::Archive };
        Custody {
            domains: [("example.org".to_owned(), domain)].into(),
            mailboxes: [
                (place("example.org/you"), owner("mail", DeletionPolicy::Delete)),
                (place("example.org/a=b"), owner("mail", DeletionPolicy::Retain)),
                (place("example.org/them"), owner("shop", DeletionPolicy::Retain)),
            ]
            .into(),
            claims: [place("example.com/me"), place("example.org/x")].into(),
            claimed_domains: ["example.net".to_owned()].into(),
            unknown_claims: true,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let text = custody().to_string();
        assert_eq!(text.parse(), Ok(custody()), "{text}");
        assert_eq!("".parse(), Ok(Custody::default()));
        assert_eq!(mailboxes(&text).collect::<BTreeMap<_, _>>(), custody().mailboxes);
    }

    /// An agent that does not know the file compiles it.
    #[test]
    fn an_older_agent_takes_it_for_a_table() {
        assert_eq!(crate::agent::tables::entries(&custody().to_string()).map(|entries| entries.len()), Ok(8));
    }

    #[test]
    fn no_line_names_a_place_outside() {
        for line in [
            "../x mail Retain",
            "../x@a.b mail Retain 1",
            ".trash@a.b mail Delete 1",
            "x@../a mail Retain 1",
            ".vmail/ x",
            "a.b/ x/y",
        ] {
            assert!(line.parse::<Custody>().is_err(), "{line}");
        }
    }

    #[test]
    fn a_claim_covers_what_it_names() {
        let mut custody = custody();
        assert!(custody.claims(&place("other.example/x")));
        custody.unknown_claims = false;
        for claimed in ["example.org/you", "example.org/x", "example.net/any", "example.com/me"] {
            assert!(custody.claims(&place(claimed)), "{claimed}");
        }
        assert!(!custody.claims(&place("example.org/nobody")) && !custody.claims_domain("example.com"));
    }
}
