//! A primary and a secondary, with transfers between them.

use std::time::{Duration, Instant};

use serde_json::json;
use vmail_operator::api::conditions::Reason;
use vmail_operator::dns::{MxSet, publish, withdraw};

use super::resolving::ask_mx;
use super::server::{Server, server_with};
use super::{farewell, go, wish};

const PATIENCE: Duration = Duration::from_secs(60);

/// A primary that tells its secondary of changes, and one that tells nobody.
async fn pair(zone: &str, tells: bool) -> (Server, Server) {
    let secondary = server_with("secondary=yes\nxfr-cycle-interval=1");
    let notify = if tells { format!("also-notify={}", secondary.dns) } else { "only-notify=".to_owned() };
    let primary =
        server_with(&format!("primary=yes\nallow-axfr-ips=127.0.0.0/8\nxfr-cycle-interval=1\n{notify}"));
    primary.zone(zone, "Master").await;
    secondary.copy(zone, &primary).await;
    wait(&secondary, zone, "the first copy", |_, serial| serial > 0).await;
    (primary, secondary)
}

/// Until the secondary serves what is wanted.
async fn wait(secondary: &Server, zone: &str, what: &str, wanted: impl Fn(Option<MxSet>, u64) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let serial = secondary.serial(zone).await;
        let mx = if serial > 0 { ask_mx(secondary.dns, zone).await } else { None };
        if wanted(mx.clone(), serial) {
            return;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}: {mx:?}, serial {serial}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secondary_that_is_told_follows_and_cannot_be_written_to() {
    let (primary, secondary) = pair("told.test", true).await;
    let done = publish(&primary.client(), &wish("told.test"), &go).await.expect("published");
    assert_eq!(done.warning, None);
    wait(&secondary, "told.test", "the MX", |mx, _| mx == Some(wish("told.test").mx)).await;

    let before = secondary.rrsets("told.test").await;
    let error = publish(
        &secondary.client(),
        &super::PublishRequest { mx: super::mx(60, &["mail.us.test"]), ..wish("told.test") },
        &go,
    )
    .await
    .expect_err("a copy");
    assert_eq!(error.reason(), Reason::ZoneNotWritable, "{error}");
    let error = withdraw(&secondary.client(), &farewell("told.test"), &go).await.expect_err("a copy");
    assert_eq!(error.reason(), Reason::ZoneNotWritable, "{error}");
    assert_eq!(secondary.rrsets("told.test").await, before);

    withdraw(&primary.client(), &farewell("told.test"), &go).await.expect("withdrawn");
    wait(&secondary, "told.test", "the end of the MX", |mx, _| mx.is_none()).await;
}

/// Senders ask any name server of the zone. One that nobody tells looks after `refresh`, and when the primary does not answer
/// then, again after `retry`: so long the MX is still served, and so long a drain lasts at least.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secondary_that_lags_is_waited_for() {
    let (primary, secondary) = pair("lags.test", false).await;
    let soa = "ns.us.test. hostmaster.us.test. 1 1800 900 604800 60";
    primary.put("lags.test", "lags.test", "SOA", 3600, &[soa]).await;
    publish(&primary.client(), &wish("lags.test"), &go).await.expect("published");
    secondary.retrieve("lags.test").await;
    wait(&secondary, "lags.test", "the MX", |mx, _| mx.is_some()).await;

    let done = withdraw(&primary.client(), &farewell("lags.test"), &go).await.expect("withdrawn");
    assert_eq!(done.lag_seconds, 2_700, "refresh and retry");
    assert_eq!(ask_mx(primary.dns, "lags.test").await, None);
    assert!(ask_mx(secondary.dns, "lags.test").await.is_some(), "it has not looked yet");
    secondary.retrieve("lags.test").await;
    wait(&secondary, "lags.test", "the end of the MX", |mx, _| mx.is_none()).await;
}

/// Without `refresh` of hours: the lag that is told is real time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refresh_and_retry_are_enough() {
    let (primary, secondary) = pair("soon.test", false).await;
    let soa = "ns.us.test. hostmaster.us.test. 1 2 1 604800 60";
    primary.put("soon.test", "soon.test", "SOA", 3600, &[soa]).await;
    publish(&primary.client(), &wish("soon.test"), &go).await.expect("published");
    secondary.retrieve("soon.test").await;
    wait(&secondary, "soon.test", "the MX", |mx, _| mx.is_some()).await;
    let done = withdraw(&primary.client(), &farewell("soon.test"), &go).await.expect("withdrawn");
    assert_eq!(done.lag_seconds, 3);
    let since = Instant::now();
    wait(&secondary, "soon.test", "the end of the MX", |mx, _| mx.is_none()).await;
    // With the margin of a drain (60 s), which is for servers that are not punctual.
    assert!(since.elapsed() < Duration::from_secs(u64::from(done.lag_seconds) + 60));
}

/// With `soa_edit_api` empty the secondary takes its old copy for the newest one: both ways are complained about.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_serial_that_stays_leaves_the_secondary_behind() {
    let (primary, secondary) = pair("stays.test", true).await;
    publish(&primary.client(), &wish("stays.test"), &go).await.expect("published");
    wait(&secondary, "stays.test", "the MX", |mx, _| mx.is_some()).await;
    primary.set_zone("stays.test", json!({"soa_edit_api": ""})).await;

    let done = withdraw(&primary.client(), &farewell("stays.test"), &go).await.expect("withdrawn");
    let warning = done.warning.expect("a warning");
    assert!(warning.contains("stays.test") && warning.contains("soa_edit_api"), "{warning}");
    secondary.retrieve("stays.test").await;
    let done = publish(&primary.client(), &wish("stays.test"), &go).await.expect("published");
    assert!(done.warning.expect("a warning").contains("soa_edit_api"));
}
