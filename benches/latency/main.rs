#![allow(missing_docs)]
//! From a change to its effect on a real cluster: what a user waits for who applies a Mailbox, a MailAlias or a MailDomain,
//! beside what others do. Needs root.
//!
//! `VMAIL_BENCH_SAMPLES`: how many of each (100).

mod beside;
#[path = "../../tests/e2e/cluster.rs"]
#[allow(dead_code)]
mod cluster;
mod inside;
#[path = "../page.rs"]
#[allow(dead_code)]
mod page;
#[path = "../../tests/e2e/smtp.rs"]
#[allow(dead_code)]
mod smtp;
mod steps;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::api::{Api, DynamicObject, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::json;

use cluster::Cluster;
use inside::Inside;
use page::{milliseconds, part, quantile, step, table};

const POD: &str = "vmail-postfix-default-0";
/// Kubelet looks at a pod once a second at most: a change that comes alone does not wait for the one before.
const APART: Duration = Duration::from_millis(1200);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Mailbox,
    MailAlias,
    MailDomain,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Mailbox => "Mailbox",
            Self::MailAlias => "MailAlias",
            Self::MailDomain => "MailDomain",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Kubectl,
    Api,
}

/// How long one change took to be written, accepted by Postfix, and published.
struct Sample {
    began: Timestamp,
    written: Duration,
    accepted: Duration,
    published: Option<Duration>,
}

fn main() {
    let samples = std::env::var("VMAIL_BENCH_SAMPLES").ok().map(|text| text.parse().expect("a number"));
    let samples = samples.unwrap_or(100);
    let cluster = Cluster::up("latency");
    step("the cluster is up");
    install(&cluster);
    let inside = Inside::of(&cluster);
    step("example.org is ready");

    let over = Arc::new(AtomicBool::new(false));
    let unpoked = beside::unpoked(&cluster, &inside, "vmail-default-tables", &over);
    let polled = beside::polled(&cluster, &inside, samples, &over);
    let (mut rows, mut parts) = (Vec::new(), Vec::new());
    for kind in [Kind::Mailbox, Kind::MailAlias, Kind::MailDomain] {
        for how in [How::Kubectl, How::Api] {
            let within = inside.clone();
            let taken = inside.thread(move || take(&within, kind, how, samples));
            let taken = taken.join().expect("all are served");
            rows.extend(told(kind, how, &taken));
            if kind == Kind::Mailbox && how == How::Api {
                parts = steps::rows(&cluster, POD, &taken);
            }
        }
    }
    over.store(true, Ordering::Relaxed);
    let polled = polled.join().expect("all are served");
    let unpoked: Vec<Duration> =
        unpoked.into_iter().flat_map(|thread| thread.join().expect("measured")).collect();
    rows.push(row("line in a file, looked at every 2 s, `postmap`, `postfix reload` → `RCPT` 250", &polled));
    rows.push(row("ConfigMap written, pod not annotated → in the pod", &unpoked));

    part(
        "From a change to its effect",
        "One change at a time on the local cluster, through the chart: API server, kubelet, Postfix and PowerDNS are real. A client asks without pause until it sees the effect. The last two lines are from the same minutes on the same node: a Postfix whose lists are files that a loop compares every two seconds, and a pod that mounts the same ConfigMap while nobody annotates it, so that kubelet comes in its own time.",
    );
    table(["change → effect", "tries", "p50", "p90", "p99", "longest"], &rows);
    println!(
        "\nWhere the time of an API write of a Mailbox goes ([how to see it yourself](operations.md#where-the-time-goes)):"
    );
    table(["part", "p50", "p99"], &parts);
}

fn row(what: &str, durations: &[Duration]) -> [String; 6] {
    let part = |part| milliseconds(quantile(durations, part));
    [what.to_owned(), durations.len().to_string(), part(0.5), part(0.9), part(0.99), part(1.0)]
}

