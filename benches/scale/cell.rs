//! The cell: a real Postfix with its agent; the bench is its kubelet.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod as KubePod};
use kube::api::{Api, ListParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use vmail_operator::revision::{INDEX_FILE, Index, Report};

use crate::forward::forward;
use crate::kubelet::{create_pod, files};
use crate::pod::{Pod, TOKEN, Volumes};
use crate::process::Process;
use crate::revision::mount_files;

const POD: &str = "vmail-postfix-default-0";

/// When a revision was mounted, and when the agent reported it as live.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    mounted: Option<Instant>,
    live: Option<Instant>,
}

type Revisions = Arc<Mutex<BTreeMap<String, Times>>>;

pub struct Cell {
    pub pod: Arc<Pod>,
    /// The port of this machine that leads to the agent.
    pub agent_port: u16,
    revisions: Revisions,
    over: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
    asking: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Cell {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.over.store(true, Ordering::Relaxed);
        // With its first process everything in the pod ends, and so does what waits for its answer.
        let _ = kill(self.pod.process_one(), Signal::SIGKILL);
        let _ = self.asking.take().map(std::thread::JoinHandle::join);
    }
}

impl Cell {
    /// Namespace `mail` with the pod of the cell `default`, whose volumes are empty.
    pub async fn start(client: &kube::Client) -> Self {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let namespace = json!({ "metadata": { "name": "mail" } });
        namespaces.create(&PostParams::default(), &of(namespace)).await.expect("a namespace");
        let pods: Api<KubePod> = Api::namespaced(client.clone(), "mail");
        let uid = create_pod(client, "mail", "default").await;
        let pod = Arc::new(Pod::start(Volumes::new(), &["--settle-seconds", "5", "--pod-uid", &uid]));

        let revisions = Revisions::default();
        let maps = Api::namespaced(client.clone(), "mail");
        let kubelet = tokio::spawn(kubelet(pods, maps, pod.volumes.revision(), revisions.clone()));
        let over = Arc::new(AtomicBool::new(false));
        let (asked, noted, until) = (pod.clone(), revisions.clone(), over.clone());
        let asking = Some(std::thread::spawn(move || note_live(&asked, &noted, &until)));
        let (agent_port, forwarding) = forward(pod.clone()).await;
        Self { pod, agent_port, revisions, over, tasks: vec![kubelet, forwarding], asking }
    }

    /// The agent: the first that process 1 of the pod started (src/agent/init.rs).
    pub fn agent(&self) -> Process {
        let one = self.pod.process_one();
        let children = std::fs::read_to_string(format!("/proc/{one}/task/{one}/children")).expect("it runs");
        let first = children.split_whitespace().next().and_then(|id| id.parse().ok());
        Process(Pid::from_raw(first.expect("an agent")))
    }

    /// How often Postfix was reloaded.
    pub fn reloads(&self) -> usize {
        let (_, text) = self.pod.get("/metrics", None).expect("the agent answers");
        let line = text.lines().find_map(|line| line.strip_prefix("vmail_agent_reloads_total "));
        line.and_then(|value| value.parse().ok()).expect("a number")
    }

    /// The longest that a revision took from mounted to live, since this was asked the last time.
    pub fn longest_to_live(&self) -> Duration {
        let revisions = std::mem::take(&mut *self.revisions.lock().expect("not poisoned"));
        let lasted = revisions.values().filter_map(|times| Some(times.live? - times.mounted?));
        lasted.max().unwrap_or_default()
    }
}

fn of<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("an object")
}

/// Writes the projected volume whenever the pod is poked.
async fn kubelet(pods: Api<KubePod>, maps: Api<ConfigMap>, volume: PathBuf, revisions: Revisions) {
    let one = watcher::Config::default().fields(&format!("metadata.name={POD}"));
    let changes = watcher(pods, one).default_backoff().applied_objects();
    let mut changes = std::pin::pin!(changes);
    let mut poked = String::new();
    loop {
        let Ok(Some(pod)) = changes.try_next().await else { continue };
        let annotations = pod.metadata.annotations.unwrap_or_default();
        let Some(value) = annotations.get("vmail.dev/revision").filter(|value| **value != poked) else {
            continue;
        };
        poked.clone_from(value);
        let ours = ListParams::default().labels("app.kubernetes.io/managed-by=vmail-operator");
        let Ok(all) = maps.list(&ours).await else { continue };
        let files = files(all.items, "default");
        let index = files.get(INDEX_FILE).and_then(|text| serde_json::from_slice::<Index>(text).ok());
        let volume = volume.clone();
        let _ = tokio::task::spawn_blocking(move || mount_files(&volume, &files)).await;
        if let Some(index) = index {
            let mut revisions = revisions.lock().expect("not poisoned");
            revisions.entry(index.revision).or_default().mounted.get_or_insert(Instant::now());
        }
    }
}

/// Asks the agent what is live, and waits for each change.
fn note_live(pod: &Pod, revisions: &Revisions, over: &AtomicBool) {
    let mut etag = String::new();
    while !over.load(Ordering::Relaxed) {
        let answer = pod.get(&format!("/v1/status?after={etag}"), Some(TOKEN));
        let report = answer.ok().and_then(|(_, body)| serde_json::from_str::<Report>(&body).ok());
        let Some(report) = report else {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        etag = report.etag();
        if let Some(revision) = report.revision {
            let mut revisions = revisions.lock().expect("not poisoned");
            revisions.entry(revision).or_default().live.get_or_insert(Instant::now());
        }
    }
}
