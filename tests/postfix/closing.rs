//! A domain goes out of the tables while a message of the last moment waits for its Maildir.

use std::fs;
use std::path::PathBuf;

use crate::mail::messages;
use crate::pod::{Pod, set_mode, wait};
use crate::revision::Wanted;

/// A message that waits in the queue, since its Maildir is held; the Maildir.
fn queue_last(pod: &Pod) -> PathBuf {
    let maildir = pod.volumes.hold("you@out.example");
    let id = pod.smtp().send("you@out.example", "last");
    wait("a first try", || pod.log().contains(&format!("{id}: to=<you@out.example>")).then_some(()));
    maildir
}

fn wait_for_the_end_of_taking(pod: &Pod) {
    wait("the end of taking mail", || pod.rcpt("you@out.example").starts_with("450 4.2.1").then_some(()));
}

/// Lets that message into its Maildir, and waits until what was mounted is live.
fn deliver_last(pod: &Pod, mounted: &Wanted) {
    pod.volumes.release("you@out.example");
    pod.postfix(&["postqueue", "-f"]);
    pod.wait_for_revision(mounted);
    let last = ("you@out.example".to_owned(), "last".to_owned());
    assert!(messages(&pod.volumes.vmail()).contains(&last), "{}", pod.postfix(&["postqueue", "-j"]));
}

#[test]
fn what_was_taken_last_is_delivered_before_a_domain_goes() {
    let others = Wanted::one("one.example");
    let before = others.clone().domain("out.example").mailbox("you@out.example").draining("out.example");
    let of_another_class = others
        .clone()
        .line("virtual_alias_domains", "out.example OK")
        .line("domains", "out.example hash3 serving")
        .alias("you@out.example", "you@one.example")
        .alias("postmaster@out.example", "you@one.example");
    let pod = Pod::serving(&before);
    for after in [others, of_another_class] {
        before.mount(&pod.volumes.revision());
        pod.wait_for_revision(&before);
        let maildir = queue_last(&pod);
        after.mount(&pod.volumes.revision());
        wait_for_the_end_of_taking(&pod);
        assert!(pod.rcpt("you@one.example").starts_with("250"));
        deliver_last(&pod, &after);
        fs::remove_dir_all(&maildir).unwrap();
    }
    let wrong = |line: &&str| line.contains("status=bounced") || line.contains("postfix/smtp[");
    assert_eq!(pod.log().lines().find(wrong), None);
}

/// A session goes by the tables that were there when its client came: what it takes is delivered, and one that says
/// nothing more does not keep the domain.
#[test]
fn a_session_that_began_before_loses_nothing_and_holds_up_nothing() {
    let others = Wanted::one("one.example");
    let before = others.clone().domain("out.example").mailbox("you@out.example").draining("out.example");
    let after = others
        .line("virtual_alias_domains", "out.example OK")
        .line("domains", "out.example hash3 serving")
        .alias("you@out.example", "you@one.example")
        .alias("postmaster@out.example", "you@one.example");
    let pod = Pod::serving(&before);
    let (mut begun, idle, mut silent) = (pod.smtp(), pod.smtp(), pod.smtp());
    for session in [&mut begun, &mut silent] {
        assert!(session.rcpt("you@out.example").starts_with("250"));
    }
    after.mount(&pod.volumes.revision());
    wait_for_the_end_of_taking(&pod);
    idle.send("you@out.example", "idle");
    assert!(begun.ask("DATA").starts_with("354"));
    assert!(begun.ask("Subject: begun\r\n\r\nhello\r\n.").starts_with("250"));
    pod.wait_for_revision(&after);
    let came = messages(&pod.volumes.vmail());
    for subject in ["idle", "begun"] {
        let message = ("you@out.example".to_owned(), subject.to_owned());
        assert!(came.contains(&message), "{subject}: {}", pod.postfix(&["postqueue", "-j"]));
    }
    assert!(silent.is_over());
    assert_eq!(pod.log().lines().find(|line| line.contains("status=bounced")), None);
}

/// postqueue(1) reads one queue after the other: a message that moves meanwhile is in none of them.
#[test]
fn a_message_that_a_listing_misses_is_waited_for() {
    let others = Wanted::one("one.example");
    let before = others.clone().domain("out.example").mailbox("you@out.example").draining("out.example");
    let pod = Pod::serving(&before);
    let listings = Listings::of(&pod);
    queue_last(&pod);
    others.mount(&pod.volumes.revision());
    wait_for_the_end_of_taking(&pod);
    // So often only who waits for the queue looks at it.
    listings.wait_for(10);
    for _ in 0..3 {
        listings.miss_one();
        listings.wait_for(2);
        let answer = pod.rcpt("you@out.example");
        assert!(answer.starts_with("450 4.2.1"), "the domain has left, with mail in the queue: {answer}");
    }
    deliver_last(&pod, &others);
}

/// A postqueue(1) in its pod whose answers can be lost. No real one can be made to look away at the right moment.
struct Listings(PathBuf);

impl Listings {
    fn of(pod: &Pod) -> Self {
        let process = pod.process_one();
        let directory = PathBuf::from(format!("/proc/{process}/root/run/listings"));
        fs::create_dir(&directory).unwrap();
        let program = directory.join("postqueue");
        fs::copy(format!("/proc/{process}/root/usr/sbin/postqueue"), directory.join("real")).unwrap();
        fs::write(&program, "#!/bin/sh\ncd /run/listings\nmv lost missed 2>/dev/null && exit\n./real \"$@\" && echo >> made\n")
            .unwrap();
        set_mode(&program, 0o755);
        let mount = ["mount", "--bind", "/run/listings/postqueue", "/usr/sbin/postqueue"];
        assert_eq!(pod.postfix(&mount), "");
        Self(directory)
    }

    fn made(&self) -> usize {
        fs::read(self.0.join("made")).unwrap_or_default().len()
    }

    /// Waits until so many more were made.
    fn wait_for(&self, more: usize) {
        let before = self.made();
        wait("a listing of the queue", || (self.made() >= before + more).then_some(()));
    }

    /// The next one finds nothing.
    fn miss_one(&self) {
        let (lost, missed) = (self.0.join("lost"), self.0.join("missed"));
        let _ = fs::remove_file(&missed);
        fs::write(lost, "").unwrap();
        wait("a listing that misses the message", || missed.exists().then_some(()));
    }
}
