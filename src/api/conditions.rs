//! Conditions: types and reasons that users and tools match on (Gateway API names and kstatus), and
//! how a list of them changes.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Whether the object was let in, by the rules across objects.
pub const ACCEPTED: &str = "Accepted";
/// Whether the running Postfix proved that it serves the object.
pub const PROGRAMMED: &str = "Programmed";
/// Whether everything that the object refers to exists.
pub const RESOLVED_REFS: &str = "ResolvedRefs";
/// Whether the MX records are in DNS as wanted, read back.
pub const PUBLISHED: &str = "Published";
/// The summary.
pub const READY: &str = "Ready";
/// Present and true only where nothing will change until a user does something (kstatus).
pub const STALLED: &str = "Stalled";

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Why a condition has its status. The names are API.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &[Reason] = &[$(Reason::$name,)*];

            /// The reason as it stands in a condition.
            pub fn as_str(self) -> &'static str {
                match self { $(Reason::$name => stringify!($name),)* }
            }
        }
    };
}

reasons! {
    /// `Accepted` is true.
    Accepted,
    /// `Programmed` is true.
    Programmed,
    /// `ResolvedRefs` is true.
    ResolvedRefs,
    /// `Published` is true.
    Published,
    /// `Ready` is true.
    Ready,
    /// The domain belongs to another MailDomain.
    DomainConflict,
    /// The administrator's tenancy rules do not give this namespace the domain.
    DomainNotPermitted,
    /// The administrator took the domain out of service (`vmail-operator withdraw`).
    Withdrawn,
    /// The domain is the mail server's own host name.
    ReservedDomain,
    /// No MailDomain serves the address's domain (yet).
    DomainNotFound,
    /// The MailDomain does not let this namespace join.
    NotAllowedByDomain,
    /// A role address, or one that certificate authorities trust, from another namespace than the domain's.
    RestrictedAddress,
    /// A Mailbox in a domain that takes MailAliases alone.
    WrongDomainClass,
    /// The address is declared by an older object of the same kind.
    AddressConflict,
    /// A MailAlias would take a Mailbox's mail away.
    ShadowsMailbox,
    /// The MailAlias closes a cycle.
    AliasLoop,
    /// The MailAlias expands to more addresses than Postfix takes.
    AliasTooLarge,
    /// No such cell.
    CellNotFound,
    /// The namespace's quota is used up, or the tables of the cell are full.
    CapacityExceeded,
    /// The object holds something that this version cannot take.
    Invalid,
    /// A target in a served domain has nobody behind it.
    TargetNotFound,
    /// Something earlier on the road has not happened yet.
    Pending,
    /// The Postfix pod cannot be asked.
    AgentUnreachable,
    /// Postfix answered the proof's question otherwise than it must.
    ProofFailed,
    /// The revision with this change was refused by Postfix and rolled back.
    RevisionRejected,
    /// Mail cannot be written to the volume.
    StorageNotWritable,
    /// `spec.dns.mx` leaves out the host that serves the domain.
    MXHostMissing,
    /// The MX host has no address, or is an alias.
    MXHostUnresolvable,
    /// The resolver that is asked about the MX host does not answer.
    ResolverUnreachable,
    /// An MX record stands there that is not ours.
    RecordConflict,
    /// Another instance with the same owner id has taken over the record.
    TakenOver,
    /// PowerDNS refuses the API key.
    ProviderDenied,
    /// PowerDNS does not answer, or its Secret is missing.
    ProviderUnreachable,
    /// PowerDNS has no zone for the domain.
    ZoneNotFound,
    /// The zone is a secondary one.
    ZoneNotWritable,
    /// The name is delegated to other servers.
    ZoneDelegated,
    /// A wildcard answers for the name today.
    WildcardShadowed,
    /// PowerDNS does not accept the record.
    RecordRejected,
    /// PowerDNS said yes and did nothing.
    WriteHadNoEffect,
}

impl Reason {
    /// With these an object waits for something that comes by itself, or with another object: nobody need
    /// touch it.
    pub const WAITING: [Reason; 2] = [Reason::Pending, Reason::DomainNotFound];
}

/// A condition without its time: what is to be said now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// One of the types above.
    pub kind: &'static str,
    /// `True`, `False` or `Unknown`.
    pub status: &'static str,
    /// Why.
    pub reason: Reason,
    /// What happened, to which object, and what to do.
    pub message: String,
}

impl Statement {
    /// Status `True`; the message may be empty.
    pub fn yes(kind: &'static str, reason: Reason, message: impl Into<String>) -> Self {
        Self { kind, status: "True", reason, message: in_one_line(&message.into()) }
    }

    /// Status `False`.
    pub fn no(kind: &'static str, reason: Reason, message: impl Into<String>) -> Self {
        Self { kind, status: "False", reason, message: in_one_line(&message.into()) }
    }

    /// Whether the status is `True`.
    pub fn holds(&self) -> bool {
        self.status == "True"
    }
}

