//! Domains and addresses: one grammar, written twice - as CEL for the API server and as a parser
//! for everything that did not come through it. A property test holds the two together.

use std::fmt;
use std::iter::{once, once_with};

use crate::pair::Pair;

/// CEL: no upper-case letters.
pub const LOWER_CASE: &str = "self == self.lowerAscii()";
/// What to write instead.
pub const LOWER_CASE_MESSAGE: &str = "write the domain in lower case: example.org, not Example.ORG";
/// What to write instead.
pub const ADDRESS_LOWER_CASE_MESSAGE: &str =
    "write the address in lower case: you@example.org, not You@Example.ORG";

macro_rules! domain_pattern {
    () => {
        "([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?[.])+[a-z]([a-z0-9-]{0,61}[a-z0-9])?"
    };
}

/// CEL: host name of at least two labels (RFC 1123 2.1), the last one not a number. Case is judged by
/// [`LOWER_CASE`], so that one mistake gives one sentence.
pub const DOMAIN_FORM: &str = concat!("self.lowerAscii().matches('^", domain_pattern!(), "$')");
/// What to write instead.
pub const DOMAIN_FORM_MESSAGE: &str = "must be a domain of at least two labels made of letters, digits and inner hyphens, without a trailing dot, such as example.org; write an international name as A-labels (xn--...)";

/// CEL: the name of a cell (RFC 1123 label, since a StatefulSet is named after it).
pub const CELL_FORM: &str = "self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')";
/// What to write instead.
pub const CELL_FORM_MESSAGE: &str =
    "must be the name of a cell: lower-case letters, digits and inner hyphens, such as default";

/// CEL: names of namespaces (RFC 1123 labels) on a list.
pub const NAMESPACES_FORM: &str = "self.names.all(n, n.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$'))";
/// What to write instead.
pub const NAMESPACES_FORM_MESSAGE: &str = "names must be names of namespaces: lower-case letters, digits and inner hyphens; for every namespace, write from: All";

/// CEL: nothing after a `+`.
pub const NO_TAG: &str = "!self.contains('+')";
/// What to write instead.
pub const NO_TAG_MESSAGE: &str =
    "write the address without +tag: mail for you+tag@example.org already belongs to you@example.org";

macro_rules! own_local_pattern {
    () => {
        "[a-z0-9]([a-z0-9._=~-]{0,62}[a-z0-9])?"
    };
}

/// CEL: an address that this installation may serve.
pub const OWN_ADDRESS_FORM: &str = concat!(
    "self.lowerAscii().replace('+', '').matches('^",
    own_local_pattern!(),
    "@",
    domain_pattern!(),
    "$') && !self.contains('..')"
);
/// What to write instead.
pub const OWN_ADDRESS_FORM_MESSAGE: &str = "must be local@domain, such as you@example.org: the local part has 1 to 64 letters and digits, inside also . _ = ~ - but no two dots in a row; the domain has at least two labels and no trailing dot";

/// CEL: local parts alone, on a list.
pub const LOCAL_PART_FORM: &str =
    concat!("self.all(l, l.matches('^", own_local_pattern!(), "$') && !l.contains('..'))");

macro_rules! target_pattern {
    () => {
        concat!(
            "[A-Za-z0-9_]([A-Za-z0-9._=~+&*?^{}$#\\'-]{0,62}[A-Za-z0-9_=~+&*?^{}$#\\'-])?@",
            "([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?[.])+[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
        )
    };
}

/// CEL: an address that mail may be sent on to. Wider than our own (RFC 5321 4.1.2, dot-string), but
/// nothing that a lookup table or an old mailer would read as a second address, a command or a route.
///
/// Postfix reads what stands in an alias table as addresses of a header are read: `( , : ; < " \` in a local part make
/// something else of it (measured, with the grammar widened, by `tests/postfix/characters.rs`). `% ! / |` and the backtick pass
/// as they are; they are refused for the sake of mailers behind it, to some of which they are routes, files and commands.
pub const TARGET_FORM: &str = concat!("self.matches('^", target_pattern!(), "$') && !self.contains('..')");
/// The same for each entry of a list.
pub const EACH_TARGET_FORM: &str =
    concat!("self.all(t, t.matches('^", target_pattern!(), "$') && !t.contains('..'))");
/// What to write instead.
pub const TARGET_FORM_MESSAGE: &str = "must be plain addresses, such as you@example.org: local@domain without spaces, commas, quotes, angle brackets, or any of ! % / | : ; ( ) in the local part, and a domain of at least two labels without a trailing dot";

/// An address in a domain. Ordered by domain, then by local part.
///
/// The domain is kept in lower case (RFC 5321 2.4: domains are not case sensitive), the local part as
/// written. Build it with [`Address::own`] or [`Address::target`], so that what is inside can stand in
/// a Postfix table as nothing but itself.
///
/// It stands in many places for each object, which share its text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(Pair);

impl Address {
    /// An address that this installation may serve, or `None` where the schema would refuse it.
    pub fn own(text: &str) -> Option<Self> {
        let (local, domain) = text.split_once('@')?;
        (text.len() <= 254 && is_own_local_part(local) && is_domain(domain)).then(|| Self::new(local, domain))
    }

    fn new(local: &str, domain: &str) -> Self {
        Self(Pair::new(domain, local))
    }

