//! Ways out that do not end by themselves: a PowerDNS that will not come back, and somebody else's MX that names our host.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use crate::fault::{Action, Asked, Fault, Side};
use crate::watch::{names_us, rcpt, resolver};
use crate::world::{Parts, State, World};

const PATIENCE: Duration = Duration::from_secs(90);

async fn answer(world: &World<'_>, address: &'static str) -> String {
    let pod = world.pod.clone();
    tokio::task::spawn_blocking(move || rcpt(&pod, address).unwrap_or_default()).await.expect("an answer")
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done().await {
        assert!(Instant::now() < deadline, "{what}: does not come");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dns_server_that_will_not_come_back_can_be_given_up() {
    let all = crate::lanes::all();
    let mut parts = Parts::start().await;
    let world = World::start(&mut parts).await;
    let one = json!({ "domain": "one.test", "withdrawal": "Immediate" });
    world.apply("MailDomain", "one", one.clone()).await;
    world.apply("Mailbox", "you", json!({ "address": "you@one.test" })).await;
    world.settle("service", |state| state.all_ready(2)).await;

    let struck = || world.tally.lock().expect("not poisoned").struck();
    let cut = |asked: &Asked| asked.side == Side::PowerDns;
    world.tally.lock().expect("not poisoned").set_fault(Some(Fault::every(cut, Action::HangUp)));
    world.delete("MailDomain", "one").await;
    // It is tried, and nothing is skipped.
    let before = struck();
    until("tries", async || struck() > before + 2).await;
    let state = world.state().await;
    assert_eq!(state.phase("one.test"), Some("withdrawing"));
    assert!(answer(&world, "you@one.test").await.starts_with("250"), "an MX stands, so it is served");

    let maps: Api<ConfigMap> = world.namespaced();
    let order = json!({ "metadata": { "annotations": { "vmail.dev/abandon-dns": "true" } } });
    maps.patch("vmail-domain.one.test", &PatchParams::default(), &Patch::Merge(order))
        .await
        .expect("ordered");
    let out = |state: &State| state.phase("one.test").is_none_or(|phase| phase == "withdrawn");
    world.settle("the way out", out).await;
    assert!(answer(&world, "you@one.test").await.starts_with('5'));
    if all {
        let none = async || world.state().await.phase("one.test").is_none();
        until("the end of the record", none).await;
    }

    // It came back all the same: nobody writes there until the domain is declared again.
    world.tally.lock().expect("not poisoned").set_fault(None);
    let state = world.state().await;
    assert!(!all || state.published == ["one.test"], "nobody could take it out: {state:#?}");
    world.apply("MailDomain", "one", one).await;
    world.settle("service again", |state| state.all_ready(2) && state.published == ["one.test"]).await;
    world.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_whose_mx_somebody_else_leaves_here_is_served_to_the_deadline() {
    let mut parts = Parts::start().await;
    let world = World::new(&mut parts).await;
    let mut config: Value = serde_json::from_str(&world.config()).expect("JSON");
    config["dns"]["queueDeadlineSeconds"] = json!(12);
    world.configure("dns", config["dns"].clone());
    world.start_operator().await;
    let spec = json!({ "domain": "one.test", "withdrawal": "Immediate", "dns": { "managed": false } });
    world.apply("MailDomain", "one", spec).await;
    world.apply("Mailbox", "you", json!({ "address": "you@one.test" })).await;
    world.settle("service", |state| state.all_ready(2)).await;
    world.pdns().put("one.test", "one.test", "MX", 60, &["10 mail.us.test."]).await;
    let resolver = resolver(world.dns());

    let began = Timestamp::now();
    world.delete("MailDomain", "one").await;
    let mut served = 0;
    until("the deadline", async || {
        let state = world.state().await;
        let early = Timestamp::now() < began + Duration::from_secs(12);
        assert!(!early || matches!(state.phase("one.test"), Some("serving" | "withdrawing")), "{state:#?}");
        if early {
            let said = answer(&world, "postmaster@one.test").await;
            assert!(said.starts_with("250"), "{said}");
            served += 1;
        }
        state.phase("one.test").is_none_or(|phase| phase == "withdrawn")
    })
    .await;
    assert!(
        served > 0 && world.log().contains("an MX that is not ours names mail.us.test"),
        "{}",
        world.log()
    );
    assert!(names_us(&resolver, "one.test").await, "what is not ours stays");
    assert!(answer(&world, "postmaster@one.test").await.starts_with('5'));
    world.clear().await;
}
