//! One revision after another.

use std::fs;
use std::process::Command;

use vmail_operator::revision::{INDEX_FILE, Index, Report};

use crate::pod::{Pod, Smtp, Volumes, meanwhile, wait};
use crate::revision::{Wanted, mount_files};

fn reloads(pod: &Pod) -> usize {
    pod.log().matches(": reload -- version").count()
}

#[test]
fn a_new_mailbox_needs_no_reload() {
    let first = Wanted::one("example.org");
    let pod = Pod::serving(&first);
    assert!(pod.rcpt("me@example.org").starts_with("550 5.1.1"));
    let before = reloads(&pod);
    let second = first.mailbox("me@example.org");
    second.mount(&pod.volumes.revision());
    pod.wait_for_revision(&second);
    assert!(pod.rcpt("me@example.org").starts_with("250 "));
    assert_eq!(reloads(&pod), before);
    let third = second.without("virtual_mailbox_maps", "me@");
    third.mount(&pod.volumes.revision());
    pod.wait_for_revision(&third);
    wait("the end of the mailbox", || pod.rcpt("me@example.org").starts_with("550 5.1.1").then_some(()));
    assert_eq!(reloads(&pod), before);
}

/// smtpd(8) remembers for the life of the process that a domain was not ours.
#[test]
fn a_domain_that_was_asked_for_before_is_accepted_once_it_is_there() {
    let first = Wanted::one("example.org");
    let pod = Pod::serving(&first);
    for _ in 0..5 {
        assert!(pod.rcpt("you@example.com").starts_with("554 5.7.1"));
    }
    let second = first.domain("example.com").mailbox("you@example.com");
    second.mount(&pod.volumes.revision());
    let report = pod.wait_for_revision(&second);
    assert!(report.domains["example.com"].accepted, "{report:?}");
    for _ in 0..20 {
        assert!(pod.rcpt("you@example.com").starts_with("250 "));
    }
}

#[test]
fn a_torn_update_is_never_live() {
    let first = Wanted::one("example.org");
    let pod = Pod::serving(&first);
    let second = first.clone().domain("example.com").mailbox("you@example.com");
    second.mount_torn(&pod.volumes.revision(), &first);
    wait("the agent's word", || pod.log().contains("is not installed").then_some(()));
    assert_eq!(pod.report().expect("a report").revision, Some(first.revision()));
    assert!(pod.rcpt("you@example.com").starts_with("554 5.7.1"));
    second.mount(&pod.volumes.revision());
    pod.wait_for_revision(&second);
    assert!(pod.rcpt("you@example.com").starts_with("250 "));
}

/// postmap(1) only warns about a key that is there twice, and exits with 0.
#[test]
fn a_table_that_does_not_compile_is_refused_and_the_old_one_serves() {
    let first = Wanted::one("example.org");
    let pod = Pod::serving(&first);
    let second = first.clone().mailbox("me@example.org").mailbox("me@example.org");
    second.mount(&pod.volumes.revision());
    let rejected = pod.wait_for_rejection(&second).rejected.expect("a rejection");
    assert_eq!(rejected.stage, "Compile");
    assert!(rejected.message.contains("virtual_mailbox_maps"), "{}", rejected.message);
    assert_eq!(pod.report().expect("a report").revision, Some(first.revision()));
    assert!(pod.rcpt("you@example.org").starts_with("250 "));
    let third = first.mailbox("me@example.org");
    third.mount(&pod.volumes.revision());
    let report = pod.wait_for_revision(&third);
    assert_eq!(report.rejected, None);
}

