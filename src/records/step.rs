//! The two state machines.
//!
//! ```text
//! Serving ──no accepted MailDomain──► Withdrawing ──MX read back as gone──► Draining
//!    ▲  └───────────────────────── never published ────────────────────────────► │ ◄┐ it stands again
//!    │                                                                           │──┘
//!    │                                                                           │ caches expired, queue empty,
//!    │                                                                           ▼ and DNS asked once more
//!    └────── an accepted MailDomain again ◄────────────── Leaving ◄──────────────┘
//!                                                            │ agent confirms
//!                                                            ▼
//!                         record removed ◄──checked again── Withdrawn
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::{Phase, Published, Record};
use crate::api::{MailDomainSpec, Withdrawal};
use crate::dns::{Mx, MxSet};

/// How long after the end a last look is taken for an MX that came back.
const TOMBSTONE: Duration = Duration::from_secs(60);

/// What is known now of one domain.
#[derive(Clone, Debug, Default)]
pub struct Facts<'a> {
    /// The spec of the accepted MailDomain, and its namespace.
    pub claim: Option<(&'a MailDomainSpec, &'a str)>,
    /// A MailDomain declares the domain, accepted or not.
    pub declared: bool,
    /// DNS was asked, and nothing of ours stands there.
    pub absent: Option<Absent>,
    /// Recipients still queued for the domain; `None` when that is not known.
    pub queued: Option<u64>,
    /// The running Postfix no longer has the domain.
    pub left_tables: bool,
}

/// What was found where nothing of ours stands in DNS (any more).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Absent {
    /// The TTL in seconds that resolvers may hold, as far as DNS tells.
    pub held_ttl: u32,
    /// Seconds that secondary servers may lag behind.
    pub lag_seconds: u32,
    /// Whether somebody else's MX names our host, so that mail still comes here.
    pub names_us: bool,
    /// Whether something of ours stood there, and was only now taken away.
    pub removed: bool,
    /// PowerDNS has no zone for the domain, and yet senders may find an MX that names our host: the zone may be away for a
    /// moment, with all its records.
    pub zone_away: bool,
}

/// Limits that the administrator sets.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Added to the time that resolvers may hold an MX.
    pub drain_margin: Duration,
    /// How long after the drain queued mail is waited for, and how long for somebody else to take our host out of
    /// an MX of his.
    pub queue_deadline: Duration,
}

/// The next state of a record, `None` when it is to be removed. Called until nothing changes.
pub fn step(record: &Record, facts: &Facts<'_>, limits: Limits, now: Timestamp) -> Option<Record> {
    let mut next = record.clone();
    if let Some((spec, namespace)) = facts.claim {
        next.spec = spec.clone();
        next.namespace = namespace.to_owned();
        next.phase = Phase::Serving;
        // What resolvers held when the domain came back, they still hold.
        if let Phase::Draining { until } = record.phase {
            next.held_until = next.held_until.max(Some(until));
        }
        // No longer published here, but served: a later way out must know what was held.
        let absent = facts.absent.filter(|absent| !absent.zone_away);
        if let (false, Some(absent), Some(_)) = (spec.dns.managed, absent, &record.published) {
            next.held_until = next.held_until.max(Some(drained(record, absent, limits, now)));
            next.published = None;
        }
        return Some(next);
    }
    match &record.phase {
        Phase::Serving if record.held => {}
        // Never published here, but mail may be queued.
        Phase::Serving if record.published.is_none() && record.spec.dns.managed => {
            next.phase = Phase::Draining { until: until(record, now, now) };
            next.held_until = None;
        }
        Phase::Serving => {
            next.phase = Phase::Withdrawing { since: now };
            if let Some(published) = &mut next.published {
                published.confirmed = false;
            }
        }
        Phase::Withdrawing { since } => {
            let still_named = |absent: &Absent| absent.names_us && now < *since + limits.queue_deadline;
            if let Some(absent) = facts.absent.filter(|absent| !still_named(absent)) {
                let drained = drained(record, absent, limits, now);
                next.phase = Phase::Draining { until: until(record, drained, now) };
                next.published = None;
                next.held_until = None;
            }
        }
        Phase::Draining { until: due } if may_leave(record, facts.queued, limits, now) => {
            let named = |absent: &Absent| absent.names_us && now < *due + limits.queue_deadline;
            if let Some(absent) = facts.absent.filter(|absent| !named(absent)) {
                // A late write of a dead leader: resolvers hold it from now on.
                let again = until(record, drained(record, absent, limits, now), now);
                next.phase = match absent.removed && again > now {
                    true => Phase::Draining { until: again },
                    false => Phase::Leaving,
                };
            }
        }
        Phase::Draining { .. } => {}
        Phase::Leaving => {
            if facts.left_tables {
                next.phase = Phase::Withdrawn { check: now + TOMBSTONE };
            }
        }
        Phase::Withdrawn { check } => {
            // Without the record nobody would know that the domain is to stay out of service.
            let kept_out = record.withdraw && facts.declared;
            if now >= *check && facts.absent.is_some() && !kept_out {
                return None;
            }
        }
    }
    Some(next)
}

