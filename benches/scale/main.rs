#![allow(missing_docs)]
//! The operator with 1,000, 10,000 and 100,000 mailboxes: memory, CPU, writes, time. A real kube-apiserver on a real
//! etcd, the operator's release binary, a real Postfix with its agent. Needs root; takes half an hour.
//!
//! `VMAIL_BENCH_SIZES` names other numbers of mailboxes, `VMAIL_BENCH_SILENCE` for how many seconds nothing may happen.

#[path = "../../tests/api/apiserver.rs"]
#[allow(dead_code)]
mod apiserver;
mod cell;
mod figures;
#[path = "../../tests/faults/forward.rs"]
mod forward;
mod growth;
#[path = "../../tests/faults/kubelet.rs"]
#[allow(dead_code)]
mod kubelet;
mod measure;
mod objects;
mod operator;
#[path = "../page.rs"]
mod page;
mod plot;
#[path = "../../tests/postfix/pod.rs"]
#[allow(dead_code)]
mod pod;
mod process;
#[path = "../../tests/postfix/revision.rs"]
#[allow(dead_code)]
mod revision;
mod world;

use std::time::Duration;

use measure::{BURST, Plan, measure};

/// For how long nothing may happen, with most mailboxes and with fewer.
const LONG_SILENCE: u64 = 600;
const SILENCE: u64 = 60;
/// With so many mailboxes it is compared how many domains they are in.
const COMPARED: usize = 10_000;

#[tokio::main]
async fn main() {
    let sizes = std::env::var("VMAIL_BENCH_SIZES").unwrap_or("1000,10000,100000".to_owned());
    let sizes: Vec<usize> = sizes.split(',').map(|size| size.trim().parse().expect("a size")).collect();
    let silence = std::env::var("VMAIL_BENCH_SILENCE").ok().map(|text| text.parse().expect("seconds"));

    page::part("Scale", INTRODUCTION);
    let grown = growth::measure().await;
    let mut all = Vec::new();
    for size in &sizes {
        let long = if Some(size) == sizes.iter().max() { LONG_SILENCE } else { SILENCE };
        all.push(
            measure(&Plan {
                mailboxes: *size,
                domains: (size / 100).clamp(1, 1000),
                silence: Duration::from_secs(silence.unwrap_or(long)),
                burst: *size >= BURST,
            })
            .await,
        );
    }
    figures::sizes(&all);
    // A line through one point is none.
    if sizes.len() > 1 {
        figures::pictures(&all);
    }
    if let Some(compared) = all.iter().find(|measured| measured.mailboxes == COMPARED) {
        let plan = |domains| Plan { mailboxes: COMPARED, domains, silence: Duration::ZERO, burst: false };
        let (one, many) = (measure(&plan(1)).await, measure(&plan(1000)).await);
        println!("\nThe same {COMPARED} mailboxes in few and in many domains:");
        figures::domains(&[&one, compared, &many]);
    }
    println!("\n{GROWTH}");
    figures::growth(&grown);
}

const INTRODUCTION: &str = "\
A real kube-apiserver on a real etcd, the operator's release binary, a real Postfix with its agent, all on this machine, so that
times are those of all of them together with what creates the objects; CPU time and memory are the operator's alone where nothing else
is said. The bench plays the kubelet. Memory is `VmRSS`, and at its peak `VmHWM`.";

const GROWTH: &str = "\
Tables of up to 512 KiB are in one ConfigMap, larger ones in 64 shards. While mailboxes are created and deleted (each by itself,
as `kubectl delete` does), one that stays is asked about on port 25 again and again, 20 ms after each answer, in a session of its
own. The bench fails when an answer is not 250, or when the pod or Postfix starts anew.";
