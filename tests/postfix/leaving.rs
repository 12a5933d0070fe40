//! A mailbox is deleted while mail for it is queued, or on its way in.

use std::fs;

use crate::mail::messages;
use crate::pod::{Pod, Volumes, wait};
use crate::revision::Wanted;

const GONE: &str = "gone@one.example";

fn with_and_without(policy: &str) -> (Wanted, Wanted) {
    let owners = "one.example mail Retain\nyou@one.example mail Retain 1\n";
    let without = Wanted::one("one.example").custody(owners);
    let with = without.clone().mailbox(GONE).custody(&format!("{owners}{GONE} mail {policy} 2\n"));
    (with, without)
}

/// Whether a message is below `directory`, once what waits was tried.
fn arrives(pod: &Pod, directory: &str, subject: &str) -> Option<()> {
    pod.postfix(&["postqueue", "-f"]);
    let message = (GONE.to_owned(), subject.to_owned());
    let vmail = pod.volumes.vmail();
    match directory {
        "" => messages(&vmail).contains(&message).then_some(()),
        _ => {
            let mut times = fs::read_dir(vmail.join(directory)).into_iter().flatten();
            times.any(|time| messages(&time.unwrap().path()).contains(&message)).then_some(())
        }
    }
}

fn nothing_bounced(pod: &Pod) {
    let wrong = |line: &&str| line.contains("status=bounced") || line.contains("postfix/smtp[");
    assert_eq!(pod.log().lines().find(wrong), None);
}

#[test]
fn what_is_queued_for_a_deleted_mailbox_is_delivered_before_its_policy_is_followed() {
    let (before, after) = with_and_without("Archive");
    let quick = ["--deletion-hold-seconds=1"];
    let volumes = Volumes::new();
    before.mount(&volumes.revision());
    let pod = Pod::start(volumes, &quick);
    pod.wait_for_revision(&before);
    let maildir = pod.volumes.hold(GONE);
    let ids = [GONE, "Gone+tag@one.example"].map(|address| pod.smtp().send(address, "queued"));
    for id in ids {
        wait("a first try", || pod.log().contains(&format!("{id}: to=<")).then_some(()));
    }

    after.mount(&pod.volumes.revision());
    pod.wait_for_revision(&after);
    assert!(pod.rcpt(GONE).starts_with("550 5.1.1"));
    assert!(pod.rcpt("gone+tag@one.example").starts_with("550 5.1.1"));
    assert!(pod.rcpt("you@one.example").starts_with("250"));
    // Another agent knows of it only by what is on the volumes.
    let (_, volumes) = pod.terminate();
    let pod = Pod::start(volumes, &quick);
    pod.wait_for_revision(&after);
    assert!(pod.rcpt(GONE).starts_with("550 5.1.1"));
    pod.wait_for_report("the mailbox that waits for its end", |report| report.kept.waiting == 1);
    pod.volumes.release(GONE);
    wait("the mail in the archive", || arrives(&pod, ".archive", "queued"));
    wait("an empty queue", || pod.postfix(&["postqueue", "-j"]).is_empty().then_some(()));
    assert!(!maildir.exists());
    nothing_bounced(&pod);
}

#[test]
fn mail_that_comes_in_after_its_mailbox_is_deleted_was_accepted_before_and_is_delivered() {
    let (before, after) = with_and_without("Retain");
    let pod = Pod::serving(&before);
    let mut session = pod.smtp();
    assert!(session.rcpt(GONE).starts_with("250"));
    after.mount(&pod.volumes.revision());
    pod.wait_for_revision(&after);
    let table = "cdb:/run/vmail-operator/postfix/tables/leaving_mailboxes";
    wait("the end of waiting", || pod.postfix(&["postmap", "-q", GONE, table]).is_empty().then_some(()));
    assert!(session.ask("DATA").starts_with("354"));
    assert!(session.ask("Subject: late\r\n\r\nhello\r\n.").starts_with("250"));
    wait("the message", || arrives(&pod, "", "late"));
    assert!(pod.rcpt(GONE).starts_with("550 5.1.1"));
    wait("the end of waiting", || pod.postfix(&["postmap", "-q", GONE, table]).is_empty().then_some(()));
    nothing_bounced(&pod);
}

/// Who gets the address gets it when its predecessor has his mail, and none of that.
#[test]
fn the_next_owner_waits_for_his_predecessors_mail() {
    let (before, without) = with_and_without("Retain");
    let owners = without.files["custody"].clone() + "gone@one.example other Retain 3\n";
    let after = without.mailbox(GONE).custody(&owners);
    let pod = Pod::serving(&before);
    pod.volumes.hold(GONE);
    let id = pod.smtp().send(GONE, "his");
    wait("a first try", || pod.log().contains(&format!("{id}: to=<")).then_some(()));
    after.mount(&pod.volumes.revision());
    pod.wait_for_report("the wait", |report| report.kept.held_back.contains(GONE));
    assert!(pod.rcpt(GONE).starts_with("450"));
    pod.volumes.release(GONE);
    wait("his mail in the archive", || arrives(&pod, ".archive", "his"));
    wait("the mailbox of the other", || pod.rcpt(GONE).starts_with("250").then_some(()));
    pod.smtp().send(GONE, "new");
    wait("new mail", || arrives(&pod, "", "new"));
    let mine = messages(&pod.volumes.vmail());
    assert!(!mine.contains(&(GONE.to_owned(), "his".to_owned())), "{mine:?}");
    nothing_bounced(&pod);
}
