//! Never an open relay: the classical forms, from everywhere, and under any value of what an administrator may set.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use vmail_operator::postfix::main_cf::{ALLOWED_PARAMETERS, MainCf, main_cf};

use crate::pod::{Pod, wait};
use crate::revision::{HOST, Wanted};

/// An address of a network of pods, and one of the world (RFC 5737).
const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 9);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// Recipients whose mail would leave, as written between RCPT TO: and the end of the line.
fn recipients() -> Vec<String> {
    let mut all: Vec<String> = [
        "<you@example.com>",
        "you@example.com",
        "<<you@example.com>>",
        "< you@example.com >",
        "<you@example.com.>",
        "<you%example.com@example.org>",
        "<you%example.com@[127.0.0.1]>",
        "<you%example.com>",
        "<you%example.com@example.net%example.org>",
        "<example.com!you>",
        "<example.com!you@example.org>",
        "<example.org!example.com!you>",
        "<@example.org:you@example.com>",
        "<@example.com,@example.org:you@example.com>",
        "<@[127.0.0.1]:you@example.com>",
        "<\"you@example.com\">",
        "<\"you@example.com\"@example.org>",
        "<\"you%example.com\"@example.org>",
        "<\"\"@example.com>",
        "<\"\\\"you@example.com\\\"\"@example.org>",
        "<you@example.com@example.org>",
        "<you@example.org@example.com>",
        "<you@example.com@>",
        "<@you@example.com>",
        "<you@[192.0.2.1]>",
        "<you@[IPv6:2001:db8::1]>",
        "<you@192.0.2.1>",
        "<you@[127.0.0.1]>",
        "<root@[127.0.0.1]>",
        "<you@localhost>",
        "<you@sub.example.org>",
        "<you@.example.org>",
        "<you@example.org.example.com>",
        "<you@example.org,you@example.com>",
        "<you@example.org> <you@example.com>",
        "<you@example.com> NOTIFY=NEVER",
        "<you@example.com> ORCPT=rfc822;you@example.org",
        "<you+tag@example.com>",
        "<|/bin/sh@example.com>",
        "<\"|/bin/sh\"@example.org>",
        "</etc/passwd@example.org>",
        "<:include:/etc/passwd@example.org>",
        "<you@EXAMPLE.COM>",
        "<you@\0example.org>",
        "<you\0@example.com>",
        "<you@example.com\0>",
    ]
    .map(str::to_owned)
    .into();
    all.extend([
        format!("<you@{HOST}>"),
        format!("<you%example.com@{HOST}>"),
        format!("<@{HOST}:you@example.com>"),
    ]);
    all
}

const SENDERS: [&str; 6] = [
    "<>",
    "<you@example.org>",
    "<postmaster@mx.example.net>",
    "<you@localhost>",
    "<you@[127.0.0.1]>",
    "<x@elsewhere.example>",
];

/// A session with a server that may be made to hang, or to say nothing that makes sense.
struct Talk(BufReader<TcpStream>);

impl Talk {
    fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(Duration::from_secs(3))).expect("a timeout");
        let mut talk = Self(BufReader::new(stream));
        talk.reply();
        talk.ask("EHLO client.example");
        talk
    }

    /// The last line of the reply; nothing when the server has hung up, or takes its time.
    fn reply(&mut self) -> String {
        loop {
            let mut line = Vec::new();
            if self.0.read_until(b'\n', &mut line).is_err() || line.is_empty() {
                return String::new();
            }
            if line.get(3) != Some(&b'-') {
                return String::from_utf8_lossy(&line).trim_end().to_owned();
            }
        }
    }

    fn ask(&mut self, command: &str) -> String {
        if self.0.get_mut().write_all(format!("{command}\r\n").as_bytes()).is_err() {
            return String::new();
        }
        self.reply()
    }
}

