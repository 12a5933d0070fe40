//! What is not ours stays as it is to the byte, whatever stands there.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use vmail_operator::dns::{publish, withdraw};

use super::server::{Server, server};
use super::{all_faults, farewell, go, wish};

const ZONE: &str = "crowd.test";

/// Kinds, and contents that PowerDNS takes and gives back in one spelling.
const KINDS: [(&str, &[&str]); 9] = [
    ("A", &["192.0.2.1", "192.0.2.2"]),
    ("AAAA", &["2001:db8::1"]),
    (
        "TXT",
        &["\"v=spf1 -all\"", "\"v=vmail1;owner=mail.us.test\"", "\"a\" \"b\"", "\"\\\"quoted\\\"; \\\\\""],
    ),
    ("MX", &["5 mx.them.test.", "10 mail.us.test.", "0 ."]),
    ("CAA", &["0 issue \"ca.test\""]),
    ("SRV", &["0 5 25 mx.them.test."]),
    ("TLSA", &["3 1 1 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"]),
    ("PTR", &["host.them.test."]),
    ("SSHFP", &["1 1 0123456789abcdef0123456789abcdef01234567"]),
];

/// Names at the domain, around it, and such as look like ours.
fn names(domain: &str) -> Vec<String> {
    let parent = domain.split_once('.').expect("a parent").1;
    let mut names: Vec<String> =
        ["", "www.", "_dmarc.", "_vmail-owner.", "a._vmail-owner.", "*.", "mail._domainkey.", "deep.down."]
            .iter()
            .map(|prefix| format!("{prefix}{domain}"))
            .collect();
    names.extend(["*.", "other.", "_vmail-owner.", "x"].iter().map(|prefix| format!("{prefix}{parent}")));
    names.retain(|name| name.ends_with(&format!(".{ZONE}")));
    names
}

async fn crowd(server: &Server, random: &mut StdRng, domain: &str) {
    for name in names(domain) {
        for (kind, contents) in KINDS {
            if random.random_bool(0.25) {
                let mut some: Vec<&str> =
                    contents.iter().copied().filter(|_| random.random_bool(0.6)).collect();
                if some.contains(&"0 .") {
                    some = vec!["0 ."];
                }
                server.put(ZONE, &name, kind, random.random_range(30..9000), &some).await;
            }
        }
    }
}

/// Without our two records and the serial.
fn others(
    mut rrsets: BTreeMap<(String, String), String>,
    domain: &str,
) -> BTreeMap<(String, String), String> {
    rrsets.remove(&(format!("{domain}."), "MX".to_owned()));
    rrsets.remove(&(format!("_vmail-owner.{domain}."), "TXT".to_owned()));
    rrsets.remove(&(format!("{ZONE}."), "SOA".to_owned()));
    rrsets
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_ours_stays_to_the_byte() {
    let seed = std::env::var("VMAIL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_125);
    let mut random = StdRng::seed_from_u64(seed);
    let server = server();
    let pdns = server.client();
    server.zone(ZONE, "Native").await;
    let (mut written, mut refused) = (0, 0);
    for round in 0..if all_faults() { 300 } else { 15 } {
        let domain = format!("{}d{round}.{ZONE}", if random.random() { "sub." } else { "" });
        crowd(&server, &mut random, &domain).await;
        let adopt = random.random_bool(0.3);
        let before = server.rrsets(ZONE).await;
        let request = super::PublishRequest { adopt, ..wish(&domain) };
        let done = publish(&pdns, &request, &go).await;
        let between = server.rrsets(ZONE).await;
        match done {
            Ok(_) => written += 1,
            Err(_) => {
                refused += 1;
                assert_eq!(between, before, "seed {seed}, {domain}");
            }
        }
        assert_eq!(
            others(between.clone(), &domain),
            others(before.clone(), &domain),
            "seed {seed}, {domain}"
        );
        let done = withdraw(&pdns, &farewell(&domain), &go).await.expect("withdrawn");
        let after = server.rrsets(ZONE).await;
        if !done.removed {
            assert_eq!(after, between, "seed {seed}, {domain}");
        }
        assert_eq!(others(after, &domain), others(before, &domain), "seed {seed}, {domain}");
    }
    assert!(written > 2 && refused > 2, "{written} written, {refused} refused: nothing was shown");
}

#[tokio::test]
async fn nothing_moves_while_nothing_changes() {
    let server = server();
    let pdns = server.client();
    server.zone("quiet.test", "Master").await;
    let domains: Vec<String> = (0..10).map(|number| format!("d{number}.quiet.test")).collect();
    for domain in &domains {
        publish(&pdns, &wish(domain), &go).await.expect("published");
    }
    let (serial, before) = (server.serial("quiet.test").await, server.rrsets("quiet.test").await);
    for _ in 0..5 {
        for domain in &domains {
            let request = super::PublishRequest { previously_published: true, ..wish(domain) };
            assert!(!publish(&pdns, &request, &go).await.expect("published").wrote);
            let absent = withdraw(&pdns, &farewell(&format!("no.{domain}")), &go).await;
            assert!(!absent.expect("nothing there").removed);
        }
    }
    assert_eq!(server.serial("quiet.test").await, serial);
    assert_eq!(server.rrsets("quiet.test").await, before);
}
