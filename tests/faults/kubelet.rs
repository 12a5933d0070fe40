//! What the StatefulSet and the kubelet do for a cell, where there is neither.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod as KubePod};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::revision::mount_files;

/// The pod of a cell as the StatefulSet and the kubelet would have it; its UID, which its agent reports.
pub async fn create_pod(client: &kube::Client, namespace: &str, cell: &str) -> String {
    let pods: Api<KubePod> = Api::namespaced(client.clone(), namespace);
    let name = format!("vmail-postfix-{cell}-0");
    let pod = json!({
        "metadata": { "name": name },
        "spec": { "containers": [{ "name": "postfix", "image": "none" }] },
    });
    let pod: KubePod = pods
        .create(&PostParams::default(), &serde_json::from_value(pod).expect("a pod"))
        .await
        .expect("a pod");
    let status =
        json!({ "status": { "podIP": "127.0.0.1", "podIPs": [{ "ip": "127.0.0.1" }], "phase": "Running" } });
    let patch = Patch::Merge(status);
    pods.patch_status(&name, &PatchParams::default(), &patch).await.expect("a status");
    pod.metadata.uid.expect("a UID")
}

/// The files of the projected volume of a cell.
pub fn files(maps: Vec<ConfigMap>, cell: &str) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for map in maps {
        if !map.metadata.name.unwrap_or_default().starts_with(&format!("vmail-{cell}-")) {
            continue;
        }
        files.extend(map.data.unwrap_or_default().into_iter().map(|(key, text)| (key, text.into_bytes())));
        files.extend(map.binary_data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0)));
    }
    files
}

/// Writes the projected volume whenever the pod is poked.
pub async fn kubelet(pods: Api<KubePod>, maps: Api<ConfigMap>, volume: PathBuf, cell: &'static str) {
    let mut poked = String::new();
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let Ok(pod) = pods.get(&format!("vmail-postfix-{cell}-0")).await else { continue };
        let annotations = pod.metadata.annotations.unwrap_or_default();
        let Some(value) = annotations.get("vmail.dev/revision").filter(|value| **value != poked) else {
            continue;
        };
        let Ok(all) = maps.list(&ListParams::default()).await else { continue };
        let files = files(all.items, cell);
        poked.clone_from(value);
        let volume = volume.clone();
        let _ = tokio::task::spawn_blocking(move || mount_files(&volume, &files)).await;
    }
}
