//! Every row of the table at `vmail_operator::dns::plan::plan`, on a real server.

use vmail_operator::dns::{DnsError, publish, withdraw};

use super::server::{Server, server};
use super::{OWNER, farewell, go, mx, wish};

/// The ownership record that stands there.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Theirs {
    None,
    Ours,
    /// Ours, from a time with shorter times.
    OursShort,
    Twin,
    Other,
    Foreign,
}

/// What else stands there.
#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    Nothing,
    Equal,
    OtherHost,
    OtherTtl,
    Disabled,
    Wildcard,
    Cname,
}

const OWNERS: [Theirs; 6] =
    [Theirs::None, Theirs::Ours, Theirs::OursShort, Theirs::Twin, Theirs::Other, Theirs::Foreign];
const STANDING: [At; 7] =
    [At::Nothing, At::Equal, At::OtherHost, At::OtherTtl, At::Disabled, At::Wildcard, At::Cname];

/// Told once more, from the table and not from the code.
fn publishing(owner: Theirs, at: At, published: bool, adopt: bool) -> &'static str {
    match (owner, at) {
        (Theirs::Twin, _) if published => "TakenOver",
        (_, At::Cname) => "RecordConflict",
        (Theirs::Ours, At::Equal) => "nothing",
        (Theirs::Ours | Theirs::OursShort | Theirs::Twin, _) => "write",
        (Theirs::Other | Theirs::Foreign, _) if adopt && !published => "write",
        (Theirs::Other | Theirs::Foreign, _) => "RecordConflict",
        (Theirs::None, At::Nothing | At::Equal) => "write",
        (Theirs::None, _) if adopt => "write",
        (Theirs::None, At::Wildcard) => "WildcardShadowed",
        (Theirs::None, _) => "RecordConflict",
    }
}

fn withdrawing(owner: Theirs, at: At) -> &'static str {
    match (owner, at) {
        (Theirs::Ours | Theirs::OursShort, _) => "delete",
        // What is switched off is not served, and releases before 5.0 do not tell of it.
        (_, At::Nothing | At::Wildcard | At::Cname | At::Disabled) => "nothing",
        _ => "not ours",
    }
}

/// A fresh name in the zone, where this stands.
async fn stand(server: &Server, zone: &str, number: usize, owner: Theirs, at: At) -> String {
    let above = format!("n{number}.{zone}");
    let domain = format!("mail.{above}");
    let (name, kind, ttl, content) = match at {
        At::Nothing => (&domain, "MX", 3600, None),
        At::Equal => (&domain, "MX", 3600, Some("10 mail.us.test.")),
        At::OtherHost => (&domain, "MX", 3600, Some("10 mail.them.test.")),
        At::OtherTtl => (&domain, "MX", 3599, Some("10 mail.us.test.")),
        At::Disabled => (&domain, "MX", 3600, Some("10 mail.us.test. (disabled)")),
        At::Wildcard => (&format!("*.{above}"), "A", 60, Some("192.0.2.7")),
        At::Cname => (&domain, "CNAME", 60, Some("www.them.test.")),
    };
    if let Some(content) = content {
        server.put(zone, name, kind, ttl, &[content]).await;
    }
    let known = |owner: &str, instance: &str, ttl: u32| {
        Some(format!("\"v=vmail1;owner={owner};instance={instance};ttl={ttl};lag=0;at=1\""))
    };
    let text = match owner {
        Theirs::None => None,
        Theirs::Ours => known(OWNER, "uid-1", 3600),
        Theirs::OursShort => known(OWNER, "uid-1", 3599),
        Theirs::Twin => known(OWNER, "uid-2", 3600),
        Theirs::Other => known("mail.them.test", "uid-1", 3600),
        Theirs::Foreign => Some("\"keep off\"".to_owned()),
    };
    if let Some(text) = text {
        server.put(zone, &format!("_vmail-owner.{domain}"), "TXT", 3600, &[&text]).await;
    }
    domain
}

