//! Every way in which an MX comes to stand, or does not.

use vmail_operator::api::conditions::Reason;
use vmail_operator::dns::{DnsError, Mx, MxSet, publish};

use super::front::{Front, Mode};
use super::resolving::ask_mx;
use super::server::{KEY, server};
use super::{go, mx, wish};

#[tokio::test]
async fn a_fresh_domain_is_published_and_served() {
    let server = server();
    server.zone("fresh.test", "Native").await;
    assert_eq!(ask_mx(server.dns, "fresh.test").await, None);

    let wanted =
        MxSet { ttl: 300, records: [Mx::new(10, "mail.us.test"), Mx::new(20, "backup.us.test")].into() };
    let request = super::PublishRequest { mx: wanted.clone(), ..wish("fresh.test") };
    let done = publish(&server.client(), &request, &go).await.expect("published");

    assert_eq!((done.zone.as_str(), done.mx, done.wrote), ("fresh.test", wanted.clone(), true));
    assert_eq!((done.held_ttl, done.lag_seconds, done.warning), (300, 0, None));
    assert_eq!(ask_mx(server.dns, "fresh.test").await, Some(wanted));
    let (_, owner) = server.get("fresh.test", "_vmail-owner.fresh.test", "TXT").await.expect("TXT");
    assert!(
        owner.len() == 1
            && owner[0].starts_with("\"v=vmail1;owner=mail.us.test;instance=uid-1;ttl=300;lag=0;at="),
        "{owner:?}"
    );
}

#[tokio::test]
async fn what_stands_is_not_written_again() {
    let server = server();
    server.zone("again.test", "Native").await;
    let front = Front::start(server.api, Mode::Forward).await;
    let pdns = super::client(&front.url(), KEY);
    publish(&pdns, &wish("again.test"), &go).await.expect("published");
    assert_eq!(front.writes(), 1, "MX and TXT in one transaction");
    let serial = server.serial("again.test").await;
    // The same records, as another tool may spell them.
    server.put("again.test", "again.test", "MX", 3600, &["10 MAIL.us.TEST."]).await;
    let respelt = server.serial("again.test").await;
    assert_ne!(serial, respelt);

    let refuse = || Err(DnsError::NotWritten { domain: "again.test".into(), why: "unexpected".into() });
    for previously_published in [false, true] {
        let request = super::PublishRequest { previously_published, ..wish("again.test") };
        let done = publish(&pdns, &request, &refuse).await.expect("published");
        assert!(!done.wrote && done.held_ttl == 3600);
    }
    assert_eq!(server.serial("again.test").await, respelt);
    assert_eq!(front.writes(), 1);
}

#[tokio::test]
async fn changes_and_drift_are_written() {
    let server = server();
    let pdns = server.client();
    server.zone("change.test", "Native").await;
    for wanted in [
        mx(86_400, &["mail.us.test"]),
        mx(60, &["mail.us.test"]),
        mx(60, &["mail.us.test", "second.us.test"]),
    ] {
        let request = super::PublishRequest { mx: wanted.clone(), ..wish("change.test") };
        let done = publish(&pdns, &request, &go).await.expect("published");
        assert!(done.wrote);
        assert_eq!(done.mx, wanted);
        assert!(done.held_ttl > 86_000, "what a resolver got before is remembered: {}", done.held_ttl);
        assert_eq!(ask_mx(server.dns, "change.test").await, Some(wanted));
    }
    let request = super::PublishRequest { mx: mx(60, &["mail.us.test"]), ..wish("change.test") };
    for (foreign, ttl) in [(vec!["5 elsewhere.test."], 60), (vec![], 60), (vec!["10 mail.us.test."], 61)] {
        server.put("change.test", "change.test", "MX", ttl, &foreign).await;
        assert!(publish(&pdns, &request, &go).await.expect("repaired").wrote, "{foreign:?}");
        assert_eq!(ask_mx(server.dns, "change.test").await, Some(mx(60, &["mail.us.test"])));
    }
}

#[tokio::test]
async fn other_records_at_the_name_stay() {
    let server = server();
    server.zone("beside.test", "Native").await;
    server.put("beside.test", "beside.test", "A", 60, &["192.0.2.7"]).await;
    server.put("beside.test", "beside.test", "TXT", 60, &["\"v=spf1 -all\""]).await;
    publish(&server.client(), &wish("beside.test"), &go).await.expect("published");
    assert_eq!(server.get("beside.test", "beside.test", "A").await, Some((60, vec!["192.0.2.7".into()])));
    assert_eq!(
        server.get("beside.test", "beside.test", "TXT").await,
        Some((60, vec!["\"v=spf1 -all\"".into()]))
    );
}

