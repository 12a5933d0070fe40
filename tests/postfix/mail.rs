//! Where mail that was taken ends: in Maildirs, or queued for elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::pod::{PATIENCE, Pod};
use crate::reference::End;

/// Where one message to each address ended.
pub type Ends = BTreeMap<String, BTreeSet<End>>;

/// How often nothing must move before what is still missing is given up.
const QUIET: usize = 20;

/// One line of `postqueue -j`.
#[derive(Deserialize)]
struct Queued {
    queue_name: String,
    queue_id: String,
    recipients: Vec<Recipient>,
}

#[derive(Deserialize)]
struct Recipient {
    address: String,
}

/// Sends one message to each address of `wanted`, and says where they ended once that is as wanted, or once nothing
/// moves any more. Takes away what is there already.
pub fn ends(pod: &Pod, wanted: &Ends) -> Ends {
    clear(pod);
    let sent: BTreeMap<String, String> =
        wanted.keys().map(|address| (pod.smtp().send(address, address), address.clone())).collect();
    let deadline = Instant::now() + PATIENCE;
    let mut quiet = 0;
    loop {
        let (found, moving) = look(pod, &sent);
        quiet = if moving { 0 } else { quiet + 1 };
        // Once is not enough: what moves from queue to queue is easily missed.
        if (quiet > 1 && found == *wanted) || quiet > QUIET || Instant::now() > deadline {
            return found;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What arrived and what is queued, and whether Postfix is still at it.
fn look(pod: &Pod, sent: &BTreeMap<String, String>) -> (Ends, bool) {
    let mut ends: Ends = sent.values().map(|address| (address.clone(), BTreeSet::new())).collect();
    let mut moving = false;
    // First the queue: what leaves it meanwhile is then found in a Maildir.
    for line in pod.postfix(&["postqueue", "-j"]).lines() {
        let queued: Queued = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        moving |= queued.queue_name != "deferred";
        let to = ends.get_mut(&sent[&queued.queue_id]).expect("was sent");
        to.extend(queued.recipients.into_iter().map(|recipient| End::Remote(recipient.address)));
    }
    for (mailbox, subject) in messages(&pod.volumes.vmail()) {
        ends.get_mut(&subject).expect("was sent").insert(End::Maildir(mailbox));
    }
    (ends, moving)
}

/// Address of the mailbox and subject of each message below the directory of all Maildirs.
pub fn messages(vmail: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for domain in directories(vmail) {
        for mailbox in directories(&domain) {
            for file in entries(&mailbox.join("new")) {
                let metadata = fs::metadata(&file).expect("a message");
                assert_eq!((metadata.uid(), metadata.gid()), (2000, 2000), "{}", file.display());
                let text = fs::read_to_string(&file).expect("a message");
                let subject = text.lines().find_map(|line| line.strip_prefix("Subject: "));
                let subject = subject.unwrap_or_else(|| panic!("{}: {text}", file.display()));
                found.push((format!("{}@{}", name(&mailbox), name(&domain)), subject.to_owned()));
            }
        }
    }
    found
}

/// Empties the queue and the Maildirs.
fn clear(pod: &Pod) {
    pod.postfix(&["postsuper", "-d", "ALL"]);
    // What is the agent's own begins with a dot.
    let of_domains = |path: &PathBuf| !name(path).starts_with('.');
    for domain in directories(&pod.volumes.vmail()).filter(of_domains) {
        fs::remove_dir_all(domain).expect("removes");
    }
}

fn name(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

fn directories(path: &Path) -> impl Iterator<Item = PathBuf> {
    entries(path).into_iter().filter(|entry| entry.is_dir())
}

/// Nothing where nothing was delivered yet.
fn entries(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten();
    entries.map(|entry| entry.expect("an entry").path()).collect()
}
