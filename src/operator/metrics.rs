//! The metrics of the operator.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use crate::directory::Fill;
use crate::metrics::{Labels, described, exposition, number};
use crate::records::Phase;

described! {
    INFO "vmail_build_info" "gauge" ["version"] "1, with the version of the operator."
    LEASE_HELD "vmail_lease_held" "gauge" [] "Whether this process holds the Lease, and so writes."
    READY "vmail_ready" "gauge" [] "Whether everything was listed and no watch is broken, as `/readyz` says."
    WATCH_ERRORS "vmail_watch_errors_total" "counter" ["resource"] "Errors of watches, each tried again."
    OBJECTS "vmail_objects" "gauge" ["kind", "reason"] "MailDomains, Mailboxes and MailAliases by the reason of their condition `Ready`."
    RECORDS "vmail_domain_records" "gauge" ["phase"] "Domain records by phase; all but `Serving` are on their way out."
    WITHDRAWING_SINCE "vmail_withdrawing_oldest_timestamp_seconds" "gauge" [] "Since when the oldest way out is under way that this process sees, as Unix time; 0 while there is none."
    BRAKE_HELD "vmail_brake_held" "gauge" ["kind"] "Domains and addresses that would leave service although nothing was deleted, and are kept until the administrator confirms it."
    AGENT_UP "vmail_cell_agent_up" "gauge" ["cell"] "Whether the agent in the Postfix pod of a cell answers."
    CURRENT "vmail_cell_current" "gauge" ["cell"] "Whether the revision that the agent reports as live is the one that stands in the ConfigMaps."
    REJECTED "vmail_cell_rejected" "gauge" ["cell"] "Whether the agent refused the revision that stands in the ConfigMaps."
    CELL_DOMAINS "vmail_cell_domains" "gauge" ["cell", "proved"] "Domains that the agent of a cell reports, by the outcome of their last proof."
    TABLES_USED "vmail_tables_used_bytes" "gauge" ["cell", "kind"] "Table text of a cell, by what it is about."
    TABLES_ROOM "vmail_tables_room_bytes" "gauge" ["cell", "kind"] "Table text of this kind that a cell has room for; what came last and does not fit is refused."
    LIVE_SECONDS "vmail_revision_live_seconds" "histogram" ["cell"] "From writing a revision to the ConfigMaps until its agent reports it as live and its domains as asked about."
    DNS_OPERATIONS "vmail_dns_operations_total" "counter" ["operation"] "Tasks in DNS that ended, good or bad: `publish` also for each check of what stands there, `withdraw`."
    DNS_ERRORS "vmail_dns_errors_total" "counter" ["operation", "reason"] "Those that failed, by the reason that the MailDomain is told."
    API_WRITES "vmail_api_writes_total" "counter" ["what", "result"] "Writes to the API server: `record`, `tables`, `brake`, `status`, `event`, `annotation`; result `ok`, `refused`, `timeout` or `not_held` (the Lease)."
    EVENTS "vmail_events_total" "counter" ["result"] "Kubernetes Events, `recorded` or `dropped`."
}

/// A watch that has gone on failing for this long is broken.
const BROKEN_AFTER: Duration = Duration::from_secs(90);
/// A watch that has not failed for this long works. A try may take 60 s to fail (`READ_TIMEOUT`), after a pause of 30 s,
/// to which kube adds at random up to as much again.
const WORKS_AFTER: Duration = Duration::from_secs(150);

/// All counts of this process. Clones are the same.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    /// Held while several gauges change together, and while they are read.
    together: Mutex<()>,
    /// Since when a watch has been failing, and when it did last.
    failing: Mutex<BTreeMap<&'static str, (Instant, Instant)>>,
    /// Since when domains are on their way out.
    leaving: Mutex<BTreeMap<String, Timestamp>>,
    lease_held: Gauge,
    ready: Gauge,
    watch_errors: Family<Labels, Counter>,
    objects: Family<Labels, Gauge>,
    records: Family<Labels, Gauge>,
    withdrawing_since: Gauge,
    brake_held: Family<Labels, Gauge>,
    agent_up: Family<Labels, Gauge>,
    current: Family<Labels, Gauge>,
    rejected: Family<Labels, Gauge>,
    domains: Family<Labels, Gauge>,
    tables_used: Family<Labels, Gauge>,
    tables_room: Family<Labels, Gauge>,
    live_seconds: Family<Labels, Histogram, fn() -> Histogram>,
    dns_operations: Family<Labels, Counter>,
    dns_errors: Family<Labels, Counter>,
    api_writes: Family<Labels, Counter>,
    events: Family<Labels, Counter>,
}