/// Whether a domain has drained, so that only one more look at DNS is missing.
pub fn may_leave(record: &Record, queued: Option<u64>, limits: Limits, now: Timestamp) -> bool {
    let Phase::Draining { until } = record.phase else { return false };
    now >= until && (queued == Some(0) || now >= until + limits.queue_deadline)
}

/// When no resolver can hold the MX any more that was just read back as gone.
fn drained(record: &Record, absent: Absent, limits: Limits, now: Timestamp) -> Timestamp {
    let (held, lagged) = match &record.published {
        Some(published) => (published.held_ttl, published.lag_seconds),
        // Somebody else's MX, of which only the spec says anything.
        None if !record.spec.dns.managed => (u32::try_from(record.spec.dns.ttl).unwrap_or(0), 0),
        None => (0, 0),
    };
    let seconds = u64::from(held.max(absent.held_ttl)) + u64::from(lagged.max(absent.lag_seconds));
    now + Duration::from_secs(seconds) + limits.drain_margin
}

/// When the drain ends but for what is queued, which is waited for in either case.
fn until(record: &Record, drained: Timestamp, now: Timestamp) -> Timestamp {
    match record.spec.withdrawal {
        Withdrawal::Immediate => now,
        Withdrawal::WaitForTTL => record.held_until.map_or(drained, |held| held.max(drained)),
    }
}

/// What is to be done in DNS. Another task is begun at once, the same one at intervals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsTask {
    /// Make these records stand there.
    Publish {
        /// The records.
        mx: MxSet,
        /// The zone to write to; by default the closest one that encloses the domain.
        zone: Option<String>,
        /// Whether what is not ours may be replaced.
        adopt: bool,
    },
    /// Make nothing of ours stand there.
    Withdraw,
}

impl DnsTask {
    /// For logs.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Publish { .. } => "publish",
            Self::Withdraw => "withdraw",
        }
    }
}

/// What the administrator permits the domain's namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// To replace an MX that is not ours.
    pub adopt: bool,
    /// To be served without an MX from here.
    pub unmanaged: bool,
}

/// The cell that serves the domain.
#[derive(Clone, Copy, Debug)]
pub struct Serving<'a> {
    /// Its host name.
    pub hostname: &'a str,
    /// Whether its Postfix proved that it accepts the domain.
    pub programmed: bool,
    /// What the domain's namespace may do.
    pub rights: Rights,
}

/// What is to be done in DNS for a domain, if anything. Nothing is published before Postfix has proved
/// that it accepts the domain; what is published stays while a later proof is missing, because senders
/// retry for days and a missing MX would fall back to the address record (RFC 5321 5.1). Without a cell there is
/// nothing to publish, but all to withdraw. `may_leave` as in [`may_leave`].
pub fn dns_task(record: &Record, serving: Option<Serving<'_>>, may_leave: bool) -> Option<DnsTask> {
    match (&record.phase, serving) {
        (Phase::Draining { .. }, _) if may_leave => Some(DnsTask::Withdraw),
        (Phase::Withdrawing { .. } | Phase::Withdrawn { .. }, _) => Some(DnsTask::Withdraw),
        (Phase::Serving, Some(serving)) if !record.spec.dns.managed => {
            (serving.rights.unmanaged && record.published.is_some()).then_some(DnsTask::Withdraw)
        }
        (Phase::Serving, Some(Serving { hostname, programmed: true, rights })) => {
            Some(publish(record, hostname, rights))
        }
        (Phase::Serving | Phase::Draining { .. } | Phase::Leaving, _) => None,
    }
}

