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
#[path = "step_test.rs"]
mod step_test;
