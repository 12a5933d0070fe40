//! The ways, each from a world in which nothing is declared to the last thing that is waited for.

use std::collections::BTreeSet;
use std::time::Instant;

use serde_json::{Value, json};

use super::story::{HELD, Story, YOU, domain};
use crate::traffic::delivered;
use crate::world::{HOST, State, World};

fn published(state: &State, domain: &str, hosts: &[&str]) -> bool {
    let mx = &state.stored[&format!("MX {domain}")];
    hosts.iter().all(|host| mx.contains(host))
}

/// A domain with two mailboxes of which one holds a message back, and its number.
async fn domain_with_a_queue<'a>(world: World<'a>, more: Value) -> (Story<'a>, usize) {
    world.apply("MailDomain", "one", domain("one.test", more)).await;
    world.apply("Mailbox", "you", json!({ "address": YOU })).await;
    world.apply("Mailbox", "held", json!({ "address": HELD })).await;
    world.settle("service", |state| state.all_ready(3) && state.published == ["one.test"]).await;
    let story = Story::begin(world, "one.test", &[YOU]).await;
    story.hold(HELD);
    let stuck = story.stuck(HELD).await;
    (story, stuck)
}

/// A rule gates new claims; what is served stays.
pub async fn tenancy_rule_changed(world: World<'_>) -> Story<'_> {
    let mut story = Story::begin(world, "one.test", &[YOU]).await;
    story.apply_other("MailDomain", "one", domain("one.test", json!({}))).await;
    story.apply_other("Mailbox", "you", json!({ "address": YOU })).await;
    story.apply_other("Mailbox", "held", json!({ "address": HELD })).await;
    story.until_ready_other("MailDomain", "one").await;
    story.until_ready_other("Mailbox", "held").await;
    story.hold(HELD);
    let stuck = story.stuck(HELD).await;
    let since = Instant::now();
    story.world.stop_operator();
    story.world.configure("tenancy", json!({ "rules": [] }));
    story.world.start_operator().await;
    story.apply_other("MailDomain", "two", domain("two.test", json!({}))).await;
    let refused =
        async || story.said_other("MailDomain", "two").await.contains("Accepted False DomainNotPermitted");
    story.until("the changed rule", refused).await;
    // What is served can be changed.
    story.apply_other("Mailbox", "new", json!({ "address": "new@one.test" })).await;
    story.until_ready_other("Mailbox", "new").await;
    let said = story.said_other("MailDomain", "one").await;
    if !said.contains("Ready True") || !said.contains("tenancy.rules") {
        story.violation(format!("the owner is not warned: {said}"));
    }
    story.release(HELD);
    story.arrives(stuck).await;
    story.goes_on(20).await;
    story.never_left(since);
    story
}

/// Where role mail went is gone: postmaster@ must be answered all the same (RFC 5321 4.5.1).
pub async fn postmaster_deleted(world: World<'_>) -> Story<'_> {
    world.apply("MailDomain", "one", domain("one.test", json!({ "postmaster": HELD }))).await;
    world.apply("Mailbox", "you", json!({ "address": YOU })).await;
    world.apply("Mailbox", "held", json!({ "address": HELD })).await;
    world.settle("service", |state| state.all_ready(3) && state.published == ["one.test"]).await;
    let mut story = Story::begin(world, "one.test", &[YOU, "postmaster@one.test", "abuse@one.test"]).await;
    story.hold(HELD);
    let stuck = story.stuck("postmaster@one.test").await;
    let since = Instant::now();
    story.world.delete("Mailbox", "held").await;
    let told = |state: &State| state.stored["MailDomain one"].contains("TargetNotFound");
    story.world.settle("the verdict", told).await;
    story.release(HELD);
    story.arrives(stuck).await;
    story.goes_on(30).await;
    // Something else changes, and the MX with it.
    let mx = json!([{ "host": HOST, "preference": 5 }]);
    let spec = domain("one.test", json!({ "postmaster": HELD, "dns": { "ttl": 60, "mx": mx } }));
    story.world.apply("MailDomain", "one", spec).await;
    story.world.settle("the changed MX", |state| published(state, "one.test", &["5 mail"])).await;
    story.world.apply("Mailbox", "held", json!({ "address": HELD })).await;
    story.world.settle("the mailbox", |state| state.all_ready(3)).await;
    story.never_left(since);
    story
}

pub async fn no_longer_managed(world: World<'_>) -> Story<'_> {
    let (story, stuck) = domain_with_a_queue(world, json!({})).await;
    let unmanaged = domain("one.test", json!({ "dns": { "ttl": 60, "managed": false } }));
    story.world.apply("MailDomain", "one", unmanaged).await;
    story.world.settle("no MX", |state| state.all_ready(3) && state.published.is_empty()).await;
    // Whoever still has the MX, or has another that names us, is served.
    story.goes_on(20).await;
    assert!(story.rcpt(YOU).await.starts_with("250"));
    story.world.apply("MailDomain", "one", domain("one.test", json!({}))).await;
    story.world.settle("the MX", |state| state.all_ready(3) && state.published == ["one.test"]).await;
    story.release(HELD);
    story.arrives(stuck).await;
    story
}

/// From a zone to one below it, which the administrator filled before; the way back is refused while PowerDNS has both.
pub async fn zone_changed(world: World<'_>) -> Story<'_> {
    let (address, name) = ("you@sub.one.test", "sub.one.test");
    let in_zone = |zone: &str| domain(name, json!({ "dns": { "ttl": 60, "zone": zone } }));
    world.apply("MailDomain", "one", in_zone("one.test")).await;
    world.apply("Mailbox", "you", json!({ "address": address })).await;
    world.apply("Mailbox", "held", json!({ "address": "held@sub.one.test" })).await;
    world.settle("service", |state| state.all_ready(3)).await;
    let mut story = Story::begin(world, name, &[address]).await;
    story.hold("held@sub.one.test");
    let stuck = story.stuck("held@sub.one.test").await;
    let since = Instant::now();
    // A copy, as whoever divides a zone makes it: served by nobody until it is whole.
    let pdns = story.world.pdns();
    let kinds = [(name.to_owned(), "MX"), (format!("_vmail-owner.{name}"), "TXT")];
    let mut rrsets = Vec::new();
    for (at, kind) in &kinds {
        let (ttl, contents) = pdns.get("one.test", at, kind).await.expect("it stands there");
        let records: Vec<Value> =
            contents.iter().map(|content| json!({ "content": content, "disabled": false })).collect();
        rrsets.push(json!({ "name": format!("{at}."), "type": kind, "ttl": ttl, "records": records }));
    }
    pdns.zone_with(name, "Native", rrsets).await;
    story.world.apply("MailDomain", "one", in_zone(name)).await;
    story.until("the move", async || pdns.get("one.test", name, "MX").await.is_none()).await;
    story.world.settle("the new zone", |state| state.all_ready(3)).await;
    let owner = &kinds[1].0;
    assert!(pdns.get(name, name, "MX").await.is_some() && pdns.get("one.test", owner, "TXT").await.is_none());
    story.world.apply("MailDomain", "one", in_zone("one.test")).await;
    let delegated = |state: &State| state.stored["MailDomain one"].contains("ZoneDelegated");
    story.world.settle("the refusal", delegated).await;
    assert!(pdns.get(name, name, "MX").await.is_some());
    story.never_left(since);
    story.world.pdns().delete_zone(name).await;
    story.world.settle("the zone above", |state| state.all_ready(3)).await;
    assert!(story.world.pdns().get("one.test", name, "MX").await.is_some());
    story.release("held@sub.one.test");
    story.arrives(stuck).await;
    story
}

pub async fn mx_list_changed(world: World<'_>) -> Story<'_> {
    let (mut story, stuck) = domain_with_a_queue(world, json!({})).await;
    let since = Instant::now();
    let with = |mx: Value| domain("one.test", json!({ "dns": { "ttl": 120, "mx": mx } }));
    let backup = json!({ "host": "backup.us.test", "preference": 50 });
    let ours = json!({ "host": HOST, "preference": 5 });
    story.world.apply("MailDomain", "one", with(json!([ours, backup]))).await;
    let both = |state: &State| state.all_ready(3) && published(state, "one.test", &["5 mail", "50 backup"]);
    story.world.settle("both", both).await;
    // Without our host it is not changed.
    story.world.apply("MailDomain", "one", with(json!([backup]))).await;
    let missing = |state: &State| state.stored["MailDomain one"].contains("MXHostMissing");
    story.world.settle("the refusal", missing).await;
    let state = story.world.state().await;
    assert!(published(&state, "one.test", &["5 mail", "50 backup"]), "{state:#?}");
    story.world.apply("MailDomain", "one", domain("one.test", json!({}))).await;
    let alone = |state: &State| state.all_ready(3) && published(state, "one.test", &["10 mail"]);
    story.world.settle("our host alone", alone).await;
    story.release(HELD);
    story.arrives(stuck).await;
    story.never_left(since);
    story
}

/// Mail that was accepted because of a catch-all is delivered, also when it came while the catch-all went.
pub async fn catch_all_removed(world: World<'_>) -> Story<'_> {
    let (mut story, _) = domain_with_a_queue(world, json!({ "catchAll": HELD })).await;
    let since = Instant::now();
    let stuck = story.stuck("whoever@one.test").await;
    let begun = story.traffic.begin("whoever@one.test");
    story.world.apply("MailDomain", "one", domain("one.test", json!({}))).await;
    story.world.settle("no catch-all", |state| state.all_ready(3)).await;
    story.until("a refusal", async || story.rcpt("whoever@one.test").await.starts_with("550")).await;
    let late = story.traffic.finish(begun);
    story.release(HELD);
    story.arrives(stuck).await;
    let taken = story.traffic.sent()[late].taken;
    if taken {
        story.arrives(late).await;
    }
    story.never_left(since);
    story
}

/// What was accepted for it is delivered, be it that its end comes in later, and nothing more is taken.
pub async fn mailbox_deleted(world: World<'_>) -> Story<'_> {
    let (mut story, stuck) = domain_with_a_queue(world, json!({})).await;
    let since = Instant::now();
    let begun = story.traffic.begin(HELD);
    story.world.delete("Mailbox", "held").await;
    story.world.settle("the mailbox is gone", |state| state.all_ready(2)).await;
    story.until("a refusal", async || story.rcpt(HELD).await.starts_with("550")).await;
    story.waits(stuck).await;
    story.release(HELD);
    let place = BTreeSet::from(["one.test/held".to_owned()]);
    assert_eq!(story.arrives(stuck).await, place);
    let late = story.traffic.finish(begun);
    let taken = story.traffic.sent()[late].taken;
    if taken {
        assert_eq!(story.arrives(late).await, place);
    }
    assert!(story.rcpt(HELD).await.starts_with("550"));
    story.never_left(since);
    story
}

/// What was queued for the mailbox is the mailbox's.
pub async fn mailbox_becomes_alias(world: World<'_>) -> Story<'_> {
    let (mut story, stuck) = domain_with_a_queue(world, json!({})).await;
    let since = Instant::now();
    story.world.delete("Mailbox", "held").await;
    let alias = json!({ "address": HELD, "targets": [YOU] });
    story.world.apply("MailAlias", "held", alias).await;
    story.world.settle("the alias", |state| state.all_ready(3)).await;
    let new = story.traffic.send(HELD);
    assert_eq!(story.arrives(new).await, BTreeSet::from(["one.test/you".to_owned()]));
    story.release(HELD);
    assert_eq!(story.arrives(stuck).await, BTreeSet::from(["one.test/held".to_owned()]));
    story.never_left(since);
    story
}

/// Another namespace gets the address when its predecessor has the mail that was on its way to him, and none of that.
pub async fn address_of_another(world: World<'_>) -> Story<'_> {
    let open = json!({ "allowedNamespaces": { "from": "All" } });
    let (mut story, stuck) = domain_with_a_queue(world, open).await;
    let since = Instant::now();
    story.world.delete("Mailbox", "held").await;
    story.apply_other("Mailbox", "held", json!({ "address": HELD })).await;
    story.until("the wait", async || story.rcpt(HELD).await.starts_with("450")).await;
    story.waits(stuck).await;
    story
        .until("the reason", async || {
            story.said_other("Mailbox", "held").await.contains("nothing is queued for it")
        })
        .await;
    assert!(story.rcpt(HELD).await.starts_with("450"));
    assert!(!delivered(&story.world.pod.volumes.vmail()).contains_key(&stuck));
    story.delete_other("Mailbox", "held").await;
    story.world.apply("Mailbox", "held", json!({ "address": HELD })).await;
    story.world.settle("the first owner", |state| state.all_ready(3)).await;
    story.world.delete("Mailbox", "held").await;
    story.apply_other("Mailbox", "held", json!({ "address": HELD })).await;
    story.until("the wait", async || story.rcpt(HELD).await.starts_with("450")).await;
    story.release(HELD);
    story.arrives(stuck).await;
    story.until_ready_other("Mailbox", "held").await;
    let new = story.traffic.send(HELD);
    assert_eq!(story.arrives(new).await, BTreeSet::from(["one.test/held".to_owned()]));
    let archived = story.arrives(stuck).await;
    assert!(archived.iter().all(|path| path.starts_with(".archive/")), "{archived:?}");
    story.never_left(since);
    story
}

/// It waits for its queue, and what comes in until the last moment is delivered.
pub async fn domain_deleted(world: World<'_>) -> Story<'_> {
    let (story, stuck) = domain_with_a_queue(world, json!({})).await;
    // As `kubectl delete -f` does it.
    story.world.delete("Mailbox", "held").await;
    story.world.delete("MailDomain", "one").await;
    let draining = |state: &State| state.published.is_empty() && state.phase("one.test") == Some("draining");
    story.world.settle("the drain", draining).await;
    story.waits(stuck).await;
    story.goes_on(20).await;
    assert_eq!(story.world.state().await.phase("one.test"), Some("draining"));
    story.release(HELD);
    story.arrives(stuck).await;
    story.world.settle("the end", |state| state.phase("one.test") == Some("withdrawn")).await;
    assert!(!story.rcpt(YOU).await.starts_with("250"));
    story
}

pub async fn reapplied_in_the_drain(world: World<'_>) -> Story<'_> {
    let (mut story, stuck) = domain_with_a_queue(world, json!({})).await;
    for name in ["you", "held"] {
        story.world.delete("Mailbox", name).await;
    }
    story.world.delete("MailDomain", "one").await;
    story.world.settle("the drain", |state| state.phase("one.test") == Some("draining")).await;
    story.waits(stuck).await;
    for (name, address) in [("you", YOU), ("held", HELD)] {
        story.world.apply("Mailbox", name, json!({ "address": address })).await;
    }
    story.world.apply("MailDomain", "one", domain("one.test", json!({}))).await;
    story.world.settle("service", |state| state.all_ready(3) && state.published == ["one.test"]).await;
    let since = Instant::now();
    story.release(HELD);
    assert_eq!(story.arrives(stuck).await, BTreeSet::from(["one.test/held".to_owned()]));
    story.goes_on(20).await;
    story.never_left(since);
    story
}

/// The next owner gets the domain when the first one's mail is delivered, and none of it.
pub async fn other_namespace(world: World<'_>) -> Story<'_> {
    let (mut story, stuck) = domain_with_a_queue(world, json!({})).await;
    story.world.delete("MailDomain", "one").await;
    story.apply_other("MailDomain", "one", domain("one.test", json!({}))).await;
    story.apply_other("Mailbox", "you", json!({ "address": YOU })).await;
    story.apply_other("Mailbox", "held", json!({ "address": HELD })).await;
    story.world.settle("the drain", |state| state.phase("one.test") == Some("draining")).await;
    story.waits(stuck).await;
    assert!(story.said_other("MailDomain", "one").await.contains("Accepted False DomainConflict"));
    story.release(HELD);
    assert_eq!(story.arrives(stuck).await, BTreeSet::from(["one.test/held".to_owned()]));
    story.world.settle("the end", |state| state.phase("one.test") == Some("withdrawn")).await;
    let before = story.traffic.sent().len();
    story.until_ready_other("MailDomain", "one").await;
    story.until_ready_other("Mailbox", "you").await;
    let since = Instant::now();
    story.goes_on(20).await;
    let new = story.traffic.send(HELD);
    assert_eq!(story.arrives(new).await, BTreeSet::from(["one.test/held".to_owned()]));
    for (number, places) in delivered(&story.world.pod.volumes.vmail()) {
        let archived = places.iter().all(|place| place.starts_with(".archive/"));
        if archived != (number < before) {
            story.violation(format!("{number}, of {before} for the first owner, is in {places:?}"));
        }
    }
    story.never_left(since);
    story
}

/// Mail for a mailbox would bounce in an alias domain.
pub async fn other_class(world: World<'_>) -> Story<'_> {
    world.apply("MailDomain", "two", domain("two.test", json!({}))).await;
    world.apply("Mailbox", "sink", json!({ "address": "sink@two.test" })).await;
    world.settle("the other domain", |state| state.all_ready(2)).await;
    world.apply("MailDomain", "one", domain("one.test", json!({}))).await;
    world.apply("Mailbox", "you", json!({ "address": YOU })).await;
    world.apply("Mailbox", "held", json!({ "address": HELD })).await;
    world.settle("service", |state| state.all_ready(5)).await;
    let story = Story::begin(world, "one.test", &[YOU]).await;
    story.hold(HELD);
    let stuck = story.stuck(HELD).await;
    story.world.delete("MailDomain", "one").await;
    story.world.apply("MailDomain", "one", domain("one.test", json!({ "class": "Alias" }))).await;
    for (name, address) in [("you", YOU), ("held", HELD)] {
        let alias = json!({ "address": address, "targets": ["sink@two.test"] });
        story.world.apply("MailAlias", name, alias).await;
    }
    story.world.settle("the drain", |state| state.phase("one.test") == Some("draining")).await;
    story.waits(stuck).await;
    assert_eq!(story.world.state().await.phase("one.test"), Some("draining"));
    story.release(HELD);
    assert_eq!(story.arrives(stuck).await, BTreeSet::from(["one.test/held".to_owned()]));
    let of_aliases = |state: &State| state.ready["MailAlias you"] && state.ready["MailAlias held"];
    story.world.settle("the aliases", |state| state.published.len() == 2 && of_aliases(state)).await;
    for name in ["you", "held"] {
        story.world.delete("Mailbox", name).await;
    }
    let served = |state: &State| state.all_ready(5) && state.published.len() == 2;
    story.world.settle("the other class", served).await;
    let new = story.traffic.send(HELD);
    assert_eq!(story.arrives(new).await, BTreeSet::from(["two.test/sink".to_owned()]));
    story.goes_on(20).await;
    story
}

/// The other cell has no pod here: it shows that the first one serves to the end. What goes from cell to cell is in
/// `tests/postfix/cells.rs`.
pub async fn other_cell(world: World<'_>) -> Story<'_> {
    let (story, stuck) = domain_with_a_queue(world, json!({})).await;
    story.world.delete("MailDomain", "one").await;
    story.world.apply("MailDomain", "one", domain("one.test", json!({ "cell": "other" }))).await;
    story.world.settle("the drain", |state| state.phase("one.test") == Some("draining")).await;
    story.waits(stuck).await;
    assert_eq!(story.world.state().await.phase("one.test"), Some("draining"));
    assert!(story.rcpt(YOU).await.starts_with("250"));
    story.release(HELD);
    assert_eq!(story.arrives(stuck).await, BTreeSet::from(["one.test/held".to_owned()]));
    let moved = |state: &State| {
        let record = &state.stored["vmail-domain.one.test/record.yaml"];
        state.phase("one.test") == Some("serving") && record.contains("cell: other")
    };
    story.world.settle("the move", moved).await;
    assert!(story.world.state().await.published.is_empty(), "nobody proved it there");
    story
}

/// One tenant's domain is refused by its proof, a Maildir of his is full, and his lists lead to as many addresses as one may.
pub async fn bad_neighbours(world: World<'_>) -> Story<'_> {
    world.apply("MailDomain", "one", domain("one.test", json!({}))).await;
    world.apply("Mailbox", "you", json!({ "address": YOU })).await;
    world.settle("service", |state| state.all_ready(2)).await;
    let mut story = Story::begin(world, "one.test", &[YOU]).await;
    let since = Instant::now();
    story.apply_other("MailDomain", "two", domain("two.test", json!({}))).await;
    story.apply_other("Mailbox", "full", json!({ "address": "full@two.test" })).await;
    story.until_ready_other("Mailbox", "full").await;

    // A file system of its own, as a quota makes it.
    let pod = story.world.pod.clone();
    let said = tokio::task::spawn_blocking(move || {
        pod.postfix(&["install", "-d", "-o", "2000", "-g", "2000", "-m", "700", "/var/vmail/two.test/full"])
            + &pod.postfix(&[
                "mount",
                "-t",
                "tmpfs",
                "-o",
                "size=4k,nr_inodes=3,uid=2000,gid=2000,mode=700",
                "tmpfs",
                "/var/vmail/two.test/full",
            ])
    });
    assert_eq!(said.await.expect("mounted"), "");
    for _ in 0..30 {
        let number = story.traffic.send("full@two.test");
        story.left.insert(number);
    }
    story
        .until("a full Maildir", async || {
            let log = story.world.pod.log();
            log.lines().any(|line| line.contains("to=<full@two.test>") && line.contains("status=deferred"))
        })
        .await;

    // A message to ten lists is one to 980 addresses, which wait for the DNS.
    for list in 0..11 {
        let targets: Vec<String> = (0..98).map(|n| format!("r{n}x{list}@elsewhere.example")).collect();
        let spec = json!({ "address": format!("list{list}@two.test"), "targets": targets });
        story.apply_other("MailAlias", &format!("list{list}"), spec).await;
    }
    let lists = |count: usize| (0..count).map(|n| format!("list{n}@two.test")).collect::<Vec<_>>();
    story.apply_other("MailAlias", "all", json!({ "address": "all@two.test", "targets": lists(10) })).await;
    story.apply_other("MailAlias", "more", json!({ "address": "more@two.test", "targets": lists(11) })).await;
    story.until_ready_other("MailAlias", "all").await;
    assert!(story.said_other("MailAlias", "more").await.contains("Accepted False AliasTooLarge"));
    for _ in 0..3 {
        story.traffic.send("all@two.test");
    }

    // A domain that its proof fails: nobody answers for postmaster@.
    let without = json!({ "roleAddresses": ["abuse"], "dns": { "managed": false } });
    story.apply_other("MailDomain", "bad", domain("bad.test", without)).await;
    story
        .until("a failed proof", async || story.said_other("MailDomain", "bad").await.contains("ProofFailed"))
        .await;

    // All the while, and from now on, the first tenant's mail arrives.
    story.goes_on(50).await;
    let number = story.traffic.send(YOU);
    story.arrives(number).await;
    story.world.apply("Mailbox", "new", json!({ "address": "new@one.test" })).await;
    story.world.settle("another mailbox", |state| state.all_ready(3)).await;
    story.traffic.stop();
    let not_taken = story
        .traffic
        .sent()
        .iter()
        .filter(|sent| sent.to == YOU && !sent.taken)
        .map(|sent| format!("{sent:?}"))
        .collect::<Vec<_>>();
    story.violations.extend(not_taken);
    story.never_left(since);
    story
}
