//! The story that `kubectl describe` tells: the real program, with the rights that the chart gives it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use vmail_operator::api::{MailDomain, Mailbox};

use crate::apiserver::{ApiServer, User, built, free_port, run};

const LIMIT: Duration = Duration::from_secs(60);

/// `vmail-operator run`, without a Postfix pod and without a PowerDNS.
struct Operator {
    process: Child,
    log: PathBuf,
}

impl Operator {
    fn start(server: &ApiServer, dir: &Path) -> Self {
        let config = json!({
            "name": "vmail",
            "postmaster": "postmaster@example.test",
            "cells": { "default": { "hostname": "mail.example.test", "pod": "vmail-postfix-default-0" } },
            "tenancy": { "rules": [{ "namespaces": ["*"], "domains": ["*"] }] },
            "dns": { "powerdns": { "url": "http://127.0.0.1:1", "apiKeyFile": dir.join("no-key") } },
        });
        std::fs::write(dir.join("config.yaml"), config.to_string()).expect("writes");
        let log = dir.join("operator.log");
        let process = Command::new(env!("CARGO_BIN_EXE_vmail-operator"))
            .args(["run", "--namespace=mail", "--agent-token-file=/dev/null"])
            .arg(format!("--config={}", dir.join("config.yaml").display()))
            .arg(format!("--listen=127.0.0.1:{}", free_port()))
            .env("KUBECONFIG", server.kubeconfig(User::Operator))
            .env("RUST_LOG", "info,vmail_operator=debug")
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(&log).expect("a log"))
            .spawn()
            .expect("it starts");
        Self { process, log }
    }

    /// As kubelet ends it; it gives the Lease back.
    fn stop(mut self) {
        let pid = Pid::from_raw(self.process.id().try_into().expect("a number"));
        kill(pid, Signal::SIGTERM).expect("it runs");
        let status = self.process.wait().expect("it ends");
        assert!(status.success(), "{status}: {}", self.said());
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).expect("a log")
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Every Event about objects of ours, oldest first: `namespace/object: type action reason`.
async fn story(server: &ApiServer) -> Vec<String> {
    let api: Api<Event> = Api::all(server.client.clone());
    let mut events = api.list(&ListParams::default()).await.expect("events").items;
    events.retain(|event| event.reporting_controller.as_deref() == Some("vmail.dev/operator"));
    events.sort_by_key(|event| event.event_time.as_ref().map(|time| time.0));
    let line = |event: &Event| {
        let about = event.regarding.clone().unwrap_or_default();
        let note = event.note.as_deref().unwrap_or_default();
        assert!(!note.is_empty() && event.reporting_instance.as_deref() == Some("mail/vmail"), "{event:?}");
        let told =
            [&event.type_, &event.action, &event.reason].map(|part| part.as_deref().unwrap_or_default());
        format!(
            "{}/{}: {}",
            about.namespace.unwrap_or_default(),
            about.name.unwrap_or_default(),
            told.join(" ")
        )
    };
    events.iter().map(line).collect()
}

