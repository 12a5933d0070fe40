//! Those who are not meant: relay tests, and the agent's endpoint.

use std::fs;
use std::io::{Read as _, Write as _};

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

/// Everything that the agent answers to these bytes.
fn raw(pod: &Pod, request: &str) -> String {
    let mut stream = pod.connect(8025).expect("a connection");
    // A server that has heard enough closes while we still send, and a reset may take the answer with it.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn no_form_of_asking_gets_the_report_without_the_token() {
    let wanted = Wanted::one("example.org");
    let pod = Pod::serving(&wanted);
    let revision = wanted.revision();
    let denied = |request: &str| {
        let answer = raw(&pod, request);
        let shown = request.get(..request.len().min(200)).unwrap_or(request);
        for told in ["example.org", "hash1", "uid-1", "podUid", &revision] {
            assert!(!answer.contains(told), "{shown}: {answer}");
        }
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.0 4"),
            "{shown}: {answer}"
        );
        answer
    };
    let asked =
        |line: &str, headers: &str| format!("{line}\r\nHost: pod\r\n{headers}Connection: close\r\n\r\n");
    let status = "GET /v1/status HTTP/1.1";

    // Tokens and schemes that are nearly right.
    for authorization in [
        "Bearer a-toke",
        "Bearer a-tokenn",
        "Bearer -token",
        "Bearer A-TOKEN",
        "Bearer a",
        "Bearer",
        "Bearer ",
        "Bearer \"a-token\"",
        "Bearer a-token, a-token",
        "Bearer a-token a-token",
        "Bearer token=a-token",
        "Bearer a%2dtoken",
        "Bearer a-token%00",
        "Bearer YS10b2tlbg==",
        "Bearera-token",
        "Bearer:a-token",
        "Basic a-token",
        "Basic YS10b2tlbjphLXRva2Vu",
        "Token a-token",
        "a-token",
        "null",
    ] {
        let answer = denied(&asked(status, &format!("Authorization: {authorization}\r\n")));
        assert!(answer.starts_with("HTTP/1.1 401"), "{authorization}: {answer}");
    }
    // The token where it does not belong, and what proxies and frameworks believe.
    let pairs = "Authorization: Bearer x\r\nAuthorization: Bearer a-token\r\n";
    for headers in [
        pairs,
        "Proxy-Authorization: Bearer a-token\r\n",
        "X-Authorization: Bearer a-token\r\n",
        "X-Api-Key: a-token\r\n",
        "Cookie: token=a-token; Authorization=Bearer a-token\r\n",
        "X-Forwarded-For: 127.0.0.1\r\nX-Real-IP: 127.0.0.1\r\nForwarded: for=127.0.0.1\r\n",
        "X-Original-URL: /livez\r\nX-Rewrite-URL: /livez\r\n",
        "X-HTTP-Method-Override: HEAD\r\n",
        "Authorization : Bearer a-token\r\n",
        "Connection: Authorization\r\n",
        "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    ] {
        denied(&asked(status, headers));
    }
    for target in [
        "/v1/status?token=a-token",
        "/v1/status?access_token=a-token&after=",
        "/v1/status?after=",
        "/v1/status?after=%00",
        "/v1/../v1/status",
        "//v1/status",
        "/V1/status",
        "/v1/STATUS",
        "/v1/status/",
        "/v1//status",
        "/v1/./status",
        "/./v1/status",
        "/v1/%73tatus",
        "/v1%2fstatus",
        "/%2e%2e/v1/status",
        "/livez/../v1/status",
        "/metrics/../v1/status",
        "/metrics/v1/status",
        "/v1/status;jsessionid=1",
        "/v1/status%00",
        "/v1/status%20",
        "/v1/status.json",
        "/v1/status#livez",
        "/v1",
        "/v2/status",
        "/",
        "*",
        "v1/status",
        "http://pod/v1/status",
        "http://127.0.0.1:8025/v1/status",
        "http://a-token@pod/v1/status",
        "http://x:a-token@pod/v1/status",
        "https://pod/v1/status",
        "/etc/vmail-operator/token/token",
        "/../etc/vmail-operator/token/token",
    ] {
        for method in ["GET", "HEAD", "POST", "OPTIONS", "CONNECT", "get", "TRACE"] {
            denied(&asked(&format!("{method} {target} HTTP/1.1"), ""));
        }
    }
    // Bodies, and one request in another.
    let inner = asked(status, "");
    for request in [
        format!(
            "POST /v1/status HTTP/1.1\r\nHost: pod\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{inner}"
        ),
        format!("GET /v1/status HTTP/1.1\r\nHost: pod\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"),
        format!(
            "GET /v1/status HTTP/1.1\r\nHost: pod\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"
        ),
        format!("GET /v1/status HTTP/1.1\r\nHost: pod\r\nTransfer-Encoding: xchunked\r\n\r\n{inner}"),
        format!("GET /v1/status HTTP/1.1\r\nHost: pod\r\nContent-Length: -1\r\n\r\n{inner}"),
        format!(
            "GET /v1/status HTTP/1.1\r\nHost: pod\r\nContent-Length: 99999999999999999999\r\n\r\n{inner}"
        ),
        format!(
            "POST /v1/status HTTP/1.1\r\nHost: pod\r\nContent-Length: 67108864\r\n\r\n{}",
            "a".repeat(1 << 20)
        ),
        format!("GET /v1/status HTTP/1.1\r\nHost: pod\r\n{}\r\n", "X: y\r\n".repeat(2000)),
        format!(
            "GET /v1/status HTTP/1.1\r\nHost: pod\r\nAuthorization: Bearer {}\r\n\r\n",
            "a-token".repeat(10_000)
        ),
        "GET /v1/status HTTP/1.1\r\n\r\n".to_owned(),
        "GET /v1/status HTTP/1.0\r\n\r\n".to_owned(),
        "GET /v1/status\r\n\r\n".to_owned(),
        "GET /v1/status HTTP/0.9\r\n\r\n".to_owned(),
        "GET /v1/status HTTP/2.0\r\nHost: pod\r\n\r\n".to_owned(),
        "GET  /v1/status HTTP/1.1\r\nHost: pod\r\n\r\n".to_owned(),
        "GET /v1/status HTTP/1.1\nHost: pod\n\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}\0\u{5}".to_owned(),
        "\0".repeat(1000),
    ] {
        let answer = denied(&request);
        assert!(answer.matches("HTTP/1.").count() <= 1, "one request a connection: {answer}");
    }
    // What needs no token tells no names.
    for path in ["/livez", "/readyz", "/metrics"] {
        let (code, body) = pod.get(path, None).expect("an answer");
        assert_eq!(code, 200, "{path}: {body}");
        for told in ["example.org", &revision, "hash1"] {
            assert!(!body.contains(told), "{path}: {body}");
        }
    }
    // Who is meant gets it all the while; without a token in the file, nobody does.
    assert!(pod.report().is_some());
    let file = pod.volumes.token();
    for content in [Some(""), Some("\n"), None] {
        match content {
            Some(text) => fs::write(&file, text).expect("writes"),
            None => fs::remove_file(&file).expect("removes"),
        }
        for authorization in ["Bearer ", "Bearer a-token", "Bearer"] {
            denied(&asked(status, &format!("Authorization: {authorization}\r\n")));
        }
    }
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
