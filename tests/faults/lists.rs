//! Lists that are older than what was seen already.

use std::time::Duration;

use serde_json::json;

use crate::answers::until;
use crate::fault::{Action, Events, Fault};
use crate::world::{Parts, World};

/// A list from before an object was deleted does not bring it back.
#[tokio::test(flavor = "multi_thread")]
async fn a_stale_list_brings_nothing_back() {
    let mut parts = Parts::start().await;
    let world = World::start(&mut parts).await;
    world.apply("MailDomain", "one", json!({ "domain": "one.test", "withdrawal": "Immediate" })).await;
    world.apply("MailDomain", "two", json!({ "domain": "two.test" })).await;
    world.settle("service", |state| state.all_ready(2)).await;
    let stale = world.list(&world.path("maildomains")).await;
    world.delete("MailDomain", "one").await;
    world.settle("the way out", |state| state.phase("one.test") == Some("withdrawn")).await;
    let written = world.dns_writes();

    // The watch that follows tells nothing: what was deleted is told once only to whoever asks for it from before.
    let tally = || world.tally.lock().expect("not poisoned");
    let struck = tally().struck();
    tally().set_events(Some(("maildomains", Events::Stall)));
    tally().set_fault(Some(Fault::every(|asked| asked.is_list("maildomains"), Action::Answer(200, stale))));
    tally().expire_watches();
    until("a list", || tally().struck() > struck).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let state = world.state().await;
    assert_eq!(state.phase("one.test"), Some("withdrawn"));
    assert!(state.published == ["two.test"] && world.dns_writes() == written, "{state:#?}");
    assert!(world.log().contains("a list named objects that are deleted"));
    tally().set_fault(None);
    tally().set_events(None);
    world.clear().await;
}
