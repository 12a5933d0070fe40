//! Carrying out what is to be done in DNS: one task a domain at a time, checked again at intervals,
//! with pauses that grow after failures.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::time::Instant;
use tracing::warn;

use crate::api::conditions::Reason;
use crate::config::Config;
use crate::directory::Refusal;
use crate::dns::MxSet;
use crate::dns::{self, ApiKey, DnsError, MxHostResolver, PowerDns};
use crate::records::{Absent, DnsTask, Phase, Record};

use super::lease::{Held, WRITE_TIMEOUT};

/// How a task ended.
#[derive(Debug)]
pub struct Outcome {
    /// The domain.
    pub domain: String,
    /// What was to be done.
    pub task: DnsTask,
    /// What is known now.
    pub result: Result<Found, Refusal>,
}

/// What stands in DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The wanted records, read back.
    Published {
        /// The zone.
        zone: String,
        /// The records.
        mx: MxSet,
        /// Seconds that secondaries may lag.
        lag_seconds: u32,
        /// Something the administrator should know.
        warning: Option<String>,
    },
    /// Nothing of ours.
    Absent(Absent),
}

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(300);
/// Tasks at once: PowerDNS serves the world beside us.
const AT_ONCE: usize = 8;

/// What is known of each domain in DNS.
#[derive(Default)]
pub struct Desk {
    domains: BTreeMap<String, State>,
}

struct State {
    task: DnsTask,
    under_way: bool,
    next: Instant,
    failures: u32,
    last: Option<Result<Found, Refusal>>,
}

impl Desk {
    /// Whether a task is to be started now; notes that it was.
    pub fn take(&mut self, domain: &str, task: &DnsTask, now: Instant) -> bool {
        let state = self.domains.entry(domain.to_owned()).or_insert_with(|| State {
            task: task.clone(),
            under_way: false,
            next: now,
            failures: 0,
            last: None,
        });
        if state.task != *task && !state.under_way {
            *state = State { task: task.clone(), under_way: false, next: now, failures: 0, last: None };
        }
        let due = !state.under_way && now >= state.next;
        state.under_way |= due;
        due
    }

    /// Puts a task back that could not be started.
    pub fn put_back(&mut self, domain: &str, now: Instant) {
        if let Some(state) = self.domains.get_mut(domain) {
            state.under_way = false;
            state.next = now + FIRST_RETRY;
        }
    }

    /// Forgets a domain that has nothing to do in DNS, unless something is still under way.
    pub fn forget(&mut self, domain: &str) {
        if self.domains.get(domain).is_some_and(|state| !state.under_way) {
            self.domains.remove(domain);
        }
    }

    /// Forgets that nothing stood in DNS, once the domain is served again: that may be otherwise soon.
    pub fn forget_withdrawal(&mut self, domain: &str) {
        if self.domains.get(domain).is_some_and(|state| state.task == DnsTask::Withdraw) {
            self.forget(domain);
        }
    }

    /// Takes in how a task ended.
    pub fn note(&mut self, outcome: Outcome, check_interval: Duration, now: Instant) {
        let Some(state) = self.domains.get_mut(&outcome.domain) else { return };
        state.under_way = false;
        match &outcome.result {
            // What is waited for is looked for more often.
            Ok(found) if !matches!(found, Found::Absent(Absent { names_us: true, .. })) => {
                state.failures = 0;
                // Jitter: a thousand domains must not be checked in the same second for ever.
                state.next = now + check_interval.mul_f64(rand::rng().random_range(0.8..1.2));
            }
            Ok(_) | Err(_) => {
                let pause = FIRST_RETRY.saturating_mul(1 << state.failures.min(16)).min(LAST_RETRY);
                state.failures += 1;
                state.next = now + pause.mul_f64(rand::rng().random_range(0.8..1.2));
            }
        }
        state.last = Some(outcome.result);
    }

    /// How the last try of this very task ended.
    pub fn last(&self, domain: &str, task: &DnsTask) -> Option<&Result<Found, Refusal>> {
        self.domains.get(domain).filter(|state| state.task == *task)?.last.as_ref()
    }

    /// When the next task is due.
    pub fn next_look(&self) -> Option<Instant> {
        self.domains.values().filter(|state| !state.under_way).map(|state| state.next).min()
    }
}

/// Talks to PowerDNS.
#[derive(Clone)]
pub struct Publisher {
    url: String,
    server_id: String,
    api_key_file: PathBuf,
    owner_id: String,
    /// UID of the cluster.
    instance: String,
    resolver: Arc<MxHostResolver>,
    held: Held,
    at_once: Arc<Semaphore>,
    /// The client for the key that was read last: writes take turns in it.
    client: Arc<Mutex<Option<(String, PowerDns)>>>,
}

