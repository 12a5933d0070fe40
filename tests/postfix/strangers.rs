//! Those who are not meant: relay tests, and the agent's endpoint.

use crate::pod::{Pod, TOKEN, set_mode};
use crate::revision::{HOST, Wanted};

#[test]
fn nothing_relays() {
    let pod = Pod::serving(&Wanted::one("example.org"));
    for address in [
        "you@example.com",
        "you%example.com@example.org",
        "you%example.com",
        "example.com!you",
        "example.com!you@example.org",
        "@example.org:you@example.com",
        "@example.com,@example.org:you@example.com",
        "\"you@example.com\"",
        "\"you@example.com\"@example.org",
        "\"you%example.com\"@example.org",
        "you@example.com@example.org",
        "you@example.org@example.com",
        "nobody@[127.0.0.1]",
        "root@[127.0.0.1]",
        "you@localhost",
        "root@localhost",
        &format!("you@{HOST}"),
        &format!("double-bounce@{HOST}"),
        "root",
        "nobody",
        "you@sub.example.org",
        "you@.example.org",
        "OK",
        "you@OK",
    ] {
        let reply = pod.rcpt(address);
        assert!(reply.starts_with('5'), "{address}: {reply}");
        let mut session = pod.smtp();
        assert!(session.ask("MAIL FROM:<>").starts_with("250"));
        let reply = session.ask(&format!("RCPT TO:<{address}>"));
        assert!(reply.starts_with('5'), "{address} from nobody: {reply}");
        let mut session = pod.smtp();
        assert!(session.ask("MAIL FROM:<you@example.org>").starts_with("250"));
        let reply = session.ask(&format!("RCPT TO:<{address}>"));
        assert!(reply.starts_with('5'), "{address} from one of us: {reply}");
    }
    assert!(pod.smtp().ask("VRFY you@example.org").starts_with("502"));
}

#[test]
fn the_report_is_for_those_with_the_token() {
    let wanted = Wanted::one("example.org");
    let pod = Pod::serving(&wanted);
    for token in [None, Some("another"), Some("")] {
        let (code, body) = pod.get("/v1/status", token).expect("an answer");
        assert_eq!(code, 401, "{body}");
        assert!(!body.contains("example.org"));
    }
    let report = pod.report().expect("a report");
    let waiting = std::thread::scope(|scope| {
        let path = format!("/v1/status?after={}", report.etag());
        let pod = &pod;
        let waiting = scope.spawn(move || pod.get(&path, Some(TOKEN)).expect("an answer"));
        let next = wanted.mailbox("me@example.org");
        next.mount(&pod.volumes.revision());
        (waiting.join().expect("no panic"), next.revision())
    });
    let ((code, body), revision) = waiting;
    assert_eq!(code, 200);
    assert!(body.contains(&revision), "the long poll did not wake for {revision}: {body}");
}

#[test]
fn a_volume_that_cannot_be_written_is_told() {
    let wanted = Wanted::one("example.org");
    let volumes = crate::pod::Volumes::new();
    set_mode(&volumes.vmail(), 0o700);
    wanted.mount(&volumes.revision());
    let pod = Pod::start(volumes, &[]);
    let report = pod.wait_for_revision(&wanted);
    let report = if report.storage.message.is_empty() {
        pod.wait_for_report("a message", |report| !report.storage.message.is_empty())
    } else {
        report
    };
    assert!(!report.storage.writable);
    assert!(report.storage.message.contains("denied"), "{}", report.storage.message);
    set_mode(&pod.volumes.vmail(), 0o2770);
    pod.wait_for_report("a writable volume", |report| report.storage.writable);
}

#[test]
fn it_stops_when_told_before_anything_is_mounted() {
    let pod = Pod::start(crate::pod::Volumes::new(), &[]);
    pod.wait_for_report("storage", |report| report.storage.writable);
    let began = std::time::Instant::now();
    let (status, _) = pod.terminate();
    assert!(status.success(), "{status}");
    assert!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}", began.elapsed());
}
