//! Never an open relay: the classical forms, from everywhere, and under any value of what an administrator may set.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Mutex;
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

/// What the agent makes of parameters.
enum Verdict {
    Live,
    /// With what it says.
    Refused(String),
}

/// Mounts what the chart would, and waits until the agent has taken or refused it.
fn try_parameters(pod: &Pod, base: &Wanted, names: &[&str], value: &str) -> Verdict {
    let mut input = MainCf::new(HOST);
    input.parameters = names.iter().map(|name| (name.to_string(), value.to_owned())).collect();
    let mut wanted = base.clone();
    wanted.files.insert("main.cf".into(), main_cf(&input).expect("allowed, and in one line"));
    wanted.mount(&pod.volumes.revision());
    let revision = wanted.revision();
    wait("a verdict of the agent's", || {
        let report = pod.report()?;
        match report.rejected.filter(|rejected| rejected.revision == revision) {
            Some(rejected) => Some(Verdict::Refused(rejected.message)),
            None => (report.revision.as_ref() == Some(&revision)).then_some(Verdict::Live),
        }
    })
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

/// Parameters that hold text. All others hold a number, a time, or yes or no.
const TEXTS: [&str; 14] = [
    "notify_classes",
    "relayhost",
    "smtp_address_preference",
    "smtp_helo_name",
    "smtp_tls_CAfile",
    "smtp_tls_loglevel",
    "smtp_tls_mandatory_ciphers",
    "smtp_tls_mandatory_protocols",
    "smtp_tls_protocols",
    "smtp_tls_security_level",
    "smtpd_banner",
    "smtpd_tls_ciphers",
    "smtpd_tls_loglevel",
    "smtpd_tls_protocols",
];

#[derive(Default)]
struct Tally {
    live: usize,
    refused: usize,
    revisions: usize,
}

/// Gives all these parameters the value at once. What Postfix refuses by its name is left out of the next try; what
/// refuses everybody's mail, or is refused without a name, is halved until it is found, since it would hide the rest.
fn try_all(pod: &Pod, base: &Wanted, names: &[&str], value: &str, tally: &mut Tally) {
    let mut left = vec![names.to_vec()];
    while let Some(mut names) = left.pop() {
        if names.is_empty() {
            continue;
        }
        tally.revisions += 1;
        let verdict = try_parameters(pod, base, &names, value);
        never_relays(pod, &format!("{names:?} = {value}"));
        match verdict {
            Verdict::Refused(message) => {
                let before = names.len();
                let named: Vec<&str> =
                    message.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
                names.retain(|name| !named.contains(name));
                match (before - names.len(), before) {
                    (0, 1) => tally.refused += 1,
                    (0, _) => left.extend([names[..before / 2].to_vec(), names[before / 2..].to_vec()]),
                    (some, _) => {
                        tally.refused += some;
                        left.push(names);
                    }
                }
            }
            Verdict::Live if names.len() > 1 && !takes_ours(pod) => {
                left.extend([names[..names.len() / 2].to_vec(), names[names.len() / 2..].to_vec()]);
            }
            Verdict::Live => tally.live += names.len(),
        }
    }
}

fn takes_ours(pod: &Pod) -> bool {
    let Ok(stream) = pod.connect_from(OUTSIDE, 25) else { return false };
    let mut talk = Talk::new(stream);
    talk.ask("MAIL FROM:<x@elsewhere.example>");
    talk.ask("RCPT TO:<you@example.org>").starts_with("250")
}

/// Texts with all values, the others with all numbers and two texts, in `make faults`; otherwise one value of each.
#[test]
fn no_value_of_an_allowed_parameter_makes_a_relay() {
    let all = std::env::var("VMAIL_FAULTS").is_ok_and(|faults| faults == "all");
    let begun = std::time::Instant::now();
    let others: Vec<&str> = ALLOWED_PARAMETERS.into_iter().filter(|name| !TEXTS.contains(name)).collect();
    let mut jobs: Vec<(&[&str], &str)> = Vec::new();
    if all {
        jobs.extend(NASTY[..7].iter().map(|value| (&others[..], *value)));
        jobs.extend(NASTY.iter().map(|value| (&TEXTS[..], *value)));
    } else {
        jobs.extend([(&others[..], "2147483647"), (&TEXTS[..], "${relay_domains?{x}:{static:all}}")]);
    }
    let base = Wanted::one("example.org");
    let jobs = Mutex::new(jobs);
    let total = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for _ in 0..if all { 4 } else { 2 } {
            scope.spawn(|| {
                let pod = Pod::serving(&base);
                pod.add_address(OUTSIDE);
                assert!(takes_ours(&pod), "nothing would be shown");
                let next = || jobs.lock().expect("no panic").pop();
                while let Some((names, value)) = next() {
                    let mut tally = Tally::default();
                    try_all(&pod, &base, names, value, &mut tally);
                    let mut total = total.lock().expect("no panic");
                    total.live += tally.live;
                    total.refused += tally.refused;
                    total.revisions += tally.revisions;
                }
                // And what is ours still arrives, once all is as it was.
                base.mount(&pod.volumes.revision());
                pod.wait_for_revision(&base);
                assert!(pod.rcpt("you@example.org").starts_with("250"));
            });
        }
    });
    let Tally { live, refused, revisions } = total.into_inner().expect("no panic");
    println!(
        "{live} values live, {refused} refused, in {revisions} revisions and {} s",
        begun.elapsed().as_secs()
    );
    assert!(live > 20, "nothing was shown");
}