#[tokio::test]
async fn a_foreign_mx_is_quoted_and_untouched() {
    let server = server();
    server.zone("foreign.test", "Native").await;
    for contents in [vec!["5 mx.them.test."], vec!["10 mail.us.test.", "5 mx.them.test."], vec!["0 ."]] {
        server.put("foreign.test", "foreign.test", "MX", 3600, &contents).await;
        let serial = server.serial("foreign.test").await;
        let request = super::PublishRequest { previously_published: true, ..wish("foreign.test") };
        let error = publish(&server.client(), &request, &go).await.expect_err("a conflict");
        assert_eq!(error.reason(), Reason::RecordConflict);
        for content in &contents {
            assert!(
                error.to_string().contains(content) && error.to_string().contains("foreign.test"),
                "{error}"
            );
        }
        assert_eq!(server.serial("foreign.test").await, serial);
        assert_eq!(server.get("foreign.test", "_vmail-owner.foreign.test", "TXT").await, None);
    }
}

#[tokio::test]
async fn a_foreign_mx_is_adopted_when_asked_for() {
    let server = server();
    let pdns = server.client();
    server.zone("adopt.test", "Native").await;
    server.put("adopt.test", "adopt.test", "MX", 86_400, &["5 mx.them.test."]).await;
    let request = super::PublishRequest { adopt: true, ..wish("adopt.test") };
    let done = publish(&pdns, &request, &go).await.expect("adopted");
    assert!(done.wrote && done.held_ttl == 86_400, "resolvers hold what stood there: {done:?}");
    assert_eq!(ask_mx(server.dns, "adopt.test").await, Some(wish("adopt.test").mx));

    // Another cluster adopts it in turn. The first one does not take it back, so that they never alternate.
    let other = super::PublishRequest { owner_id: "mail.them.test".into(), ..request.clone() };
    assert!(publish(&pdns, &other, &go).await.expect("adopted").wrote);
    let first = super::PublishRequest { previously_published: true, ..request };
    let error = publish(&pdns, &first, &go).await.expect_err("a conflict");
    assert_eq!(error.reason(), Reason::RecordConflict, "{error}");
}

#[tokio::test]
async fn an_equal_mx_gets_its_ownership_record_back() {
    let server = server();
    server.zone("equal.test", "Native").await;
    publish(&server.client(), &wish("equal.test"), &go).await.expect("published");
    server.put("equal.test", "_vmail-owner.equal.test", "TXT", 60, &[]).await;
    assert!(publish(&server.client(), &wish("equal.test"), &go).await.expect("published").wrote);
    assert!(server.get("equal.test", "_vmail-owner.equal.test", "TXT").await.is_some());
    assert!(!publish(&server.client(), &wish("equal.test"), &go).await.expect("published").wrote);
}

#[tokio::test]
async fn another_owner_keeps_the_name() {
    let server = server();
    server.zone("owned.test", "Native").await;
    let theirs = super::PublishRequest { owner_id: "mail.them.test".into(), ..wish("owned.test") };
    publish(&server.client(), &theirs, &go).await.expect("published");
    let serial = server.serial("owned.test").await;
    for previously_published in [false, true] {
        // Even what would be equal is theirs to take away.
        let request = super::PublishRequest { previously_published, ..wish("owned.test") };
        let error = publish(&server.client(), &request, &go).await.expect_err("a conflict");
        assert_eq!(error.reason(), Reason::RecordConflict);
        assert!(error.to_string().contains("mail.them.test"), "{error}");
    }
    assert_eq!(server.serial("owned.test").await, serial);

    server.put("owned.test", "_vmail-owner.owned.test", "TXT", 60, &["\"keep off\""]).await;
    let error = publish(&server.client(), &wish("owned.test"), &go).await.expect_err("a conflict");
    assert!(error.reason() == Reason::RecordConflict && error.to_string().contains("keep off"), "{error}");
}

#[tokio::test]
async fn a_new_instance_takes_over_and_the_old_one_stops() {
    let server = server();
    let pdns = server.client();
    server.zone("twins.test", "Native").await;
    publish(&pdns, &wish("twins.test"), &go).await.expect("published");
    let rebuilt = super::PublishRequest { instance: "uid-2".into(), ..wish("twins.test") };
    assert!(publish(&pdns, &rebuilt, &go).await.expect("taken over").wrote);

    let serial = server.serial("twins.test").await;
    let old = super::PublishRequest { previously_published: true, ..wish("twins.test") };
    let error = publish(&pdns, &old, &go).await.expect_err("taken over");
    assert!(error.reason() == Reason::TakenOver && error.to_string().contains("uid-2"), "{error}");
    let remembered = super::PublishRequest { previously_published: true, ..rebuilt };
    assert!(!publish(&pdns, &remembered, &go).await.expect("in peace").wrote);
    assert_eq!(server.serial("twins.test").await, serial);
}

