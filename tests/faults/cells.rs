//! Two cells, each with a Postfix of its own: what one has queued for a domain of the other is waited for.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::forward::forward;
use crate::kubelet::{create_pod, kubelet};
use crate::pod::{Pod, Volumes};
use crate::traffic::{delivered, queue};
use crate::world::{Parts, State, World};

const ADDRESSES: [&str; 2] = ["10.77.0.1", "10.77.0.2"];
const PATIENCE: Duration = Duration::from_secs(120);

/// Another cell beside the first, whose Postfix finds it as it would find a Service.
async fn other_cell(world: &mut World<'_>) -> Arc<Pod> {
    let uid = create_pod(&world.client(), &world.namespace, "other").await;
    let pod = Arc::new(Pod::start(Volumes::new(), &["--settle-seconds", "0", "--pod-uid", &uid]));
    let (port, forwarder) = forward(pod.clone()).await;
    let (pods, maps) = (world.namespaced(), world.namespaced());
    let kubelet = kubelet(pods, maps, pod.volumes.revision(), "other");
    world.tasks.extend([forwarder, tokio::spawn(kubelet)]);
    world.pdns().put("us.test", "other.us.test", "A", 60, &["192.0.2.2"]).await;
    let mut config: Value = serde_json::from_str(&world.config()).expect("JSON");
    config["cells"]["other"] =
        json!({ "hostname": "other.us.test", "pod": "vmail-postfix-other-0", "agentPort": port });
    world.configure("cells", config["cells"].clone());

    world.pod.wire(&pod, ADDRESSES);
    let hosts = world.pod.volumes.revision().with_file_name("hosts");
    std::fs::write(hosts, format!("{} vmail-smtp-other\n", ADDRESSES[1])).expect("written");
    // Only then it has its own root directory.
    until("the agent", world, || world.pod.report().is_some()).await;
    assert_eq!(world.pod.postfix(&["mount", "--bind", "/etc/vmail-operator/hosts", "/etc/hosts"]), "");
    pod
}

/// Makes the other cell's Postfix answer nobody, or be there again.
fn wire_is(pod: &Pod, state: &str) {
    let one = pod.process_one().to_string();
    let ip = ["-t", &one, "-n", "ip", "link", "set", "wire", state];
    assert!(Command::new("nsenter").args(ip).status().expect("it runs").success());
}

async fn until(what: &str, world: &World<'_>, done: impl Fn() -> bool) {
    let look = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, look).await.is_err() {
        panic!("waited in vain for {what}: {:#?}\n{}\n{}", world.state().await, world.log(), world.pod.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_waits_for_what_another_cell_has_queued_for_it() {
    let mut parts = Parts::start().await;
    let mut world = World::new(&mut parts).await;
    let other = other_cell(&mut world).await;
    world.start_operator().await;
    let two = json!({ "domain": "two.test", "cell": "other", "withdrawal": "Immediate" });
    world.apply("MailDomain", "one", json!({ "domain": "one.test" })).await;
    world.apply("MailDomain", "two", two).await;
    world.apply("Mailbox", "you", json!({ "address": "you@two.test" })).await;
    let list = json!({ "address": "list@one.test", "targets": ["you@two.test"] });
    world.apply("MailAlias", "list", list).await;
    let served = |state: &State| state.all_ready(4) && state.published.len() == 2;
    world.settle("service", served).await;

    wire_is(&world.pod, "down");
    world.pod.smtp().send("list@one.test", "1");
    until("a first try", &world, || queue(&world.pod).iter().any(|one| one.queue == "deferred")).await;
    // Nothing but the message leads there any more.
    world.delete("MailAlias", "list").await;
    world.delete("MailDomain", "two").await;
    let draining = |state: &State| {
        state.phase("two.test") == Some("draining")
            && state.published == ["one.test"]
            && state.ready.len() == 2
    };
    world.settle("the drain", draining).await;
    let counted = || world.pod.report().is_some_and(|report| report.queued.get("two.test") == Some(&1));
    until("the count", &world, counted).await;
    assert_eq!(world.state().await.phase("two.test"), Some("draining"));

    wire_is(&world.pod, "up");
    let arrived = || {
        world.pod.postfix(&["postqueue", "-f"]);
        delivered(&other.volumes.vmail()).get(&1).is_some_and(|places| places.contains("two.test/you"))
    };
    until("the message", &world, arrived).await;
    world.settle("the end", |state| state.phase("two.test") == Some("withdrawn")).await;
    let log = world.pod.log() + &other.log();
    let astray = |line: &&str| {
        ["status=bounced", "status=expired", "non-delivery"].iter().any(|word| line.contains(word))
            || (line.contains("status=sent")
                && line.contains("to=<you@two.test>")
                && !line.contains("relay=vmail-smtp-other[")
                && !line.contains("relay=virtual"))
    };
    assert_eq!(log.lines().find(astray), None);
    world.clear().await;
}
