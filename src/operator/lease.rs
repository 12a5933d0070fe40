//! The Lease: at most one operator writes.
//!
//! Claims and renewals are replaces that name the resource version they are based on, so that of two
//! candidates one fails. A holder counts itself as holding from before the request that renewed it, and
//! stops writing [`WRITE_TIMEOUT`] before the lease runs out for the others: a write that was let through is
//! over by then. Time is never compared between machines: a candidate goes by its own monotonic clock, a holder by
//! that and the wall clock, because the monotonic one stands still while a machine is suspended.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::PostParams;
use kube::core::ObjectMeta;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

/// Longest time that one write to the outside may take.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

const DURATION: Duration = Duration::from_secs(20);
const RENEW_EVERY: Duration = Duration::from_secs(4);
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// Tells whether this process holds the lease.
#[derive(Clone, Debug)]
pub struct Held(Arc<watch::Sender<Option<Renewed>>>);

/// When the lease was renewed.
#[derive(Clone, Copy, Debug)]
struct Renewed {
    monotonic: Instant,
    wall: SystemTime,
}

impl Renewed {
    fn now() -> Self {
        Self { monotonic: Instant::now(), wall: SystemTime::now() }
    }

    /// The longer of both: a wall clock that was set forward only makes the holder renew once more, one that was set
    /// back counts for nothing.
    fn elapsed(&self) -> Duration {
        self.monotonic.elapsed().max(self.wall.elapsed().unwrap_or_default())
    }
}

impl Held {
    /// Whether a write that starts now ends while the lease is still ours.
    pub fn now(&self) -> bool {
        self.0.borrow().is_some_and(|renewed| renewed.elapsed() + WRITE_TIMEOUT < DURATION)
    }

    /// Waits until the lease is ours.
    pub async fn acquired(&self) {
        let mut changes = self.0.subscribe();
        // The sender lives as long as self.
        let _ = changes.wait_for(Option::is_some).await;
    }
}

/// Competes for the Lease `name` as `identity`, for as long as the process lives. `lost` is called when
/// a lease that was held could not be renewed in time.
pub fn compete(
    client: Client,
    namespace: &str,
    name: &str,
    identity: String,
    lost: impl FnOnce() + Send + 'static,
) -> Held {
    let held = Held(Arc::new(watch::Sender::new(None)));
    let candidate =
        Candidate { leases: Api::namespaced(client, namespace), name: name.to_owned(), identity, seen: None };
    tokio::spawn(candidate.run(held.clone(), lost));
    held
}

/// Gives the lease up, so that the next process need not wait. Whoever calls this writes no more.
pub async fn release(client: Client, namespace: &str, name: &str, identity: &str, held: &Held) {
    held.0.send_replace(None);
    let leases: Api<Lease> = Api::namespaced(client, namespace);
    let give_up = async {
        let mut lease = leases.get(name).await?;
        if holder(&lease) == Some(identity) {
            if let Some(spec) = &mut lease.spec {
                spec.holder_identity = Some(String::new());
            }
            leases.replace(name, &PostParams::default(), &lease).await?;
        }
        Ok::<(), kube::Error>(())
    };
    match timeout(WRITE_TIMEOUT, give_up).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            warn!(lease = name, %error, "the lease could not be given up; it runs out by itself")
        }
        Err(_) => warn!(lease = name, "the lease could not be given up in time; it runs out by itself"),
    }
}

struct Candidate {
    leases: Api<Lease>,
    name: String,
    identity: String,
    /// The foreign version last seen, and when it was first seen.
    seen: Option<(String, Instant)>,
}

impl Candidate {
    async fn run(mut self, held: Held, lost: impl FnOnce()) {
        loop {
            let began = Renewed::now();
            match timeout(WRITE_TIMEOUT, self.try_once()).await {
                Ok(Ok(true)) => {
                    if held.0.send_replace(Some(began)).is_none() {
                        info!(lease = self.name, identity = self.identity, "holding the lease");
                    }
                }
                Ok(Ok(false)) => {
                    if held.0.borrow().is_some() {
                        break;
                    }
                }
                Ok(Err(error)) => {
                    warn!(lease = self.name, %error, "the lease could not be claimed or renewed")
                }
                Err(_) => warn!(lease = self.name, "the API server did not answer in time about the lease"),
            }
            let holding = *held.0.borrow();
            if holding.is_some_and(|renewed| renewed.elapsed() >= DURATION) {
                break;
            }
            sleep(if holding.is_some() { RENEW_EVERY } else { RETRY_EVERY }).await;
        }
        held.0.send_replace(None);
        lost();
    }

    /// Whether the lease is ours after this try.
    async fn try_once(&mut self) -> Result<bool, kube::Error> {
        let Some(mut lease) = self.leases.get_opt(&self.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                spec: Some(self.spec(0)),
            };
            return self.settled(self.leases.create(&PostParams::default(), &lease).await);
        };
        let holder = holder(&lease).unwrap_or_default();
        if !holder.is_empty() && holder != self.identity && !self.ran_out(&lease) {
            return Ok(false);
        }
        let transitions = lease.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or(0);
        let changes_hands = i32::from(holder != self.identity);
        lease.spec = Some(self.spec(transitions.saturating_add(changes_hands)));
        self.settled(self.leases.replace(&self.name, &PostParams::default(), &lease).await)
    }

    fn settled(&self, result: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
        match result {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether somebody else's lease has stood unchanged for its whole duration, by our clock.
    fn ran_out(&mut self, lease: &Lease) -> bool {
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        match &self.seen {
            Some((known, since)) if *known == version => since.elapsed() > DURATION,
            _ => {
                self.seen = Some((version, Instant::now()));
                false
            }
        }
    }

    fn spec(&self, transitions: i32) -> LeaseSpec {
        let now = MicroTime(jiff::Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            lease_transitions: Some(transitions),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }
    }
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(renewed: Renewed) -> Held {
        Held(Arc::new(watch::Sender::new(Some(renewed))))
    }

    /// A machine that was suspended wakes up with a monotonic clock that knows nothing of it.
    #[test]
    fn a_suspended_holder_holds_nothing_when_it_wakes_up() {
        let now = Renewed::now();
        assert!(held(now).now());
        let suspended = Renewed { wall: now.wall - DURATION, ..now };
        assert!(!held(suspended).now());
    }

    #[test]
    fn a_clock_that_was_set_back_changes_nothing() {
        let now = Renewed::now();
        assert!(held(Renewed { wall: now.wall + Duration::from_secs(3600), ..now }).now());
        let old = Renewed { monotonic: now.monotonic - DURATION, wall: now.wall + Duration::from_secs(3600) };
        assert!(!held(old).now());
    }
}
