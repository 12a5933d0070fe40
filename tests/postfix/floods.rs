//! Too large, too many, too slow: refused or limited, and others' mail arrives meanwhile.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream, UdpSocket};
use std::time::Duration;

use crate::mail::messages;
use crate::pod::{PATIENCE, Pod, Smtp, wait};
use crate::revision::Wanted;

fn arrives(pod: &Pod, subject: &str) {
    pod.smtp().send("you@example.org", subject);
    wait_for(pod, subject);
}

fn wait_for(pod: &Pod, subject: &str) {
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

/// Begins `count` sessions from this address, and keeps those that are greeted; the others are hung up on.
fn hold(pod: &Pod, address: IpAddr, count: usize) -> Vec<Smtp> {
    pod.add_address(address);
    let streams: Vec<TcpStream> =
        (0..count).map(|_| pod.connect_from(address, 25).expect("port 25")).collect();
    let greeted = streams.into_iter().filter_map(|stream| match Smtp::begun(stream) {
        (session, greeting) if greeting.starts_with("220 ") => Some(session),
        (_, greeting) if greeting.starts_with("421 ") => None,
        (_, greeting) => panic!("{address}: {greeting}"),
    });
    greeted.collect()
}

/// Goes on to where a session is waited for longest: at once, after the greeting, after a recipient, in the message.
fn go_on(session: &mut Smtp, stage: usize) {
    if stage > 0 {
        session.hello();
    }
    if stage > 1 {
        assert!(session.rcpt("you@example.org").starts_with("250"));
    }
    if stage > 2 {
        assert!(session.ask("DATA").starts_with("354"));
    }
}

fn address(number: u8) -> IpAddr {
    Ipv4Addr::new(198, 51, 100, number).into()
}

/// One address has 20 of 500 sessions, so that 24 addresses leave some to others, and 25 do not until some go. The
/// proof has a listener of its own, and a new revision goes live meanwhile.
#[test]
fn slow_clients_keep_neither_others_nor_the_proof_out() {
    let first = Wanted::one("example.org");
    let pod = Pod::serving(&first);
    let outside = address(99);
    pod.add_address(outside);
    let mut held = Vec::new();
    for number in 1..=24 {
        let mut sessions = hold(&pod, address(number), 50);
        assert_eq!(sessions.len(), 20, "sessions of address {number}");
        for (number, session) in sessions.iter_mut().enumerate() {
            go_on(session, number % 4);
        }
        held.extend(sessions);
    }
    Smtp::greeted(pod.connect_from(outside, 25).expect("port 25")).send("you@example.org", "beside 24");
    wait_for(&pod, "beside 24");
    let mut more = Vec::new();
    for number in 25..=27 {
        pod.add_address(address(number));
        // Whoever speaks before the greeting is hung up on at once, and keeps nobody out.
        more.extend((0..20).map(|_| pod.connect_from(address(number), 25).expect("port 25")));
    }
    let second = first.clone().domain("example.com").mailbox("you@example.com");
    second.mount(&pod.volumes.revision());
    assert!(pod.wait_for_revision(&second).domains["example.com"].accepted);
    assert_eq!(pod.get("/readyz", None).expect("the agent").0, 200, "ready");
    drop((held, more));
    let mut session = Smtp::greeted(wait("port 25", || pod.connect_from(outside, 25).ok()));
    assert!(session.rcpt("you@example.com").starts_with("250"));
    arrives(&pod, "after many");
}

/// Whoever has one address of IPv6 has a whole network of /64.
#[test]
fn the_addresses_of_one_network_of_ipv6_are_one_client() {
    let pod = Pod::serving(&Wanted::one("example.org"));
    let of_network =
        |network: u16, host: u16| Ipv6Addr::new(0x2001, 0xdb8, 0, network, host << 4, 0, 0, 1).into();
    let held: Vec<Vec<Smtp>> = (1..=3).map(|host| hold(&pod, of_network(1, host), 15)).collect();
    assert_eq!(held.iter().map(Vec::len).collect::<Vec<_>>(), [15, 5, 0]);
    assert_eq!(hold(&pod, of_network(2, 1), 1).len(), 1, "another network");
}

/// A byte now and then does not make a request last longer than silence would.
#[test]
fn who_speaks_too_slowly_is_hung_up_on() {
    let pod = Pod::serving(&Wanted::one("example.org").parameter("smtpd_timeout", "5"));
    for stage in [1, 3] {
        let (mut session, _) = Smtp::begun(pod.connect(25).expect("port 25"));
        go_on(&mut session, stage);
        let mut stream = session.into_stream();
        stream.set_read_timeout(Some(Duration::from_millis(500))).expect("a time limit");
        let said = wait("the end of a slow session", || {
            // It may be hung up on before.
            let _ = stream.write_all(b"x");
            let mut said = [0; 3];
            match stream.read(&mut said) {
                Ok(length) => Some(said[..length].to_vec()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => None,
                Err(error) => panic!("{error}"),
            }
        });
        assert_eq!(said, b"421", "stage {stage}");
    }
    arrives(&pod, "quick");
}

/// A client counts once its name is known. So its own name server would say how many sessions it has.
#[test]
fn no_name_server_is_asked_who_the_client_is() {
    let pod = Pod::serving(&Wanted::one("example.org"));
    let server = Ipv4Addr::new(198, 51, 100, 53);
    pod.add_address(server);
    let socket = pod.in_network(move || UdpSocket::bind((server, 53))).expect("a name server");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    let file = format!(
        "echo nameserver {server} >/run/resolv.conf && mount --bind /run/resolv.conf /etc/resolv.conf"
    );
    assert_eq!(pod.postfix(&["sh", "-c", &file]), "");
    let client = address(1);
    pod.add_address(client);
    pod.postfix(&["timeout", "1", "getent", "hosts", &client.to_string()]);
    let mut question = [0; 512];
    socket.recv(&mut question).expect("who asks is seen");
    socket.set_nonblocking(true).expect("a socket");
    while socket.recv(&mut question).is_ok() {}
    Smtp::greeted(pod.connect_from(client, 25).expect("port 25")).send("you@example.org", "nameless");
    wait_for(&pod, "nameless");
    let asked =
        socket.recv(&mut question).map(|length| String::from_utf8_lossy(&question[..length]).into_owned());
    assert!(asked.is_err(), "{asked:?}");
}
