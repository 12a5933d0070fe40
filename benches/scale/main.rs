#![allow(missing_docs)]
//! The operator with 1,000, 10,000 and 100,000 mailboxes: memory, CPU, writes, time. A real kube-apiserver on a real
//! etcd, the operator's release binary, a real Postfix with its agent. Needs root.
//!
//! `VMAIL_BENCH_SIZES` names other sizes, `VMAIL_BENCH_SILENCE` for how many seconds nothing may happen.

#[path = "../../tests/api/apiserver.rs"]
#[allow(dead_code)]
mod apiserver;
mod cell;
#[path = "../../tests/faults/forward.rs"]
mod forward;
#[path = "../../tests/faults/kubelet.rs"]
#[allow(dead_code)]
mod kubelet;
mod objects;
mod operator;
#[path = "../../tests/postfix/pod.rs"]
#[allow(dead_code)]
mod pod;
#[path = "../../tests/postfix/revision.rs"]
#[allow(dead_code)]
mod revision;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use serde_json::json;
use tokio::time::{sleep, timeout};

use apiserver::ApiServer;
use cell::Cell;
use operator::{Operator, sum};

/// For anything that is waited for.
const PATIENCE: Duration = Duration::from_secs(1800);
/// Mailboxes that are applied at once.
const BURST: usize = 10_000;
/// Single changes whose median is told.
const CHANGES: usize = 7;
const WRITES: &str = "vmail_api_writes_total";
const READY: &str = "vmail_objects{kind=\"Mailbox\",reason=\"Ready\"}";

struct World {
    server: ApiServer,
    cell: Cell,
    dir: tempfile::TempDir,
}

#[tokio::main]
async fn main() {
    let sizes = std::env::var("VMAIL_BENCH_SIZES").unwrap_or("1000,10000,100000".to_owned());
    let sizes: Vec<usize> = sizes.split(',').map(|size| size.trim().parse().expect("a size")).collect();
    let world = World::start().await;
    let mut domains = 0;
    let mut count = 0;
    for size in sizes {
        let wanted = (size / 100).clamp(1, 1000);
        let began = Instant::now();
        objects::create_domains(&world.server.client, domains..wanted).await;
        objects::create_mailboxes(&world.server.client, count..size, wanted).await;
        told(size, "objects created", format!("{:.1} s", began.elapsed().as_secs_f64()));
        (domains, count) = (wanted, size);
        world.cold_start(size).await;
        world.restart(size).await;
        let operator = world.operator().await;
        world.converged(&operator, count).await;
        world.changes(&operator, &mut count, domains).await;
        world.silence(&operator, size).await;
        if size > BURST {
            world.burst(&operator, &mut count, domains).await;
        }
    }
}

