//! Zones with DNSSEC: what we write is signed, what we take away is denied, and what we did not touch stays valid.

use std::fs;
use std::process::Command;

use vmail_operator::dns::{publish, withdraw};

use super::server::{Server, server_with};
use super::{all_faults, farewell, go, wish};

fn ask(server: &Server, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(["@127.0.0.1", "-p", &server.dns.port().to_string()])
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program} (package bind9-dnsutils): {error}"));
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A file with the zone's own key as the only trust anchor.
fn anchors(server: &Server, zone: &str) -> String {
    let keys = ask(server, "dig", &["+short", zone, "DNSKEY"]);
    let anchors = keys.lines().filter_map(|key| {
        let mut parts = key.split(' ');
        let (flags, protocol, algorithm) = (parts.next()?, parts.next()?, parts.next()?);
        let key: String = parts.collect();
        Some(format!("{zone}. static-key {flags} {protocol} {algorithm} \"{key}\";\n"))
    });
    let anchors: String = anchors.collect();
    let file = server.dir().join("anchors");
    fs::write(&file, format!("trust-anchors {{\n{anchors}}};\n")).expect("a file");
    file.display().to_string()
}

/// What delv(1) says of a name.
fn validated(server: &Server, zone: &str, anchors: &str, name: &str, kind: &str) -> String {
    ask(server, "delv", &["-a", anchors, &format!("+root={zone}"), name, kind])
}

/// Every name, type and denial in and around the domain.
fn all_valid(server: &Server, zone: &str, domain: &str, published: bool) {
    let (owner, www) = (format!("_vmail-owner.{domain}"), format!("www.{zone}"));
    let (below, missing) = (format!("no.{domain}"), format!("zz.{zone}"));
    let questions = [
        (domain, "MX", published),
        (&owner, "TXT", published),
        (&www, "A", true),
        (zone, "SOA", true),
        (domain, "AAAA", false),
        (&below, "A", false),
        (&missing, "MX", false),
    ];
    let anchors = anchors(server, zone);
    // delv(1) takes its time, most of it waiting.
    std::thread::scope(|scope| {
        for (name, kind, there) in questions {
            let anchors = &anchors;
            scope.spawn(move || {
                let text = validated(server, zone, anchors, name, kind);
                let wanted = if there { "; fully validated" } else { "; negative response, fully validated" };
                assert!(text.contains(wanted), "{name} {kind}: {text}");
            });
        }
    });
    let text = server.pdnsutil(&["check-zone", zone]);
    assert!(text.contains(" 0 errors"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signed_zones_stay_valid() {
    let server = server_with("gsqlite3-dnssec=yes\ndnssec-key-cache-ttl=0\ndomain-metadata-cache-ttl=0");
    let pdns = server.client();
    let kinds = [
        ("nsec.test", None),
        ("nsec3.test", Some("1 0 0 -")),
        ("optout.test", Some("1 1 0 -")),
        ("salted.test", Some("1 0 2 ab")),
    ];
    for (zone, nsec3) in kinds.into_iter().take(if all_faults() { 4 } else { 2 }) {
        signed_zone(&server, zone, nsec3).await;
        for domain in
            [format!("a.deep.{zone}"), zone.to_owned()].iter().take(if all_faults() { 2 } else { 1 })
        {
            publish(&pdns, &wish(domain), &go).await.expect("published");
            all_valid(&server, zone, domain, true);
            withdraw(&pdns, &farewell(domain), &go).await.expect("withdrawn");
            all_valid(&server, zone, domain, false);
        }
    }
}

/// A zone whose `api_rectify` is off: PowerDNS would go on denying what was just written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_zone_that_is_not_rectified_by_itself_is_rectified() {
    let server = server_with("gsqlite3-dnssec=yes\ndnssec-key-cache-ttl=0\ndomain-metadata-cache-ttl=0");
    let pdns = server.client();
    for (zone, nsec3) in [("off.test", None), ("off3.test", Some("1 0 0 -"))] {
        signed_zone(&server, zone, nsec3).await;
        server.set_zone(zone, serde_json::json!({ "api_rectify": false })).await;
        let domain = format!("a.deep.{zone}");
        publish(&pdns, &wish(&domain), &go).await.expect("published");
        all_valid(&server, zone, &domain, true);
        withdraw(&pdns, &farewell(&domain), &go).await.expect("withdrawn");
        all_valid(&server, zone, &domain, false);
    }
}

/// A zone with keys and an address in it; with NSEC3 of these parameters, or NSEC.
async fn signed_zone(server: &Server, zone: &str, nsec3: Option<&str>) {
    server.zone(zone, "Native").await;
    server.put(zone, &format!("www.{zone}"), "A", 60, &["192.0.2.7"]).await;
    server.pdnsutil(&["secure-zone", zone]);
    if let Some(nsec3) = nsec3 {
        server.pdnsutil(&["set-nsec3", zone, nsec3]);
    }
    server.pdnsutil(&["rectify-zone", zone]);
}
