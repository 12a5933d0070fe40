//! The cell: a real Postfix with its agent; the bench is its kubelet.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod as KubePod};
use kube::api::{Api, ListParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};
use vmail_operator::revision::{INDEX_FILE, Index, Report};

use crate::forward::forward;
use crate::kubelet::{create_pod, files};
use crate::pod::{Pod, TOKEN, Volumes};
use crate::revision::mount_files;

const POD: &str = "vmail-postfix-default-0";

/// When a revision was mounted, and when the agent reported it as live.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    pub mounted: Option<Instant>,
    pub live: Option<Instant>,
}

pub type Revisions = Arc<Mutex<BTreeMap<String, Times>>>;

pub struct Cell {
    pod: Arc<Pod>,
    /// The port of this machine that leads to the agent.
    pub agent_port: u16,
    pub revisions: Revisions,
}

impl Drop for Cell {
    fn drop(&mut self) {
        // Those who ask the agent hold on to the pod; with its first process everything in it ends.
        let _ = kill(self.pod.process_one(), Signal::SIGKILL);
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
        let pod = Arc::new(Pod::start(Volumes::new(), &["--settle-seconds", "0", "--pod-uid", &uid]));

        let revisions = Revisions::default();
        let maps = Api::namespaced(client.clone(), "mail");
        tokio::spawn(kubelet(pods, maps, pod.volumes.revision(), revisions.clone()));
        let (asked, noted) = (pod.clone(), revisions.clone());
        std::thread::spawn(move || note_live(&asked, &noted));
        let (agent_port, _) = forward(pod.clone()).await;
        Self { agent_port, pod, revisions }
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
fn note_live(pod: &Pod, revisions: &Revisions) {
    let mut etag = String::new();
    loop {
        let answer = pod.get(&format!("/v1/status?after={etag}"), Some(TOKEN));
        let report = answer.ok().and_then(|(_, body)| serde_json::from_str::<Report>(&body).ok());
        let Some(report) = report else {
            std::thread::sleep(std::time::Duration::from_millis(50));
            continue;
        };
        etag = report.etag();
        if let Some(revision) = report.revision {
            let mut revisions = revisions.lock().expect("not poisoned");
            revisions.entry(revision).or_default().live.get_or_insert(Instant::now());
        }
    }
}