/// Waits until the story has exactly these lines, in whatever order: different objects race.
async fn until(server: &ApiServer, operator: &Operator, lines: &[&str]) {
    let mut expected: Vec<&str> = lines.to_vec();
    expected.sort_unstable();
    let began = Instant::now();
    loop {
        let mut told = story(server).await;
        told.sort_unstable();
        if told == expected {
            return;
        }
        assert!(
            began.elapsed() < LIMIT,
            "told:\n{}\nexpected:\n{}\nthe operator said:\n{}",
            told.join("\n"),
            expected.join("\n"),
            operator.said()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn apply(server: &ApiServer, namespace: &str, kind: &str, name: &str, spec: &serde_json::Value) {
    let metadata = json!({ "namespace": namespace, "name": name });
    let object =
        json!({ "apiVersion": "vmail.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec });
    run(server.kubectl().args(["apply", "-f", "-"]), &object.to_string()).expect("let in");
}

/// Waits for a reason of `Ready`.
async fn reason(server: &ApiServer, operator: &Operator, namespace: &str, object: &str, reason: &str) {
    let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].reason}";
    let began = Instant::now();
    loop {
        let said =
            run(server.kubectl().args(["get", "-n", namespace, object, "-o", path]), "").expect("a field");
        if said == reason {
            return;
        }
        assert!(began.elapsed() < LIMIT, "{object}: {said} and not {reason}: {}", operator.said());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn versions(server: &ApiServer) -> Vec<Option<String>> {
    let domains: Api<MailDomain> = Api::all(server.client.clone());
    let mailboxes: Api<Mailbox> = Api::all(server.client.clone());
    let domains = domains.list_metadata(&ListParams::default()).await.expect("a list").items;
    let mailboxes = mailboxes.list_metadata(&ListParams::default()).await.expect("a list").items;
    let metadata = domains.into_iter().map(|d| d.metadata).chain(mailboxes.into_iter().map(|m| m.metadata));
    metadata.map(|metadata| metadata.resource_version).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_verdict_is_told_once() {
    let server = ApiServer::start().await;
    server.install_crds().await;
    for namespace in ["mail", "shop", "thief"] {
        run(server.kubectl().args(["create", "namespace", namespace]), "").expect("created");
    }
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/vmail-operator");
    let mut helm = Command::new(built("helm"));
    helm.args(["template", "vmail"]).arg(&chart).args(["--namespace=mail", "--values"]);
    helm.arg(chart.join("ci/minimal-values.yaml")).arg("--show-only=templates/operator-rbac.yaml");
    let rights = run(&mut helm, "").expect("rendered");
    run(server.kubectl().args(["apply", "-f", "-"]), &rights).expect("applied");
    let dir = tempfile::tempdir().expect("a directory");

    // Two claim a domain, two an address. Mailboxes come before their domain, as Argo CD sorts them.
    let domain = json!({ "domain": "shop.example" });
    let early = json!({ "address": "early@shop.example" });
    let operator = Operator::start(&server, dir.path());
    apply(&server, "shop", "Mailbox", "early", &early);
    reason(&server, &operator, "shop", "mailbox/early", "DomainNotFound").await;
    apply(&server, "shop", "MailDomain", "ours", &domain);
    reason(&server, &operator, "shop", "maildomain/ours", "AgentUnreachable").await;
    apply(&server, "thief", "MailDomain", "mine", &domain);
    reason(&server, &operator, "shop", "mailbox/early", "AgentUnreachable").await;
    apply(&server, "shop", "Mailbox", "late", &early);
    let mut told = vec![
        "shop/ours: Normal Accepted Accepted",
        "shop/ours: Warning Programmed AgentUnreachable",
        "thief/mine: Warning Accepted DomainConflict",
        "shop/late: Warning Accepted AddressConflict",
    ];
    until(&server, &operator, &told).await;
    let described = run(server.kubectl().args(["describe", "-n", "thief", "maildomain", "mine"]), "");
    let described = described.expect("a description");
    let (_, events) = described.split_once("Events:").expect("events");
    assert!(
        events.contains("Warning")
            && events.contains("DomainConflict")
            && events.contains("vmail.dev/operator")
    );

    // A restart tells nothing and writes nothing. What is created after it shows that it has looked at everything.
    let before = versions(&server).await;
    operator.stop();
    let operator = Operator::start(&server, dir.path());
    apply(&server, "mail", "MailDomain", "reserved", &json!({ "domain": "mail.example.test" }));
    told.push("mail/reserved: Warning Accepted ReservedDomain");
    until(&server, &operator, &told).await;
    let metadata = DeleteParams::default();
    let domains: Api<MailDomain> = Api::namespaced(server.client.clone(), "mail");
    domains.delete("reserved", &metadata).await.expect("deleted");
    assert_eq!(versions(&server).await, before);

    // What is mended is told, too.
    let mailboxes: Api<Mailbox> = Api::namespaced(server.client.clone(), "shop");
    mailboxes.delete("early", &metadata).await.expect("deleted");
    told.push("shop/late: Normal Accepted Accepted");
    until(&server, &operator, &told).await;
    operator.stop();
    // What was late is not told after all.
    assert_eq!(story(&server).await.len(), told.len());
}
