//! The operator, or a definition, was rolled back: what a newer version wrote is there, and not understood.

use std::time::{Duration, Instant};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::sleep;
use vmail_operator::api::{MailDomain, Mailbox};

use crate::pod::wait;
use crate::watch::Watch;
use crate::world::{HOST, Parts, State, World};

/// In the record: a field that is not known, a phase, another field, and a field of a phase.
const EDITS: [fn(&str) -> String; 4] = [
    |record| format!("{record}later: soon\n"),
    |record| record.replace("name: serving", "name: parked\n  since: tomorrow"),
    |record| record.replace("  heldTtl:", "  later: {a: [1]}\n  heldTtl:"),
    |record| record.replace("name: serving", "name: draining\n  until: 2020-01-01T00:00:00Z\n  later: 1"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_a_newer_version_stays_as_it_is_and_so_does_its_domain() {
    let mut parts = Parts::start().await;
    let world = World::start(&mut parts).await;
    let watch = Watch::start(world.dns(), world.pod.clone(), &["one.test", "two.test"]);
    let one = |mx| json!({ "domain": "one.test", "withdrawal": "Immediate", "dns": { "mx": mx } });
    let mine = json!([{ "host": HOST, "preference": 10 }]);
    world.apply("MailDomain", "one", one(mine.clone())).await;
    world.apply("MailDomain", "two", json!({ "domain": "two.test", "withdrawal": "Immediate" })).await;
    world.apply("Mailbox", "you", json!({ "address": "you@one.test" })).await;
    world.settle("service", |state| state.all_ready(3) && state.published.len() == 2).await;
    let record = |state: &State| state.stored["vmail-domain.one.test/record.yaml"].clone();

    let all = crate::lanes::all();
    for (number, edit) in EDITS.into_iter().take(if all { 4 } else { 2 }).enumerate() {
        world.stop_operator();
        let before = world.edit_record("one.test", edit).await;
        assert_ne!(edit(&before), before, "there is nothing to edit in {before}");
        let start = world.state().await;
        world.start_operator().await;
        world.settle("a start", |state| state.all_ready(3)).await;
        let said = |text: &str| world.log().matches(text).count();
        assert!(said("was written by a newer version") > number, "{}", world.log());

        // Its addresses may change, what is published may not.
        let other =
            json!([{ "host": HOST, "preference": 10 }, { "host": "backup.us.test", "preference": 50 }]);
        world.apply("MailDomain", "one", one(other)).await;
        let name = format!("new{number}");
        world.apply("Mailbox", &name, json!({ "address": format!("{name}@one.test") })).await;
        // The neighbour goes on.
        let two = json!({ "domain": "two.test", "withdrawal": "Immediate", "dns": { "ttl": 600 + number } });
        world.apply("MailDomain", "two", two).await;
        let changed = |state: &State| {
            state.ready[&format!("Mailbox {name}")]
                && state.ready["MailDomain two"]
                && state.stored["MX two.test"].contains(&format!("{}", 600 + number))
        };
        let state = world.settle("changes", changed).await;
        assert_eq!(record(&state), record(&start));
        assert_eq!(state.stored["MX one.test"], start.stored["MX one.test"]);
        assert!(!state.ready["MailDomain one"], "its MX is not as it is declared: {state:#?}");

        // Nor does it go.
        world.delete("MailDomain", "one").await;
        let gone = |state: &State| !state.ready.contains_key("MailDomain one");
        let state = world.settle("a deletion", |state| gone(state) && !state.ready["Mailbox you"]).await;
        assert_eq!(record(&state), record(&start));
        assert!(state.published.contains(&"one.test".to_owned()));
        world.apply("MailDomain", "one", one(mine.clone())).await;
        world.settle("it again", |state| state.all_ready(4)).await;

        // The upgrade.
        world.stop_operator();
        world.edit_record("one.test", |_| before.clone()).await;
        world.delete("Mailbox", &name).await;
        world.start_operator().await;
        let state = world.settle("an operator that knows it", |state| state.all_ready(3)).await;
        assert_eq!(state.stored["MX one.test"], start.stored["MX one.test"]);
    }
    let seen = watch.seen();
    assert!(seen.asked > 0 && seen.violations.is_empty(), "{:?}", seen.violations);
    drop(watch);
    world.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_is_not_known_is_served_without_and_left_alone() {
    let mut parts = Parts::start().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(parts.api.client.clone());
    let change = async |known: bool| {
        for name in ["maildomains.vmail.dev", "mailboxes.vmail.dev"] {
            let definition = definitions.get(name).await.expect("it is there");
            let mut versions = serde_json::to_value(&definition.spec.versions).expect("JSON");
            let fields = &mut versions[0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
            let fields = fields.as_object_mut().expect("fields");
            match known {
                true => drop(fields.insert("later".to_owned(), json!({ "type": "string" }))),
                false => drop(fields.remove("later")),
            }
            let patch = Patch::Merge(json!({ "spec": { "versions": versions } }));
            definitions.patch(name, &PatchParams::default(), &patch).await.expect("changed");
        }
    };
    change(true).await;
    let world = World::start(&mut parts).await;
    let watch = Watch::start(world.dns(), world.pod.clone(), &["one.test", "two.test"]);
    // The API server takes a moment to know it.
    let deadline = Instant::now() + Duration::from_secs(60);
    let kept = async || world.list(&world.path("maildomains")).await.contains(r#""later":"x""#);
    let (domains, mailboxes): (Api<MailDomain>, Api<Mailbox>) = (world.namespaced(), world.namespaced());
    let user = PatchParams::apply("user");
    let object = |kind: &str, name: &str, spec: Value| {
        let metadata = json!({ "name": name });
        let object =
            json!({ "apiVersion": "vmail.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec });
        Patch::Apply(object)
    };
    let domain = object("MailDomain", "one", json!({ "domain": "one.test", "later": "x" }));
    let mailbox = object("Mailbox", "you", json!({ "address": "you@one.test", "later": "x" }));
    while !(domains.patch("one", &user, &domain).await.is_ok()
        && mailboxes.patch("you", &user, &mailbox).await.is_ok()
        && kept().await)
    {
        assert!(Instant::now() < deadline, "the field is not known");
        sleep(Duration::from_millis(50)).await;
    }
    let state = world.settle("service", |state| state.all_ready(2)).await;
    assert!(kept().await, "the operator writes the status alone");

    change(false).await;
    world.stop_operator();
    world.start_operator().await;
    let after = world.settle("the definition of before", |state| state.all_ready(2)).await;
    assert_eq!(after, state, "{}", after.differences(&state));
    let pod = world.pod.clone();
    tokio::task::spawn_blocking(move || {
        wait("mail", || pod.rcpt("you@one.test").starts_with("250").then_some(()));
    })
    .await
    .expect("accepted");
    let seen = watch.seen();
    assert!(seen.asked > 0 && seen.violations.is_empty(), "{:?}", seen.violations);
    drop(watch);
    world.clear().await;
}
