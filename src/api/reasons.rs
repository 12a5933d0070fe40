//! Which reasons each condition of each kind can have. For those who match on them: the reference (`docs/api.md`) lists
//! them, and each entry of `docs/reasons.md` begins with where it is seen.

use super::conditions::Reason::{self, *};
use super::conditions::{ACCEPTED, PROGRAMMED, PUBLISHED, RESOLVED_REFS};

/// A condition, the reason with which it is true, and those with which it is false.
pub type Possible = (&'static str, Reason, &'static [Reason]);

/// The kinds, in the order of the reference.
const KINDS: [&str; 3] = ["MailDomain", "Mailbox", "MailAlias"];

const MAIL_DOMAIN: &[Possible] = &[
    (
        ACCEPTED,
        Accepted,
        &[
            DomainConflict,
            DomainNotPermitted,
            Withdrawn,
            ReservedDomain,
            CellNotFound,
            CapacityExceeded,
            Invalid,
            Pending,
        ],
    ),
    (PROGRAMMED, Programmed, &[Pending, AgentUnreachable, ProofFailed, RevisionRejected, StorageNotWritable]),
    (RESOLVED_REFS, ResolvedRefs, &[AliasLoop, AliasTooLarge, CapacityExceeded, TargetNotFound]),
    (
        PUBLISHED,
        Published,
        &[
            DomainNotPermitted,
            Pending,
            MXHostMissing,
            MXHostUnresolvable,
            ResolverUnreachable,
            RecordConflict,
            TakenOver,
            ProviderDenied,
            ProviderUnreachable,
            ZoneNotFound,
            ZoneNotWritable,
            ZoneDelegated,
            WildcardShadowed,
            RecordRejected,
            WriteHadNoEffect,
        ],
    ),
];

const MAILBOX: &[Possible] = &[
    (
        ACCEPTED,
        Accepted,
        &[
            DomainNotFound,
            NotAllowedByDomain,
            RestrictedAddress,
            WrongDomainClass,
            AddressConflict,
            CapacityExceeded,
            Invalid,
            Pending,
        ],
    ),
    (PROGRAMMED, Programmed, &[Pending, AgentUnreachable, ProofFailed, RevisionRejected, StorageNotWritable]),
];

const MAIL_ALIAS: &[Possible] = &[
    (
        ACCEPTED,
        Accepted,
        &[
            DomainNotFound,
            NotAllowedByDomain,
            RestrictedAddress,
            AddressConflict,
            ShadowsMailbox,
            AliasLoop,
            AliasTooLarge,
            CapacityExceeded,
            Invalid,
            Pending,
        ],
    ),
    (RESOLVED_REFS, ResolvedRefs, &[TargetNotFound]),
    (
        PROGRAMMED,
        Programmed,
        &[TargetNotFound, Pending, AgentUnreachable, ProofFailed, RevisionRejected, StorageNotWritable],
    ),
];

/// The conditions of a kind in their order, without the summary: `Ready` repeats the reason of the first that is false.
pub fn possible(kind: &str) -> &'static [Possible] {
    match kind {
        "MailDomain" => MAIL_DOMAIN,
        "Mailbox" => MAILBOX,
        "MailAlias" => MAIL_ALIAS,
        _ => &[],
    }
}

/// Where a reason is seen with a condition that is false: the condition, and the kinds that have it then.
pub fn seen(reason: Reason) -> Vec<(&'static str, Vec<&'static str>)> {
    [ACCEPTED, RESOLVED_REFS, PROGRAMMED, PUBLISHED]
        .into_iter()
        .map(|condition| {
            let has = |kind: &&str| {
                possible(kind)
                    .iter()
                    .any(|(name, _, reasons)| *name == condition && reasons.contains(&reason))
            };
            (condition, KINDS.into_iter().filter(has).collect::<Vec<_>>())
        })
        .filter(|(_, kinds)| !kinds.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::conditions::READY;

    /// The line below a heading of `docs/reasons.md`.
    fn heading(reason: Reason) -> String {
        let places = seen(reason).into_iter().map(|(condition, kinds)| {
            let kinds = if kinds.len() == KINDS.len() { "all three".to_owned() } else { kinds.join(", ") };
            format!("`{condition}` false on {kinds}")
        });
        format!("*{}*", places.collect::<Vec<_>>().join("; "))
    }

    #[test]
    fn the_page_says_where_each_reason_is_seen() {
        let page = include_str!("../../docs/reasons.md");
        let sections = page.split("\n## ").skip(1).map(|section| section.split_once('\n').expect("a body"));
        for ((name, body), reason) in sections.zip(Reason::ALL) {
            assert_eq!(name, reason.as_str());
            let good = [ACCEPTED, PROGRAMMED, RESOLVED_REFS, PUBLISHED, READY].contains(&name);
            if good {
                assert!(body.starts_with(&format!("`{name}` is true:")), "{name}: {body}");
                assert!(seen(*reason).is_empty());
            } else {
                assert_eq!(body.lines().next(), Some(heading(*reason).as_str()), "{name}");
                assert!(body.contains("\n**Do:** "), "{name} does not say what to do");
            }
        }
    }

    #[test]
    fn no_reason_is_said_twice_of_a_condition() {
        for (kind, (condition, _, reasons)) in
            KINDS.iter().flat_map(|kind| possible(kind).iter().map(move |possible| (kind, possible)))
        {
            let different: std::collections::BTreeSet<_> = reasons.iter().collect();
            assert_eq!(different.len(), reasons.len(), "{condition} of {kind}");
        }
    }

    /// What DNS says of a domain is in the table: the reasons stand in one `match` each.
    #[test]
    fn every_error_of_dns_is_listed() {
        let source = include_str!("../dns/error.rs");
        let published = MAIL_DOMAIN.iter().find(|(name, ..)| *name == PUBLISHED).expect("a condition").2;
        let said: Vec<&str> = source.split("Reason::").skip(1).collect();
        assert!(said.len() > 10);
        for said in said {
            let name: String = said.chars().take_while(char::is_ascii_alphanumeric).collect();
            assert!(published.iter().any(|reason| reason.as_str() == name), "{name}");
        }
    }
}
