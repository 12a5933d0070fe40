//! What Prometheus is told about a running Postfix.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::pod::{Pod, wait};
use crate::revision::Wanted;

fn value(pod: &Pod, series: &str) -> Option<f64> {
    let (code, text) = pod.get("/metrics", None).ok()?;
    assert_eq!(code, 200, "{text}");
    let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    found.map(|value| value.parse().unwrap())
}

fn wait_for(pod: &Pod, series: &str, wanted: impl Fn(f64) -> bool) {
    wait(series, || value(pod, series).filter(|value| wanted(*value)));
}

#[test]
fn deliveries_queue_and_volumes_are_told() {
    let pod = Pod::serving(&Wanted::one("example.org").domain("example.com").mailbox("you@example.com"));
    assert_eq!(value(&pod, "vmail_agent_live"), Some(1.0));
    assert_eq!(value(&pod, "vmail_agent_domains{proved=\"true\"}"), Some(2.0));
    let used = "vmail_agent_volume_used_percent{volume=\"vmail\",of=\"bytes\"}";
    wait_for(&pod, used, |percent| (0.0..=100.0).contains(&percent));
    wait_for(&pod, "vmail_agent_queue_messages{queue=\"deferred\"}", |count| count == 0.0);
    let sent = "vmail_agent_deliveries_total{transport=\"virtual\",status=\"sent\"}";
    let deferred = "vmail_agent_deliveries_total{transport=\"virtual\",status=\"deferred\"}";
    assert_eq!(value(&pod, sent), None);

    // No Maildir can be made where a file stands.
    fs::write(pod.volumes.vmail().join("example.com"), "").unwrap();
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    pod.smtp().send("you@example.org", "arrives");
    pod.smtp().send("you@example.com", "waits");
    wait_for(&pod, sent, |count| count == 1.0);
    wait_for(&pod, deferred, |count| count >= 1.0);
    wait_for(&pod, "vmail_agent_queue_messages{queue=\"deferred\"}", |count| count == 1.0);
    wait_for(&pod, "vmail_agent_queue_oldest_timestamp_seconds", |time| time as u64 >= before);

    // The log itself passes.
    let (_, volumes) = pod.terminate();
    let log = volumes.log_text();
    for line in ["status=sent (delivered to maildir)", "status=deferred (maildir delivery failed"] {
        assert!(log.contains(line), "no `{line}` in\n{log}");
    }
}
