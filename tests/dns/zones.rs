//! Which zone is written to, and which is refused.

use vmail_operator::api::conditions::Reason;
use vmail_operator::dns::{DnsError, publish};

use super::resolving::{ask_a, ask_mx};
use super::server::{Server, server};
use super::{go, wish};

async fn refused(server: &Server, domain: &str, zone: Option<&str>) -> DnsError {
    let request = super::PublishRequest { zone: zone.map(str::to_owned), ..wish(domain) };
    let error = publish(&server.client(), &request, &go).await.expect_err("refused");
    assert!(error.to_string().contains(domain), "{error}");
    error
}

#[tokio::test]
async fn the_closest_zone_is_found() {
    let server = server();
    let pdns = server.client();
    server.zone("walk.test", "Native").await;
    server.zone("sub.walk.test", "Native").await;
    for (domain, zone) in [
        ("walk.test", "walk.test"),
        ("a.b.walk.test", "walk.test"),
        ("sub.walk.test", "sub.walk.test"),
        ("a.sub.walk.test", "sub.walk.test"),
    ] {
        assert_eq!(publish(&pdns, &wish(domain), &go).await.expect(domain).zone, zone);
        assert!(ask_mx(server.dns, domain).await.is_some(), "{domain}");
    }
    let error = refused(&server, "nowhere.example", None).await;
    assert_eq!(error.reason(), Reason::ZoneNotFound);
}

#[tokio::test]
async fn a_zone_that_is_named_must_fit() {
    let server = server();
    let pdns = server.client();
    server.zone("named.test", "Native").await;
    let request = super::PublishRequest { zone: Some("named.test".into()), ..wish("a.named.test") };
    assert_eq!(publish(&pdns, &request, &go).await.expect("published").zone, "named.test");

    for (domain, zone) in
        [("b.named.test", "c.named.test"), ("named.test", "a.named.test"), ("x.missing.test", "missing.test")]
    {
        let error = refused(&server, domain, Some(zone)).await;
        assert!(error.reason() == Reason::ZoneNotFound && error.to_string().contains(zone), "{error}");
    }

    server.zone("closer.named.test", "Native").await;
    let error = refused(&server, "a.closer.named.test", Some("named.test")).await;
    assert_eq!(error.reason(), Reason::ZoneDelegated);
    assert!(error.to_string().contains("closer.named.test is delegated"), "{error}");
}

#[tokio::test]
async fn a_secondary_zone_is_refused() {
    let server = server();
    server.zone("copy.test", "Slave").await;
    let error = refused(&server, "copy.test", None).await;
    assert!(error.reason() == Reason::ZoneNotWritable && error.to_string().contains("Slave"), "{error}");
}

#[tokio::test]
async fn below_a_delegation_nothing_is_written() {
    let server = server();
    server.zone("cut.test", "Native").await;
    server.put("cut.test", "away.cut.test", "NS", 60, &["ns.them.test."]).await;
    let serial = server.serial("cut.test").await;
    for domain in ["away.cut.test", "a.away.cut.test", "b.a.away.cut.test"] {
        let error = refused(&server, domain, None).await;
        assert!(
            error.reason() == Reason::ZoneDelegated && error.to_string().contains(": away.cut.test"),
            "{error}"
        );
    }
    assert_eq!(server.serial("cut.test").await, serial);
    publish(&server.client(), &wish("here.cut.test"), &go).await.expect("not delegated");
}

#[tokio::test]
async fn a_wildcard_that_answers_is_not_hidden() {
    let server = server();
    server.zone("wild.test", "Native").await;
    server.put("wild.test", "*.wild.test", "A", 60, &["192.0.2.7"]).await;
    server.put("wild.test", "own.wild.test", "A", 60, &["192.0.2.8"]).await;
    let serial = server.serial("wild.test").await;
    for domain in ["a.wild.test", "b.a.wild.test"] {
        let error = refused(&server, domain, None).await;
        assert!(
            error.reason() == Reason::WildcardShadowed && error.to_string().contains("*.wild.test"),
            "{error}"
        );
    }
    assert_eq!(server.serial("wild.test").await, serial);
    // Neither a name with records of its own, nor one below such a name, nor the apex is answered by it.
    for domain in ["own.wild.test", "a.own.wild.test", "wild.test"] {
        publish(&server.client(), &wish(domain), &go).await.expect(domain);
    }
}

/// A name with something below it exists, although nothing stands there itself (RFC 4592 2.2.2).
#[tokio::test]
async fn a_wildcard_is_not_for_names_that_exist() {
    let server = server();
    server.zone("ent.test", "Native").await;
    server.put("ent.test", "*.ent.test", "A", 60, &["192.0.2.7"]).await;
    server.put("ent.test", "www.a.ent.test", "A", 60, &["192.0.2.8"]).await;
    server.put("ent.test", "www.other.test.ent.test", "A", 60, &["192.0.2.8"]).await;
    for domain in ["a.ent.test", "b.a.ent.test"] {
        assert_eq!(ask_a(server.dns, domain).await, None, "{domain}: the wildcard is not for it");
        publish(&server.client(), &wish(domain), &go).await.expect(domain);
        assert!(ask_mx(server.dns, domain).await.is_some(), "{domain}");
    }
    // Neither what only looks like it, nor what stands below in another zone, makes a name.
    server.zone("c.ent.test", "Native").await;
    server.put("ent.test", "xd.ent.test", "A", 60, &["192.0.2.8"]).await;
    for domain in ["d.ent.test", "e.d.ent.test"] {
        assert!(ask_a(server.dns, domain).await.is_some(), "{domain}: the wildcard answers");
        assert_eq!(refused(&server, domain, None).await.reason(), Reason::WildcardShadowed, "{domain}");
    }
}

/// RFC 6672 2.4: nothing stands below a DNAME.
#[tokio::test]
async fn a_dname_is_written_neither_beside_nor_below() {
    let server = super::server::server_with("dname-processing=yes");
    server.zone("dname.test", "Native").await;
    server.put("dname.test", "moved.dname.test", "DNAME", 60, &["new.test."]).await;
    server.zone("whole.test", "Native").await;
    server.put("whole.test", "whole.test", "DNAME", 60, &["new.test."]).await;
    for (zone, domain, reason) in [
        ("dname.test", "moved.dname.test", Reason::RecordConflict),
        ("dname.test", "a.moved.dname.test", Reason::ZoneDelegated),
        ("dname.test", "b.a.moved.dname.test", Reason::ZoneDelegated),
        ("whole.test", "whole.test", Reason::RecordConflict),
        ("whole.test", "a.whole.test", Reason::ZoneDelegated),
    ] {
        let serial = server.serial(zone).await;
        let error = refused(&server, domain, None).await;
        assert!(error.reason() == reason && error.to_string().contains("DNAME"), "{domain}: {error}");
        assert_eq!(server.serial(zone).await, serial, "{domain}");
    }
    publish(&server.client(), &wish("stays.dname.test"), &go).await.expect("not below it");
}

#[tokio::test]
async fn a_cname_is_a_conflict() {
    let server = server();
    server.zone("alias.test", "Native").await;
    server.put("alias.test", "www.alias.test", "CNAME", 60, &["web.them.test."]).await;
    let error = refused(&server, "www.alias.test", None).await;
    assert!(
        error.reason() == Reason::RecordConflict && error.to_string().contains("web.them.test."),
        "{error}"
    );
    assert_eq!(server.get("alias.test", "_vmail-owner.www.alias.test", "TXT").await, None);
}