/// The task that publishes a domain.
pub fn publish(record: &Record, hostname: &str, rights: Rights) -> DnsTask {
    let dns = &record.spec.dns;
    DnsTask::Publish {
        mx: wanted(&record.spec, hostname),
        zone: dns.zone.clone(),
        adopt: dns.adopt && rights.adopt,
    }
}

/// The MX records that a spec asks for: its list, or the cell's host alone.
pub fn wanted(spec: &MailDomainSpec, hostname: &str) -> MxSet {
    let ttl = u32::try_from(spec.dns.ttl).unwrap_or(3600);
    let listed = spec
        .dns
        .mx
        .iter()
        .map(|mx| Mx { preference: u16::try_from(mx.preference).unwrap_or(u16::MAX), host: mx.host.clone() });
    let mut records: std::collections::BTreeSet<Mx> = listed.collect();
    if records.is_empty() {
        records.insert(Mx { preference: 10, host: hostname.to_owned() });
    }
    MxSet { ttl, records }
}

impl Record {
    /// The record to be stored before these MX records are written: from then on they are taken back on
    /// the way out, even if nobody hears whether the write arrived.
    pub fn intending(&self, mx: &MxSet) -> Self {
        let held = self.published.as_ref().map_or(0, |published| published.held_ttl);
        let mut next = self.clone();
        next.published = Some(Published {
            zone: self.published.as_ref().and_then(|published| published.zone.clone()),
            mx: mx.clone(),
            confirmed: self
                .published
                .as_ref()
                .is_some_and(|published| published.confirmed && published.mx == *mx),
            held_ttl: held.max(mx.ttl),
            lag_seconds: self.published.as_ref().map_or(0, |published| published.lag_seconds),
            // Not before it was read back: what another cluster's operator wrote may be taken over once.
            instance: self.published.as_ref().and_then(|published| published.instance.clone()),
            unknown: BTreeMap::new(),
        });
        next
    }