/// One of each kind, and of each program that reads it. `postfix check` lets all of them pass.
#[test]
fn a_parameter_that_postfix_cannot_take_closes_no_port_and_is_named() {
    let first = Wanted::one("example.org");
    let pod = Pod::serving(&first);
    let (before, mut asked) = (reloads(&pod), 0);
    let probe = || {
        let stream = pod.connect(25).expect("port 25 is open");
        assert!(Smtp::greeted(stream).rcpt("you@example.org").starts_with("250 "));
        asked += 1;
    };
    meanwhile(probe, || {
        for (name, value, said) in [
            ("smtpd_client_connection_rate_limit", "many", "smtpd: bad numerical configuration"),
            ("smtpd_helo_required", "perhaps", "smtpd: bad boolean configuration"),
            ("smtpd_timeout", "0", "smtpd: invalid "),
            ("queue_run_delay", "-1", "bad time value or unit"),
            ("transport_retry_time", "0", "qmgr: invalid "),
            ("header_size_limit", "much", "bad numerical configuration"),
            ("bounce_size_limit", "much", "bad numerical configuration"),
            ("anvil_rate_time_unit", "0", "anvil: invalid "),
            ("smtp_address_preference", "none", "smtp: bad "),
            ("smtp_tls_security_level", "much", "smtp: Invalid TLS level"),
            ("default_process_limit", "all", "bad numerical configuration"),
            // Read when there is mail for the transport, and not before.
            ("virtual_destination_concurrency_limit", "all", "qmgr: bad numerical configuration"),
            ("smtp_destination_rate_delay", "-1", "qmgr: parameter "),
        ] {
            let second = first.clone().parameter(name, value);
            second.mount(&pod.volumes.revision());
            let rejected = pod.wait_for_rejection(&second).rejected.expect("a rejection");
            assert_eq!(rejected.stage, "Check", "{name}: {}", rejected.message);
            assert!(rejected.message.contains(said), "{name}: {}", rejected.message);
            // Of a level of TLS, Postfix quotes the value alone.
            let quoted = rejected.message.contains(name) || rejected.message.contains(value);
            assert!(quoted, "{name}: {}", rejected.message);
            first.mount(&pod.volumes.revision());
            pod.wait_for_report("the old revision", |report| report.rejected.is_none());
        }
    });
    assert_eq!(reloads(&pod), before);
    assert!(asked > 20, "{asked}");
    println!("asked {asked} times");
}

/// As after `kubectl delete pod --force`: the pod is there again before the old one has ended.
#[test]
fn a_pod_waits_until_another_is_off_its_volumes() {
    let first = Wanted::one("example.org");
    let old = Pod::serving(&first);
    let second = first.mailbox("me@example.org");
    let new = Pod::start(old.volumes.shared(), &[]);
    let waiting = |report: &Report| report.storage.message.contains("another pod still works on");
    new.wait_for_report("that it waits", waiting);
    second.mount(&old.volumes.revision());
    old.wait_for_revision(&second);
    assert!(old.rcpt("me@example.org").starts_with("250 "));
    assert_eq!(new.report().expect("a report").revision, None);
    drop(old);
    let report = new.wait_for_revision(&second);
    assert_eq!(report.rejected, None);
    assert!(new.rcpt("me@example.org").starts_with("250 "));
}

/// What is refused by a program is tried again, since it may have wanted for something else, and told once.
#[test]
fn what_is_refused_again_is_told_once() {
    let first = Wanted::one("example.org");
    let pod = Pod::serving(&first);
    let second = first.parameter("smtpd_timeout", "0");
    second.mount(&pod.volumes.revision());
    pod.wait_for_rejection(&second);
    let staged = "/run/vmail-operator/postfix/staging/main.cf";
    let written = || pod.postfix(&["stat", "-c", "%Z %i", staged]);
    for _ in 0..2 {
        let before = written();
        wait("another try", || (written() != before).then_some(()));
    }
    assert_eq!(pod.log().matches("refused: ").count(), 1);
}

/// `postfix check` lets a misspelt restriction pass, and smtpd(8) then answers 451 to everybody.
#[test]
fn a_misspelt_restriction_is_rolled_back() {
    let first = Wanted::one("example.org");
    let pod = Pod::serving(&first);
    let second = first.clone().parameter("smtpd_relay_restrictions", "reject_unauth_destinaton");
    second.mount(&pod.volumes.revision());
    pod.wait_for_rejection(&second);
    assert_eq!(pod.report().expect("a report").revision, Some(first.revision()));
    assert!(pod.rcpt("you@example.org").starts_with("250 "));
    assert!(pod.rcpt("you@example.com").starts_with("554 5.7.1"));
}

#[test]
fn a_revision_that_relays_is_rolled_back() {
    let first = Wanted::one("example.org");
    let pod = Pod::serving(&first);
    let second = first.clone().parameter("relay_domains", "static:all");
    second.mount(&pod.volumes.revision());
    let rejected = pod.wait_for_rejection(&second).rejected.expect("a rejection");
    assert_eq!(rejected.stage, "Relay");
    wait("a closed relay", || pod.rcpt("you@example.com").starts_with("554 5.7.1").then_some(()));
    assert!(pod.rcpt("you@example.org").starts_with("250 "));
}

