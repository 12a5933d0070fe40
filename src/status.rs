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
}

/// Whether the MX records stand in DNS as wanted.
pub type Publication = Result<String, Refusal>;

/// The conditions of a MailDomain.
pub fn domain(
    old: &[Condition],
    verdict: &Verdict,
    programmed: &Programmed,
    publication: &Publication,
) -> Vec<Statement> {
    let accepted = accepted(verdict);
    let in_line = accepted.holds();
    let mut parts = vec![accepted, programmed_as(old, programmed, in_line), resolved_refs(verdict)];
    parts.push(match publication {
        _ if !in_line => Statement::no(PUBLISHED, Reason::Pending, "not accepted"),
        Ok(message) => Statement::yes(PUBLISHED, Reason::Published, message.clone()),
        Err(refusal) => Statement::no(PUBLISHED, refusal.reason, refusal.message.clone()),
    });
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

fn accepted(verdict: &Verdict) -> Statement {
    match &verdict.accepted {
        Ok(()) => Statement::yes(ACCEPTED, Reason::Accepted, ""),
        Err(refusal) => Statement::no(ACCEPTED, refusal.reason, refusal.message.clone()),
    }
}

fn resolved_refs(verdict: &Verdict) -> Statement {
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
        Programmed::AsBefore(..) if held() => Statement::yes(PROGRAMMED, Reason::Programmed, ""),
        Programmed::No(reason, message) | Programmed::AsBefore(reason, message) => {
            Statement::no(PROGRAMMED, *reason, message.clone())
        }
    }
}

/// Adds the summary. An object that waits for another one to appear is not stalled: nobody has to touch it.
fn finish(mut parts: Vec<Statement>, verdict: &Verdict) -> Vec<Statement> {
    let stalled = verdict.accepted.as_ref().is_err_and(|refusal| !Reason::WAITING.contains(&refusal.reason));
    let said = summary(&parts, stalled);
    debug_assert!(said.iter().all(|statement| [READY, STALLED].contains(&statement.kind)));
    parts.extend(said);
    parts
}