    /// The record once the MX records were read back by the operator of the cluster `instance`.
    pub fn confirmed(&self, mx: &MxSet, zone: &str, lag_seconds: u32, instance: &str) -> Self {
        let mut next = self.intending(mx);
        if let Some(published) = &mut next.published {
            published.zone = Some(zone.to_owned());
            published.instance = Some(instance.to_owned());
            published.confirmed = true;
            published.lag_seconds = published.lag_seconds.max(lag_seconds);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { drain_margin: Duration::from_secs(60), queue_deadline: Duration::from_secs(1000) };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("valid")
    }

    fn spec() -> MailDomainSpec {
        serde_yaml::from_str("domain: example.org").expect("valid")
    }

    fn published() -> Record {
        let record = Record::new("example.org", "mail", spec());
        record.confirmed(&wanted(&spec(), "mail.example.org"), "example.org", 30, "uid-1")
    }

    /// Steps until nothing changes.
    fn settle(record: &Record, facts: &Facts<'_>, now: Timestamp) -> Option<Record> {
        let mut record = record.clone();
        for _ in 0..10 {
            let next = step(&record, facts, LIMITS, now)?;
            if next == record {
                return Some(record);
            }
            record = next;
        }
        panic!("no end: {record:?}");
    }

    #[test]
    fn a_record_survives_its_yaml() {
        for phase in [
            Phase::Serving,
            Phase::Withdrawing { since: at(0) },
            Phase::Draining { until: at(5) },
            Phase::Leaving,
            Phase::Withdrawn { check: at(7) },
        ] {
            let record = Record { phase, ..published() };
            let text = serde_yaml::to_string(&record).expect("writes");
            assert_eq!(serde_yaml::from_str::<Record>(&text).expect("reads"), record, "{text}");
        }
    }

    #[test]
    fn the_way_out_is_walked_in_order() {
        let gone = Facts::default();
        let record = settle(&published(), &gone, at(0)).expect("stays");
        assert_eq!(record.phase, Phase::Withdrawing { since: at(0) });
        assert!(record.in_tables());

        let absent = Facts { absent: Some(Absent::default()), ..gone.clone() };
        let record = settle(&record, &absent, at(100)).expect("stays");
        assert_eq!(record.phase, Phase::Draining { until: at(100 + 3600 + 30 + 60) });
        assert!(record.in_tables());

        let queued = Facts { queued: Some(1), ..gone.clone() };
        for facts in [&gone, &queued] {
            assert_eq!(
                settle(&record, facts, at(4000)).expect("stays").phase,
                record.phase,
                "mail is queued, or that is not known"
            );
        }
        let empty = Facts { queued: Some(0), ..gone.clone() };
        assert_eq!(
            settle(&record, &empty, at(3789)).expect("stays").phase,
            record.phase,
            "resolvers hold the MX"
        );
        assert_eq!(
            settle(&record, &empty, at(3790)).expect("stays").phase,
            record.phase,
            "DNS was not asked"
        );
        let empty = Facts { absent: Some(Absent::default()), ..empty };
        assert_eq!(settle(&record, &empty, at(3789)).expect("stays").phase, record.phase);
        let record = settle(&record, &empty, at(3790)).expect("stays");
        assert_eq!(record.phase, Phase::Leaving);
        assert!(!record.in_tables());

        let left = Facts { left_tables: true, ..gone.clone() };
        let record = settle(&record, &left, at(3800)).expect("stays");
        assert_eq!(record.phase, Phase::Withdrawn { check: at(3860) });
        assert_eq!(
            settle(&record, &Facts { absent: Some(Absent::default()), ..gone.clone() }, at(3859)),
            Some(record.clone())
        );
        assert_eq!(settle(&record, &gone, at(9999)), Some(record.clone()), "DNS was not asked");
        assert_eq!(settle(&record, &Facts { absent: Some(Absent::default()), ..gone }, at(3860)), None);
    }

    #[test]
    fn a_domain_that_is_taken_out_of_service_stays_out_while_it_is_declared() {
        let phase = Phase::Withdrawn { check: at(7) };
        let record = Record { phase, published: None, withdraw: true, ..published() };
        let declared = Facts { declared: true, absent: Some(Absent::default()), ..Facts::default() };
        assert_eq!(settle(&record, &declared, at(9999)), Some(record.clone()));
        assert_eq!(settle(&record, &Facts { declared: false, ..declared.clone() }, at(9999)), None);
        assert_eq!(settle(&Record { withdraw: false, ..record }, &declared, at(9999)), None);
    }

    /// What is only intended, or may be gone already, is not told as published.
    #[test]
    fn only_what_was_read_back_is_confirmed() {
        let confirmed =
            |record: &Record| record.published.as_ref().is_some_and(|published| published.confirmed);
        let mx = wanted(&spec(), "mail.example.org");
        let intended = Record::new("example.org", "mail", spec()).intending(&mx);
        assert!(!confirmed(&intended) && confirmed(&published()) && confirmed(&published().intending(&mx)));
        assert!(!confirmed(&published().intending(&MxSet { ttl: 60, ..mx })));
        let spec = spec();
        let leaving = settle(&published(), &Facts::default(), at(0)).expect("stays");
        let back = settle(&leaving, &Facts { claim: Some((&spec, "mail")), ..Facts::default() }, at(1))
            .expect("stays");
        assert!(!confirmed(&leaving) && !confirmed(&back));
    }

    #[test]
    fn a_queue_that_never_empties_is_waited_for_to_the_deadline() {
        let record = Record { phase: Phase::Draining { until: at(0) }, ..published() };
        let facts = Facts { queued: Some(1), absent: Some(Absent::default()), ..Facts::default() };
        assert_eq!(settle(&record, &facts, at(999)).expect("stays").phase, record.phase);
        assert_eq!(settle(&record, &facts, at(1000)).expect("stays").phase, Phase::Leaving);
    }

    #[test]
    fn a_longer_ttl_found_in_dns_counts() {
        let record = Record { phase: Phase::Withdrawing { since: at(0) }, ..published() };
        let facts = Facts {
            absent: Some(Absent { held_ttl: 86_400, lag_seconds: 7, ..Absent::default() }),
            ..Facts::default()
        };
        assert_eq!(
            settle(&record, &facts, at(0)).expect("stays").phase,
            Phase::Draining { until: at(86_400 + 30 + 60) }
        );
    }

    /// A write that arrives while the domain drains is found before Postfix lets the domain go.
    #[test]
    fn what_stands_again_at_the_end_of_a_drain_drains_anew() {
        let record = Record { phase: Phase::Draining { until: at(0) }, published: None, ..published() };
        let due = |queued, now| may_leave(&record, queued, LIMITS, at(now));
        assert!(due(Some(0), 0) && !due(Some(0), -1) && !due(Some(1), 0) && !due(None, 0) && due(None, 1000));
        assert_eq!(dns_task(&record, None, true), Some(DnsTask::Withdraw));
        assert_eq!(dns_task(&record, None, false), None);

        let again = Absent { held_ttl: 3600, lag_seconds: 7, removed: true, ..Absent::default() };
        let facts = |absent| Facts { absent: Some(absent), queued: Some(0), ..Facts::default() };
        let later = settle(&record, &facts(again), at(5)).expect("stays");
        assert_eq!(later.phase, Phase::Draining { until: at(5 + 3600 + 7 + 60) });
        let mut immediate = record.clone();
        immediate.spec.withdrawal = Withdrawal::Immediate;
        assert_eq!(settle(&immediate, &facts(again), at(5)).expect("stays").phase, Phase::Leaving);

        let named = Absent { names_us: true, ..Absent::default() };
        assert_eq!(settle(&record, &facts(named), at(999)).expect("stays").phase, record.phase);
        assert_eq!(settle(&record, &facts(named), at(1000)).expect("stays").phase, Phase::Leaving);
    }

    #[test]
    fn what_the_brake_holds_stays_in_service() {
        let held = Record { held: true, ..published() };
        assert_eq!(settle(&held, &Facts::default(), at(9)), Some(held.clone()));
        let draining = Record { phase: Phase::Draining { until: at(0) }, ..held };
        let facts = Facts { absent: Some(Absent::default()), queued: Some(0), ..Facts::default() };
        assert_eq!(settle(&draining, &facts, at(9)).expect("stays").phase, Phase::Leaving);
    }

    #[test]
    fn immediate_does_not_wait_for_caches() {
        let mut record = Record { phase: Phase::Withdrawing { since: at(0) }, ..published() };
        record.spec.withdrawal = Withdrawal::Immediate;
        let facts = Facts {
            absent: Some(Absent { held_ttl: 86_400, lag_seconds: 7, ..Absent::default() }),
            queued: Some(0),
            ..Facts::default()
        };
        assert_eq!(settle(&record, &facts, at(5)).expect("stays").phase, Phase::Leaving);
    }

    /// But it waits for its queue, as long as any domain does.
    #[test]
    fn immediate_waits_for_what_is_queued() {
        let mut record = published();
        record.spec.withdrawal = Withdrawal::Immediate;
        let facts = |queued| Facts { absent: Some(Absent::default()), queued, ..Facts::default() };
        for queued in [None, Some(1)] {
            let waiting = settle(&record, &facts(queued), at(2_000_000)).expect("stays");
            assert_eq!(waiting.phase, Phase::Draining { until: at(2_000_000) });
            let waiting = settle(&waiting, &facts(queued), at(2_000_999)).expect("stays");
            assert_eq!(waiting.phase, Phase::Draining { until: at(2_000_000) });
            assert_eq!(settle(&waiting, &facts(queued), at(2_001_000)).expect("stays").phase, Phase::Leaving);
        }
    }

    #[test]
    fn a_claim_ends_the_way_out_wherever_it_stands() {
        let spec = spec();
        let facts = Facts { claim: Some((&spec, "mail")), ..Facts::default() };
        for phase in [
            Phase::Withdrawing { since: at(0) },
            Phase::Draining { until: at(5) },
            Phase::Leaving,
            Phase::Withdrawn { check: at(7) },
        ] {
            let record = Record { phase, ..published() };
            assert_eq!(settle(&record, &facts, at(0)).expect("stays").phase, Phase::Serving);
        }
    }

    fn serving(programmed: bool, rights: Rights) -> Option<Serving<'static>> {
        Some(Serving { hostname: "mail.example.org", programmed, rights })
    }

