//! What becomes of mail on disk: policies, hand-over, and what must never be touched.

use std::fs;
use std::os::unix::fs::symlink;

use crate::mail::messages;
use crate::pod::{Pod, Volumes, wait};
use crate::revision::Wanted;

const QUICK: [&str; 2] = ["--deletion-hold-seconds=1", "--trash-seconds=0"];

/// Mailboxes with one message each; `owners` is the list of owners.
fn with_mail(addresses: &[&str], owners: &str, arguments: &[&str]) -> (Pod, Wanted) {
    let mut wanted = Wanted::one("example.org");
    for address in addresses {
        wanted = wanted.mailbox(address);
    }
    let wanted = wanted.custody(owners);
    let volumes = Volumes::new();
    wanted.mount(&volumes.revision());
    let pod = Pod::start(volumes, arguments);
    pod.wait_for_revision(&wanted);
    for address in addresses {
        pod.smtp().send(address, address);
    }
    wait("the mail", || (messages(&pod.volumes.vmail()).len() == addresses.len()).then_some(()));
    (pod, wanted)
}

fn show(pod: &Pod, wanted: &Wanted) {
    wanted.mount(&pod.volumes.revision());
    pod.wait_for_revision(wanted);
}

/// Addresses of the Maildirs below a directory of the agent's own that hold a message.
fn moved(pod: &Pod, directory: &str) -> Vec<String> {
    let times = fs::read_dir(pod.volumes.vmail().join(directory)).into_iter().flatten();
    let found = times.flat_map(|time| messages(&time.unwrap().path()));
    let mut found: Vec<String> = found.map(|(address, _)| address).collect();
    found.sort();
    found
}

fn in_place(pod: &Pod) -> Vec<String> {
    let mut found: Vec<String> =
        messages(&pod.volumes.vmail()).into_iter().map(|(address, _)| address).collect();
    found.sort();
    found
}

#[test]
fn each_maildir_goes_where_its_mailbox_said() {
    let addresses = ["kept@example.org", "put@example.org", "gone@example.org", "claimed@example.org"];
    let owners = "example.org mail Delete\n\
                  you@example.org mail Retain 1\nkept@example.org mail Retain 2\nput@example.org mail Archive 3\ngone@example.org mail Delete 4\nclaimed@example.org mail Delete 5\n";
    let (pod, before) = with_mail(&addresses, owners, &QUICK);
    let mut after =
        before.custody("example.org mail Delete\nyou@example.org mail Retain 1\nexample.org/ claimed\n");
    for address in addresses {
        after = after.without("virtual_mailbox_maps", &format!("{address} "));
    }
    show(&pod, &after);
    let report = pod.wait_for_report("the end of the mail", |report| {
        (report.kept.archived, report.kept.trashed, report.kept.erased) == (1, 1, 1)
            && (report.kept.in_trash, report.kept.waiting) == (0, 0)
    });
    assert_eq!(report.kept.trouble, "");
    assert_eq!(in_place(&pod), ["claimed@example.org", "kept@example.org"]);
    assert_eq!(moved(&pod, ".archive"), ["put@example.org"]);
    assert_eq!(moved(&pod, ".trash"), [""; 0]);
    let (_, metrics) = pod.get("/metrics", None).unwrap();
    assert!(metrics.contains("vmail_agent_erased_files_total 1\n"), "{metrics}");
    assert!(pod.log().contains("erased mail whose time in the trash was over"));
}