/// What one cell's gauges say.
#[derive(Debug)]
pub struct CellState {
    /// The agent answers.
    pub up: bool,
    /// What is live is what is wanted.
    pub current: bool,
    /// What is wanted was refused.
    pub rejected: bool,
    /// Domains that are proved, and those that are not.
    pub domains: (usize, usize),
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let info = INFO.register(&mut registry, Family::<Labels, Gauge>::default());
        info.get_or_create(&vec![("version", env!("CARGO_PKG_VERSION").to_owned())]).set(1);
        let seconds: fn() -> Histogram =
            || Histogram::new([0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0]);
        let live_seconds = Family::new_with_constructor(seconds);
        Self(Arc::new(Inner {
            lease_held: LEASE_HELD.register(&mut registry, Gauge::default()),
            ready: READY.register(&mut registry, Gauge::default()),
            watch_errors: WATCH_ERRORS.register(&mut registry, Family::default()),
            objects: OBJECTS.register(&mut registry, Family::default()),
            records: RECORDS.register(&mut registry, Family::default()),
            withdrawing_since: WITHDRAWING_SINCE.register(&mut registry, Gauge::default()),
            brake_held: BRAKE_HELD.register(&mut registry, Family::default()),
            agent_up: AGENT_UP.register(&mut registry, Family::default()),
            current: CURRENT.register(&mut registry, Family::default()),
            rejected: REJECTED.register(&mut registry, Family::default()),
            domains: CELL_DOMAINS.register(&mut registry, Family::default()),
            tables_used: TABLES_USED.register(&mut registry, Family::default()),
            tables_room: TABLES_ROOM.register(&mut registry, Family::default()),
            live_seconds: LIVE_SECONDS.register(&mut registry, live_seconds),
            dns_operations: DNS_OPERATIONS.register(&mut registry, Family::default()),
            dns_errors: DNS_ERRORS.register(&mut registry, Family::default()),
            api_writes: API_WRITES.register(&mut registry, Family::default()),
            events: EVENTS.register(&mut registry, Family::default()),
            together: Mutex::default(),
            failing: Mutex::default(),
            leaving: Mutex::default(),
            registry,
        }))
    }
}

impl Metrics {
    /// The text that Prometheus reads.
    pub fn text(&self) -> String {
        let _together = self.0.together.lock().unwrap_or_else(PoisonError::into_inner);
        exposition(&self.0.registry)
    }

    /// Whether this process writes.
    pub fn lease(&self, held: bool) {
        self.0.lease_held.set(held.into());
    }

    /// Whether the operator is ready.
    pub fn ready(&self, ready: bool) {
        self.0.ready.set(ready.into());
    }