/// The status of an object that the operator has not seen yet: a default in the schema, so that the API server shows
/// it from the first moment on, and tools do not take an object without conditions for one that is ready (kstatus
/// does, <https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md>).
pub(super) fn unseen() -> serde_json::Value {
    serde_json::json!({
        "observedGeneration": -1,
        "conditions": [{
            "type": READY,
            "status": "Unknown",
            "reason": Reason::Pending.as_str(),
            "message": "the operator has not seen this object yet; if this stays, see whether it runs",
            "lastTransitionTime": "1970-01-01T00:00:00Z",
        }],
    })
}

/// A message as one line of visible characters. It may quote what others wrote - a DNS record, a server's answer -, and
/// is read on terminals, where an escape sequence acts and a change of direction shows another text.
fn in_one_line(message: &str) -> String {
    let mut line = String::with_capacity(message.len());
    for c in message.trim_end().chars() {
        let escaped = c.escape_debug();
        // A backslash before quotes and backslashes would only be in the way.
        match c.is_control() || escaped.len() > 2 {
            true => line.extend(escaped),
            false => line.push(c),
        }
    }
    line
}

/// The new list of conditions, or `None` when it would say what `old` says: times aside, an
/// unchanged status is not written. A transition time changes with the status alone.
pub fn update(
    old: &[Condition],
    now: Timestamp,
    generation: i64,
    said: &[Statement],
) -> Option<Vec<Condition>> {
    let previous = |kind: &str| old.iter().find(|condition| condition.type_ == kind);
    let same = old.len() == said.len()
        && said.iter().all(|statement| {
            previous(statement.kind).is_some_and(|condition| {
                condition.status == statement.status
                    && condition.reason == statement.reason.as_str()
                    && condition.message == statement.message
                    && condition.observed_generation == Some(generation)
            })
        });
    if same {
        return None;
    }
    Some(
        said.iter()
            .map(|statement| Condition {
                type_: statement.kind.to_owned(),
                status: statement.status.to_owned(),
                reason: statement.reason.as_str().to_owned(),
                message: statement.message.clone(),
                observed_generation: Some(generation),
                last_transition_time: previous(statement.kind)
                    .filter(|condition| condition.status == statement.status)
                    .map_or(Time(now), |condition| condition.last_transition_time.clone()),
            })
            .collect(),
    )
}

/// The summary of `parts`: `Ready`, and `Stalled` behind it where `stalled` says that only the user can
/// help. The first part that does not hold gives the reason.
pub fn summary(parts: &[Statement], stalled: bool) -> Vec<Statement> {
    match parts.iter().find(|part| !part.holds()) {
        None => vec![Statement::yes(READY, Reason::Ready, "")],
        Some(part) => {
            let mut said = vec![Statement { kind: READY, ..part.clone() }];
            if stalled {
                said.push(Statement::yes(STALLED, part.reason, part.message.clone()));
            }
            said
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("valid")
    }

    #[test]
    fn nothing_new_is_not_written() {
        let said = [Statement::yes(READY, Reason::Ready, "")];
        let first = update(&[], at(1), 1, &said).expect("new");
        assert_eq!(update(&first, at(2), 1, &said), None);
        assert!(update(&first, at(2), 2, &said).is_some(), "a new generation is news");
    }

    #[test]
    fn the_transition_time_moves_with_the_status_alone() {
        let first = update(&[], at(1), 1, &[Statement::no(READY, Reason::Pending, "wait")]).expect("new");
        let second = update(&first, at(2), 1, &[Statement::no(READY, Reason::ProofFailed, "")]).expect("new");
        assert_eq!(second[0].last_transition_time, Time(at(1)));
        let third = update(&second, at(3), 1, &[Statement::yes(READY, Reason::Ready, "")]).expect("new");
        assert_eq!(third[0].last_transition_time, Time(at(3)));
    }

    #[test]
    fn a_message_is_one_line_that_says_what_it_looks_like() {
        let said = |message: &str| Statement::no(READY, Reason::Pending, message).message;
        let plain = r#"MX "10 mx.them.test." at bücher: don't \ do ✓"#;
        assert_eq!(said(plain), plain);
        assert_eq!(said("two\r\nlines\n"), r"two\r\nlines");
        assert_eq!(said("\u{1b}[2Jgone\0"), r"\u{1b}[2Jgone\0");
        assert_eq!(said("\u{202e}gro.elpmaxe\u{200b}"), r"\u{202e}gro.elpmaxe\u{200b}");
    }

    #[test]
    fn every_reason_is_documented() {
        let page = include_str!("../../docs/reasons.md");
        let headings: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        let reasons: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(headings, reasons);
    }

    #[test]
    fn the_first_part_that_fails_is_the_summary() {
        let parts = [
            Statement::yes(ACCEPTED, Reason::Accepted, ""),
            Statement::no(PROGRAMMED, Reason::ProofFailed, "550"),
            Statement::no(PUBLISHED, Reason::Pending, ""),
        ];
        let said = summary(&parts, false);
        assert_eq!((said[0].status, said[0].reason), ("False", Reason::ProofFailed));
        assert_eq!(said.len(), 1);
        assert_eq!(summary(&parts, true)[1].kind, STALLED);
    }
}
