//! Where the time of a change goes, by what both programs log of their steps (`logLevel: info,timing=debug`).

use std::time::Duration;

use jiff::Timestamp;

use crate::Sample;
use crate::cluster::Cluster;
use crate::page::{milliseconds, quantile};

/// A step that a program took.
struct Step {
    name: String,
    began: Timestamp,
    ended: Timestamp,
}

/// The steps in a log.
fn steps(cluster: &Cluster, of: &str) -> Vec<Step> {
    let log = cluster.kubectl(&["logs", "-n", "mail", of]).expect("a log");
    let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let steps = lines.filter(|line| line["target"] == "timing").filter_map(|line| {
        let took = duration(line["time.busy"].as_str()?)? + duration(line["time.idle"].as_str()?)?;
        let ended: Timestamp = line["timestamp"].as_str()?.parse().ok()?;
        Some(Step { name: line["span"]["name"].as_str()?.to_owned(), began: ended - took, ended })
    });
    steps.collect()
}

/// As tracing-subscriber writes it: `1.23ms`.
fn duration(text: &str) -> Option<Duration> {
    let number = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match &text[number.len()..] {
        "ns" => 1e-9,
        "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * unit).ok()
}

/// A line for each part of the road of these samples, of which each is one Mailbox written to the API server.
pub fn rows(cluster: &Cluster, pod: &str, samples: &[Sample]) -> Vec<[String; 3]> {
    let (operator, agent) = (steps(cluster, "deployment/vmail-operator"), steps(cluster, pod));
    let parts = [
        "API server takes the Mailbox",
        "operator: event, rules, tables, until it writes",
        "API server takes the ConfigMap",
        "API server takes the Pod's annotation",
        "kubelet, until the agent reads",
        "agent: read, compare",
        "agent: `postmap`",
        "into place, until a client sees it",
    ];
    let mut times = vec![Vec::new(); parts.len()];
    for sample in samples {
        let after = |steps: &'_ [Step], name: &str, at: Timestamp| {
            let found = steps.iter().find(|step| step.name == name && step.began >= at);
            found
                .map(|step| (step.began, step.ended))
                .unwrap_or_else(|| panic!("no step `{name}` after {at}"))
        };
        let written = sample.began + sample.written;
        let write = after(&operator, "write", sample.began);
        let poke = after(&operator, "poke", write.1);
        let read = after(&agent, "read", write.1);
        let compile = after(&agent, "compile", read.0);
        let seen = sample.began + sample.accepted;
        let moments = [sample.began, written, write.0, write.1, poke.1, read.0, compile.0, compile.1, seen];
        for (times, pair) in times.iter_mut().zip(moments.windows(2)) {
            // An event may come before the answer to what it is about.
            times.push(Duration::try_from(pair[1] - pair[0]).unwrap_or_default());
        }
    }
    let row = |(part, times): (&str, &Vec<Duration>)| {
        [part.to_owned(), milliseconds(quantile(times, 0.5)), milliseconds(quantile(times, 0.99))]
    };
    parts.into_iter().zip(&times).map(row).collect()
}
