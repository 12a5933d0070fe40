//! The way out while DNS is not what it was found to be.

use serde_json::json;

use crate::answers::until;
use crate::fault::{Action, Asked, Fault, Side};
use crate::watch::Watch;
use crate::world::{HOST, Parts, State, World};

fn zone_changes(asked: &Asked) -> bool {
    asked.side == Side::PowerDns && asked.is_write()
}

/// A write to the zone arrives when the domain has drained for a while: the operator that sent it is dead.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_write_during_a_drain_drains_anew() {
    let mut parts = Parts::start().await;
    let world = World::start(&mut parts).await;
    let watch = Watch::start(world.dns(), world.pod.clone(), &["one.test"]);
    let tally = || world.tally.lock().expect("not poisoned");
    let spec = |preference| {
        let mx = json!([{ "host": HOST, "preference": preference }]);
        json!({ "domain": "one.test", "dns": { "ttl": 60, "mx": mx } })
    };
    world.apply("MailDomain", "one", spec(10)).await;
    world.settle("service", |state| state.all_ready(1)).await;

    let late = Fault { applies: zone_changes, first: 1, count: 1, action: Action::Late };
    let struck = tally().struck();
    tally().set_fault(Some(late));
    world.apply("MailDomain", "one", spec(20)).await;
    until("the write", || tally().struck() > struck).await;
    world.stop_operator();
    world.delete("MailDomain", "one").await;
    world.start_operator().await;
    let draining = |state: &State| state.phase("one.test") == Some("draining") && state.published.is_empty();
    world.settle("the drain", draining).await;
    tally().set_fault(None);
    world.settle("the late write", |state| state.published == ["one.test"]).await;

    // Found at the end of the drain, while Postfix still accepts the domain.
    let again = world.settle("the second drain", draining).await;
    assert_eq!(again.phase("one.test"), Some("draining"));
    world.settle("the end", |state| state.phase("one.test") == Some("withdrawn")).await;
    let seen = watch.seen();
    assert!(seen.asked > 0 && seen.violations.is_empty(), "{:?}", seen.violations);
    drop(watch);
    world.clear().await;
}

fn of_zones(asked: &Asked) -> bool {
    asked.side == Side::PowerDns && asked.path.contains("/zones/")
}

/// PowerDNS says for a moment that it has no zone, just when an MX is no longer to be published.
#[tokio::test(flavor = "multi_thread")]
async fn a_zone_that_is_away_for_a_moment_makes_no_mx_forgotten() {
    let mut parts = Parts::start().await;
    let world = World::start(&mut parts).await;
    world.apply("MailDomain", "one", json!({ "domain": "one.test" })).await;
    world.settle("service", |state| state.all_ready(1)).await;
    let tally = || world.tally.lock().expect("not poisoned");
    let struck = tally().struck();
    let away = Action::Answer(404, r#"{"error":"Not Found"}"#.to_owned());
    tally().set_fault(Some(Fault::every(of_zones, away)));
    world.apply("MailDomain", "one", json!({ "domain": "one.test", "dns": { "managed": false } })).await;
    until("a question", || tally().struck() > struck).await;
    world.settle("the answer", |state| state.all_ready(1)).await;
    tally().set_fault(None);
    world.settle("the end of the MX", |state| state.all_ready(1) && state.published.is_empty()).await;
    world.clear().await;
}
