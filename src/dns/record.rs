//! The two records of a published domain: its MX RRset, and the TXT that says whose it is.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

/// One MX record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Mx {
    /// Senders try the lowest first.
    pub preference: u16,
    /// The host, in lower case, without a trailing dot. Empty in a null MX (RFC 7505).
    pub host: String,
}

impl Mx {
    /// A record; the host may be written in upper case and with its dot.
    pub fn new(preference: u16, host: &str) -> Self {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        Self { preference, host }
    }

    /// Reads what PowerDNS stores, such as `10 mail.example.test.`, in any spelling of the same record.
    pub fn parse(content: &str) -> Option<Self> {
        let mut words = content.split_ascii_whitespace();
        let preference = words.next()?.parse().ok()?;
        let host = words.next()?;
        words.next().is_none().then(|| Self::new(preference, host))
    }
}

impl fmt::Display for Mx {
    /// The content as PowerDNS wants it: canonical, with the dot.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}.", self.preference, self.host)
    }
}

/// The MX RRset of a domain.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MxSet {
    /// Time to live in seconds.
    pub ttl: u32,
    /// The records, lowest preference first.
    pub records: BTreeSet<Mx>,
}

impl MxSet {
    /// Reads the contents of an RRset; `None` when one of them is no MX record.
    pub fn parse<'a>(ttl: u32, contents: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let records = contents.into_iter().map(Mx::parse).collect::<Option<_>>()?;
        Some(Self { ttl, records })
    }
}

impl fmt::Display for MxSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let records: Vec<_> = self.records.iter().map(|mx| format!("\"{mx}\"")).collect();
        write!(f, "MX {} with TTL {}", records.join(", "), self.ttl)
    }
}

/// Whose MX record it is: the content of the TXT record at `_vmail-owner.<domain>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Stands in the configuration, so that a rebuilt cluster knows its own records again.
    pub owner_id: String,
    /// Which installation with that owner id wrote it last.
    pub instance: String,
    /// The longest time to live with which resolvers may have held the MX when this was written.
    pub ttl: u32,
    /// Seconds that secondary servers may need to follow.
    pub lag: u32,
    /// When this was written, in seconds since 1970. Unknown counts as never in the past.
    pub at: u64,
}

/// The name of the record that says whose the MX record of `domain` is.
pub fn owner_name(domain: &str) -> String {
    format!("_vmail-owner.{domain}")
}

const VERSION: &str = "vmail1";
/// The most that one character string of a TXT record holds (RFC 1035 3.3.14).
const STRING_MAX: usize = 255;

impl Owner {
    /// Reads a TXT content; `None` when it is not of our making. Unknown keys are let pass.
    pub fn parse(content: &str) -> Option<Self> {
        let text = unquote(content)?;
        let (mut version, mut owner_id, mut instance, mut ttl, mut lag, mut at) =
            (None, None, None, None, None, None);
        for pair in text.split(';') {
            let (key, value) = pair.trim().split_once('=')?;
            let slot = match key {
                "v" => &mut version,
                "owner" => &mut owner_id,
                "instance" => &mut instance,
                "ttl" => &mut ttl,
                "lag" => &mut lag,
                "at" => &mut at,
                _ => continue,
            };
            if value.is_empty() || slot.replace(value).is_some() {
                return None;
            }
        }
        (version? == VERSION).then_some(())?;
        Some(Self {
            owner_id: owner_id?.to_owned(),
            instance: instance?.to_owned(),
            ttl: ttl?.parse().ok()?,
            lag: lag.map_or(Some(0), |lag| lag.parse().ok())?,
            at: at.map_or(Some(u64::MAX), |at| at.parse().ok())?,
        })
    }

    /// The longest time to live, in seconds, with which a resolver may hold the MX at `now`, when the
    /// MX that stands there has `standing` (0 for none). An answer from before this was written is
    /// gone once the secondaries have followed and the old time to live has passed.
    pub fn held_ttl(&self, now: u64, standing: u32) -> u32 {
        let passed = now.saturating_sub(self.at).saturating_sub(self.lag.into());
        self.ttl.saturating_sub(u32::try_from(passed).unwrap_or(u32::MAX)).max(standing)
    }
}

impl fmt::Display for Owner {
    /// The content as PowerDNS wants it: quoted, in strings of at most 255 bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner_id, instance, ttl, lag, at } = self;
        let text = format!("v={VERSION};owner={owner_id};instance={instance};ttl={ttl};lag={lag};at={at}");
        let mut rest = text.as_str();
        while rest.len() > STRING_MAX {
            let cut = (1..=STRING_MAX).rev().find(|cut| rest.is_char_boundary(*cut)).unwrap_or(1);
            let (string, more) = rest.split_at(cut);
            write!(f, "\"{string}\" ")?;
            rest = more;
        }
        write!(f, "\"{rest}\"")
    }
}

