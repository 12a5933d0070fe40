//! Two cells on a cluster: a second one comes later, gets a domain, takes mail from the first, and goes.

use std::time::{Duration, Instant};

use crate::cluster::{Cluster, eventually};
use crate::{POD, helm, identity, step, try_helm};

const SECOND: &str = "vmail-postfix-second-0";
const DOMAIN: &str = "maildomain/example.net";

/// Where the MX of the second cell leads: to nobody, so that mail can only come through its Service.
const SECOND_ADDRESS: &str = "192.0.2.2";

/// The Service has another one. Its mail lies on a claim that somebody else made.
const SECOND_CELL: &str = "cells.second.hostname=mail2.example.test,cells.second.service.externalIPs={192.0.2.3},\
     cells.second.storage.vmail.existingClaim=old-mail,postfix.podDisruptionBudget.enabled=true";

const OLD_MAIL: &str = "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: old-mail},
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}";

const FIRST_OBJECTS: &str = "
{apiVersion: vmail.dev/v1alpha1, kind: MailDomain, metadata: {name: example.org}, spec: {domain: example.org}}
---
{apiVersion: vmail.dev/v1alpha1, kind: Mailbox, metadata: {name: you.example.org}, spec: {address: you@example.org}}
";

const SECOND_OBJECTS: &str = "
{apiVersion: vmail.dev/v1alpha1, kind: MailDomain, metadata: {name: example.net}, spec: {domain: example.net, cell: second, withdrawal: Immediate}}
---
{apiVersion: vmail.dev/v1alpha1, kind: Mailbox, metadata: {name: info.example.net}, spec: {address: info@example.net}}
---
{apiVersion: vmail.dev/v1alpha1, kind: MailAlias, metadata: {name: all.example.org}, spec: {address: all@example.org, targets: [you@example.org, info@example.net]}}
---
{apiVersion: vmail.dev/v1alpha1, kind: MailAlias, metadata: {name: back.example.net}, spec: {address: back@example.net, targets: [you@example.org]}}
";

#[test]
fn two_cells() {
    let began = Instant::now();
    let cluster = Cluster::up("cells");
    step(began, "the cluster is up");
    cluster.make_release_namespace().expect("created");
    cluster.change_rrset("REPLACE", "example.test", "mail2.example.test", "A", SECOND_ADDRESS);
    helm(&cluster, "install", &["--wait", "--timeout=120s"]);
    cluster.apply("mail", FIRST_OBJECTS).expect("applied");
    cluster.wait_ready("mail", "mailbox/you.example.org");
    cluster.apply("mail", SECOND_OBJECTS).expect("applied");
    eventually("there is no such cell", Duration::from_secs(30), || {
        let accepted = cluster.condition("mail", DOMAIN, "Accepted")?;
        accepted.starts_with("False CellNotFound").then_some(()).ok_or(accepted)
    });
    cluster.kubectl(&["delete", "-n", "mail", "mailalias/all.example.org"]).expect("deleted");
    step(began, "one cell: a domain waits for the other");

    a_second_cell(&cluster);
    step(began, "two cells: both MX are published, and the first cell did not notice");
    from_cell_to_cell(&cluster);
    step(began, "mail goes from cell to cell, and neither relays");
    out_again(&cluster);
    step(began, "the second cell is gone");
}