impl Publisher {
    /// A publisher for one installation in the cluster `instance`.
    ///
    /// # Errors
    /// When the system's resolver configuration cannot be read.
    pub fn new(config: &Config, instance: String, held: Held) -> Result<Self, DnsError> {
        Ok(Self {
            url: config.dns.powerdns.url.clone(),
            server_id: config.dns.powerdns.server_id.clone(),
            api_key_file: config.dns.powerdns.api_key_file.clone(),
            owner_id: config.owner_id().to_owned(),
            instance,
            resolver: Arc::new(MxHostResolver::new(config.dns.resolver)?),
            held,
            at_once: Arc::new(Semaphore::new(AT_ONCE)),
            client: Arc::default(),
        })
    }

    /// UID of the cluster.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Starts a task; its outcome goes to `to`.
    pub fn start<M: From<Outcome> + Send + 'static>(
        &self,
        record: &Record,
        task: DnsTask,
        hostname: &str,
        to: &mpsc::Sender<M>,
    ) {
        let (publisher, record, hostname, to) =
            (self.clone(), record.clone(), hostname.to_owned(), to.clone());
        tokio::spawn(async move {
            // The semaphore is never closed.
            let _permit = publisher.at_once.acquire().await;
            let result = publisher.carry_out(&record, &task, &hostname).await;
            // Nobody listens any more when the process ends.
            let _ = to.send(Outcome { domain: record.domain, task, result }.into()).await;
        });
    }

    #[tracing::instrument(target = "timing", level = "debug", skip_all, name = "dns", fields(domain = record.domain, task = task.verb()))]
    async fn carry_out(&self, record: &Record, task: &DnsTask, hostname: &str) -> Result<Found, Refusal> {
        match task {
            DnsTask::Publish { mx, zone, adopt } => {
                if !mx.records.iter().any(|mx| mx.host == hostname) {
                    let message = format!(
                        "spec.dns.mx does not contain {hostname}, which serves the domain; add it, or leave spec.dns.mx out"
                    );
                    return Err(Refusal { reason: Reason::MXHostMissing, message });
                }
                let published = record.published.as_ref();
                let zone_before = published.and_then(|published| published.zone.clone());
                // What a record from another cluster remembers, this one did not publish.
                let here = published.and_then(|published| published.instance.as_ref());
                let here = here.is_none_or(|instance| *instance == self.instance);
                let request = dns::PublishRequest {
                    domain: record.domain.clone(),
                    zone: zone.clone(),
                    mx: mx.clone(),
                    owner_id: self.owner_id.clone(),
                    instance: self.instance.clone(),
                    previously_published: zone_before.is_some() && here,
                    adopt: *adopt,
                };
                self.publish(record, request, zone_before, hostname).await.map_err(refusal)
            }
            DnsTask::Withdraw => {
                let absent = self.withdraw(record, zone_of(record), hostname).await.map_err(refusal)?;
                Ok(Found::Absent(absent))
            }
        }
    }

    async fn publish(
        &self,
        record: &Record,
        request: dns::PublishRequest,
        zone_before: Option<String>,
        hostname: &str,
    ) -> Result<Found, DnsError> {
        if zone_before.is_none() {
            self.resolver.check(hostname).await?;
        }
        let done = dns::publish(&self.provider().await?, &request, &self.guard(&record.domain)).await?;
        // The new zone first: a domain without any MX would fall back to its address record.
        if let Some(before) = zone_before.filter(|before| *before != done.zone) {
            self.withdraw(record, Some(before), hostname).await?;
        }
        Ok(Found::Published {
            zone: done.zone,
            mx: done.mx,
            lag_seconds: done.lag_seconds,
            warning: done.warning,
        })
    }

    async fn withdraw(
        &self,
        record: &Record,
        zone: Option<String>,
        hostname: &str,
    ) -> Result<Absent, DnsError> {
        let request = dns::WithdrawRequest {
            domain: record.domain.clone(),
            zone,
            owner_id: self.owner_id.clone(),
            instance: self.instance.clone(),
        };
        let done = dns::withdraw(&self.provider().await?, &request, &self.guard(&record.domain)).await?;
        let names_us = if done.no_zone {
            self.may_name(&record.domain, hostname).await
        } else {
            // Who publishes a domain himself may do so anywhere.
            !record.spec.dns.managed && self.resolver.names(&record.domain, hostname).await?
        };
        let names_us = names_us || done.foreign_hosts.contains(hostname);
        if names_us && matches!(record.phase, Phase::Withdrawing { .. }) {
            warn!(
                domain = record.domain,
                "an MX that is not ours names {hostname}{}: the domain is served until it is gone, or for dns.queueDeadlineSeconds",
                done.foreign.map(|text| format!(" ({text})")).unwrap_or_default()
            );
        }
        Ok(Absent {
            held_ttl: done.held_ttl,
            lag_seconds: done.lag_seconds,
            names_us,
            zone_away: done.no_zone && names_us,
            removed: done.removed,
        })
    }

    /// Whether senders may find an MX that names `hostname` although PowerDNS has no zone: one that is not there for a
    /// moment comes back with all its records. DNS that does not answer is no answer.
    async fn may_name(&self, domain: &str, hostname: &str) -> bool {
        let named = self.resolver.names(domain, hostname).await;
        match &named {
            Ok(false) => {}
            Ok(true) => {
                warn!(domain, "PowerDNS has no zone for the domain, but DNS has an MX that names {hostname}")
            }
            Err(error) => {
                warn!(
                    domain,
                    "PowerDNS has no zone for the domain, and whether DNS has an MX cannot be told: {error}"
                )
            }
        }
        named.unwrap_or(true)
    }

    /// The key is read at each use: a renewed Secret works without a restart.
    async fn provider(&self) -> Result<PowerDns, DnsError> {
        let key = tokio::fs::read_to_string(&self.api_key_file).await.map_err(|error| {
            let detail = format!(
                "the PowerDNS API key {} cannot be read: {error}; create the Secret that the chart's value dns.powerdns.secretName names",
                self.api_key_file.display()
            );
            DnsError::ProviderUnreachable { server: self.url.clone(), about: self.server_id.clone(), detail }
        })?;
        let mut client = self.client.lock().await;
        if let Some((_, known)) = client.as_ref().filter(|(known, _)| *known == key) {
            return Ok(known.clone());
        }
        // A call must be over before the lease is.
        let new =
            PowerDns::new(&self.url, ApiKey::new(key.trim()), &self.server_id)?.with_timeout(WRITE_TIMEOUT);
        *client = Some((key, new.clone()));
        Ok(new)
    }

    fn guard(&self, domain: &str) -> impl Fn() -> Result<(), DnsError> + Send + Sync + use<> {
        let (held, domain) = (self.held.clone(), domain.to_owned());
        move || match held.now() {
            true => Ok(()),
            false => {
                Err(DnsError::NotWritten { domain: domain.clone(), why: "the lease is not held".to_owned() })
            }
        }
    }
}