    /// An address that mail may be sent on to, or `None` where the schema would refuse it.
    pub fn target(text: &str) -> Option<Self> {
        let (local, domain) = text.split_once('@')?;
        let lower = domain.to_ascii_lowercase();
        (text.len() <= 254 && is_target_local_part(local) && is_domain(&lower))
            .then(|| Self::new(local, &lower))
    }

    /// A role address of a domain: both parts must come from an object that was let in.
    pub fn role(local: &str, domain: &str) -> Option<Self> {
        Self::own(&format!("{local}@{domain}"))
    }

    /// The key under which Postfix looks up any address of a domain (virtual(5), `@domain`): an address without
    /// a local part. The domain must come from an object that was let in.
    pub fn catch_all(domain: &str) -> Self {
        Self::new("", domain)
    }

    /// Whether this is the key of [`Address::catch_all`].
    pub fn is_catch_all(&self) -> bool {
        self.local().is_empty()
    }

    /// The part after the `@`.
    pub fn domain(&self) -> &str {
        self.0.parts().0
    }

    /// The part before the `@`.
    pub fn local(&self) -> &str {
        self.0.parts().1
    }

    /// How Postfix looks up an address of ours: in lower case, first as it is, then without `+tag`, then as any
    /// address of its domain (virtual(5), TABLE SEARCH ORDER).
    pub fn lookup_order(&self) -> impl Iterator<Item = Self> {
        let (domain, local) = self.0.parts();
        let lower = local.bytes().any(|byte| byte.is_ascii_uppercase()).then(|| local.to_ascii_lowercase());
        let whole = lower.as_deref().map_or_else(|| self.clone(), |lower| Self::new(lower, domain));
        let base = local.split_once('+').map(|(base, _)| base).filter(|base| !base.is_empty());
        let base = base.map(|base| Self::new(&base.to_ascii_lowercase(), domain));
        once(whole).chain(base).chain(once_with(|| Self::catch_all(domain)))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (domain, local) = self.0.parts();
        write!(f, "{local}@{domain}")
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// Whether this is a domain as `spec.domain` wants it, see [`DOMAIN_FORM`].
pub fn is_domain(text: &str) -> bool {
    let labels: Vec<&str> = text.split('.').collect();
    text.len() <= 253
        && labels.len() >= 2
        && labels.iter().all(|label| is_label(label))
        && labels.last().is_some_and(|top| top.starts_with(|c: char| c.is_ascii_lowercase()))
}

fn is_label(label: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&label.len())
        && label.chars().all(inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn is_own_local_part(local: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=64).contains(&local.len())
        && local.chars().all(|c| alphanumeric(c) || "._=~-".contains(c))
        && local.starts_with(alphanumeric)
        && local.ends_with(alphanumeric)
        && !local.contains("..")
}

fn is_target_local_part(local: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (1..=64).contains(&local.len())
        && local.chars().all(|c| word(c) || ".=~+&*?^{}$#'-".contains(c))
        && local.starts_with(word)
        && !local.ends_with('.')
        && !local.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses() {
        for good in
            ["you@example.org", "a@b.cd", "first.last@xn--bcher-kva.example", "a=b~c_d-e@sub.example.org"]
        {
            assert_eq!(Address::own(good).expect(good).to_string(), good);
        }
        for bad in [
            "You@example.org",
            "you@Example.org",
            "you",
            "@example.org",
            "you@",
            "you@example",
            "you@example.org.",
            "you+tag@example.org",
            "a..b@example.org",
            ".a@example.org",
            "a.@example.org",
            "a b@example.org",
            "a@b@example.org",
            "a,b@example.org",
            "a/b@example.org",
            "../x@example.org",
            "a\n@example.org",
            "a@exa\nmple.org",
            "bücher@example.org",
            "you@bücher.example",
            "you@1.2.3.4",
            "a#b@example.org",
            "\"a\"@example.org",
            "|cmd@example.org",
            ":include:/x@example.org",
            "a@-b.org",
            "a@b-.org",
            "",
        ] {
            assert!(Address::own(bad).is_none(), "{bad:?} was let in");
        }
        assert!(Address::own(&format!("{}@example.org", "a".repeat(64))).is_some());
        assert!(Address::own(&format!("{}@example.org", "a".repeat(65))).is_none());
    }

    #[test]
    fn targets_are_wider_but_never_two_entries() {
        for good in ["O'Brien@Example.ORG", "_dmarc@example.org", "you+lists@example.org", "A.B@x.example"] {
            assert!(Address::target(good).is_some(), "{good:?} was refused");
        }
        for bad in [
            "a,b@example.org",
            "a b@example.org",
            "a@example.org,b@example.org",
            "a@example.org b@example.org",
            "\"a b\"@example.org",
            "|cmd@example.org",
            "/file@example.org",
            "a!b@example.org",
            "a%b@example.org",
            "<a@example.org>",
            "a@[127.0.0.1]",
            "-f@example.org",
            "a:b@example.org",
            "a;b@example.org",
        ] {
            assert!(Address::target(bad).is_none(), "{bad:?} was let in");
        }
        assert_eq!(Address::target("You@Example.ORG").expect("valid").to_string(), "You@example.org");
    }

    #[test]
    fn lookup_goes_from_the_whole_address_to_any_of_its_domain() {
        let order: Vec<_> = Address::target("You+Lists@example.org")
            .expect("valid")
            .lookup_order()
            .map(|a| a.to_string())
            .collect();
        assert_eq!(order, ["you+lists@example.org", "you@example.org", "@example.org"]);
    }
}