#[test]
fn the_classical_forms_are_refused_from_everywhere() {
    let pod = Pod::serving(&Wanted::one("example.org"));
    pod.add_address(POD);
    pod.add_address(OUTSIDE);
    for from in [Ipv4Addr::LOCALHOST, POD, OUTSIDE] {
        let connect = || Talk::new(pod.connect_from(from, 25).expect("port 25"));
        // Fewer than the errors after which Postfix slows down and hangs up.
        for (some, sender) in recipients().chunks(9).zip(SENDERS.iter().cycle()) {
            let mut talk = connect();
            assert!(talk.ask(&format!("MAIL FROM:{sender}")).starts_with("250"), "{sender}");
            for recipient in some {
                let reply = talk.ask(&format!("RCPT TO:{recipient}"));
                assert!(reply.starts_with('5'), "{from}: {sender} {recipient}: {reply}");
            }
            // The port is not what refuses: it takes what is ours.
            assert!(talk.ask("RCPT TO:<you@example.org>").starts_with("250"), "{from}");
        }
        let mut talk = connect();
        for command in [
            "VRFY you@example.org",
            "EXPN you@example.org",
            "ETRN example.org",
            "ETRN #all",
            "ETRN @example.com",
            "TURN",
            "XCLIENT ADDR=127.0.0.1",
            "XFORWARD NAME=x",
            "AUTH PLAIN AHgAeA==",
            "RCPT TO:<you@example.org>",
        ] {
            let reply = talk.ask(command);
            assert!(reply.starts_with('5'), "{from}: {command}: {reply}");
        }
    }
    assert_eq!(pod.postfix(&["postqueue", "-j"]).trim(), "");
}

/// One value for all numbers, then what an expansion, a table, a program or another parameter could make of text.
const NASTY: [&str; 16] = [
    "0",
    "1",
    "2147483647",
    "-1",
    "",
    "yes",
    "static:all",
    "$mydestination",
    "127.0.0.0/8 permit_mynetworks",
    "permit, reject_unauth_destination",
    "[127.0.0.1]:25",
    "{ relay_domains = static:all }",
    "x -o relay_domains=static:all",
    "${relay_domains?{x}:{static:all}}",
    "|/bin/sh",
    "/etc/shadow",
];

/// Mounts what the chart would, and waits until the agent has taken or refused it; `None` is refused before.
fn try_parameters(pod: &Pod, base: &Wanted, parameters: &[(&str, &str)]) -> Option<bool> {
    let mut input = MainCf::new(HOST);
    input.parameters = parameters.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let mut wanted = base.clone();
    wanted.files.insert("main.cf".into(), main_cf(&input).ok()?);
    wanted.mount(&pod.volumes.revision());
    let revision = wanted.revision();
    Some(wait("a verdict of the agent's", || {
        let report = pod.report()?;
        let refused = report.rejected.as_ref().is_some_and(|rejected| rejected.revision == revision);
        (refused || report.revision.as_ref() == Some(&revision)).then_some(!refused)
    }))
}

fn never_relays(pod: &Pod, what: &str) {
    for recipient in
        ["<you@example.com>", "<you%example.com@example.org>", "<\"you@example.com\">", "<root@[127.0.0.1]>"]
    {
        // A server that is made to hang relays nothing.
        let Ok(stream) = pod.connect_from(OUTSIDE, 25) else { return };
        let mut talk = Talk::new(stream);
        let sender = talk.ask("MAIL FROM:<x@elsewhere.example>");
        let reply = talk.ask(&format!("RCPT TO:{recipient}"));
        assert!(!sender.starts_with("250") || !reply.starts_with('2'), "{what}: {recipient}: {reply}");
        if sender.is_empty() {
            return;
        }
    }
}

/// Every parameter with every value, one at a time, in `make faults`; otherwise a few.
#[test]
fn no_value_of_an_allowed_parameter_makes_a_relay() {
    let all = std::env::var("VMAIL_FAULTS").is_ok_and(|faults| faults == "all");
    let base = Wanted::one("example.org");
    let pod = Pod::serving(&base);
    pod.add_address(OUTSIDE);
    let (mut live, mut refused) = (0, 0);
    let mut check = |parameters: &[(&str, &str)]| {
        match try_parameters(&pod, &base, parameters) {
            Some(true) => live += 1,
            _ => refused += 1,
        }
        never_relays(&pod, &format!("{parameters:?}"));
    };
    if all {
        for name in ALLOWED_PARAMETERS {
            for value in NASTY {
                check(&[(name, value)]);
            }
        }
    } else {
        for (number, name) in ALLOWED_PARAMETERS.into_iter().enumerate().step_by(16) {
            check(&[(name, NASTY[number % NASTY.len()])]);
        }
        let text = ["smtpd_banner", "smtp_helo_name", "notify_classes", "smtp_tls_CAfile", "relayhost"];
        check(&text.map(|name| (name, "${relay_domains?{x}:{static:all}}")));
    }
    println!("{live} live, {refused} refused");
    assert!(live > 0, "nothing was shown");
    // And what is ours still arrives, once all is as it was.
    base.mount(&pod.volumes.revision());
    pod.wait_for_revision(&base);
    assert!(pod.rcpt("you@example.org").starts_with("250"));
}