#[test]
fn a_first_revision_that_relays_opens_no_port() {
    let wanted = Wanted::one("example.org").parameter("relay_domains", "static:all");
    let pod = Pod::with(&wanted);
    let rejected = pod.wait_for_rejection(&wanted).rejected.expect("a rejection");
    assert_eq!(rejected.stage, "Relay");
    assert!(!pod.is_open());
    let mended = Wanted::one("example.org");
    mended.mount(&pod.volumes.revision());
    pod.wait_for_revision(&mended);
    assert!(pod.rcpt("you@example.com").starts_with("554 5.7.1"));
}

#[test]
fn a_format_that_is_not_known_is_not_installed() {
    let first = Wanted::one("example.org");
    let pod = Pod::serving(&first);
    let second = first.clone().domain("example.com");
    // The same is told of the next one, by its name.
    for newer in [second.clone(), second.domain("example.net")] {
        let mut files = newer.files.clone();
        let index = Index { format: 99, ..newer.index() };
        files.insert(INDEX_FILE.into(), serde_json::to_string(&index).expect("writes"));
        mount_files(&pod.volumes.revision(), &files);
        let rejected = pod.wait_for_rejection(&newer).rejected.expect("a rejection");
        assert_eq!(rejected.stage, "Format");
    }
    assert_eq!(pod.report().expect("a report").revision, Some(first.revision()));
}

#[test]
fn a_domain_that_fails_its_proof_fails_alone() {
    let wanted = Wanted::one("example.org").bare_domain("example.com");
    let pod = Pod::serving(&wanted);
    let report = pod.wait_for_report("both proofs", |report| report.domains.len() == 2);
    assert!(report.domains["example.org"].accepted);
    let proof = &report.domains["example.com"];
    assert!(
        !proof.accepted && proof.message.contains("postmaster@example.com") && proof.message.contains("550"),
        "{proof:?}"
    );
}

#[test]
fn a_draining_domain_refuses_for_now_only() {
    let first = Wanted::one("example.org").domain("example.com").mailbox("you@example.com");
    let pod = Pod::serving(&first);
    let second = first.draining("example.org");
    second.mount(&pod.volumes.revision());
    pod.wait_for_report("the count of queued recipients", |report| {
        report.queued.get("example.org") == Some(&0)
    });
    let report = pod.wait_for_report("the proof", |report| report.domains["example.org"].hash == "hash2");
    assert!(report.domains["example.org"].accepted, "{report:?}");
    assert!(pod.rcpt("you@example.org").starts_with("250 "));
    assert!(pod.rcpt("nobody@example.org").starts_with("450 4.2.1"));
    assert!(pod.rcpt("nobody@example.com").starts_with("550 5.1.1"));
    let third = second.without("domains", "example.org").without("virtual_mailbox_domains", "example.org");
    third.mount(&pod.volumes.revision());
    pod.wait_for_revision(&third);
    assert!(pod.rcpt("you@example.org").starts_with("554 5.7.1"));
}

/// The queue of a draining domain is counted by recipient.
#[test]
fn queued_mail_of_a_draining_domain_is_counted() {
    let first = Wanted::one("example.org");
    let pod = Pod::serving(&first);
    // Nothing can be delivered below a file.
    fs::write(pod.volumes.vmail().join("example.org"), "").expect("writes");
    pod.smtp().send("you@example.org", "stuck");
    first.draining("example.org").mount(&pod.volumes.revision());
    pod.wait_for_report("one queued recipient", |report| report.queued.get("example.org") == Some(&1));
    fs::remove_file(pod.volumes.vmail().join("example.org")).expect("removes");
    pod.postfix(&["postqueue", "-f"]);
    pod.wait_for_report("an empty queue", |report| report.queued.get("example.org") == Some(&0));
    let new = pod.volumes.vmail().join("example.org/you/new");
    wait("the mail", || fs::read_dir(&new).ok()?.next().map(drop));
}

#[test]
fn a_pod_without_a_mounted_revision_serves_the_last_good_one() {
    let wanted = Wanted::one("example.org");
    let (status, volumes) = Pod::serving(&wanted).terminate();
    assert!(status.success(), "{status}");
    fs::remove_dir_all(volumes.revision()).expect("removes");
    fs::create_dir(volumes.revision()).expect("creates");
    let pod = Pod::start(volumes, &[]);
    let report = pod.wait_for_revision(&wanted);
    assert!(report.domains["example.org"].accepted);
    assert!(pod.rcpt("you@example.org").starts_with("250 "));
    assert!(pod.rcpt("nobody@example.org").starts_with("550 "));
    let next = wanted.mailbox("me@example.org");
    next.mount(&pod.volumes.revision());
    pod.wait_for_revision(&next);
}

