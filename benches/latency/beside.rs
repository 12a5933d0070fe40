//! What others do, on the same node in the same minutes: a ConfigMap that nobody pokes a kubelet for, and a container that
//! looks at its files every two seconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use crate::cluster::Cluster;
use crate::inside::{Inside, PATIENCE, accepted_at, until};

/// Pods with a ConfigMap each: kubelet looks at each in its own time.
const UNPOKED: usize = 6;
/// The address of the polling Postfix.
const POLLED: &str = "polled.example";

/// Postfix as a file-based container has it: lists are files on a volume, compared every two seconds, compiled and
/// reloaded when they differ. What does not bear on that is Postfix's default.
const POLLING: &str = r#"
mkdir -p /tmp/postfix/tables && cd /tmp/postfix
cp /etc/postfix/master.cf.proto master.cf 2>/dev/null || cp /usr/share/postfix/master.cf.dist master.cf
cat >main.cf <<'MAIN'
compatibility_level = 3.6
maillog_file = /dev/stdout
mydestination =
mynetworks =
virtual_mailbox_domains = polled.example
virtual_mailbox_maps = cdb:/tmp/postfix/tables/mailboxes
virtual_mailbox_base = /var/vmail
virtual_uid_maps = static:2000
virtual_gid_maps = static:2000
MAIN
export MAIL_CONFIG=/tmp/postfix
postconf -F '*/*/chroot = n'
update() { cp /lists/mailboxes tables/mailboxes && sum=$(sha256sum </lists/mailboxes) && postmap cdb:tables/mailboxes; }
update && postfix start
while sleep 2; do
    [ "$(sha256sum </lists/mailboxes)" = "$sum" ] || { update && postfix reload; }
done
"#;

/// Durations from the change to its effect.
pub type Durations = std::thread::JoinHandle<Vec<Duration>>;

/// Changes ConfigMaps with the content of `map` again and again until `over`; each duration lasts until the pod has it.
pub fn unpoked(cluster: &Cluster, inside: &Inside, map: &str, over: &Arc<AtomicBool>) -> Vec<Durations> {
    let image = cluster.env("IMAGE_POSTFIX").to_owned();
    let root = format!("/proc/{}/root{}/kubelet/pods", cluster.pid(), cluster.env("CLUSTER_STATE"));
    let start = |number: usize| {
        let (within, over, image, root) = (inside.clone(), over.clone(), image.clone(), root.clone());
        let (name, map) = (format!("unpoked-{number}"), map.to_owned());
        inside.thread(move || {
            runtime().block_on(async move {
                let client = within.client().await;
                let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "mail");
                let pods: Api<Pod> = Api::namespaced(client, "mail");
                let data = maps.get(&map).await.expect("the tables").data;
                let copy = json!({ "metadata": { "name": name }, "data": data });
                let copy = serde_json::from_value(copy).expect("a ConfigMap");
                maps.create(&PostParams::default(), &copy).await.expect("created");
                let volume = json!({ "name": "tables", "configMap": { "name": name } });
                let mount = json!({ "name": "tables", "mountPath": "/tables" });
                let pod = run(&pods, &name, &image, "exec sleep infinity", volume, mount).await;
                let uid = pod.metadata.uid.expect("a UID");
                let file = format!("{root}/{uid}/volumes/kubernetes.io~configmap/tables/round");
                let mut durations = Vec::new();
                for round in 1.. {
                    // A pod that just came is looked at more often; later on, a change may come at any time between two looks.
                    let pause = Duration::from_secs(20 + (31 * round + 13 * number as u64) % 70);
                    tokio::time::sleep(pause).await;
                    if over.load(Ordering::Relaxed) {
                        return durations;
                    }
                    let patch = Patch::Merge(json!({ "data": { "round": round.to_string() } }));
                    let began = Instant::now();
                    maps.patch(&name, &PatchParams::default(), &patch).await.expect("written");
                    let stands =
                        || std::fs::read_to_string(&file).is_ok_and(|text| text == round.to_string());
                    while !stands() {
                        // What is unfinished at the end is left out, be it short or long.
                        if over.load(Ordering::Relaxed) {
                            return durations;
                        }
                        assert!(began.elapsed() < PATIENCE, "{file}: never changed");
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    durations.push(began.elapsed());
                }
                durations
            })
        })
    };
    (0..UNPOKED).map(start).collect()
}

/// Adds mailboxes to the files of a container that polls; each duration lasts until its Postfix accepts mail.
pub fn polled(cluster: &Cluster, inside: &Inside, samples: usize, over: &Arc<AtomicBool>) -> Durations {
    let image = cluster.env("IMAGE_POSTFIX").to_owned();
    let lists = format!("{}/polled", cluster.env("CLUSTER_STATE"));
    let file = format!("/proc/{}/root{lists}/mailboxes", cluster.pid());
    cluster.exec(&["mkdir", "-p", &lists], "").expect("a directory");
    let (within, over) = (inside.clone(), over.clone());
    inside.thread(move || {
        let mut text = String::new();
        for number in 0..100 {
            text += &format!("old{number}@{POLLED} {POLLED}/old{number}/\n");
        }
        let put = |text: &str| {
            let new = format!("{file}.new");
            std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &file)).expect("written");
        };
        put(&text);
        let address = runtime().block_on(async {
            let pods: Api<Pod> = Api::namespaced(within.client().await, "mail");
            let volume = json!({ "name": "lists", "hostPath": { "path": lists } });
            let mount = json!({ "name": "lists", "mountPath": "/lists" });
            let pod = run(&pods, "polled", &image, POLLING, volume, mount).await;
            pod.status.and_then(|status| status.pod_ip).expect("an address")
        });
        let server = format!("{address}:25");
        until("the polling Postfix", || std::net::TcpStream::connect(&server).is_ok());
        let mut durations = Vec::new();
        for number in 0..samples {
            if over.load(Ordering::Relaxed) {
                break;
            }
            text += &format!("new{number}@{POLLED} {POLLED}/new{number}/\n");
            let began = Instant::now();
            put(&text);
            durations.push(accepted_at(&server, &format!("new{number}@{POLLED}")) - began);
            // At any time between two looks.
            std::thread::sleep(Duration::from_millis(3000 + 370 * (number as u64 % 6)));
        }
        durations
    })
}

/// A pod of one container with a shell script and a volume, once it runs.
async fn run(
    pods: &Api<Pod>,
    name: &str,
    image: &str,
    script: &str,
    volume: serde_json::Value,
    mount: serde_json::Value,
) -> Pod {
    let pod = json!({
        "metadata": { "name": name },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main", "image": image, "imagePullPolicy": "Never",
                "command": ["sh", "-euc", script], "volumeMounts": [mount],
            }],
            "volumes": [volume],
        },
    });
    let pod = serde_json::from_value(pod).expect("a pod");
    pods.create(&PostParams::default(), &pod).await.expect("created");
    let running = kube::runtime::wait::conditions::is_pod_running();
    let running = kube::runtime::wait::await_condition(pods.clone(), name, running);
    let pod = tokio::time::timeout(PATIENCE, running).await.expect("in time").expect("it runs");
    pod.expect("it is there")
}

/// For one thread, in whose network its connections are.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}
