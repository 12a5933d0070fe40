//! One run: a namespace on a real API server, a zone on a real PowerDNS, a real Postfix with its agent, and the
//! operator as a process that can be killed. The test is the kubelet.

mod state;

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod as KubePod};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use vmail_operator::revision::{INDEX_FILE, Index};

use crate::apiserver::ApiServer;
use crate::fault::Side;
use crate::forward::forward;
use crate::kubelet::{create_pod, kubelet};
use crate::pod::{Pod, TOKEN, Volumes};
use crate::proxy::{self, Shared, Tally};
use crate::server::{KEY, Server};

pub use state::State;

const PATIENCE: Duration = Duration::from_secs(120);
/// Without a write for so long, nothing more is to come.
const SILENCE: Duration = Duration::from_millis(1200);
const ZONES: [&str; 2] = ["one.test", "two.test"];
pub const HOST: &str = "mail.us.test";

/// Parts that all runs share, one after the other.
pub struct Parts {
    pub api: ApiServer,
    pub pdns: Server,
    number: usize,
}

impl Parts {
    pub async fn start() -> Self {
        let api = ApiServer::start().await;
        api.install_crds().await;
        let pdns = crate::server::server();
        pdns.zone("us.test", "Native").await;
        pdns.put("us.test", HOST, "A", 60, &["192.0.2.1"]).await;
        Self { api, pdns, number: 0 }
    }

    /// A name for the namespace of another world.
    pub fn namespace(&mut self) -> String {
        self.number += 1;
        format!("mail-{}", self.number)
    }
}

/// One run.
pub struct World<'a> {
    parts: &'a Parts,
    pub namespace: String,
    pub pod: Arc<Pod>,
    dir: tempfile::TempDir,
    pub tally: Shared,
    operator: Arc<Mutex<Option<Child>>>,
    /// How often the operator was killed by a proxy.
    pub killed: Arc<Mutex<usize>>,
    /// How often it was started again after that.
    restarted: AtomicUsize,
    /// How often it ended by itself.
    pub ended: AtomicUsize,
    pub tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        end(&self.operator);
    }
}