    /// A watch of this resource failed.
    pub fn watch_failed(&self, resource: &'static str, now: Instant) {
        self.0.watch_errors.get_or_create(&vec![("resource", resource.to_owned())]).inc();
        let mut failing = self.0.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, last) = failing.entry(resource).or_insert((now, now));
        if now - *last > WORKS_AFTER {
            *since = now;
        }
        *last = now;
    }

    /// A watch of this resource brought something.
    pub fn watch_works(&self, resource: &'static str) {
        self.0.failing.lock().unwrap_or_else(PoisonError::into_inner).remove(resource);
    }

    /// The resource whose watch is broken, if there is one. A watch that works again without anything to tell is silent, so
    /// one that has not failed for a while counts as well.
    pub fn broken_watch(&self, now: Instant) -> Option<&'static str> {
        let failing = self.0.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let broken =
            |since: &Instant, last: &Instant| now - *since > BROKEN_AFTER && now - *last < WORKS_AFTER;
        failing.iter().find(|(_, (since, last))| broken(since, last)).map(|(resource, _)| *resource)
    }

    /// How many objects there are, by kind and by the reason of `Ready`.
    pub fn objects(&self, counts: &BTreeMap<(&'static str, &'static str), usize>) {
        let _together = self.0.together.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.objects.clear();
        for ((kind, reason), count) in counts {
            let labels = vec![("kind", kind.to_string()), ("reason", reason.to_string())];
            self.0.objects.get_or_create(&labels).set(number(*count));
        }
    }

    /// All domain records: domain and phase.
    pub fn records<'a>(&self, records: impl Iterator<Item = (&'a str, &'a Phase)>) {
        let mut counts: BTreeMap<&str, usize> = PHASES.into_iter().map(|phase| (phase, 0)).collect();
        let mut leaving = self.0.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        let mut still = BTreeMap::new();
        for (domain, phase) in records {
            *counts.entry(phase_name(phase)).or_default() += 1;
            let since = match phase {
                Phase::Serving => continue,
                Phase::Withdrawing { since } => *since,
                _ => Timestamp::now(),
            };
            // No later phase says when the way out began.
            still.insert(domain.to_owned(), leaving.get(domain).copied().unwrap_or(since));
        }
        *leaving = still;
        let oldest = leaving.values().min().map_or(0, |since| since.as_second());
        let _together = self.0.together.lock().unwrap_or_else(PoisonError::into_inner);
        for (phase, count) in counts {
            self.0.records.get_or_create(&vec![("phase", phase.to_owned())]).set(number(count));
        }
        self.0.withdrawing_since.set(oldest);
    }

    /// How much the brake holds.
    pub fn brake(&self, domains: usize, addresses: usize) {
        let _together = self.0.together.lock().unwrap_or_else(PoisonError::into_inner);
        for (kind, count) in [("domains", domains), ("addresses", addresses)] {
            self.0.brake_held.get_or_create(&vec![("kind", kind.to_owned())]).set(number(count));
        }
    }

    /// The state of a cell.
    pub fn cell(&self, cell: &str, state: &CellState) {
        let _together = self.0.together.lock().unwrap_or_else(PoisonError::into_inner);
        let labels = vec![("cell", cell.to_owned())];
        self.0.agent_up.get_or_create(&labels).set(state.up.into());
        self.0.current.get_or_create(&labels).set(state.current.into());
        self.0.rejected.get_or_create(&labels).set(state.rejected.into());
        for (proved, count) in [("true", state.domains.0), ("false", state.domains.1)] {
            let labels = vec![("cell", cell.to_owned()), ("proved", proved.to_owned())];
            self.0.domains.get_or_create(&labels).set(number(count));
        }
    }

    /// How full the tables of all cells are.
    pub fn tables(&self, fills: &[Fill]) {
        let _together = self.0.together.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.tables_used.clear();
        self.0.tables_room.clear();
        for fill in fills {
            let labels = vec![("cell", fill.cell.clone()), ("kind", fill.kind.replace(' ', "_"))];
            self.0.tables_used.get_or_create(&labels).set(number(fill.taken));
            self.0.tables_room.get_or_create(&labels).set(number(fill.room));
        }
    }

    /// A revision is live that was written so long ago.
    pub fn live_after(&self, cell: &str, time: Duration) {
        self.0.live_seconds.get_or_create(&vec![("cell", cell.to_owned())]).observe(time.as_secs_f64());
    }

    /// A task in DNS ended; with the reason when it failed.
    pub fn dns(&self, operation: &'static str, failed: Option<&'static str>) {
        let mut labels = vec![("operation", operation.to_owned())];
        self.0.dns_operations.get_or_create(&labels).inc();
        if let Some(reason) = failed {
            labels.push(("reason", reason.to_owned()));
            self.0.dns_errors.get_or_create(&labels).inc();
        }
    }

    /// A write to the API server ended.
    pub fn api_write(&self, what: &'static str, result: &'static str) {
        let labels = vec![("what", what.to_owned()), ("result", result.to_owned())];
        self.0.api_writes.get_or_create(&labels).inc();
    }

    /// An Event was recorded, or dropped.
    pub fn event(&self, result: &'static str) {
        self.0.events.get_or_create(&vec![("result", result.to_owned())]).inc();
    }
}