#[test]
fn mail_never_changes_hands() {
    let of = |namespace: &str| {
        format!(
            "example.org mail Retain\nyou@example.org mail Retain 1\nme@example.org {namespace} Retain 9\n"
        )
    };
    let (pod, before) = with_mail(&["me@example.org"], &of("shop"), &QUICK);
    // The same namespace, another object: its mail is there again.
    let without = before.clone().without("virtual_mailbox_maps", "me@").custody("example.org mail Retain\n");
    show(&pod, &without);
    let again = before.clone().custody(&of("shop").replace("Retain 9", "Retain 10"));
    show(&pod, &again);
    assert_eq!(in_place(&pod), ["me@example.org"]);
    // Another namespace at once, without a revision between: nobody else's mailbox is held back.
    let other = before.custody(&of("bank"));
    show(&pod, &other);
    assert!(pod.rcpt("you@example.org").starts_with("250 "));
    pod.wait_for_report("the hand-over", |report| {
        report.kept.archived == 1 && report.kept.held_back.is_empty()
    });
    assert_eq!(in_place(&pod), [""; 0]);
    assert_eq!(moved(&pod, ".archive"), ["me@example.org"]);
    wait("the new mailbox", || pod.rcpt("me@example.org").starts_with("250 ").then_some(()));
    pod.smtp().send("me@example.org", "new");
    wait("new mail", || (in_place(&pod) == ["me@example.org"]).then_some(()));
    assert_eq!(moved(&pod, ".archive"), ["me@example.org"]);
}

/// A saved revision that lacks a mailbox says nothing about its mail.
#[test]
fn nothing_follows_from_the_saved_copy_nor_beside_a_symlink() {
    let owners = "example.org mail Retain\nyou@example.org mail Retain 1\nme@example.org mail Delete 2\n";
    let (pod, before) = with_mail(&["me@example.org"], owners, &["--deletion-hold-seconds=3600"]);
    let after = before
        .clone()
        .without("virtual_mailbox_maps", "me@")
        .custody("example.org mail Retain\nyou@example.org mail Retain 1\n");
    show(&pod, &after);
    let (_, volumes) = pod.terminate();
    fs::remove_dir_all(volumes.revision()).unwrap();
    fs::create_dir(volumes.revision()).unwrap();
    // What is in the trash says when the agent has looked at everything once.
    let old = volumes.vmail().join(".trash/20200101T000000Z/old.example/old");
    fs::create_dir_all(&old).unwrap();
    fs::write(old.join("1"), "").unwrap();
    let pod = Pod::start(volumes, &["--deletion-hold-seconds=0", "--trash-seconds=3600"]);
    pod.wait_for_revision(&after);
    assert!(pod.log().contains("starting from the last good revision"));
    pod.wait_for_report("a look", |report| report.kept.erased == 1);
    assert_eq!(in_place(&pod), ["me@example.org"]);
    // A symlink in the place of the domain: refused, and said so.
    let vmail = pod.volumes.vmail();
    let outside = vmail.with_file_name("outside");
    fs::rename(vmail.join("example.org"), &outside).unwrap();
    symlink(&outside, vmail.join("example.org")).unwrap();
    show(&pod, &after);
    pod.wait_for_report("the trouble", |report| report.kept.trouble.contains("not a directory of its own"));
    assert!(outside.join("me/new").read_dir().unwrap().next().is_some());
}

#[test]
fn what_would_go_all_at_once_waits_for_the_administrator() {
    let addresses: Vec<String> = (0..12).map(|n| format!("m{n}@example.org")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let listed: Vec<String> = (0..12).map(|n| format!("m{n}@example.org mail Archive 1\n")).collect();
    let owners = format!("example.org mail Retain\nyou@example.org mail Retain 1\n{}", listed.concat());
    let (pod, before) = with_mail(&addresses, &owners, &QUICK);
    let after = before
        .without("virtual_mailbox_maps", "m")
        .custody("example.org mail Retain\nyou@example.org mail Retain 1\n");
    show(&pod, &after);
    let report = pod.wait_for_report("the brake", |report| !report.kept.brake.is_empty());
    assert_eq!((report.kept.waiting, report.kept.archived), (12, 0));
    assert_eq!(in_place(&pod).len(), 12);
    fs::write(pod.volumes.vmail().join(".vmail/confirmed"), "").unwrap();
    pod.wait_for_report("the confirmed end", |report| {
        report.kept.archived == 12 && report.kept.brake.is_empty()
    });
    assert_eq!(moved(&pod, ".archive").len(), 12);
    wait("the end of the confirmation", || {
        (!pod.volumes.vmail().join(".vmail/confirmed").exists()).then_some(())
    });
}