    const NONE: Rights = Rights { adopt: false, unmanaged: false };
    const ALL: Rights = Rights { adopt: true, unmanaged: true };

    #[test]
    fn nothing_is_published_before_the_proof() {
        let record = Record::new("example.org", "mail", spec());
        assert_eq!(dns_task(&record, serving(false, ALL), false), None);
        let expected = DnsTask::Publish {
            mx: MxSet {
                ttl: 3600,
                records: [Mx { preference: 10, host: "mail.example.org".to_owned() }].into(),
            },
            zone: None,
            adopt: false,
        };
        assert_eq!(dns_task(&record, serving(true, ALL), false), Some(expected));
        assert_eq!(
            dns_task(&published(), serving(false, ALL), false),
            None,
            "and not withdrawn without need"
        );
        let leaving = Record { phase: Phase::Leaving, ..published() };
        assert_eq!(dns_task(&leaving, serving(true, ALL), false), None);
    }

    #[test]
    fn without_its_cell_a_domain_is_withdrawn_and_not_published() {
        assert_eq!(dns_task(&published(), None, false), None);
        let leaving = Record { phase: Phase::Withdrawing { since: at(0) }, ..published() };
        assert_eq!(dns_task(&leaving, None, false), Some(DnsTask::Withdraw));
    }