/// What is done, or the reason why it is not; and what is not done leaves the zone as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_is_as_it_is_written() {
    let server = server();
    let pdns = server.client();
    let mut number = 0;
    for owner in OWNERS {
        for at in STANDING {
            // Of their own, so that looking at all of it is cheap.
            let zone = &format!("rows{number}.test");
            server.zone(zone, "Native").await;
            for (published, adopt) in [(false, false), (true, false), (false, true), (true, true)] {
                number += 1;
                let row = format!("{owner:?} {at:?} published={published} adopt={adopt}");
                let domain = stand(&server, zone, number, owner, at).await;
                let before = server.rrsets(zone).await;
                let request =
                    super::PublishRequest { previously_published: published, adopt, ..wish(&domain) };
                let done = publish(&pdns, &request, &go).await;
                let did = match &done {
                    Ok(done) if done.wrote => "write".to_owned(),
                    Ok(_) => "nothing".to_owned(),
                    Err(error) => format!("{:?}", error.reason()),
                };
                assert_eq!(did, publishing(owner, at, published, adopt), "{row}: {done:?}");
                let after = server.rrsets(zone).await;
                if did == "write" {
                    let (_, contents) = server.get(zone, &domain, "MX").await.expect("MX");
                    assert_eq!(contents, ["10 mail.us.test."], "{row}");
                } else {
                    assert_eq!(before, after, "{row}");
                }
            }
            number += 1;
            let domain = stand(&server, zone, number, owner, at).await;
            let before = server.rrsets(zone).await;
            let done = withdraw(&pdns, &farewell(&domain), &go).await;
            let did = match &done {
                Ok(done) if done.removed => "delete",
                Ok(done) if done.foreign.is_some() && at != At::Disabled => "not ours",
                Ok(_) => "nothing",
                Err(error) => panic!("{owner:?} {at:?}: {error}"),
            };
            assert_eq!(did, withdrawing(owner, at), "{owner:?} {at:?}: {done:?}");
            if did == "delete" {
                assert_eq!(server.get(zone, &domain, "MX").await, None, "{owner:?} {at:?}");
                let ownership = format!("_vmail-owner.{domain}");
                assert_eq!(server.get(zone, &ownership, "TXT").await, None, "{owner:?} {at:?}");
            } else {
                assert_eq!(server.rrsets(zone).await, before, "{owner:?} {at:?}");
            }
        }
    }
}

/// Two clusters, one wish, in turns: with different owner ids, with one owner id, and with `adopt` on both sides.
/// However long it goes on, the MX changes hands once at most, and never goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clusters_never_take_turns() {
    let server = server();
    let pdns = server.client();
    for (number, (other_owner, adopt, changes)) in
        [("mail.them.test", false, 0), ("mail.them.test", true, 1), (OWNER, false, 1), (OWNER, true, 1)]
            .into_iter()
            .enumerate()
    {
        let zone = format!("rivals{number}.test");
        server.zone(&zone, "Native").await;
        let first = super::PublishRequest { adopt, ..wish(&zone) };
        let second = super::PublishRequest {
            owner_id: other_owner.to_owned(),
            instance: "uid-2".to_owned(),
            mx: mx(3600, &["mail.them.test"]),
            ..first.clone()
        };
        let mut rivals = [first, second];
        publish(&pdns, &rivals[0], &go).await.expect("published");
        rivals[0].previously_published = true;
        let mut writes = 0;
        let mut refused = 0;
        for _ in 0..6 {
            for rival in &mut rivals {
                match publish(&pdns, rival, &go).await {
                    Ok(done) => {
                        writes += usize::from(done.wrote);
                        rival.previously_published = true;
                    }
                    Err(DnsError::RecordConflict { .. } | DnsError::TakenOver { .. }) => refused += 1,
                    Err(error) => panic!("{error}"),
                }
                assert!(server.get(&zone, &zone, "MX").await.is_some());
            }
        }
        // The second asks after the first, which so is content once more before it loses.
        assert_eq!((writes, refused), (changes, 6 - changes), "{other_owner} {adopt}");
        // The one that lost withdraws, and takes nothing away.
        let loser = &rivals[usize::from(changes == 0)];
        let leaving = super::WithdrawRequest {
            domain: zone.clone(),
            zone: None,
            owner_id: loser.owner_id.clone(),
            instance: loser.instance.clone(),
        };
        let before = server.rrsets(&zone).await;
        let done = withdraw(&pdns, &leaving, &go).await.expect("nothing to do");
        assert!(!done.removed && done.foreign.is_some(), "{done:?}");
        assert_eq!(server.rrsets(&zone).await, before);
    }
}