fn zone_of(record: &Record) -> Option<String> {
    record
        .published
        .as_ref()
        .and_then(|published| published.zone.clone())
        .or_else(|| record.spec.dns.zone.clone())
}

fn refusal(error: DnsError) -> Refusal {
    Refusal { reason: error.reason(), message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn absent(domain: &str) -> Outcome {
        let found = Found::Absent(Absent { held_ttl: 60, ..Absent::default() });
        Outcome { domain: domain.to_owned(), task: DnsTask::Withdraw, result: Ok(found) }
    }

    #[test]
    fn one_task_a_domain_at_a_time() {
        let (mut desk, now) = (Desk::default(), Instant::now());
        assert!(desk.take("example.org", &DnsTask::Withdraw, now));
        assert!(!desk.take("example.org", &DnsTask::Withdraw, now));
        assert!(desk.take("example.net", &DnsTask::Withdraw, now));
        desk.note(absent("example.org"), Duration::from_secs(600), now);
        assert!(!desk.take("example.org", &DnsTask::Withdraw, now), "it was checked just now");
        assert!(desk.take("example.org", &DnsTask::Withdraw, now + Duration::from_secs(721)));
    }

    #[test]
    fn pauses_grow_after_failures() {
        let (mut desk, mut now) = (Desk::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..12 {
            assert!(desk.take("example.org", &DnsTask::Withdraw, now));
            let refusal = Refusal { reason: Reason::ProviderUnreachable, message: String::new() };
            let failed =
                Outcome { domain: "example.org".to_owned(), task: DnsTask::Withdraw, result: Err(refusal) };
            desk.note(failed, Duration::from_secs(600), now);
            let next = desk.next_look().expect("a next look");
            pauses.push(next - now);
            now = next;
        }
        assert!(pauses[0] < Duration::from_secs(2) && pauses[11] > Duration::from_secs(200), "{pauses:?}");
    }

    /// Somebody else's MX, or a zone that PowerDNS does not have for a moment: it may be otherwise soon.
    #[test]
    fn what_is_waited_for_is_looked_for_soon() {
        let (mut desk, now) = (Desk::default(), Instant::now());
        assert!(desk.take("example.org", &DnsTask::Withdraw, now));
        let named = Found::Absent(Absent { names_us: true, ..Absent::default() });
        let outcome =
            Outcome { domain: "example.org".to_owned(), task: DnsTask::Withdraw, result: Ok(named) };
        desk.note(outcome, Duration::from_secs(600), now);
        assert!(desk.take("example.org", &DnsTask::Withdraw, now + Duration::from_secs(2)));
    }

    /// What was found out before a domain was served again says nothing about later.
    #[test]
    fn absence_is_forgotten_when_the_domain_comes_back() {
        let (mut desk, now) = (Desk::default(), Instant::now());
        desk.take("example.org", &DnsTask::Withdraw, now);
        desk.note(absent("example.org"), Duration::from_secs(600), now);
        assert!(desk.last("example.org", &DnsTask::Withdraw).is_some());
        desk.forget_withdrawal("example.org");
        assert!(desk.last("example.org", &DnsTask::Withdraw).is_none());
    }
}
