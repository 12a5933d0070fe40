//! Revisions that go live.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::pod::{Pod, Volumes, wait};
use crate::revision::Wanted;

fn delivered(directory: &Path) -> Option<std::path::PathBuf> {
    fs::read_dir(directory).ok()?.next().map(|entry| entry.unwrap().path())
}

#[test]
fn port_25_opens_with_the_first_revision_and_mail_arrives() {
    let pod = Pod::start(Volumes::new(), &[]);
    let report = pod.wait_for_report("storage", |report| report.storage.writable);
    assert_eq!(report.revision, None);
    assert_eq!(report.volumes.keys().collect::<Vec<_>>(), ["spool", "vmail"]);
    for (fill, of) in report
        .volumes
        .values()
        .flat_map(|fill| [(fill.bytes_percent, "bytes"), (fill.inodes_percent, "inodes")])
    {
        assert!(fill <= 100, "{fill} % of the {of}");
    }
    let (_, metrics) = pod.get("/metrics", None).unwrap();
    assert!(metrics.contains("vmail_agent_volume_used_percent{volume=\"vmail\",of=\"bytes\"} "), "{metrics}");
    assert_eq!(report.pod_uid, "uid-1");
    assert!(!pod.is_open());
    assert_eq!(pod.get("/readyz", None).unwrap().0, 503);
    assert_eq!(pod.get("/livez", None).unwrap().0, 200);

    let wanted = Wanted::one("example.org").alias("sales@example.org", "you@example.org");
    wanted.mount(&pod.volumes.revision());
    let report = pod.wait_for_revision(&wanted);
    assert_eq!(report.rejected, None);
    let proof = &report.domains["example.org"];
    assert!(proof.accepted && proof.hash == "hash1", "{proof:?}");
    assert_eq!(pod.get("/readyz", None).unwrap().0, 200);

    for known in ["you", "sales", "postmaster", "you+tag", "YOU"] {
        let reply = pod.rcpt(&format!("{known}@example.org"));
        assert!(reply.starts_with("250 "), "{known}: {reply}");
    }
    assert!(pod.rcpt("nobody@example.org").starts_with("550 5.1.1"));
    assert!(pod.rcpt("somebody@elsewhere.example").starts_with("554 5.7.1"));

    pod.smtp().send("sales@example.org", "first");
    let file = wait("mail", || delivered(&pod.volumes.vmail().join("example.org/you/new")));
    let found = fs::metadata(&file).unwrap();
    assert_eq!((found.uid(), found.gid()), (2000, 2000));
    assert!(fs::read_to_string(file).unwrap().contains("Subject: first"));
}

/// More than there are tokens for messages on their way in, of which each proof takes one ([`master_cf`]).
///
/// [`master_cf`]: vmail_operator::postfix::main_cf::master_cf
#[test]
fn a_thousand_domains_are_proved_at_once() {
    let domains = (0..1000).map(|number| format!("d{number}.example"));
    let wanted = domains.fold(Wanted::empty(), |wanted, domain| {
        wanted.bare_domain(&domain).alias(&format!("postmaster@{domain}"), "you@elsewhere.example")
    });
    let pod = Pod::serving(&wanted);
    let report = pod.report().unwrap();
    assert!(report.domains.len() == 1000 && report.domains.values().all(|proof| proof.accepted));
    let log = pod.log();
    assert!(!log.contains("not proved"), "{log}");
}
