//! What is remembered of whose mail lies where, and what follows from it once a revision no longer says so. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::api::DeletionPolicy;
use crate::custody::{Custody, DomainOwner, Owner, Place};

/// The newest form of the ledger that this version writes and understands.
const FORMAT: u32 = 1;

/// As few as these may always go at once.
const FEW: usize = 10;
/// More than one in so many must not go at once.
const SHARE: usize = 5;

/// Whose each Maildir is, or was when it was last in the tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// See [`FORMAT`].
    format: u32,
    /// Domains by name.
    pub domains: BTreeMap<String, DomainOwner>,
    /// Mailboxes by their place.
    pub mailboxes: BTreeMap<Place, Owner>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { format: FORMAT, domains: BTreeMap::new(), mailboxes: BTreeMap::new() }
    }
}

/// Something whose owner is gone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Left {
    /// A Maildir.
    Mailbox(Place),
    /// What lies in the directory of a domain and is no Maildir of a Mailbox.
    Domain(String),
}

impl std::fmt::Display for Left {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mailbox(place) => write!(f, "{place}"),
            Self::Domain(domain) => write!(f, "{domain}/"),
        }
    }
}

impl Left {
    /// The domain that it is in.
    pub fn domain(&self) -> &str {
        match self {
            Self::Mailbox(place) => &place.domain,
            Self::Domain(domain) => domain,
        }
    }
}

