//! Two cells: mail from an alias in one to a mailbox in the other.

use std::collections::BTreeSet;

use crate::mail::messages;
use crate::pod::{Pod, wait};
use crate::revision::Wanted;

const ADDRESSES: [&str; 2] = ["10.77.0.1", "10.77.0.2"];

/// The cell of one.example, and how it changes once an alias leads to the other cell.
fn first() -> (Wanted, Wanted) {
    let wanted = Wanted::one("one.example");
    let route = format!("two.example cell:[{}]:25", ADDRESSES[1]);
    let with_alias = wanted.clone().alias("list@one.example", "u@two.example").line("transport_maps", &route);
    (wanted, with_alias)
}

/// The other cell, and how it changes once it knows its domain.
fn second() -> (Wanted, Wanted) {
    let host = "mx2.example.net";
    let wanted =
        Wanted::empty().parameter("myhostname", host).line("virtual_alias_domains", &format!("{host} OK"));
    let with_domain =
        wanted.clone().domain("two.example").mailbox("you@two.example").mailbox("u@two.example");
    (wanted, with_domain)
}

fn wait_for_mail(pod: &Pod, address: &str, subject: &str) {
    let wanted = (address.to_owned(), subject.to_owned());
    wait(subject, || messages(&pod.volumes.vmail()).contains(&wanted).then_some(()));
}

/// The route is in use before the first mail for the alias can come.
#[test]
fn mail_for_a_new_alias_goes_straight_to_the_other_cell() {
    let (before, after) = first();
    let one = Pod::serving(&before);
    let two = Pod::serving(&second().1);
    one.wire(&two, ADDRESSES);
    // trivial-rewrite(8) runs, and has the old table open.
    assert!(one.rcpt("u@two.example").starts_with("554 5.7.1"));
    after.mount(&one.volumes.revision());
    one.wait_for_revision(&after);
    one.smtp().send("list@one.example", "to-the-other-cell");
    wait_for_mail(&two, "u@two.example", "to-the-other-cell");
    // The route opens nothing: for a stranger, the domain is not served here.
    assert!(one.rcpt("u@two.example").starts_with("554 5.7.1"));
    assert!(one.rcpt("you@two.example").starts_with("554 5.7.1"));
}

/// Refused for good by a server that only does not know the domain yet: nothing bounces.
#[test]
fn mail_waits_until_the_other_cell_knows_the_domain() {
    let (_, wanted) = first();
    let one = Pod::serving(&wanted);
    let (before, after) = second();
    let two = Pod::serving(&before);
    one.wire(&two, ADDRESSES);
    let id = one.smtp().send("list@one.example", "patience");
    wait("the refusal", || {
        let queue = one.postfix(&["postqueue", "-j"]);
        let refused = queue.contains("Relay access denied") && queue.contains("\"deferred\"");
        refused.then_some(())
    });
    let queue = one.postfix(&["postqueue", "-j"]);
    let ids: BTreeSet<&str> =
        queue.lines().filter_map(|line| line.split("\"queue_id\": \"").nth(1)).collect();
    assert!(ids.len() == 1 && queue.contains(&id), "only the message itself: {queue}");
    after.mount(&two.volumes.revision());
    two.wait_for_revision(&after);
    one.postfix(&["postqueue", "-f"]);
    wait_for_mail(&two, "u@two.example", "patience");
}