/// The name of each phase.
const PHASES: [&str; 5] = ["Serving", "Withdrawing", "Draining", "Leaving", "Withdrawn"];

/// The name of a phase, in logs and metrics.
pub fn phase_name(phase: &Phase) -> &'static str {
    match phase {
        Phase::Serving => PHASES[0],
        Phase::Withdrawing { .. } => PHASES[1],
        Phase::Draining { .. } => PHASES[2],
        Phase::Leaving => PHASES[3],
        Phase::Withdrawn { .. } => PHASES[4],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::compare;

    #[test]
    fn the_reference_names_what_there_is() {
        let metrics = Metrics::default();
        metrics.watch_failed("pods", Instant::now());
        metrics.objects(&BTreeMap::from([(("Mailbox", "Ready"), 3)]));
        metrics.records([("a.example", &Phase::Serving)].into_iter());
        let domains = (1, 0);
        metrics.cell("default", &CellState { up: true, current: true, rejected: false, domains });
        metrics.brake(0, 1);
        metrics.tables(&[Fill { cell: "default".to_owned(), kind: "mailboxes", taken: 1, room: 100 }]);
        metrics.live_after("default", Duration::from_secs(1));
        metrics.dns("publish", Some("ProviderUnreachable"));
        metrics.api_write("status", "ok");
        metrics.event("dropped");
        let text = metrics.text();
        compare(&text, ALL);
        let used = "vmail_tables_used_bytes{cell=\"default\",kind=\"mailboxes\"} 1\n";
        assert!(text.contains(used), "{text}");
        assert!(text.contains("vmail_objects{kind=\"Mailbox\",reason=\"Ready\"} 3\n"), "{text}");
        metrics.objects(&BTreeMap::new());
        assert!(!metrics.text().contains("Mailbox"), "what there is no more of is not told");
    }

    #[test]
    fn a_watch_is_broken_while_it_goes_on_failing() {
        let (metrics, start) = (Metrics::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for seconds in [0, 40, 80] {
            metrics.watch_failed("pods", at(seconds));
            assert_eq!(metrics.broken_watch(at(seconds)), None);
        }
        metrics.watch_failed("pods", at(120));
        assert_eq!(metrics.broken_watch(at(121)), Some("pods"));
        // It works again, and has nothing to tell.
        assert_eq!(metrics.broken_watch(at(280)), None);
        metrics.watch_failed("pods", at(300));
        assert_eq!(metrics.broken_watch(at(301)), None, "another failure later is a new one");
        metrics.watch_failed("pods", at(350));
        metrics.watch_failed("pods", at(391));
        assert_eq!(metrics.broken_watch(at(392)), Some("pods"));
        metrics.watch_works("pods");
        assert_eq!(metrics.broken_watch(at(392)), None);
    }

    #[test]
    fn the_oldest_way_out_is_told_until_it_is_over() {
        let metrics = Metrics::default();
        let since = Timestamp::from_second(1000).expect("a time");
        let withdrawing = Phase::Withdrawing { since };
        metrics.records([("a.example", &withdrawing), ("b.example", &Phase::Serving)].into_iter());
        metrics.records([("a.example", &Phase::Leaving)].into_iter());
        assert!(metrics.text().contains("vmail_withdrawing_oldest_timestamp_seconds 1000\n"));
        metrics.records([("a.example", &Phase::Serving)].into_iter());
        let text = metrics.text();
        assert!(text.contains("vmail_withdrawing_oldest_timestamp_seconds 0\n"), "{text}");
        assert!(text.contains("vmail_domain_records{phase=\"Leaving\"} 0\n"), "{text}");
    }
}
