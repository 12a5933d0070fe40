//! Statuses as they are kept. There may be a hundred thousand: what the operator writes takes a few bytes of each.

use std::hash::{DefaultHasher, Hash, Hasher};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::api::conditions::{ACCEPTED, PROGRAMMED, PUBLISHED, READY, RESOLVED_REFS, Reason, STALLED};
use crate::api::{MailAliasStatus, MailDomainStatus, MailboxStatus};

/// What stands in an object's status.
#[derive(Clone, Debug)]
pub struct CompactStatus {
    conditions: Conditions,
    /// A hash of what stands there besides the conditions: it is only compared.
    rest: u64,
}

#[derive(Clone, Debug)]
enum Conditions {
    /// As the operator writes them: all about one generation, and where all is well, without messages.
    Own { generation: i64, each: Box<[Own]> },
    /// The same with messages.
    Told { generation: i64, each: Box<[(Own, Box<str>)]> },
    /// What somebody else wrote, or another version.
    Other(Box<[Condition]>),
}

/// A condition without its message.
#[derive(Clone, Copy, Debug)]
struct Own {
    /// When the status changed last, in seconds.
    since: u32,
    kind: u8,
    status: u8,
    reason: Reason,
}

const KINDS: [&str; 6] = [ACCEPTED, PROGRAMMED, RESOLVED_REFS, PUBLISHED, READY, STALLED];
const STATUSES: [&str; 3] = ["True", "False", "Unknown"];

impl CompactStatus {
    fn new(conditions: &[Condition], rest: impl Hash) -> Self {
        let generation = conditions.first().and_then(|first| first.observed_generation);
        let own = generation.and_then(|generation| {
            let same = conditions.iter().all(|condition| condition.observed_generation == Some(generation));
            let each: Box<[Own]> = conditions.iter().map(Own::of).collect::<Option<_>>().filter(|_| same)?;
            if conditions.iter().all(|condition| condition.message.is_empty()) {
                return Some(Conditions::Own { generation, each });
            }
            let messages = conditions.iter().map(|condition| condition.message.as_str().into());
            Some(Conditions::Told { generation, each: each.into_iter().zip(messages).collect() })
        });
        let conditions = own.unwrap_or_else(|| Conditions::Other(conditions.into()));
        Self { conditions, rest: hash(rest) }
    }

    /// The conditions, with times in whole seconds, as the API server keeps them.
    pub fn conditions(&self) -> Vec<Condition> {
        match &self.conditions {
            Conditions::Own { generation, each } => {
                each.iter().map(|own| own.condition(*generation, "")).collect()
            }
            Conditions::Told { generation, each } => {
                each.iter().map(|(own, message)| own.condition(*generation, message)).collect()
            }
            Conditions::Other(conditions) => conditions.to_vec(),
        }
    }

    /// Whether the rest of another status is the same.
    pub fn same_rest(&self, other: &Self) -> bool {
        self.rest == other.rest
    }
}

impl Own {
    fn of(condition: &Condition) -> Option<Self> {
        let at = |all: &[&str], text: &str| u8::try_from(all.iter().position(|known| *known == text)?).ok();
        Some(Self {
            kind: at(&KINDS, &condition.type_)?,
            status: at(&STATUSES, &condition.status)?,
            reason: *Reason::ALL.iter().find(|reason| reason.as_str() == condition.reason)?,
            since: u32::try_from(condition.last_transition_time.0.as_second()).ok()?,
        })
    }

    fn condition(self, generation: i64, message: &str) -> Condition {
        Condition {
            type_: KINDS[usize::from(self.kind)].to_owned(),
            status: STATUSES[usize::from(self.status)].to_owned(),
            reason: self.reason.as_str().to_owned(),
            message: message.to_owned(),
            observed_generation: Some(generation),
            last_transition_time: Time(Timestamp::from_second(self.since.into()).unwrap_or_default()),
        }
    }
}

fn hash(rest: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    rest.hash(&mut hasher);
    hasher.finish()
}

impl From<&MailDomainStatus> for CompactStatus {
    fn from(status: &MailDomainStatus) -> Self {
        Self::new(&status.conditions, &status.mx)
    }
}

impl From<&MailboxStatus> for CompactStatus {
    fn from(status: &MailboxStatus) -> Self {
        Self::new(&status.conditions, (&status.path, &status.domain_ref))
    }
}

impl From<&MailAliasStatus> for CompactStatus {
    fn from(status: &MailAliasStatus) -> Self {
        Self::new(&status.conditions, &status.domain_ref)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::conditions::{Statement, update};

    #[test]
    fn what_is_kept_comes_back() {
        let at = Timestamp::from_second(1_700_000_000).expect("a time");
        let said = [
            Statement::yes(ACCEPTED, Reason::Accepted, ""),
            Statement::no(PROGRAMMED, Reason::Pending, "on its way"),
        ];
        let own = update(&[], at, 3, &said).expect("new");
        let foreign = |change: fn(&mut Condition)| {
            let mut conditions = own.clone();
            change(&mut conditions[0]);
            conditions
        };
        let all = [
            own.clone(),
            own[..1].to_vec(),
            vec![],
            foreign(|condition| condition.type_ = "Later".to_owned()),
            foreign(|condition| condition.reason = "Later".to_owned()),
            foreign(|condition| condition.status = "Perhaps".to_owned()),
            foreign(|condition| condition.observed_generation = None),
            foreign(|condition| condition.last_transition_time = Time(Timestamp::MIN)),
        ];
        for conditions in all {
            let path = Some("example.org/you/".to_owned());
            let status = MailboxStatus { conditions: conditions.clone(), path, ..MailboxStatus::default() };
            let compact = CompactStatus::from(&status);
            assert_eq!(compact.conditions(), conditions);
            assert!(
                !compact.same_rest(&CompactStatus::from(&MailboxStatus { path: None, ..status.clone() }))
            );
            assert!(compact.same_rest(&CompactStatus::from(&MailboxStatus { conditions: vec![], ..status })));
        }
        assert!(size_of::<Own>() <= 8 && size_of::<CompactStatus>() <= 40);
    }
}
