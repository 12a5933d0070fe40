//! Every way in which an MX goes, or stays.

use vmail_operator::api::conditions::Reason;
use vmail_operator::dns::{DnsError, Withdrawal, publish, withdraw};

use super::front::{Front, Mode};
use super::resolving::ask_mx;
use super::server::{KEY, server};
use super::{farewell, go, mx, wish};

#[tokio::test]
async fn ours_goes_completely_and_once() {
    let server = server();
    let front = Front::start(server.api, Mode::Forward).await;
    let pdns = super::client(&front.url(), KEY);
    server.zone("leave.test", "Native").await;
    server.put("leave.test", "leave.test", "A", 60, &["192.0.2.7"]).await;
    publish(&pdns, &wish("leave.test"), &go).await.expect("published");
    assert!(ask_mx(server.dns, "leave.test").await.is_some());

    let done = withdraw(&pdns, &farewell("leave.test"), &go).await.expect("withdrawn");
    assert_eq!(done, Withdrawal { removed: true, held_ttl: 3600, ..Withdrawal::default() });
    assert_eq!(ask_mx(server.dns, "leave.test").await, None);
    assert_eq!(server.get("leave.test", "_vmail-owner.leave.test", "TXT").await, None);
    assert!(server.get("leave.test", "leave.test", "A").await.is_some());

    let (serial, writes) = (server.serial("leave.test").await, front.writes());
    let again = withdraw(&pdns, &farewell("leave.test"), &go).await.expect("withdrawn");
    assert_eq!(again, Withdrawal::default());
    assert_eq!((server.serial("leave.test").await, front.writes()), (serial, writes));
}

#[tokio::test]
async fn what_resolvers_and_secondaries_may_hold_is_told() {
    let server = server();
    let pdns = server.client();
    server.zone("held.test", "Master").await;
    for ttl in [86_400, 60] {
        let request = super::PublishRequest { mx: mx(ttl, &["mail.us.test"]), ..wish("held.test") };
        publish(&pdns, &request, &go).await.expect("published");
    }
    let done = withdraw(&pdns, &farewell("held.test"), &go).await.expect("withdrawn");
    assert!(done.held_ttl > 86_000 && done.lag_seconds == 14_400, "{done:?}");
}

#[tokio::test]
async fn what_is_not_ours_stays() {
    let server = server();
    let pdns = server.client();
    server.zone("stays.test", "Native").await;
    let check = async |says: &str| {
        let serial = server.serial("stays.test").await;
        let done = withdraw(&pdns, &farewell("stays.test"), &go).await.expect("nothing to do");
        assert!(!done.removed);
        let text = done.foreign.expect("what stands there");
        assert!(text.contains(says), "{text}");
        assert_eq!(server.serial("stays.test").await, serial);
        done.foreign_hosts
    };
    server.put("stays.test", "stays.test", "MX", 60, &["5 MX.them.test.", "10 mail.us.test."]).await;
    let hosts = check("5 mx.them.test.").await;
    assert_eq!(hosts, ["mail.us.test".to_owned(), "mx.them.test".to_owned()].into());

    server.put("stays.test", "stays.test", "MX", 60, &[]).await;
    let theirs = super::PublishRequest { owner_id: "mail.them.test".into(), ..wish("stays.test") };
    publish(&pdns, &theirs, &go).await.expect("published");
    check("mail.them.test").await;

    server.put("stays.test", "_vmail-owner.stays.test", "TXT", 60, &[]).await;
    publish(&pdns, &super::PublishRequest { instance: "uid-2".into(), ..wish("stays.test") }, &go)
        .await
        .expect("published");
    check("uid-2").await;
}

#[tokio::test]
async fn half_of_ours_goes_too() {
    let server = server();
    let pdns = server.client();
    server.zone("half.test", "Native").await;
    publish(&pdns, &wish("half.test"), &go).await.expect("published");
    server.put("half.test", "half.test", "MX", 60, &[]).await;
    let done = withdraw(&pdns, &farewell("half.test"), &go).await.expect("withdrawn");
    assert!(done.removed && done.held_ttl > 3_500, "{done:?}");
    assert_eq!(server.get("half.test", "_vmail-owner.half.test", "TXT").await, None);
}

#[tokio::test]
async fn a_zone_that_is_gone_holds_nothing_and_is_told() {
    let server = server();
    let pdns = server.client();
    server.zone("gone.test", "Native").await;
    publish(&pdns, &wish("gone.test"), &go).await.expect("published");
    server.delete_zone("gone.test").await;
    for zone in [None, Some("gone.test".to_owned())] {
        let request = super::WithdrawRequest { zone, ..farewell("gone.test") };
        let gone = Withdrawal { no_zone: true, ..Withdrawal::default() };
        assert_eq!(withdraw(&pdns, &request, &go).await, Ok(gone));
    }
}

#[tokio::test]
async fn the_guard_has_the_last_word() {
    let server = server();
    let pdns = server.client();
    server.zone("kept.test", "Native").await;
    publish(&pdns, &wish("kept.test"), &go).await.expect("published");
    let lost = || Err(DnsError::NotWritten { domain: "kept.test".into(), why: "the lease is lost".into() });
    let error = withdraw(&pdns, &farewell("kept.test"), &lost).await.expect_err("no lease");
    assert_eq!(error.reason(), Reason::Pending);
    assert!(ask_mx(server.dns, "kept.test").await.is_some());
}

#[tokio::test]
async fn from_one_zone_to_another() {
    let server = server();
    let pdns = server.client();
    server.zone("move.test", "Native").await;
    publish(&pdns, &wish("a.move.test"), &go).await.expect("published");
    // From now on the parent's record is not served any more, and still it must go.
    server.zone("a.move.test", "Native").await;
    let old = super::WithdrawRequest { zone: Some("move.test".into()), ..farewell("a.move.test") };
    assert!(withdraw(&pdns, &old, &go).await.expect("withdrawn").removed);
    assert_eq!(server.get("move.test", "a.move.test", "MX").await, None);
    let done = publish(&pdns, &wish("a.move.test"), &go).await.expect("published");
    assert_eq!(done.zone, "a.move.test");
}

#[tokio::test]
async fn a_zone_turned_secondary_cannot_be_withdrawn_from() {
    let server = server();
    let pdns = server.client();
    server.zone("turned.test", "Native").await;
    publish(&pdns, &wish("turned.test"), &go).await.expect("published");
    server.set_zone("turned.test", serde_json::json!({"kind": "Slave", "masters": ["192.0.2.1"]})).await;
    let error = withdraw(&pdns, &farewell("turned.test"), &go).await.expect_err("a copy");
    assert_eq!(error.reason(), Reason::ZoneNotWritable);
    assert!(server.get("turned.test", "turned.test", "MX").await.is_some());
}
