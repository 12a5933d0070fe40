//! A domain goes out of the tables while a message of the last moment waits for its Maildir.

use std::fs;

use crate::mail::messages;
use crate::pod::{Pod, wait};
use crate::revision::Wanted;

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
        let maildir = pod.volumes.hold("you@out.example");
        let id = pod.smtp().send("you@out.example", "last");
        wait("a first try", || pod.log().contains(&format!("{id}: to=<you@out.example>")).then_some(()));

        after.mount(&pod.volumes.revision());
        wait("the end of taking mail", || pod.rcpt("you@out.example").starts_with("450 4.2.1").then_some(()));
        assert!(pod.rcpt("you@one.example").starts_with("250"));
        pod.volumes.release("you@out.example");
        pod.postfix(&["postqueue", "-f"]);
        pod.wait_for_revision(&after);
        let last = ("you@out.example".to_owned(), "last".to_owned());
        assert!(messages(&pod.volumes.vmail()).contains(&last), "{}", pod.postfix(&["postqueue", "-j"]));
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
    wait("the end of taking mail", || pod.rcpt("you@out.example").starts_with("450 4.2.1").then_some(()));
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
