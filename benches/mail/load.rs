//! Mail from several clients, until it is in the Maildirs.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::pod::{Pod, wait};
use crate::processes::cpu;
use crate::tables;

/// Clients, each with an address of its own, and the sessions of each.
pub const CLIENTS: u8 = 6;
pub const SESSIONS: usize = 8;
/// Domains that get mail, and mailboxes in each that get one message in a round.
pub const DOMAINS: usize = 100;
pub const RECIPIENTS: usize = 30;
pub const MESSAGES: usize = DOMAINS * RECIPIENTS;
/// Bytes of a message without its header.
pub const LENGTH: usize = 4000;

/// How long it took from the first connection on.
pub struct Round {
    /// Until the last message was accepted.
    pub accepted: Duration,
    /// Until the last one was in its Maildir.
    pub delivered: Duration,
    /// What all processes of the pod took of the processors.
    pub cpu: Duration,
}

fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, number)
}

/// Gives the pod's network the addresses that mail comes from and goes to.
pub fn prepare(pod: &Pod) {
    (1..=CLIENTS).for_each(|number| pod.add_address(client(number)));
}

/// One message to each of the mailboxes. Panics at the first one that is refused, lost or there twice.
pub fn round(pod: &Pod) -> Round {
    let (before, began) = (cpu(pod), Instant::now());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for from in (1..=CLIENTS).map(client) {
            let next = &next;
            scope.spawn(move || {
                let domain = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|number| *number < DOMAINS);
                while let Some(number) = domain() {
                    send(pod, from, &tables::domain(number));
                }
            });
        }
    });
    let accepted = began.elapsed();
    // In this order, which is that of a message: what moves on meanwhile is seen all the same.
    let queues = ["incoming", "active"].map(|name| pod.volumes.spool().join("postfix").join(name));
    wait("an empty queue", || queues.iter().all(|queue| entries(queue).is_empty()).then_some(()));
    let delivered = began.elapsed();
    let round = Round { accepted, delivered, cpu: cpu(pod) - before };
    assert_eq!(take(&pod.volumes.vmail()), wanted());
    round
}

/// Every recipient of the domain gets one message, in a session of its own: smtp-source(1) numbers them from 0 on (`-N`).
fn send(pod: &Pod, client: Ipv4Addr, domain: &str) {
    let said = pod.postfix(&[
        "smtp-source",
        "-N",
        "-s",
        &SESSIONS.to_string(),
        "-m",
        &RECIPIENTS.to_string(),
        "-l",
        &LENGTH.to_string(),
        "-M",
        "client.example",
        "-f",
        "sender@elsewhere.example",
        "-t",
        &format!("m@{domain}"),
        &format!("{client}:25"),
    ]);
    // It is silent unless an answer is not the one for success, and ends with that.
    assert!(said.is_empty(), "{domain}: {said}");
}

/// How often what Postfix logged has one of our clients refused, or mail not delivered at once.
pub fn refusals(pod: &Pod) -> usize {
    let log = pod.log();
    let refused =
        |line: &&str| line.contains("[192.0.2.") && (line.contains("reject") || line.contains("limit"));
    let failed = |line: &&str| line.contains("status=deferred") || line.contains("status=bounced");
    log.lines().filter(|line| refused(line) || failed(line)).count()
}

/// Messages by Maildir, `domain/local part`.
fn wanted() -> BTreeMap<PathBuf, usize> {
    let of_domain = |domain| (0..RECIPIENTS).map(move |number| PathBuf::from(format!("{domain}/m{number}")));
    (0..DOMAINS).map(tables::domain).flat_map(of_domain).map(|maildir| (maildir, 1)).collect()
}

/// The same of what is there, and takes it away.
fn take(vmail: &Path) -> BTreeMap<PathBuf, usize> {
    let mut found = BTreeMap::new();
    // What is the agent's own begins with a dot.
    let own = |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
    for maildir in entries(vmail).iter().filter(|path| !own(path)).flat_map(|domain| entries(domain)) {
        let messages = ["new", "tmp"].map(|directory| entries(&maildir.join(directory))).concat();
        for message in &messages {
            fs::remove_file(message).expect("removes");
        }
        if !messages.is_empty() {
            found.insert(maildir.strip_prefix(vmail).expect("below").to_owned(), messages.len());
        }
    }
    found
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().map(|entry| entry.expect("an entry").path()).collect()
}