/// Joins the quoted strings of a TXT content. Nothing that we write needs an escape, so a content with
/// one is not ours.
fn unquote(content: &str) -> Option<String> {
    let mut joined = String::new();
    let mut rest = content.trim();
    while !rest.is_empty() {
        let (string, more) = rest.strip_prefix('"')?.split_once('"')?;
        if string.contains('\\') {
            return None;
        }
        joined.push_str(string);
        rest = more.trim_start();
    }
    Some(joined)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn owner() -> Owner {
        Owner { owner_id: "mail.example.test".into(), instance: "uid-1".into(), ttl: 3600, lag: 0, at: 1000 }
    }

    #[test]
    fn spellings_of_one_mx_are_equal() {
        let wanted = Mx { preference: 10, host: "mail.example.test".into() };
        for content in ["10 mail.example.test.", "10  MAIL.example.TEST", "010\tmail.example.test. "] {
            assert_eq!(Mx::parse(content), Some(wanted.clone()), "{content}");
        }
        assert_eq!(wanted.to_string(), "10 mail.example.test.");
        assert_eq!(Mx::parse("0 .").expect("null MX").to_string(), "0 .");
        for content in ["", "10", "mail.example.test.", "65536 a.", "-1 a.", "10 a. b."] {
            assert_eq!(Mx::parse(content), None, "{content}");
        }
        assert_eq!(MxSet::parse(60, ["10 a.test.", "nonsense"]), None);
    }

    #[test]
    fn owner_text_as_written() {
        let text = "\"v=vmail1;owner=mail.example.test;instance=uid-1;ttl=3600;lag=0;at=1000\"";
        assert_eq!(owner().to_string(), text);
        assert_eq!(Owner::parse(text), Some(owner()));
    }

    #[test]
    fn owner_text_is_read_with_tolerance() {
        let text = "\"v=vmail1;owner=mail.example.test; \" \"instance=uid-1;later=x;ttl=3600\"";
        assert_eq!(Owner::parse(text), Some(Owner { at: u64::MAX, ..owner() }));
    }

    #[test]
    fn what_is_malformed_is_foreign() {
        for text in [
            "",
            "\"\"",
            "v=vmail1;owner=a;instance=b;ttl=1",
            "\"v=vmail2;owner=a;instance=b;ttl=1\"",
            "\"owner=a;instance=b;ttl=1\"",
            "\"v=vmail1;owner=;instance=b;ttl=1\"",
            "\"v=vmail1;owner=a;instance=b\"",
            "\"v=vmail1;owner=a;instance=b;ttl=x\"",
            "\"v=vmail1;owner=a;instance=b;ttl=1;at=x\"",
            "\"v=vmail1;owner=a;owner=c;instance=b;ttl=1\"",
            "\"v=vmail1;owner=a;instance=b;ttl=1;junk\"",
            "\"v=vmail1;owner=a\\;b;instance=b;ttl=1\"",
            "\"v=vmail1;owner=a;instance=b;ttl=1",
            "\"heritage=external-dns,external-dns/owner=a\"",
        ] {
            assert_eq!(Owner::parse(text), None, "{text}");
        }
    }

    #[test]
    fn an_older_time_to_live_counts_until_it_has_passed_everywhere() {
        let owner = Owner { ttl: 86_400, lag: 100, at: 1_000, ..owner() };
        assert_eq!(owner.held_ttl(1_000, 60), 86_400);
        assert_eq!(owner.held_ttl(0, 60), 86_400, "a clock that went back proves nothing");
        assert_eq!(owner.held_ttl(1_100 + 400, 60), 86_000);
        assert_eq!(owner.held_ttl(1_100 + 86_400, 60), 60);
        assert_eq!(owner.held_ttl(u64::MAX, 0), 0);
        let unknown = Owner { at: u64::MAX, ..owner };
        assert_eq!(unknown.held_ttl(u64::MAX - 1, 60), 86_400);
    }

    proptest! {
        #[test]
        fn owner_reads_back(
            owner_id in "[a-z0-9.-]{1,253}", instance in "[a-z0-9-]{1,63}",
            ttl: u32, lag: u32, at: u64,
        ) {
            let owner = Owner { owner_id, instance, ttl, lag, at };
            let text = owner.to_string();
            for string in text.split("\" \"") {
                prop_assert!(string.trim_matches('"').len() <= STRING_MAX);
            }
            prop_assert_eq!(Owner::parse(&text), Some(owner));
        }

        #[test]
        fn mx_reads_back(preference: u16, host in "[a-z0-9.-]{0,40}[a-z0-9]") {
            let mx = Mx { preference, host };
            prop_assert_eq!(Mx::parse(&mx.to_string()), Some(mx));
        }

        #[test]
        fn no_text_panics(text in ".{0,80}") {
            if let Some(owner) = Owner::parse(&text) {
                prop_assert!(text.contains(&owner.owner_id));
            }
            let _ = Mx::parse(&text);
        }
    }
}