fn told(kind: Kind, how: How, samples: &[Sample]) -> Vec<[String; 6]> {
    let name = kind.name();
    let verb = match how {
        How::Kubectl => "`kubectl apply`",
        How::Api => "API write",
    };
    let all =
        |duration: fn(&Sample) -> Option<Duration>| samples.iter().filter_map(duration).collect::<Vec<_>>();
    let mut rows =
        vec![row(&format!("{verb} of a {name} → `RCPT` 250"), &all(|sample| Some(sample.accepted)))];
    if kind == Kind::MailDomain {
        rows.push(row(&format!("{verb} of a {name} → MX answered"), &all(|sample| sample.published)));
    }
    if how == How::Kubectl && kind == Kind::Mailbox {
        rows.insert(0, row("`kubectl apply` by itself", &all(|sample| Some(sample.written))));
    }
    step(&format!(
        "{}: p50 {}, p99 {}",
        rows[rows.len() - 1][0],
        rows[rows.len() - 1][2],
        rows[rows.len() - 1][4]
    ));
    rows
}

/// Makes objects of a kind, one after the other; called in the cluster's network.
fn take(inside: &Inside, kind: Kind, how: How, samples: usize) -> Vec<Sample> {
    let runtime = beside::runtime();
    let client = runtime.block_on(inside.client());
    let mark = if how == How::Kubectl { "k" } else { "a" };
    let one = |number: usize| {
        let name = kind.name();
        let (spec, address) = match kind {
            Kind::Mailbox => {
                let address = format!("box-{mark}{number}@example.org");
                (format!("address: {address}"), address)
            }
            Kind::MailAlias => {
                let address = format!("alias-{mark}{number}@example.org");
                (format!("address: {address}, targets: [you@example.org]"), address)
            }
            Kind::MailDomain => {
                let domain = format!("{mark}{number}.example.test");
                (format!("domain: {domain}"), format!("postmaster@{domain}"))
            }
        };
        let manifest = format!(
            "{{apiVersion: vmail.dev/v1alpha1, kind: {name}, metadata: {{name: {mark}{number}, namespace: mail}}, spec: {{{spec}}}}}"
        );
        let (within, asked) = (inside.clone(), address.clone());
        let (time, began) = (Timestamp::now(), Instant::now());
        let accepted = inside.thread(move || within.accepted(&asked));
        let published = (kind == Kind::MailDomain).then(|| {
            let (within, domain) =
                (inside.clone(), address.rsplit('@').next().unwrap_or_default().to_owned());
            inside.thread(move || within.published(&domain))
        });
        match how {
            How::Kubectl => inside.apply(&manifest),
            How::Api => runtime.block_on(create(&client, name, &manifest)),
        }
        let written = began.elapsed();
        let accepted = accepted.join().expect("accepted") - began;
        let published = published.map(|thread| thread.join().expect("published") - began);
        std::thread::sleep(APART);
        Sample { began: time, written, accepted, published }
    };
    (0..samples).map(one).collect()
}

async fn create(client: &kube::Client, kind: &str, manifest: &str) {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("vmail.dev", "v1alpha1", kind));
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "mail", &resource);
    let object = serde_yaml::from_str(manifest).expect("an object");
    api.create(&PostParams::default(), &object).await.unwrap_or_else(|error| panic!("{manifest}: {error}"));
}

/// Chart and example, ready.
fn install(cluster: &Cluster) {
    cluster.make_release_namespace().expect("created");
    let mut values = cluster.chart_values(None);
    values["logLevel"] = json!("info,timing=debug");
    let chart = format!("{}/charts/vmail-operator", env!("CARGO_MANIFEST_DIR"));
    let helm = ["helm", "install", "vmail", &chart, "-n", "mail", "--wait", "--timeout=240s", "-f", "-"];
    cluster.exec(&helm, &values.to_string()).expect("installed");
    let example =
        std::fs::read_to_string(format!("{}/examples/example.org.yaml", env!("CARGO_MANIFEST_DIR")));
    cluster.apply("mail", &example.expect("an example")).expect("applied");
    for object in ["maildomain/example.org", "mailbox/you.example.org"] {
        cluster.wait_ready("mail", object);
    }
}