fn told(size: usize, what: &str, figure: String) {
    println!("{size:>7} mailboxes: {what}: {figure}");
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

impl World {
    async fn start() -> Self {
        let server = ApiServer::start().await;
        let definitions: Api<CustomResourceDefinition> = Api::all(server.client.clone());
        for definition in vmail_operator::api::crds() {
            let name = definition.metadata.name.clone().expect("a name");
            definitions.create(&PostParams::default(), &definition).await.expect("let in");
            let established = await_condition(definitions.clone(), &name, conditions::is_crd_established());
            timeout(PATIENCE, established).await.expect("in time").expect("established");
        }
        let cell = Cell::start(&server.client).await;
        let dir = tempfile::tempdir().expect("a directory");
        let config = json!({
            "name": "vmail",
            "postmaster": "postmaster@elsewhere.example",
            "cells": { "default": {
                "hostname": "mail.us.test", "pod": "vmail-postfix-default-0", "agentPort": cell.agent_port,
            } },
            // No domain is published here.
            "dns": { "powerdns": { "url": "http://127.0.0.1:9", "apiKeyFile": dir.path().join("key") } },
        });
        std::fs::write(dir.path().join("config.yaml"), config.to_string()).expect("writes");
        std::fs::write(dir.path().join("token"), pod::TOKEN).expect("writes");
        Self { server, cell, dir }
    }

    /// A new process, once the lease of the one before is gone.
    async fn operator(&self) -> Operator {
        let leases: Api<Lease> = Api::namespaced(self.server.client.clone(), "mail");
        // There may be none.
        let _ = leases.delete("vmail", &DeleteParams::default()).await;
        Operator::start(&self.server, self.dir.path())
    }

    /// Waits until so many mailboxes are ready and nothing was written for two seconds.
    async fn converged(&self, operator: &Operator, count: usize) -> Duration {
        let began = Instant::now();
        let (mut last, mut since) = (-1.0, Instant::now());
        loop {
            let metrics = operator.metrics().await;
            let writes = sum(&metrics, WRITES);
            if writes != last || metrics.get(READY) != Some(&(count as f64)) {
                (last, since) = (writes, Instant::now());
            }
            if since.elapsed() > Duration::from_secs(2) {
                return since - began;
            }
            assert!(began.elapsed() < PATIENCE, "it does not converge: {metrics:?}\n{}", operator.log());
            sleep(Duration::from_millis(250)).await;
        }
    }

    /// The ConfigMaps of the tables: version and size.
    async fn tables(&self) -> BTreeMap<String, (String, usize)> {
        let maps: Api<ConfigMap> = Api::namespaced(self.server.client.clone(), "mail");
        let ours = ListParams::default().labels("app.kubernetes.io/managed-by=vmail-operator");
        let all = maps.list(&ours).await.expect("a list").into_iter();
        let tables = all.filter_map(|map| {
            let name = map.metadata.name.filter(|name| name.starts_with("vmail-default-"))?;
            let text: usize = map.data.iter().flatten().map(|(_, text)| text.len()).sum();
            let bytes: usize = map.binary_data.iter().flatten().map(|(_, bytes)| bytes.0.len()).sum();
            Some((name, (map.metadata.resource_version?, text + bytes)))
        });
        tables.collect()
    }

    /// How many ConfigMaps differ from those `before`, and their bytes.
    async fn written(&self, before: &BTreeMap<String, (String, usize)>) -> (usize, usize) {
        let after = self.tables().await;
        let changed = after.iter().filter(|(name, map)| before.get(*name) != Some(map));
        changed.fold((0, 0), |(count, bytes), (_, (_, size))| (count + 1, bytes + size))
    }

    /// The operator starts, knows nothing, and finds all but a part of it new.
    async fn cold_start(&self, size: usize) {
        let began = Instant::now();
        let operator = self.operator().await;
        while operator.rounds() == 0 {
            assert!(began.elapsed() < PATIENCE, "no tables: {}", operator.log());
            sleep(Duration::from_millis(20)).await;
        }
        let (time, cpu) = (began.elapsed(), operator.cpu());
        let (peak, rss) = (operator.memory("VmHWM"), operator.memory("VmRSS"));
        told(
            size,
            "cold start to all tables written",
            format!("{}, {} of CPU, {rss:.0} MiB, peak {peak:.0} MiB", seconds(time), seconds(cpu)),
        );
        let first = operator.rounds();
        self.converged(&operator, size).await;
        let metrics = operator.metrics().await;
        told(
            size,
            "then until every status is written",
            format!(
                "{} more rounds, {} statuses, {} in all, {} of CPU, {:.0} MiB, peak {:.0} MiB",
                operator.rounds() - first,
                sum(&metrics, "vmail_api_writes_total{what=\"status\""),
                seconds(began.elapsed()),
                seconds(operator.cpu()),
                operator.memory("VmRSS"),
                operator.memory("VmHWM"),
            ),
        );
        let revisions = self.cell.revisions.lock().expect("not poisoned");
        let lasted = revisions.values().filter_map(|times| Some(times.live? - times.mounted?)).max();
        told(size, "longest from mounted to live", lasted.map(seconds).unwrap_or_default());
    }

    /// The operator starts anew where all is done.
    async fn restart(&self, size: usize) {
        let before = self.tables().await;
        let began = Instant::now();
        let operator = self.operator().await;
        while operator.metrics().await.get(READY) != Some(&(size as f64)) {
            assert!(began.elapsed() < PATIENCE, "not ready: {}", operator.log());
            sleep(Duration::from_millis(20)).await;
        }
        let (time, cpu) = (began.elapsed(), operator.cpu());
        self.converged(&operator, size).await;
        let writes = sum(&operator.metrics().await, WRITES);
        told(
            size,
            "restart",
            format!(
                "{} until all is known, {} of CPU; {writes} writes, {} ConfigMaps; {:.0} MiB, peak {:.0} MiB",
                seconds(time),
                seconds(cpu),
                self.written(&before).await.0,
                operator.memory("VmRSS"),
                operator.memory("VmHWM"),
            ),
        );
    }

    /// One mailbox more, several times.
    async fn changes(&self, operator: &Operator, count: &mut usize, domains: usize) {
        let mut all = Vec::new();
        let size = *count;
        for _ in 0..CHANGES {
            let (before, cpu) = (self.tables().await, operator.cpu());
            let metrics = operator.metrics().await;
            let began = Instant::now();
            objects::create_mailboxes(&self.server.client, *count..*count + 1, domains).await;
            *count += 1;
            let time = self.converged(operator, *count).await;
            let (maps, bytes) = self.written(&before).await;
            let statuses = |metrics| sum(metrics, "vmail_api_writes_total{what=\"status\"");
            let statuses = statuses(&operator.metrics().await) - statuses(&metrics);
            let _ = began;
            all.push((operator.cpu() - cpu, maps, bytes, statuses, time));
        }
        all.sort_by_key(|(cpu, ..)| *cpu);
        let (cpu, maps, bytes, statuses, time) = all[CHANGES / 2];
        told(
            size,
            "one mailbox more",
            format!(
                "{} ms of CPU, {maps} ConfigMaps with {bytes} bytes, {statuses} statuses, ready after {}",
                cpu.as_millis(),
                seconds(time),
            ),
        );
    }

    /// Nothing happens.
    async fn silence(&self, operator: &Operator, size: usize) {
        let long = std::env::var("VMAIL_BENCH_SILENCE").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
        let (cpu, writes) = (operator.cpu(), sum(&operator.metrics().await, WRITES));
        sleep(Duration::from_secs(long)).await;
        let (cpu, writes) = (operator.cpu() - cpu, sum(&operator.metrics().await, WRITES) - writes);
        let of = format!("{} ms of CPU, {writes} writes in {long} s", cpu.as_millis());
        told(size, "silence", format!("{of}, {:.0} MiB", operator.memory("VmRSS")));
    }

    /// Many mailboxes more at once.
    async fn burst(&self, operator: &Operator, count: &mut usize, domains: usize) {
        let (rounds, cpu, metrics) = (operator.rounds(), operator.cpu(), operator.metrics().await);
        let began = Instant::now();
        let numbers = *count..*count + BURST;
        objects::create_mailboxes(&self.server.client, numbers.clone(), domains).await;
        let created = began.elapsed();
        self.converged(operator, numbers.end).await;
        let statuses = |metrics| sum(metrics, "vmail_api_writes_total{what=\"status\"");
        told(
            *count,
            "10,000 more at once",
            format!(
                "created in {}, converged after {}: {} rounds, {} statuses, {} of CPU, peak {:.0} MiB",
                seconds(created),
                seconds(began.elapsed()),
                operator.rounds() - rounds,
                statuses(&operator.metrics().await) - statuses(&metrics),
                seconds(operator.cpu() - cpu),
                operator.memory("VmHWM"),
            ),
        );
        *count = numbers.end;
    }
}