#[tokio::test]
async fn the_guard_has_the_last_word() {
    let server = server();
    server.zone("guard.test", "Native").await;
    let serial = server.serial("guard.test").await;
    let lost = || Err(DnsError::NotWritten { domain: "guard.test".into(), why: "the lease is lost".into() });
    let error = publish(&server.client(), &wish("guard.test"), &lost).await.expect_err("no lease");
    assert!(error.reason() == Reason::Pending && error.to_string().contains("the lease is lost"), "{error}");
    assert_eq!(server.serial("guard.test").await, serial);
    assert_eq!(server.get("guard.test", "guard.test", "MX").await, None);
}

#[tokio::test]
async fn a_serial_that_stays_is_complained_about() {
    let server = server();
    server.zone("serial.test", "Master").await;
    server.set_zone("serial.test", serde_json::json!({"soa_edit_api": ""})).await;
    let done = publish(&server.client(), &wish("serial.test"), &go).await.expect("published");
    let warning = done.warning.expect("a warning");
    assert!(warning.contains("serial.test") && warning.contains("soa_edit_api"), "{warning}");
    assert_eq!(done.lag_seconds, 10_800 + 3_600, "refresh and retry of PowerDNS's default SOA");
}

#[tokio::test]
async fn what_powerdns_does_not_accept_is_told_in_its_words() {
    let server = server();
    server.zone("refused.test", "Native").await;
    let request = super::PublishRequest { mx: mx(60, &["mail..us.test"]), ..wish("refused.test") };
    let error = publish(&server.client(), &request, &go).await.expect_err("refused");
    assert!(
        error.reason() == Reason::RecordRejected && error.to_string().contains("mail..us.test"),
        "{error}"
    );

    for (owner_id, hosts) in [("a;b", &["mail.us.test"][..]), ("a\"b", &["mail.us.test"]), ("a", &[])] {
        let request =
            super::PublishRequest { owner_id: owner_id.into(), mx: mx(60, hosts), ..wish("refused.test") };
        let error = publish(&server.client(), &request, &go).await.expect_err("refused");
        assert_eq!(error.reason(), Reason::RecordRejected, "{owner_id}");
    }
    assert_eq!(server.get("refused.test", "_vmail-owner.refused.test", "TXT").await, None);
}

/// The API server lets none of these in; a schema that was loosened by hand would.
#[tokio::test]
async fn a_host_that_is_more_than_a_name_is_not_sent() {
    let server = server();
    server.zone("hostile.test", "Native").await;
    let front = Front::start(server.api, Mode::Forward).await;
    let pdns = super::client(&front.url(), KEY);
    for host in [
        "mail.us.test.\n10 mx.them.test",
        "mail.us.test. 10 mx.them.test",
        "mail.us.test ; a comment",
        "mail.us.test\t",
        "",
        "Mail.us.test",
        "\\109ail.us.test",
        "\"mail.us.test\"",
        "(mail.us.test)",
        "*.us.test",
        "m\u{fc}ll.test",
        "mail.us.test\0",
    ] {
        let records = [Mx::new(10, "mail.us.test"), Mx { preference: 20, host: host.to_owned() }].into();
        let request = super::PublishRequest { mx: MxSet { ttl: 60, records }, ..wish("hostile.test") };
        let error = publish(&pdns, &request, &go).await.expect_err(host);
        assert_eq!(error.reason(), Reason::RecordRejected, "{error}");
        assert!(error.to_string().contains(&format!("spec.dns.mx: {host:?} is no host name")), "{error}");
    }
    assert_eq!(front.writes(), 0);
}

#[tokio::test]
async fn the_longest_names_fit() {
    let server = server();
    let label = "a".repeat(63);
    // 239 is what the schema allows.
    let domain = format!("{label}.{label}.{label}.{}.long.test", "a".repeat(37));
    assert_eq!(domain.len(), 239);
    server.zone("long.test", "Native").await;
    let owner_id = format!("{label}.{label}.{label}.{}", "b".repeat(61));
    let request = super::PublishRequest { owner_id, ..wish(&domain) };
    assert!(publish(&server.client(), &request, &go).await.expect("published").wrote);
    assert!(!publish(&server.client(), &request, &go).await.expect("published").wrote);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_all_get_through() {
    let server = server();
    let pdns = server.client();
    server.zone("many.test", "Native").await;
    let domains: Vec<_> = (0..40).map(|number| format!("d{number}.many.test")).collect();
    let tasks: Vec<_> = domains
        .iter()
        .map(|domain| {
            let (pdns, request) = (pdns.clone(), wish(domain));
            tokio::spawn(async move { publish(&pdns, &request, &go).await })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic").expect("published");
    }
    for domain in domains {
        assert!(ask_mx(server.dns, &domain).await.is_some(), "{domain}");
    }
}
