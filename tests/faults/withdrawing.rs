//! `vmail-operator withdraw`: out of service in order, with the MailDomains still there, and back.

use std::process::Stdio;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, PostParams};
use serde_json::json;
use tokio::process::Command;
use tokio::time::timeout;

use crate::apiserver::User;
use crate::watch::Watch;
use crate::world::{Parts, State, World};

const PATIENCE: Duration = Duration::from_secs(120);

/// How the command is run in one world.
struct Runner {
    kubeconfig: std::path::PathBuf,
    namespace: String,
}

impl Runner {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmail-operator"));
        command.arg("withdraw").args(arguments).args(["--release-namespace", &self.namespace]);
        command.env("KUBECONFIG", &self.kubeconfig).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs it to its end: its exit code, and all that it said.
    async fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output =
            timeout(PATIENCE, self.command(arguments).output()).await.expect("in time").expect("runs");
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    }
}

fn says_withdrawn(state: &State, name: &str) -> bool {
    let said = state.stored[&format!("MailDomain {name}")].replace(['\\', '"'], "");
    said.contains("Accepted False Withdrawn")
}

/// The configuration, as the chart would have it in the namespace.
pub async fn configuration(world: &World<'_>) {
    let maps: Api<ConfigMap> = world.namespaced();
    let map: ConfigMap = serde_json::from_value(json!({
        "metadata": {
            "name": "configuration",
            "labels": {
                "app.kubernetes.io/name": "vmail-operator",
                "app.kubernetes.io/component": "operator",
            },
        },
        "data": { "config.yaml": world.config() },
    }))
    .expect("a ConfigMap");
    maps.create(&PostParams::default(), &map).await.expect("created");
}

#[tokio::test(flavor = "multi_thread")]
async fn domains_leave_in_order_and_stay_out_while_they_are_declared() {
    let mut parts = Parts::start().await;
    let kubeconfig = parts.api.kubeconfig(User::Admin);
    let world = World::start(&mut parts).await;
    configuration(&world).await;
    let runner = Runner { kubeconfig, namespace: world.namespace.clone() };
    let watch = Watch::start(world.dns(), world.pod.clone(), &["one.test", "two.test"]);
    let domain = |domain: &str, withdrawal: &str| json!({ "domain": domain, "withdrawal": withdrawal });
    world.apply("MailDomain", "one", domain("one.test", "WaitForTTL")).await;
    world.apply("MailDomain", "two", domain("two.test", "Immediate")).await;
    world.apply("Mailbox", "you", json!({ "address": "you@one.test" })).await;
    world.settle("service", |state| state.all_ready(3) && state.published.len() == 2).await;

    let (code, said) = runner.run(&["three.test"]).await;
    assert!(code == Some(2) && said.contains("three.test has no record"), "{code:?} {said}");

    // All of them; resolvers hold the MX of one for an hour.
    let (code, said) = runner.run(&["--all", "--timeout", "0"]).await;
    assert!(code == Some(1) && said.contains("not withdrawn in time: one.test, two.test"), "{code:?} {said}");
    world
        .settle("the drain", |state| {
            state.phase("one.test") == Some("draining") && state.phase("two.test") == Some("withdrawn")
        })
        .await;
    let state = world.state().await;
    assert!(state.published.is_empty() && says_withdrawn(&state, "one") && says_withdrawn(&state, "two"));
    let answer = |address: &'static str| {
        let pod = world.pod.clone();
        async move { tokio::task::spawn_blocking(move || pod.rcpt(address)).await.expect("an answer") }
    };
    assert!(answer("you@one.test").await.starts_with("250"), "it drains");
    assert!(!answer("postmaster@two.test").await.starts_with("250"), "it is out");
    let (code, said) = runner.run(&["--all", "--timeout", "0"]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("one.test: no MX in DNS; mail is accepted until 2"), "{said}");
    assert!(said.contains("two.test: withdrawn") && said.contains("in time: one.test. "), "{said}");

    // Back in the middle, alone.
    assert_eq!(runner.run(&["one.test", "--undo"]).await.0, Some(0));
    world
        .settle("one.test in service", |state| {
            state.ready["MailDomain one"] && state.published == ["one.test"] && says_withdrawn(state, "two")
        })
        .await;

    // It ends when all are out.
    world.apply("MailDomain", "one", domain("one.test", "Immediate")).await;
    let recorded = |state: &State| state.stored["vmail-domain.one.test/record.yaml"].contains("Immediate");
    world.settle("the change", |state| state.ready["MailDomain one"] && recorded(state)).await;
    let (code, said) = runner.run(&["--all"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("one.test: in service") && said.ends_with("one.test: withdrawn\n"), "{said}");

    // And stay out, past the last look at DNS and in a new operator, for as long as they are declared.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(70) {
        let state = world.state().await;
        assert!(state.published.is_empty(), "{state:#?}");
        assert_eq!([state.phase("one.test"), state.phase("two.test")], [Some("withdrawn"); 2]);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    world.stop_operator();
    world.start_operator().await;
    world.delete("MailDomain", "two").await;
    let state = world.settle("the end of two.test", |state| state.phase("two.test").is_none()).await;
    assert!(state.published.is_empty() && says_withdrawn(&state, "one"));

    assert_eq!(runner.run(&["--all", "--undo"]).await.0, Some(0));
    world.settle("service again", |state| state.all_ready(2) && state.published == ["one.test"]).await;
    let seen = watch.seen();
    assert!(seen.asked > 0 && seen.violations.is_empty(), "{:?}", seen.violations);
    drop(watch);
    world.clear().await;
}
