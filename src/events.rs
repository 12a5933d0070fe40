//! Which change of a status makes a Kubernetes Event, so that `kubectl describe` tells the story of an object.
//! Pure.
//!
//! | object | bad news | good news |
//! |---|---|---|
//! | MailDomain | whatever `Ready` repeats | each step of the road: `Accepted`, `Programmed`, `Published`, `Ready` |
//! | Mailbox, MailAlias | `Accepted` or `ResolvedRefs` | the same condition, when it holds again |
//!
//! | Postfix pod | a revision that its agent refused | the agent has the newest one after all |
//!
//! * **One cause, one Event.** Of what went wrong only the first counts, the one that `Ready` repeats and `kubectl
//!   get` shows. Of several steps in one write only the furthest does.
//! * **Waiting is no news** ([`Reason::WAITING`]): a tool may apply ten thousand Mailboxes before their MailDomain.
//! * **An address tells its own faults alone.** A pod that is down, or a proof that fails, is told on the MailDomain
//!   and not on each of its ten thousand Mailboxes.
//! * **A changed message is no news.** It changes more often than what is the case.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::api::conditions::{ACCEPTED, PROGRAMMED, PUBLISHED, READY, RESOLVED_REFS, Reason, STALLED};
use crate::revision::Rejected;

/// Longest note of an Event (`NoteLengthLimit` in the API server's validation), in bytes.
const NOTE_LIMIT: usize = 1024;

/// What an Event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// `Normal` or `Warning`.
    pub type_: &'static str,
    /// The type of the condition that changed.
    pub action: String,
    /// The reason of the condition.
    pub reason: String,
    /// Its message, at most 1024 bytes.
    pub note: String,
}

/// What the change of a MailDomain's conditions tells.
pub fn domain(old: &[Condition], new: &[Condition]) -> Vec<News> {
    const ROAD: [&str; 4] = [READY, PUBLISHED, PROGRAMMED, ACCEPTED];
    let furthest = ROAD.into_iter().find(|kind| became_true(old, new, kind));
    news(furthest, fault(old), fault(new), new)
}

/// What the change of a Mailbox's or MailAlias's conditions tells.
pub fn address(old: &[Condition], new: &[Condition]) -> Vec<News> {
    let own = |fault: &&Condition| [ACCEPTED, RESOLVED_REFS].contains(&fault.type_.as_str());
    let before = fault(old).filter(own);
    let mended = before.map(|fault| fault.type_.as_str()).filter(|kind| became_true(old, new, kind));
    news(mended, before, fault(new).filter(own), new)
}

/// What a Postfix pod tells when its agent refuses another revision than before, or none any more. Domains that are
/// served stay as they are, so that a slip of the administrator's changes no user's status; this tells him.
pub fn revision(before: Option<&Rejected>, now: Option<&Rejected>) -> Option<News> {
    let what = |rejected: &Rejected| (rejected.revision.clone(), rejected.stage.clone());
    if before.map(what) == now.map(what) {
        return None;
    }
    let (type_, reason, message) = match now {
        Some(rejected) => ("Warning", Reason::RevisionRejected, rejected.in_words()),
        None => ("Normal", Reason::Programmed, "Postfix serves the newest configuration again".to_owned()),
    };
    Some(News {
        type_,
        action: PROGRAMMED.to_owned(),
        reason: reason.as_str().to_owned(),
        note: note(&message),
    })
}

fn news(
    good: Option<&str>,
    before: Option<&Condition>,
    now: Option<&Condition>,
    new: &[Condition],
) -> Vec<News> {
    let what = |fault: &Condition| (fault.type_.clone(), fault.reason.clone());
    let good = good.and_then(|kind| find(new, kind)).map(|condition| News {
        type_: "Normal",
        action: condition.type_.clone(),
        reason: condition.reason.clone(),
        note: note(if condition.message.is_empty() { holds(&condition.type_) } else { &condition.message }),
    });
    let bad = now.filter(|fault| before.map(what) != Some(what(fault))).map(|fault| News {
        type_: "Warning",
        action: fault.type_.clone(),
        reason: fault.reason.clone(),
        note: note(&fault.message),
    });
    good.into_iter().chain(bad).collect()
}

/// The condition that keeps the object from being ready, unless it only waits.
fn fault(conditions: &[Condition]) -> Option<&Condition> {
    let ready = find(conditions, READY).filter(|ready| ready.status == "False")?;
    let waits = Reason::WAITING.iter().any(|reason| reason.as_str() == ready.reason);
    let repeated = |part: &&Condition| {
        ![READY, STALLED].contains(&part.type_.as_str())
            && (&part.status, &part.reason, &part.message) == (&ready.status, &ready.reason, &ready.message)
    };
    conditions.iter().find(repeated).filter(|_| !waits)
}

fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

