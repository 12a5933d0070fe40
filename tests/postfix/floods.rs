//! Too large, too many, too slow: refused or limited, and others' mail arrives meanwhile.

use std::io::Read as _;
use std::net::{Ipv4Addr, TcpStream};

use crate::mail::messages;
use crate::pod::{Pod, Smtp, wait};
use crate::revision::Wanted;

fn arrives(pod: &Pod, subject: &str) {
    pod.smtp().send("you@example.org", subject);
    let there = || messages(&pod.volumes.vmail()).iter().any(|(_, found)| found == subject);
    wait("the other one's mail", || there().then_some(()));
}

#[test]
fn what_is_too_large_is_refused() {
    let pod = Pod::serving(&Wanted::one("example.org").parameter("message_size_limit", "100000"));
    let mut session = pod.smtp();
    assert!(session.ask("MAIL FROM:<a@elsewhere.example> SIZE=100001").starts_with("552"));
    let mut session = pod.smtp();
    let reply = session.rcpt("you@example.org");
    assert!(reply.starts_with("250"), "{reply}");
    assert!(session.ask("DATA").starts_with("354"));
    let reply = session.ask(&format!("Subject: large\r\n\r\n{}.", "0123456789\r\n".repeat(20_000)));
    assert!(reply.starts_with("552"), "{reply}");
    // Lines and headers without an end, within the limit: refused, or delivered.
    for body in [
        format!("Subject: line\r\n\r\n{}", "x".repeat(90_000)),
        format!("Subject: header\r\nX-A: {}\r\n\r\nhello", "x".repeat(90_000)),
        format!("Subject: headers\r\n{}\r\nhello", "X-A: b\r\n".repeat(10_000)),
        format!(
            "Subject: parts\r\nContent-Type: multipart/mixed; boundary=a\r\n\r\n{}",
            "--a\r\nContent-Type: multipart/mixed; boundary=a\r\n\r\n".repeat(1_000)
        ),
    ] {
        let mut session = pod.smtp();
        assert!(session.rcpt("you@example.org").starts_with("250"));
        assert!(session.ask("DATA").starts_with("354"));
        let reply = session.ask(&format!("{body}\r\n."));
        assert!(reply.starts_with("250") || reply.starts_with('5'), "{reply}");
    }
    let mut session = pod.smtp();
    let reply = session.ask(&format!("NOOP {}", "x".repeat(90_000)));
    assert!(!reply.starts_with('3'), "{reply}");
    arrives(&pod, "small");
    let subjects: Vec<String> =
        messages(&pod.volumes.vmail()).into_iter().map(|(_, subject)| subject).collect();
    assert!(!subjects.contains(&"large".to_owned()), "{subjects:?}");
}

#[test]
fn a_message_has_a_thousand_recipients_at_most() {
    let pod = Pod::serving(&Wanted::one("example.org"));
    let mut session = pod.smtp();
    let mut taken = 0;
    let reply = loop {
        let reply = session.rcpt(&format!("you+{taken}@example.org"));
        if !reply.starts_with("250") {
            break reply;
        }
        taken += 1;
        assert!(taken <= 1_000, "no end");
    };
    assert!(taken == 1_000 && reply.starts_with("452"), "{taken}: {reply}");
    arrives(&pod, "another");
}

/// One address has half of the public port's processes at most; many addresses have all, until they go. The proof has a
/// listener of its own, and a new revision goes live meanwhile.
#[test]
fn slow_clients_keep_neither_others_nor_the_proof_out() {
    let first = Wanted::one("example.org");
    let pod = Pod::serving(&first);
    let slow = |address: Ipv4Addr, count: usize| -> Vec<TcpStream> {
        pod.add_address(address);
        // Whoever speaks before the greeting is hung up on at once, and keeps nobody out.
        (0..count).map(|_| pod.connect_from(address, 25).expect("port 25")).collect()
    };
    let mut one = slow(Ipv4Addr::new(198, 51, 100, 1), 70);
    let refused = |stream: &mut TcpStream| {
        let mut code = [0; 3];
        stream.read_exact(&mut code).expect("a greeting");
        code == *b"421"
    };
    assert_eq!(one.iter_mut().map(refused).filter(|refused| *refused).count(), 20, "half of a hundred");
    arrives(&pod, "beside one");
    let mut more = Vec::new();
    for number in 2..5 {
        more.extend(slow(Ipv4Addr::new(198, 51, 100, number), 40));
    }
    let second = first.clone().domain("example.com").mailbox("you@example.com");
    second.mount(&pod.volumes.revision());
    assert!(pod.wait_for_revision(&second).domains["example.com"].accepted);
    drop((one, more));
    let outside = Ipv4Addr::new(198, 51, 100, 99);
    pod.add_address(outside);
    let mut session = Smtp::greeted(wait("port 25", || pod.connect_from(outside, 25).ok()));
    assert!(session.rcpt("you@example.com").starts_with("250"));
    arrives(&pod, "after many");
}