fn end(operator: &Mutex<Option<Child>>) {
    if let Some(mut child) = operator.lock().expect("not poisoned").take() {
        // It may have ended by itself.
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl<'a> World<'a> {
    pub async fn new(parts: &'a mut Parts) -> Self {
        let namespace = parts.namespace();
        for zone in ZONES {
            parts.pdns.zone(zone, "Native").await;
        }
        Self::with(parts, &namespace, Volumes::new(), &["--settle-seconds", "0"]).await
    }

    /// One in this namespace, with the zones as they are; its pod has these volumes, and its agent these arguments.
    pub async fn with(parts: &'a Parts, namespace: &str, volumes: Volumes, arguments: &[&str]) -> Self {
        let namespace = namespace.to_owned();
        let tally: Shared = Arc::new(Mutex::new(Tally::default()));
        let operator: Arc<Mutex<Option<Child>>> = Arc::default();
        let killed: Arc<Mutex<usize>> = Arc::default();
        let (kill, mut kills) = mpsc::channel::<tokio::sync::oneshot::Sender<()>>(4);
        let (dead, count) = (operator.clone(), killed.clone());
        let killer = tokio::spawn(async move {
            while let Some(done) = kills.recv().await {
                end(&dead);
                *count.lock().expect("not poisoned") += 1;
                let _ = done.send(());
            }
        });
        let (api, token) = parts.api.admin();
        let api_url = proxy::start(Side::Api, api, Some(token), tally.clone(), kill.clone()).await;
        let pdns_url = proxy::start(Side::PowerDns, parts.pdns.url(), None, tally.clone(), kill).await;

        let uid = prepare(&parts.api.client, &namespace).await;
        let pod = Arc::new(Pod::start(volumes, &[arguments, &["--pod-uid", &uid]].concat()));
        let (port, forwarder) = forward(pod.clone()).await;
        let dir = tempfile::tempdir().expect("a directory");
        let config = json!({
            "name": "vmail",
            "postmaster": "postmaster@elsewhere.example",
            "cells": { "default": { "hostname": HOST, "pod": "vmail-postfix-default-0", "agentPort": port } },
            "dns": {
                "powerdns": { "url": pdns_url, "apiKeyFile": dir.path().join("key") },
                "resolver": parts.pdns.dns.to_string(),
                "drainMarginSeconds": 0,
                "checkIntervalSeconds": 5,
            },
            "vanishedSeconds": 0,
        });
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("writes");
        write("config.yaml", &config.to_string());
        write("key", KEY);
        write("token", TOKEN);
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{ "name": "c", "cluster": { "server": api_url } }],
            "users": [{ "name": "u", "user": {} }],
            "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
        });
        write("kubeconfig", &kubeconfig.to_string());
        let mut world = Self {
            parts,
            namespace: namespace.clone(),
            pod,
            dir,
            tally,
            operator,
            killed,
            restarted: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            tasks: vec![killer, forwarder],
        };
        let volume = world.pod.volumes.revision();
        let kubelet = kubelet(world.namespaced(), world.namespaced(), volume, "default");
        world.tasks.push(tokio::spawn(kubelet));
        world
    }

    pub fn client(&self) -> kube::Client {
        self.parts.api.client.clone()
    }

    pub fn namespaced<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client(), &self.namespace)
    }

    fn kind(&self, kind: &str, plural: &str) -> Api<DynamicObject> {
        let gvk = GroupVersionKind::gvk("vmail.dev", "v1alpha1", kind);
        Api::namespaced_with(self.client(), &self.namespace, &ApiResource::from_gvk_with_plural(&gvk, plural))
    }

    /// A world with an operator in it.
    pub async fn start(parts: &'a mut Parts) -> Self {
        let world = Self::new(parts).await;
        world.start_operator().await;
        world
    }

    /// Starts an operator that knows nothing but what is stored. The lease of a dead one has run out by then.
    pub async fn start_operator(&self) {
        let leases: Api<Lease> = self.namespaced();
        // There may be none.
        let _ = leases.delete("vmail", &DeleteParams::default()).await;
        *self.operator.lock().expect("not poisoned") = Some(self.spawn());
    }

    /// Starts another operator beside the one that runs, which is handed over.
    pub fn start_second(&self) -> Option<Child> {
        self.operator.lock().expect("not poisoned").replace(self.spawn())
    }

    /// The binary with these arguments, on the operator's way to the API server.
    pub fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_vmail-operator"));
        command.args(arguments).env("KUBECONFIG", self.dir.path().join("kubeconfig"));
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// An operator that competes for the lease.
    fn spawn(&self) -> Child {
        let file = |name: &str| self.dir.path().join(name);
        let log = std::fs::File::options().create(true).append(true).open(file("log")).expect("a log");
        Command::new(env!("CARGO_BIN_EXE_vmail-operator"))
            .args(["run", "--namespace", &self.namespace, "--listen", "127.0.0.1:0"])
            .arg("--config")
            .arg(file("config.yaml"))
            .arg("--agent-token-file")
            .arg(file("token"))
            .env("KUBECONFIG", file("kubeconfig"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("the operator starts")
    }

    /// Changes the configuration that the next operator reads.
    pub fn configure(&self, key: &str, value: Value) {
        let file = self.dir.path().join("config.yaml");
        let text = std::fs::read_to_string(&file).expect("reads");
        let mut config: Value = serde_json::from_str(&text).expect("it was written as JSON");
        config[key] = value;
        std::fs::write(file, config.to_string()).expect("writes");
    }

    /// Sends the operator a signal.
    pub fn signal(&self, signal: Signal) {
        let operator = self.operator.lock().expect("not poisoned");
        let pid = i32::try_from(operator.as_ref().expect("it runs").id()).expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("sent");
    }

    /// Starts an operator that ended by itself again, as the kubelet does.
    async fn revive(&self) {
        let ended = match self.operator.lock().expect("not poisoned").as_mut() {
            Some(child) => child.try_wait().expect("a state").is_some(),
            None => false,
        };
        if ended {
            let log = self.log();
            let first = log.find("panicked at").unwrap_or(log.len().saturating_sub(2000));
            println!("the operator ended by itself: {}", log.get(first..).unwrap_or(&log));
            self.ended.fetch_add(1, Ordering::Relaxed);
            self.start_operator().await;
        }
    }

    /// Whether the operator ended by itself.
    pub fn has_ended(&self) -> bool {
        let mut operator = self.operator.lock().expect("not poisoned");
        operator.as_mut().is_some_and(|child| child.try_wait().expect("a state").is_some())
    }

    /// Makes somebody else the holder of the lease.
    pub async fn take_lease(&self) {
        let leases: Api<Lease> = self.namespaced();
        let other = json!({ "spec": { "holderIdentity": "other", "renewTime": null } });
        leases.patch("vmail", &PatchParams::default(), &Patch::Merge(other)).await.expect("taken");
    }

    /// Takes a zone away for a while; it comes back with the records that it had.
    pub async fn lose_zone(&self, zone: &str, duration: Duration) {
        let pdns = &self.parts.pdns;
        let owner = format!("_vmail-owner.{zone}");
        let (mx, txt) = (pdns.get(zone, zone, "MX").await, pdns.get(zone, &owner, "TXT").await);
        pdns.delete_zone(zone).await;
        tokio::time::sleep(duration).await;
        pdns.zone(zone, "Native").await;
        for (name, kind, found) in [(zone, "MX", mx), (owner.as_str(), "TXT", txt)] {
            let (ttl, contents) = found.expect("it stood there");
            let contents: Vec<&str> = contents.iter().map(String::as_str).collect();
            pdns.put(zone, name, kind, u32::try_from(ttl).expect("a TTL"), &contents).await;
        }
    }

    /// Deletes the record of a domain behind the operator's back.
    pub async fn delete_record(&self, domain: &str) {
        let maps: Api<ConfigMap> = self.namespaced();
        let name = format!("vmail-domain.{domain}");
        maps.delete(&name, &DeleteParams::default()).await.expect("deleted");
    }

    /// Writes into the record of a domain behind the operator's back; what was there.
    pub async fn edit_record(&self, domain: &str, edit: impl Fn(&str) -> String) -> String {
        let maps: Api<ConfigMap> = self.namespaced();
        let name = format!("vmail-domain.{domain}");
        let map = maps.get(&name).await.expect("it is there");
        let before = map.data.and_then(|mut data| data.remove("record.yaml")).expect("a record");
        let patch = json!({ "data": { "record.yaml": edit(&before) } });
        maps.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await.expect("written");
        before
    }

    /// The path of a resource, as the operator lists it.
    pub fn path(&self, resource: &str) -> String {
        match resource {
            "configmaps" | "pods" => format!("/api/v1/namespaces/{}/{resource}", self.namespace),
            _ => format!("/apis/vmail.dev/v1alpha1/{resource}"),
        }
    }

    /// The text of an answer of the API server's.
    pub async fn list(&self, path: &str) -> String {
        let (api, token) = self.parts.api.admin();
        let client = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).no_proxy().build();
        let request = client.expect("a client").get(format!("{api}{path}")).bearer_auth(token);
        request.send().await.expect("answers").text().await.expect("a text")
    }

    /// How many writes reached PowerDNS.
    pub fn dns_writes(&self) -> usize {
        let tally = self.tally.lock().expect("not poisoned");
        tally.writes().iter().filter(|(_, path, _)| path.contains("/zones/")).count()
    }

    pub fn stop_operator(&self) {
        end(&self.operator);
    }

    pub fn dns(&self) -> std::net::SocketAddr {
        self.parts.pdns.dns
    }

    /// The operator's configuration.
    pub fn config(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("config.yaml")).expect("a configuration")
    }

    /// Orders that a domain be taken out of service, as `vmail-operator withdraw` does.
    pub async fn order_withdrawal(&self, domain: &str) {
        let maps: Api<ConfigMap> = self.namespaced();
        let order = json!({ "metadata": { "annotations": { "vmail.dev/withdraw": "true" } } });
        let name = format!("vmail-domain.{domain}");
        maps.patch(&name, &PatchParams::default(), &Patch::Merge(order)).await.expect("ordered");
    }

    /// An MX that somebody else wrote.
    pub async fn foreign_mx(&self, zone: &str) {
        self.parts.pdns.put(zone, zone, "MX", 300, &["10 mail.them.test."]).await;
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Applies a manifest, as a user does.
    pub async fn apply(&self, kind: &str, name: &str, spec: Value) {
        let (kind, plural) = plural(kind);
        let object = json!({
            "apiVersion": "vmail.dev/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec,
        });
        let params = PatchParams::apply("user").force();
        self.kind(kind, plural).patch(name, &params, &Patch::Apply(object)).await.expect("applied");
    }

    /// Deletes an object.
    pub async fn delete(&self, kind: &str, name: &str) {
        let (kind, plural) = plural(kind);
        self.kind(kind, plural).delete(name, &DeleteParams::default()).await.expect("deleted");
    }

    /// Waits until `done` says so of the state, and nothing is written any more. An operator that a proxy killed is
    /// started again.
    pub async fn settle(&self, what: &str, done: impl Fn(&State) -> bool) -> State {
        let deadline = Instant::now() + PATIENCE;
        let (mut last, mut since) = (0, Instant::now());
        loop {
            let killed = *self.killed.lock().expect("not poisoned");
            if self.restarted.swap(killed, Ordering::Relaxed) < killed {
                self.tally.lock().expect("not poisoned").arm(None);
                self.start_operator().await;
            }
            self.revive().await;
            let count = self.tally.lock().expect("not poisoned").writes().len();
            let state = self.state().await;
            if count != last || !done(&state) || !self.is_live().await {
                (last, since) = (count, Instant::now());
            }
            if since.elapsed() > SILENCE {
                return state;
            }
            if Instant::now() > deadline {
                panic!("{what} does not come: {state:#?}\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Whether the agent has the tables as they are written, or refuses them. Until then a poke may be to come, or the
    /// next tables, which wait for its answer.
    async fn is_live(&self) -> bool {
        let maps: Api<ConfigMap> = self.namespaced();
        let index = maps.get_opt("vmail-default-index").await.expect("an answer");
        let written = index.and_then(|map| map.data.unwrap_or_default().remove(INDEX_FILE));
        let Some(written) = written.and_then(|text| serde_json::from_str::<Index>(&text).ok()) else {
            return true;
        };
        let pod = self.pod.clone();
        let report = tokio::task::spawn_blocking(move || pod.report()).await;
        let Ok(Some(report)) = report else { return false };
        let rejected = report.rejected.map(|rejected| rejected.revision);
        [report.revision, rejected].contains(&Some(written.revision))
    }

    /// Takes the run's objects away, so that the next one does not see them.
    pub async fn clear(self) {
        let pdns = &self.parts.pdns;
        self.lose().await;
        for zone in ZONES {
            pdns.delete_zone(zone).await;
        }
    }

    /// The cluster is lost, with all that it stores. DNS is not.
    pub async fn lose(self) {
        self.stop_operator();
        let every = ListParams::default();
        for (kind, plural) in KINDS {
            let all = self.kind(kind, plural);
            all.delete_collection(&DeleteParams::default(), &every).await.expect("deleted");
        }
        let maps: Api<ConfigMap> = self.namespaced();
        maps.delete_collection(&DeleteParams::default(), &every).await.expect("deleted");
        let pods: Api<KubePod> = self.namespaced();
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        pods.delete_collection(&now, &every).await.expect("deleted");
    }

    /// The zones' server.
    pub fn pdns(&self) -> &'a Server {
        &self.parts.pdns
    }
}

/// The namespace and the pod; the pod's UID.
async fn prepare(client: &kube::Client, name: &str) -> String {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = json!({ "metadata": { "name": name } });
    match namespaces.create(&PostParams::default(), &of(namespace)).await {
        Ok(_) => {}
        // It comes back.
        Err(kube::Error::Api(status)) if status.is_already_exists() => {}
        Err(error) => panic!("a namespace: {error}"),
    }
    create_pod(client, name, "default").await
}

const KINDS: [(&str, &str); 3] =
    [("MailDomain", "maildomains"), ("Mailbox", "mailboxes"), ("MailAlias", "mailaliases")];

fn plural(kind: &str) -> (&'static str, &'static str) {
    KINDS.into_iter().find(|(known, _)| *known == kind).expect("a kind")
}

fn of<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("an object")
}
