//! Conditions: what is known of an object becomes what its owner reads. Pure.
//!
//! A status says nothing that changes when somebody else's object changes: one mailbox must not rewrite
//! a thousand domains.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::api::conditions::{
    ACCEPTED, PROGRAMMED, PUBLISHED, READY, RESOLVED_REFS, Reason, STALLED, Statement, summary,
};
use crate::directory::{Refusal, Verdict};

/// Whether the running Postfix proved that it serves something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Programmed {
    /// It did.
    Yes,
    /// It did not, and this is known.
    No(Reason, String),
    /// It cannot be said now: a newer revision is on its way, or the pod restarts. What was proved before
    /// still stands, since a proof does not expire while senders would retry anyway; what never was,
    /// is not, for this reason.
    AsBefore(Reason, String),
    /// Nothing was heard since this process began: what was said before is said again.
    NotAsked,
}

/// Whether the MX records stand in DNS as wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Publication {
    /// They do; what the owner should know all the same.
    Yes(String),
    /// They do not.
    No(Refusal),
    /// Somebody else publishes them (`spec.dns.managed: false`), so nothing is said about it.
    Elsewhere,
}

/// The conditions of a MailDomain.
pub fn domain(
    old: &[Condition],
    verdict: &Verdict,
    programmed: &Programmed,
    publication: &Publication,
) -> Vec<Statement> {
    let accepted = accepted(verdict);
    let in_line = accepted.holds();
    let programmed = programmed_as(old, programmed, in_line);
    let published = match publication {
        _ if !in_line => Some(Statement::no(PUBLISHED, Reason::Pending, "not accepted")),
        Publication::Yes(message) => Some(Statement::yes(PUBLISHED, Reason::Published, message.clone())),
        Publication::No(refusal) => {
            // DNS is being asked: until it answers, what it said last is the best answer.
            let asked = refusal.reason == Reason::Pending && programmed.holds();
            let before = refused_before(old, PUBLISHED).filter(|_| asked);
            Some(before.unwrap_or_else(|| Statement::no(PUBLISHED, refusal.reason, refusal.message.clone())))
        }
        Publication::Elsewhere => None,
    };
    let mut parts = vec![accepted, programmed, resolved_refs(verdict)];
    parts.extend(published);
    // A role address that leads nowhere shows in the proof, unless postmaster@ itself works.
    finish(parts, verdict)
}

/// The conditions of a Mailbox.
pub fn mailbox(old: &[Condition], verdict: &Verdict, programmed: &Programmed) -> Vec<Statement> {
    let accepted = accepted(verdict);
    let programmed = programmed_as(old, programmed, accepted.holds());
    finish(vec![accepted, programmed], verdict)
}

/// The conditions of a MailAlias.
pub fn alias(old: &[Condition], verdict: &Verdict, programmed: &Programmed) -> Vec<Statement> {
    let accepted = accepted(verdict);
    let programmed = programmed_as(old, programmed, accepted.holds());
    finish(vec![accepted, resolved_refs(verdict), programmed], verdict)
}

/// Whether the rules let an object in.
pub fn accepted(verdict: &Verdict) -> Statement {
    match &verdict.accepted {
        Ok(()) => Statement::yes(ACCEPTED, Reason::Accepted, verdict.warning.clone().unwrap_or_default()),
        Err(refusal) => Statement::no(ACCEPTED, refusal.reason, refusal.message.clone()),
    }
}

/// Whether everything that an object refers to exists.
pub fn resolved_refs(verdict: &Verdict) -> Statement {
    match &verdict.resolved_refs {
        Ok(()) => Statement::yes(RESOLVED_REFS, Reason::ResolvedRefs, ""),
        Err(refusal) => Statement::no(RESOLVED_REFS, refusal.reason, refusal.message.clone()),
    }
}

fn programmed_as(old: &[Condition], programmed: &Programmed, accepted: bool) -> Statement {
    let held = || old.iter().any(|condition| condition.type_ == PROGRAMMED && condition.status == "True");
    match programmed {
        _ if !accepted => Statement::no(PROGRAMMED, Reason::Pending, "not accepted"),
        Programmed::Yes => Statement::yes(PROGRAMMED, Reason::Programmed, ""),
        Programmed::AsBefore(..) | Programmed::NotAsked if held() => {
            Statement::yes(PROGRAMMED, Reason::Programmed, "")
        }
        Programmed::NotAsked => refused_before(old, PROGRAMMED)
            .unwrap_or_else(|| Statement::no(PROGRAMMED, Reason::Pending, "Postfix was not asked yet")),
        Programmed::No(reason, message) | Programmed::AsBefore(reason, message) => {
            Statement::no(PROGRAMMED, *reason, message.clone())
        }
    }
}

/// What a condition said the last time, where it was refused.
fn refused_before(old: &[Condition], kind: &'static str) -> Option<Statement> {
    let before = old.iter().find(|condition| condition.type_ == kind && condition.status == "False")?;
    let reason = Reason::ALL.iter().find(|reason| reason.as_str() == before.reason)?;
    (*reason != Reason::Pending).then(|| Statement::no(kind, *reason, before.message.clone()))
}

/// Adds the summary. An object that waits for another one to appear is not stalled: nobody has to touch it.
fn finish(mut parts: Vec<Statement>, verdict: &Verdict) -> Vec<Statement> {
    let stalled = verdict.accepted.as_ref().is_err_and(|refusal| !Reason::WAITING.contains(&refusal.reason));
    let said = summary(&parts, stalled);
    debug_assert!(said.iter().all(|statement| [READY, STALLED].contains(&statement.kind)));
    parts.extend(said);
    parts
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::api::conditions::update;

    fn accepted() -> Verdict {
        Verdict { accepted: Ok(()), warning: None, resolved_refs: Ok(()), domain: None }
    }

    fn stored(said: &[Statement]) -> Vec<Condition> {
        update(&[], Timestamp::UNIX_EPOCH, 1, said).expect("new")
    }

    fn pending() -> Publication {
        Publication::No(Refusal::new(Reason::Pending, "wait"))
    }

    #[test]
    fn a_restart_changes_no_status() {
        let unreachable = || Programmed::AsBefore(Reason::AgentUnreachable, "no route".to_owned());
        let failed = || Programmed::No(Reason::ProofFailed, "550".to_owned());
        let conflict = || Publication::No(Refusal::new(Reason::RecordConflict, "another MX"));
        for (programmed, publication) in [
            (Programmed::Yes, conflict()),
            (Programmed::Yes, pending()),
            (failed(), pending()),
            (unreachable(), pending()),
            (Programmed::AsBefore(Reason::Pending, "Postfix was not asked yet".to_owned()), pending()),
        ] {
            let before = domain(&[], &accepted(), &programmed, &publication);
            let after = domain(&stored(&before), &accepted(), &Programmed::NotAsked, &pending());
            assert_eq!(after, before);
            // Postfix answers before DNS does.
            let answered = domain(&stored(&before), &accepted(), &programmed, &pending());
            assert_eq!(answered, before);
            let before = mailbox(&[], &accepted(), &programmed);
            assert_eq!(mailbox(&stored(&before), &accepted(), &Programmed::NotAsked), before);
        }
    }

    #[test]
    fn what_was_published_is_pending_while_another_mx_is_on_its_way() {
        let before = stored(&domain(&[], &accepted(), &Programmed::Yes, &Publication::Yes(String::new())));
        let said = domain(&before, &accepted(), &Programmed::Yes, &pending());
        assert!(said.iter().any(|part| part.kind == PUBLISHED && part.reason == Reason::Pending));
    }
}
