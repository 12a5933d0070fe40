//! Much that would leave service unasked is held, and comes back, or goes once the administrator has confirmed it.

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::fault::{Action, Asked, Fault};
use crate::watch::Watch;
use crate::withdrawing::configuration;
use crate::world::{Parts, State, World};

const HELD: &str = "vmail-brake/held";

fn lists(asked: &Asked) -> bool {
    ["maildomains", "mailboxes", "mailaliases"].into_iter().any(|plural| asked.is_list(plural))
}

/// The API server as after a restore from an empty backup: every list is empty, and what changes is told.
async fn lose_everything(world: &World<'_>) {
    let list = world.list(&world.path("maildomains")).await;
    let mut list: Value = serde_json::from_str(&list).expect("JSON");
    list["items"] = json!([]);
    let empty = Fault::every(lists, Action::Answer(200, list.to_string()));
    world.tally.lock().expect("not poisoned").set_fault(Some(empty));
}

async fn confirm(world: &World<'_>, digest: &str) {
    let maps: Api<ConfigMap> = world.namespaced();
    let patch = Patch::Merge(json!({ "metadata": { "annotations": { "vmail.dev/confirm": digest } } }));
    maps.patch("vmail-brake", &PatchParams::default(), &patch).await.expect("annotated");
}

async fn accepted(world: &World<'_>, address: &'static str) -> bool {
    let pod = world.pod.clone();
    let answer = tokio::task::spawn_blocking(move || pod.rcpt(address)).await.expect("an answer");
    answer.starts_with("250")
}

fn tables(state: &State) -> Vec<(&String, &String)> {
    state.stored.iter().filter(|(key, _)| key.starts_with("vmail-default-")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_leaves_service_unasked_is_held_until_it_is_confirmed() {
    let mut parts = Parts::start().await;
    let world = World::new(&mut parts).await;
    world.configure("brake", json!({ "share": 20, "minimum": 2 }));
    world.start_operator().await;
    let watch = Watch::start(world.dns(), world.pod.clone(), &["one.test", "two.test"]);
    for (name, domain) in [("one", "one.test"), ("two", "two.test")] {
        let spec =
            json!({ "domain": domain, "withdrawal": "Immediate", "catchAll": format!("you@{domain}") });
        world.apply("MailDomain", name, spec).await;
        world.apply("Mailbox", name, json!({ "address": format!("you@{domain}") })).await;
        let alias = json!({ "address": format!("me@{domain}"), "targets": [format!("you@{domain}")] });
        world.apply("MailAlias", name, alias).await;
    }
    let serves = |state: &State| state.all_ready(6) && state.published.len() == 2;
    let before = world.settle("service", serves).await;
    let written = world.dns_writes();

    // An operator that starts and is told of nothing.
    world.stop_operator();
    lose_everything(&world).await;
    world.start_operator().await;
    let held = world.settle("the brake", |state| state.stored.contains_key(HELD)).await;
    let names = "one.test\ntwo.test\nme@one.test\nme@two.test\nyou@one.test\nyou@two.test\n";
    let mut told: Vec<&str> = held.stored[HELD].lines().collect();
    let mut expected: Vec<&str> = names.lines().collect();
    told.sort_unstable();
    expected.sort_unstable();
    assert_eq!(told, expected);
    assert_eq!([held.phase("one.test"), held.phase("two.test")], [Some("serving"); 2], "{held:#?}");
    assert_eq!(tables(&held), tables(&before));
    for address in ["you@one.test", "me@two.test", "anybody@one.test", "postmaster@two.test"] {
        assert!(accepted(&world, address).await, "{address}");
    }
    // As the operator sees it, through the same way.
    configuration(&world).await;
    for address in ["you@one.test", "me@two.test"] {
        let arguments = ["trace", address, "--release-namespace", &world.namespace];
        let said = world.command(&arguments).output().await.expect("it runs");
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.contains("250 accepted") && said.contains("the brake keeps it"), "{said}");
    }
    let maps: Api<ConfigMap> = world.namespaced();
    maps.delete("configuration", &DeleteParams::default()).await.expect("deleted");
    let events: Api<Event> = world.namespaced();
    let events = events.list(&ListParams::default()).await.expect("a list");
    let about = |event: &Event| {
        event.reason.as_deref() == Some("HeldBack")
            && event.regarding.as_ref().is_some_and(|object| object.name.as_deref() == Some("vmail-brake"))
    };
    assert_eq!(events.iter().filter(|event| about(event)).count(), 1);

    // A confirmation of something else is none.
    confirm(&world, "0123456789abcdef").await;
    let still = world.settle("the brake", |state| state.stored.contains_key(HELD)).await;
    assert_eq!([still.phase("one.test"), still.phase("two.test")], [Some("serving"); 2]);

    // What others add comes in meanwhile.
    world.apply("MailDomain", "one", json!({ "domain": "one.test", "withdrawal": "Immediate", "catchAll": "you@one.test", "deletionPolicy": "Archive" })).await;
    world.apply("Mailbox", "new", json!({ "address": "new@one.test" })).await;
    world.settle("an addition", |state| state.ready["Mailbox new"] && state.stored.contains_key(HELD)).await;
    assert!(accepted(&world, "new@one.test").await && accepted(&world, "you@one.test").await);
    world.delete("Mailbox", "new").await;
    world
        .apply(
            "MailDomain",
            "one",
            json!({ "domain": "one.test", "withdrawal": "Immediate", "catchAll": "you@one.test" }),
        )
        .await;

    // It all comes back.
    {
        let mut tally = world.tally.lock().expect("not poisoned");
        tally.set_fault(None);
        tally.expire_watches();
    }
    let back = world.settle("the way back", |state| serves(state) && !state.stored.contains_key(HELD)).await;
    assert!(back == before, "{}", before.differences(&back));
    assert_eq!(world.dns_writes(), written, "nothing was written to DNS");

    // The same again, and it is meant.
    world.stop_operator();
    lose_everything(&world).await;
    world.start_operator().await;
    let held = world.settle("the brake again", |state| state.stored.contains_key(HELD)).await;
    let command = &held.stored["vmail-brake/confirm"];
    confirm(&world, command.rsplit('=').next().expect("a digest")).await;
    let out = |state: &State| {
        [state.phase("one.test"), state.phase("two.test")] == [Some("withdrawn"); 2]
            && !state.stored.contains_key(HELD)
    };
    let state = world.settle("the way out", out).await;
    assert!(state.published.is_empty());
    assert!(!accepted(&world, "you@one.test").await);

    // What is seen to be deleted is not held, however much it is.
    {
        let mut tally = world.tally.lock().expect("not poisoned");
        tally.set_fault(None);
        tally.expire_watches();
    }
    world.settle("service again", serves).await;
    for name in ["one", "two"] {
        for kind in ["MailDomain", "Mailbox", "MailAlias"] {
            world.delete(kind, name).await;
        }
    }
    let gone = |state: &State| {
        assert!(!state.stored.contains_key(HELD), "{state:#?}");
        [state.phase("one.test"), state.phase("two.test")] == [Some("withdrawn"); 2]
    };
    world.settle("the deletion", gone).await;
    let seen = watch.seen();
    assert!(seen.asked > 0 && seen.violations.is_empty(), "{:?}", seen.violations);
    drop(watch);
    world.clear().await;
}