fn became_true(old: &[Condition], new: &[Condition], kind: &str) -> bool {
    let holds = |conditions| find(conditions, kind).is_some_and(|condition| condition.status == "True");
    holds(new) && !holds(old)
}

/// What a condition without a message says when it is true.
fn holds(kind: &str) -> &'static str {
    match kind {
        ACCEPTED => "the rules let it in",
        PROGRAMMED => "the running Postfix proved that it accepts the domain",
        PUBLISHED => "the MX records stand in DNS as wanted",
        RESOLVED_REFS => "everything that it refers to exists",
        _ => "all that it needs is in place",
    }
}

fn note(message: &str) -> String {
    if message.len() <= NOTE_LIMIT {
        return message.to_owned();
    }
    const CUT: &str = "…";
    let end = (0..=NOTE_LIMIT - CUT.len()).rev().find(|&end| message.is_char_boundary(end)).unwrap_or(0);
    format!("{}{CUT}", &message[..end])
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::api::conditions::update;
    use crate::directory::{Refusal, Verdict};
    use crate::status::{self, Programmed, Publication};

    fn verdict(accepted: Result<(), Reason>, resolved: Result<(), Reason>) -> Verdict {
        let refusal = |reason| Refusal::new(reason, format!("because of {reason:?}"));
        Verdict {
            accepted: accepted.map_err(refusal),
            warning: None,
            resolved_refs: resolved.map_err(refusal),
            domain: None,
        }
    }

    fn well() -> Verdict {
        verdict(Ok(()), Ok(()))
    }

    fn pending() -> Programmed {
        Programmed::AsBefore(Reason::Pending, "the new tables are on their way".to_owned())
    }

    fn published() -> Publication {
        Publication::Yes(String::new())
    }

    fn unpublished(reason: Reason) -> Publication {
        Publication::No(Refusal::new(reason, format!("because of {reason:?}")))
    }

    /// A life of an object: what each status in turn tells.
    struct Life {
        conditions: Vec<Condition>,
        tells: fn(&[Condition], &[Condition]) -> Vec<News>,
    }

    impl Life {
        fn goes_on(
            &mut self,
            said: &[crate::api::conditions::Statement],
        ) -> Vec<(&'static str, String, String)> {
            let Some(new) = update(&self.conditions, Timestamp::UNIX_EPOCH, 1, said) else {
                return Vec::new();
            };
            let told = (self.tells)(&self.conditions, &new);
            self.conditions = new;
            assert!(told.iter().all(|news| !news.note.is_empty()), "{told:?}");
            told.into_iter().map(|news| (news.type_, news.action, news.reason)).collect()
        }

        fn domain(&mut self, verdict: &Verdict, programmed: &Programmed, dns: &Publication) -> Vec<String> {
            let said = status::domain(&self.conditions, verdict, programmed, dns);
            self.goes_on(&said).into_iter().map(|(kind, _, reason)| format!("{kind} {reason}")).collect()
        }

        fn alias(&mut self, verdict: &Verdict, programmed: &Programmed) -> Vec<String> {
            let said = status::alias(&self.conditions, verdict, programmed);
            self.goes_on(&said)
                .into_iter()
                .map(|(kind, action, reason)| format!("{kind} {action} {reason}"))
                .collect()
        }
    }

    fn life(tells: fn(&[Condition], &[Condition]) -> Vec<News>) -> Life {
        Life { conditions: Vec::new(), tells }
    }

    #[test]
    fn a_domain_tells_each_step_of_its_road_once() {
        let mut life = life(domain);
        let wait = unpublished(Reason::Pending);
        assert_eq!(life.domain(&well(), &pending(), &wait), ["Normal Accepted"]);
        assert_eq!(life.domain(&well(), &Programmed::Yes, &wait), ["Normal Programmed"]);
        assert_eq!(life.domain(&well(), &Programmed::Yes, &published()), ["Normal Ready"]);
        assert_eq!(life.domain(&well(), &Programmed::Yes, &published()), [""; 0]);
        assert_eq!(
            life.domain(&well(), &Programmed::Yes, &Publication::Yes("a warning".to_owned())),
            [""; 0],
            "a new message"
        );
        assert_eq!(life.domain(&well(), &Programmed::Yes, &wait), [""; 0], "another MX is on its way");
        assert_eq!(life.domain(&well(), &Programmed::Yes, &published()), ["Normal Ready"]);
    }

    #[test]
    fn what_goes_wrong_is_told_once_with_its_cause() {
        let mut life = life(domain);
        let lost = verdict(Err(Reason::DomainConflict), Ok(()));
        let wait = unpublished(Reason::Pending);
        assert_eq!(life.domain(&lost, &pending(), &wait), ["Warning DomainConflict"]);
        assert_eq!(life.domain(&well(), &pending(), &wait), ["Normal Accepted"]);
        let failed = Programmed::No(Reason::ProofFailed, "550".to_owned());
        assert_eq!(life.domain(&well(), &failed, &wait), ["Warning ProofFailed"]);
        let other = Programmed::No(Reason::ProofFailed, "451".to_owned());
        assert_eq!(life.domain(&well(), &other, &wait), [""; 0], "the same with other words");
        assert_eq!(
            life.domain(&well(), &Programmed::Yes, &unpublished(Reason::RecordConflict)),
            ["Normal Programmed", "Warning RecordConflict"]
        );
        assert_eq!(life.domain(&well(), &Programmed::Yes, &published()), ["Normal Ready"]);
        assert_eq!(life.domain(&well(), &other, &published()), ["Warning ProofFailed"]);
    }

    #[test]
    fn what_is_missing_beside_a_failed_proof_is_one_cause() {
        let mut life = life(domain);
        let dangling = verdict(Ok(()), Err(Reason::TargetNotFound));
        let wait = unpublished(Reason::Pending);
        assert_eq!(
            life.domain(&dangling, &pending(), &wait),
            ["Normal Accepted"],
            "it may come in the same breath"
        );
        let failed = Programmed::No(Reason::ProofFailed, "550".to_owned());
        assert_eq!(life.domain(&dangling, &failed, &wait), ["Warning ProofFailed"]);
        assert_eq!(
            life.domain(&dangling, &Programmed::Yes, &published()),
            ["Normal Published", "Warning TargetNotFound"]
        );
    }

    #[test]
    fn an_address_tells_its_own_faults_and_their_end_alone() {
        let mut life = life(address);
        let lonely = verdict(Err(Reason::DomainNotFound), Ok(()));
        assert_eq!(life.alias(&lonely, &pending()), [""; 0], "the domain may yet come");
        let taken = verdict(Err(Reason::AddressConflict), Ok(()));
        assert_eq!(life.alias(&taken, &pending()), ["Warning Accepted AddressConflict"]);
        assert_eq!(life.alias(&well(), &pending()), ["Normal Accepted Accepted"]);
        assert_eq!(life.alias(&well(), &Programmed::Yes), [""; 0]);
        let broken = Programmed::No(Reason::StorageNotWritable, "full".to_owned());
        assert_eq!(life.alias(&well(), &broken), [""; 0], "the domain tells it");
        let dangling = verdict(Ok(()), Err(Reason::TargetNotFound));
        let nobody = Programmed::No(Reason::TargetNotFound, "no target".to_owned());
        assert_eq!(life.alias(&dangling, &nobody), ["Warning ResolvedRefs TargetNotFound"]);
        assert_eq!(life.alias(&well(), &pending()), ["Normal ResolvedRefs ResolvedRefs"]);
        assert_eq!(life.alias(&well(), &Programmed::Yes), [""; 0]);
    }

    #[test]
    fn a_pod_tells_what_was_refused_and_that_it_is_mended() {
        let rejected = |revision: &str, message: &str| Rejected {
            revision: revision.to_owned(),
            stage: "Check".to_owned(),
            message: message.to_owned(),
        };
        let (one, same, other) = (rejected("1", "many"), rejected("1", "many more"), rejected("2", "many"));
        let told = |before, now| revision(before, now).map(|news| (news.type_, news.reason));
        let warning = Some(("Warning", "RevisionRejected".to_owned()));
        assert_eq!(told(None, None), None);
        assert_eq!(told(None, Some(&one)), warning);
        assert_eq!(told(Some(&one), Some(&same)), None, "the same with other words");
        assert_eq!(told(Some(&one), Some(&other)), warning);
        assert_eq!(told(Some(&other), None), Some(("Normal", "Programmed".to_owned())));
        assert!(revision(None, Some(&one)).is_some_and(|news| news.note.contains("(Check)")));
    }

    #[test]
    fn the_default_status_of_a_new_object_was_never_true_and_never_wrong() {
        let unknown = Condition {
            type_: READY.to_owned(),
            status: "Unknown".to_owned(),
            reason: Reason::Pending.as_str().to_owned(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH),
        };
        let mut life = Life { conditions: vec![unknown], tells: domain };
        assert_eq!(life.domain(&well(), &pending(), &unpublished(Reason::Pending)), ["Normal Accepted"]);
    }

    #[test]
    fn a_note_ends_at_a_character() {
        assert_eq!(note("short"), "short");
        for message in ["ä".repeat(600), format!("a{}", "ä".repeat(600)), "€".repeat(400), "a".repeat(1025)]
        {
            let note = note(&message);
            assert!(note.len() <= NOTE_LIMIT && note.len() > NOTE_LIMIT - 6, "{} bytes", note.len());
            assert!(message.starts_with(note.strip_suffix('…').expect("cut")));
        }
        assert_eq!(note(&"a".repeat(1024)).len(), 1024);
    }
}