/// Adding a cell moves nothing: the pod of the first goes on, and so do its tables.
fn a_second_cell(cluster: &Cluster) {
    eventually("the alias is gone", Duration::from_secs(30), || match cluster.rcpt("all@example.org") {
        Ok(450 | 550) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let tables = || {
        cluster.field("mail", "configmap/vmail-default-tables", "{.data.virtual_alias_maps}{.data.virtual_mailbox_maps}{.data.virtual_mailbox_domains}{.data.transport_maps}")
    };
    let before = (identity(cluster), tables());
    cluster.apply("mail", OLD_MAIL).expect("applied");
    helm(cluster, "upgrade", &["--set", SECOND_CELL, "--wait", "--timeout=120s"]);
    cluster.wait_ready("mail", DOMAIN);
    assert_eq!(cluster.dig_mx("example.org"), "10 mail.example.test.");
    assert_eq!(cluster.dig_mx("example.net"), "10 mail2.example.test.");
    assert_eq!((identity(cluster), tables()), before);
    nobody_evicts_a_cell_that_is_well(cluster);
}

fn nobody_evicts_a_cell_that_is_well(cluster: &Cluster) {
    for pod in [POD, SECOND] {
        let path = format!("/api/v1/namespaces/mail/pods/{pod}/eviction");
        let eviction = format!(
            "{{\"apiVersion\":\"policy/v1\",\"kind\":\"Eviction\",\"metadata\":{{\"name\":\"{pod}\"}}}}"
        );
        eventually("the budget counts its pod", Duration::from_secs(30), || {
            let budget = format!("pdb/{}", pod.trim_end_matches("-0"));
            let healthy = cluster.field("mail", &budget, "{.status.currentHealthy}")?;
            if healthy == "1" { Ok(()) } else { Err(healthy) }
        });
        let refused =
            cluster.exec(&["kubectl", "create", "--raw", &path, "-f", "-"], &eviction).expect_err("refused");
        assert!(refused.contains("would violate the pod's disruption budget"), "{refused}");
    }
}

fn from_cell_to_cell(cluster: &Cluster) {
    let pod = identity(cluster);
    cluster.apply("mail", SECOND_OBJECTS).expect("applied");
    for alias in ["mailalias/all.example.org", "mailalias/back.example.net"] {
        cluster.wait_ready("mail", alias);
    }
    assert_eq!(cluster.send("all@example.org", "to-both-cells"), 250);
    cluster.expect_mail(POD, "to-both-cells", &["you@example.org"]);
    cluster.expect_mail(SECOND, "to-both-cells", &["info@example.net"]);
    let log = cluster.kubectl(&["logs", "-n", "mail", POD]).expect("a log");
    assert!(log.contains("relay=vmail-smtp-second["), "not by the Service");
    // And the other way round, handed in inside the second pod.
    let letter = "printf 'Subject: to-the-first-cell\\n\\nHello.\\n' | sendmail -C /run/vmail-operator/postfix -f sender@example.com back@example.net";
    cluster.kubectl(&["exec", "-n", "mail", SECOND, "--", "sh", "-c", letter]).expect("handed in");
    cluster.expect_mail(POD, "to-the-first-cell", &["you@example.org"]);
    for address in ["info@example.net", "back@example.net"] {
        assert_eq!(cluster.rcpt(address), Ok(554), "{address} is not this cell's to take");
    }
    assert_eq!(identity(cluster), pod, "the pod was restarted");
}

/// A cell that still serves a domain cannot be taken away in silence.
fn out_again(cluster: &Cluster) {
    let refusal = try_helm(cluster, "upgrade", &[]).expect_err("refused");
    assert!(refusal.contains("cells.second: still serves example.net"), "{refusal}");
    cluster.kubectl(&["delete", "-n", "mail", DOMAIN, "mailalias/all.example.org"]).expect("deleted at once");
    eventually("helm lets the cell go", Duration::from_secs(120), || {
        try_helm(cluster, "upgrade", &["--wait", "--timeout=120s"])
    });
    assert_eq!(cluster.dig_mx("example.net"), "");
    assert_eq!(cluster.rcpt("you@example.org"), Ok(250));
    let left = cluster.kubectl(&["get", "pvc", "-n", "mail", "-o", "name"]).expect("listed");
    for claim in ["old-mail", "spool-vmail-postfix-second-0"] {
        assert!(left.contains(claim), "its mail is kept: {left}");
    }
    assert!(!left.contains("vmail-vmail-postfix-second-0"), "a claim beside the existing one: {left}");
}