    #[test]
    fn rights_decide_about_adopting_and_about_staying_unpublished() {
        let adopts = |rights| {
            let mut record = published();
            record.spec.dns.adopt = true;
            matches!(
                dns_task(&record, serving(true, rights), false),
                Some(DnsTask::Publish { adopt: true, .. })
            )
        };
        assert!(adopts(ALL) && !adopts(NONE));
        let mut record = published();
        record.spec.dns.managed = false;
        assert_eq!(dns_task(&record, serving(true, ALL), false), Some(DnsTask::Withdraw));
        assert_eq!(dns_task(&record, serving(true, NONE), false), None, "what is published stays");
        record.published = None;
        assert_eq!(dns_task(&record, serving(true, ALL), false), None);
    }

    #[test]
    fn a_zone_that_is_away_for_a_moment_makes_no_mx_forgotten() {
        let mut unmanaged = spec();
        unmanaged.dns.managed = false;
        let absent = Some(Absent { names_us: true, zone_away: true, ..Absent::default() });
        let facts = Facts { claim: Some((&unmanaged, "mail")), absent, ..Facts::default() };
        let record = settle(&published(), &facts, at(100)).expect("stays");
        assert_eq!(record.published, published().published);
    }

    /// Whatever happens in between, the domain is served for as long as an MX of ours may be held.
    #[test]
    fn what_resolvers_hold_is_remembered_while_the_domain_is_served() {
        let mut unmanaged = spec();
        unmanaged.dns.managed = false;
        let absent = Some(Absent { names_us: true, ..Absent::default() });
        let facts = Facts { claim: Some((&unmanaged, "mail")), absent, ..Facts::default() };
        let record = settle(&published(), &facts, at(100)).expect("stays");
        assert_eq!((&record.phase, &record.published), (&Phase::Serving, &None));
        let held = at(100 + 3600 + 30 + 60);
        assert_eq!(record.held_until, Some(held));

        // Managed again, and deleted before anything was published.
        let managed = spec();
        let facts = Facts { claim: Some((&managed, "mail")), ..Facts::default() };
        let record = settle(&record, &facts, at(200)).expect("stays");
        let record = settle(&record, &Facts::default(), at(300)).expect("stays");
        assert_eq!(record.phase, Phase::Draining { until: held });

        // Back during the drain, and deleted again.
        let record = settle(&record, &facts, at(400)).expect("stays");
        assert_eq!((&record.phase, record.held_until), (&Phase::Serving, Some(held)));
        let record = settle(&record, &Facts::default(), at(500)).expect("stays");
        assert_eq!(record.phase, Phase::Draining { until: held });
    }

    #[test]
    fn somebody_elses_mx_that_names_us_is_waited_for_to_the_deadline() {
        let mut record = Record::new("example.org", "mail", spec());
        record.spec.dns.managed = false;
        let named = Absent { names_us: true, ..Absent::default() };
        let facts = |absent| Facts { absent: Some(absent), queued: Some(0), ..Facts::default() };
        let waiting = settle(&record, &facts(named), at(0)).expect("stays");
        assert_eq!(waiting.phase, Phase::Withdrawing { since: at(0) });
        assert_eq!(settle(&waiting, &facts(named), at(999)).expect("stays").phase, waiting.phase);
        let gone = settle(&waiting, &facts(Absent::default()), at(999)).expect("stays");
        assert_eq!(
            gone.phase,
            Phase::Draining { until: at(999 + 3600 + 60) },
            "its TTL is what the spec says"
        );
        let late = settle(&waiting, &facts(named), at(1000)).expect("stays");
        assert!(matches!(late.phase, Phase::Draining { .. }));
    }
}