#[test]
fn mail_that_was_taken_survives_the_plug_being_pulled() {
    mail_survives(|_| {});
}

/// As after a restore, or on a volume that was copied by root.
#[test]
fn mail_that_was_taken_survives_a_change_of_its_files_owner() {
    mail_survives(|volumes| {
        let done = Command::new("chown").args(["-R", "0:0"]).arg(volumes.spool()).status();
        assert!(done.expect("chown runs").success());
    });
}

fn mail_survives(meanwhile: impl FnOnce(&Volumes)) {
    let wanted = Wanted::one("example.org");
    let pod = Pod::serving(&wanted);
    fs::write(pod.volumes.vmail().join("example.org"), "").expect("writes");
    pod.smtp().send("you@example.org", "survivor");
    let volumes = pod.crash();
    meanwhile(&volumes);
    fs::remove_file(volumes.vmail().join("example.org")).expect("removes");
    let pod = Pod::start(volumes, &[]);
    pod.wait_for_revision(&wanted);
    pod.postfix(&["postqueue", "-f"]);
    let new = pod.volumes.vmail().join("example.org/you/new");
    let file = wait("the mail", || fs::read_dir(&new).ok()?.next().and_then(Result::ok));
    assert!(fs::read_to_string(file.path()).expect("reads").contains("survivor"));
}

/// A cell that is filled from nothing: senders come back rather than bounce.
#[test]
fn a_cell_without_a_past_refuses_for_now_only() {
    let wanted = Wanted::one("example.org");
    let volumes = Volumes::new();
    wanted.mount(&volumes.revision());
    let pod = Pod::start(volumes, &["--settle-seconds=8"]);
    let report = pod.wait_for_revision(&wanted);
    assert!(report.domains["example.org"].accepted, "{report:?}");
    assert!(pod.rcpt("you@example.org").starts_with("250 "));
    assert!(pod.rcpt("nobody@example.org").starts_with("450 "));
    assert!(pod.rcpt("you@example.com").starts_with("454 "));
    wait("the end of the settling", || pod.rcpt("nobody@example.org").starts_with("550 ").then_some(()));
    wait("the end of the settling", || pod.rcpt("you@example.com").starts_with("554 ").then_some(()));
}

/// Restored with its volumes: what the first tables lack may only not have come in yet.
#[test]
fn what_nobody_withdrew_is_not_refused_at_once() {
    let before = Wanted::one("example.org").mailbox("me@example.org").domain("example.net");
    let before = before.mailbox("you@example.net").domain("example.com").draining("example.com");
    let pod = Pod::serving(&before);
    fs::write(pod.volumes.vmail().join("example.net"), "").expect("writes");
    pod.smtp().send("you@example.net", "queued");
    let (_, lost) = pod.terminate();
    let volumes = lost.copy();
    fs::remove_file(volumes.vmail().join("example.net")).expect("removes");

    let after = Wanted::one("example.org");
    after.mount(&volumes.revision());
    let settle = ["--settle-seconds=20"];
    let check = |pod: &Pod| {
        pod.wait_for_revision(&after);
        assert!(pod.rcpt("you@example.net").starts_with("250 "), "served on");
        assert!(pod.rcpt("nobody@example.net").starts_with("450 "));
        assert!(pod.rcpt("me@example.org").starts_with("450 "));
        assert!(pod.rcpt("you@example.com").starts_with("454 "), "it drained before");
    };
    let pod = Pod::start(volumes, &settle);
    check(&pod);
    pod.postfix(&["postqueue", "-f"]);
    let new = pod.volumes.vmail().join("example.net/you/new");
    wait("the queued mail", || fs::read_dir(&new).ok()?.next()?.ok());
    // The next pod knows what was served before all that.
    let pod = Pod::start(pod.crash(), &settle);
    check(&pod);
    let more = after.mailbox("me@example.org");
    more.mount(&pod.volumes.revision());
    pod.wait_for_revision(&more);
    assert!(pod.rcpt("me@example.org").starts_with("250 "));

    wait("the end", || pod.rcpt("you@example.net").starts_with("554 ").then_some(()));
    assert!(pod.rcpt("nobody@example.org").starts_with("550 "));
    let saved = pod.volumes.spool().join("last-good/current/index.json");
    wait("the saved revision", || fs::read_to_string(&saved).ok()?.contains(&more.revision()).then_some(()));
}