impl Ledger {
    /// Reads what [`Ledger::text`] wrote.
    ///
    /// # Errors
    /// When it is something else, or was written by a newer version: nothing may be concluded then.
    pub fn read(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Any {
            format: u32,
        }
        let any: Any = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if any.format > FORMAT {
            return Err(format!("format {} is newer than this agent's {FORMAT}", any.format));
        }
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// The ledger as it is kept.
    pub fn text(&self) -> String {
        // Maps with keys of text, and nothing else.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Whether the next owner of a Maildir is of another namespace than the last one.
    pub fn changes_hands(&self, place: &Place, next: &Owner) -> bool {
        self.mailboxes.get(place).is_some_and(|last| last.namespace != next.namespace)
    }

    /// Whether the next owner of a domain is of another namespace than the last one.
    pub fn domain_changes_hands(&self, domain: &str, next: &DomainOwner) -> bool {
        self.domains.get(domain).is_some_and(|last| last.namespace != next.namespace)
    }

    /// Notes what a revision says of the owners of what it has in its tables.
    pub fn note(&mut self, custody: &Custody) {
        self.domains.extend(custody.domains.clone());
        self.mailboxes.extend(custody.mailboxes.clone());
    }

    /// What a revision no longer has, nobody else claims, and whose last owner wanted it moved. While a domain drains,
    /// what goes with it may come back with it.
    pub fn left(&self, custody: &Custody, draining: impl Fn(&str) -> bool) -> BTreeMap<Left, DeletionPolicy> {
        let mailboxes = self.mailboxes.iter().filter(|(place, _)| !custody.claims(place));
        let mailboxes = mailboxes.map(|(place, owner)| (Left::Mailbox(place.clone()), owner.policy));
        let domains = self.domains.iter().filter(|(domain, _)| !custody.claims_domain(domain));
        let domains = domains.map(|(domain, owner)| (Left::Domain(domain.clone()), owner.policy));
        mailboxes
            .chain(domains)
            .filter(|(left, policy)| *policy != DeletionPolicy::Retain && !draining(left.domain()))
            .collect()
    }

    /// Whether so much is going that it is more likely a mistake: more than [`FEW`], and more than one in [`SHARE`] of
    /// what has an owner or just lost it.
    pub fn brakes(custody: &Custody, left: usize) -> bool {
        let living = custody.mailboxes.len() + custody.domains.len();
        left > FEW && left * SHARE > living + left
    }

    /// Whether something in the directory of a domain that is gone belongs to a mailbox, or is claimed: it does not
    /// follow the domain's policy.
    pub fn spares(&self, place: &Place, custody: &Custody) -> bool {
        self.mailboxes.contains_key(place) || custody.claims(place)
    }

    /// What nobody has any more and nobody claims, and whose last owner wanted it left where it is.
    pub fn retained(&self, custody: &Custody, draining: impl Fn(&str) -> bool) -> Vec<Left> {
        let retained = |policy| policy == DeletionPolicy::Retain;
        let mailboxes = self.mailboxes.iter().filter(|(_, owner)| retained(owner.policy));
        let mailboxes = mailboxes.filter(|(place, _)| !custody.claims(place));
        let domains = self.domains.iter().filter(|(_, owner)| retained(owner.policy));
        let domains = domains.filter(|(domain, _)| !custody.claims_domain(domain));
        mailboxes
            .map(|(place, _)| Left::Mailbox(place.clone()))
            .chain(domains.map(|(domain, _)| Left::Domain(domain.clone())))
            .filter(|left| !draining(left.domain()))
            .collect()
    }

    /// Forgets what was moved, or is not there.
    pub fn forget(&mut self, left: &Left) {
        match left {
            Left::Mailbox(place) => drop(self.mailboxes.remove(place)),
            Left::Domain(domain) => drop(self.domains.remove(domain)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn custody(text: &str) -> Custody {
        text.parse().expect("valid")
    }

    fn left(ledger: &Ledger, now: &str) -> Vec<String> {
        ledger.left(&custody(now), |_| false).keys().map(Left::to_string).collect()
    }

    fn ledger(text: &str) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.note(&custody(text));
        ledger
    }

    #[test]
    fn the_policy_outlives_its_owner() {
        let ledger =
            ledger("a.b mail Delete\nx@a.b mail Delete 1\ny@a.b mail Archive 2\nz@a.b mail Retain 3\n");
        assert_eq!(
            left(
                &ledger,
                "a.b mail Delete\nx@a.b mail Delete 1\ny@a.b mail Archive 2\nz@a.b mail Retain 3\n"
            ),
            [""; 0]
        );
        assert_eq!(left(&ledger, ""), ["a.b/x", "a.b/y", "a.b/"]);
        assert_eq!(left(&ledger, "a.b mail Delete\n"), ["a.b/x", "a.b/y"]);
        assert_eq!(ledger.left(&custody("a.b mail Delete\n"), |domain| domain == "a.b"), BTreeMap::new());
    }

    #[test]
    fn nothing_is_left_that_anybody_claims() {
        let ledger = ledger("a.b mail Delete\nx@a.b mail Delete 1\ny@a.b mail Delete 2\n");
        assert_eq!(left(&ledger, "a.b/ x\n"), ["a.b/y", "a.b/"]);
        assert_eq!(left(&ledger, "a.b/ *\n"), [""; 0]);
        assert_eq!(left(&ledger, "* *\n"), [""; 0]);
        assert_eq!(left(&ledger, "x@a.b other Retain 9\n"), ["a.b/y", "a.b/"]);
    }

    #[test]
    fn only_another_namespace_is_another_hand() {
        let ledger = ledger("a.b mail Delete\nx@a.b mail Delete 1\n");
        let place = Place::try_from("a.b/x".to_owned()).expect("valid");
        for (namespace, changes) in [("mail", false), ("shop", true)] {
            let owner =
                Owner { namespace: namespace.into(), uid: "9".into(), policy: DeletionPolicy::Retain };
            assert_eq!(ledger.changes_hands(&place, &owner), changes);
            let owner = DomainOwner { namespace: namespace.into(), policy: DeletionPolicy::Retain };
            assert_eq!(ledger.domain_changes_hands("a.b", &owner), changes);
        }
    }

    #[test]
    fn a_large_share_at_once_is_held_back() {
        let of = |living: usize| {
            let lines: String = (0..living).map(|n| format!("a{n}.b mail Retain\n")).collect();
            custody(&lines)
        };
        assert!(!Ledger::brakes(&of(0), 10) && Ledger::brakes(&of(0), 11));
        assert!(!Ledger::brakes(&of(80), 20) && Ledger::brakes(&of(79), 20));
    }

    #[test]
    fn another_form_is_not_an_empty_one() {
        assert!(Ledger::read("{\"format\":2}").is_err() && Ledger::read("").is_err());
        let ledger = ledger("a.b mail Delete\nx@a.b mail Delete 1\n");
        assert_eq!(Ledger::read(&ledger.text()), Ok(ledger));
    }

    /// One in a domain of the sets below: owner and policy, a claim, or nothing.
    fn line() -> impl Strategy<Value = (u8, u8, u8)> {
        (0..4u8, 0..3u8, 0..3u8)
    }

    proptest! {
        /// Whatever came before: what some object has or claims is never left, and what said `Retain` last never moves.
        #[test]
        fn the_claimed_and_the_retained_stay(history in prop::collection::vec(prop::collection::vec(line(), 3), 1..6)) {
            let mut ledger = Ledger::default();
            let mut last = BTreeMap::new();
            let mut now = Custody::default();
            for revision in history {
                let mut text = String::new();
                for (n, (what, namespace, policy)) in revision.iter().enumerate() {
                    let policy = [DeletionPolicy::Retain, DeletionPolicy::Archive, DeletionPolicy::Delete][*policy as usize];
                    match what {
                        0 => text.push_str(&format!("d{n}.b/ x\n")),
                        1 => {}
                        _ => {
                            text.push_str(&format!("x@d{n}.b n{namespace} {policy} 1\n"));
                            last.insert(format!("d{n}.b/x"), policy);
                        }
                    }
                }
                now = custody(&text);
                ledger.note(&now);
            }
            for (left, policy) in ledger.left(&now, |_| false) {
                let Left::Mailbox(place) = left else { panic!("no domain was there") };
                prop_assert!(!now.claims(&place));
                prop_assert_ne!(policy, DeletionPolicy::Retain);
                prop_assert_eq!(last.get(&place.to_string()), Some(&policy));
            }
        }
    }
}
