//! The whole road on a real cluster, through the chart, looked at from outside.
#![allow(missing_docs)]

mod cells;
// Parts of it are for tests/live.
#[allow(dead_code)]
mod cluster;
mod pages;
mod smtp;
mod tutorial;

use std::time::{Duration, Instant};

use cluster::{Cluster, eventually};

const POD: &str = "vmail-postfix-default-0";
const ORG: &str = "maildomain/example.org";
const NET: &str = "maildomain/example.net";

fn chart() -> String {
    format!("{}/charts/vmail-operator", env!("CARGO_MANIFEST_DIR"))
}

fn example(name: &str) -> String {
    std::fs::read_to_string(format!("{}/examples/{name}", env!("CARGO_MANIFEST_DIR"))).expect("an example")
}

fn step(began: Instant, what: &str) {
    println!("{:6.1} s  {what}", began.elapsed().as_secs_f64());
}

/// The chart's values for the local cluster; `more` comes last.
fn helm(cluster: &Cluster, verb: &str, more: &[&str]) {
    try_helm(cluster, verb, more).expect("helm succeeds");
}

fn try_helm(cluster: &Cluster, verb: &str, more: &[&str]) -> Result<String, String> {
    let (operator, operator_tag) = cluster.env("IMAGE_OPERATOR").rsplit_once(':').expect("name:tag");
    let (postfix, postfix_tag) = cluster.env("IMAGE_POSTFIX").rsplit_once(':').expect("name:tag");
    let values = format!(
        "hostname={},postmaster=hostmaster@example.com,dns.powerdns.url={},dns.powerdns.secretName=powerdns,\
         dns.drainMarginSeconds=3,vanishedSeconds=5,postfix.settleSeconds=0,service.type=ClusterIP,service.externalIPs={{{}}},\
         image.operator.repository={operator},image.operator.tag={operator_tag},image.postfix.repository={postfix},\
         image.postfix.tag={postfix_tag},image.pullPolicy=Never,logLevel=info\\,timing=debug,storage.vmail.size=1Gi,storage.spool.size=1Gi",
        cluster.env("MAIL_HOST"),
        cluster.env("PDNS_URL"),
        cluster.env("NODE_IP"),
    );
    let chart = chart();
    let arguments =
        [&[verb, "vmail", chart.as_str(), "--namespace", "mail", "--set", values.as_str()], more].concat();
    cluster.helm(&arguments)
}

#[test]
fn one_domain_all_the_way() {
    let began = Instant::now();
    let cluster = Cluster::up("e2e");
    step(began, "the cluster is up");
    let node_ip = cluster.env("NODE_IP").to_owned();
    cluster.make_release_namespace().expect("created");

    a_pod_that_cannot_start(&cluster);
    step(began, "Postfix cannot start: no MX, and the condition says why");
    a_proof_that_fails(&cluster);
    step(began, "a domain without a postmaster: no MX, and the condition quotes Postfix");
    a_table_that_cannot_be_compiled(&cluster);
    step(began, "a table that cannot be compiled: no MX, and the last good revision serves");
    first_domain(&cluster);
    step(began, "example.org is ready: MX published, mail delivered");
    second_domain(&cluster);
    step(began, "example.net is ready, and nothing changed for example.org");
    malformed_objects(&cluster);
    tenancy(&cluster);
    step(began, "what must be refused is refused");
    later_mailbox(&cluster);
    steps_are_timed(&cluster);
    step(began, "20 mailboxes added later, and where the time went");
    growth(&cluster);
    step(began, "tables that one ConfigMap cannot hold, and small again: no restart, nobody refused");
    foreign_record(&cluster);
    step(began, "a foreign MX is left alone");
    restarts(&cluster);
    step(began, "operator and Postfix restarted: the same answers, and nothing written");
    withdrawal(&cluster, &node_ip);
    step(began, "example.org withdrawn: MX out first, then drained, then refused; its mail is still there");
    uninstall(&cluster);
    step(began, "uninstalled; definitions, records and volumes are still there");
}

/// Before there is a Postfix, nothing is published.
fn a_pod_that_cannot_start(cluster: &Cluster) {
    helm(cluster, "install", &["--set", "image.postfix.tag=missing"]);
    cluster.apply("mail", &example("example.org.yaml")).expect("applied");
    eventually("the condition names the image", Duration::from_secs(90), || {
        let programmed = cluster.condition("mail", ORG, "Programmed")?;
        let fits =
            programmed.starts_with("False AgentUnreachable") && programmed.contains("ErrImageNeverPull");
        fits.then_some(()).ok_or(programmed)
    });
    assert_eq!(cluster.dig_mx("example.org"), "");
    assert!(cluster.condition("mail", ORG, "Accepted").expect("a condition").starts_with("True"));
    cluster
        .kubectl(&[
            "delete",
            "-n",
            "mail",
            "-f",
            &format!("{}/examples/example.org.yaml", env!("CARGO_MANIFEST_DIR")),
        ])
        .expect("deleted");
}

/// A domain that Postfix does not accept is not published.
fn a_proof_that_fails(cluster: &Cluster) {
    helm(cluster, "upgrade", &["--wait", "--timeout=120s"]);
    let ready = format!("pod/{POD}");
    cluster
        .kubectl(&["wait", "-n", "mail", "--for=condition=Ready", &ready, "--timeout=90s"])
        .expect("Postfix starts");
    let manifest = "{apiVersion: vmail.dev/v1alpha1, kind: MailDomain, metadata: {name: nopostmaster}, \
                    spec: {domain: sub.example.net, roleAddresses: [abuse]}}";
    cluster.apply("mail", manifest).expect("applied");
    eventually("the proof fails", Duration::from_secs(30), || {
        let programmed = cluster.condition("mail", "maildomain/nopostmaster", "Programmed")?;
        let fits = programmed.starts_with("False ProofFailed")
            && programmed.contains("postmaster@sub.example.net")
            && programmed.contains("550");
        fits.then_some(()).ok_or(programmed)
    });
    assert_eq!(cluster.dig_mx("sub.example.net"), "");
    cluster.kubectl(&["delete", "-n", "mail", "maildomain/nopostmaster"]).expect("deleted");
}

/// A table that cannot be compiled: the agent and what it starts may write no file as large as that. The last
/// good revision goes on serving, and once the obstacle is gone, everything comes right by itself.
fn a_table_that_cannot_be_compiled(cluster: &Cluster) {
    let limit_files = |size: &str| {
        let script = format!(
            "for p in $(pgrep -f '^/usr/local/bin/vmail-operator agent'); do prlimit --pid $p --fsize={size}; done"
        );
        cluster.exec(&["sh", "-c", &script], "").expect("the limit is set");
    };
    limit_files("4096:unlimited");
    let mut manifests = String::new();
    for number in 0..40 {
        manifests.push_str(&format!("---\n{{apiVersion: vmail.dev/v1alpha1, kind: Mailbox, metadata: {{name: big{number}}}, spec: {{address: u{number}@big.example.net}}}}\n"));
    }
    // The domain last: before that its mailboxes wait, so that no smaller table goes first.
    manifests.push_str("---\n{apiVersion: vmail.dev/v1alpha1, kind: MailDomain, metadata: {name: big}, spec: {domain: big.example.net}}\n");
    cluster.apply("mail", &manifests).expect("applied");
    eventually("the revision is refused", Duration::from_secs(40), || {
        let programmed = cluster.condition("mail", "maildomain/big", "Programmed")?;
        let fits =
            programmed.starts_with("False RevisionRejected") && programmed.contains("virtual_mailbox_maps");
        fits.then_some(()).ok_or(programmed)
    });
    assert_eq!(cluster.dig_mx("big.example.net"), "");
    assert_eq!(cluster.rcpt("postmaster@big.example.net"), Ok(554));
    assert_eq!(cluster.rcpt("postmaster@mail.example.test"), Ok(250), "the last good revision serves");
    limit_files("unlimited:unlimited");
    cluster.wait_ready("mail", "maildomain/big");
    assert_eq!(cluster.dig_mx("big.example.net"), "10 mail.example.test.");
}

fn first_domain(cluster: &Cluster) {
    assert_eq!(cluster.dig_mx("example.org"), "");
    cluster.apply("mail", &example("example.org.yaml")).expect("applied");
    cluster.wait_ready("mail", ORG);
    assert_eq!(cluster.dig_mx("example.org"), "10 mail.example.test.");
    for object in ["mailbox/you.example.org", "mailbox/postmaster.example.org", "mailalias/root.example.org"]
    {
        cluster.wait_ready("mail", object);
    }
    assert_eq!(cluster.send("you@example.org", "to-a-mailbox"), 250);
    assert_eq!(cluster.send("root@example.org", "to-an-alias"), 250);
    assert_eq!(cluster.send("postmaster@example.org", "to-postmaster"), 250);
    assert_eq!(cluster.send("abuse@example.org", "to-a-role-address"), 250);
    assert_eq!(cluster.send("you+tag@example.org", "to-a-tag"), 250);
    cluster.expect_mail(POD, "to-a-mailbox", &["you@example.org"]);
    cluster.expect_mail(POD, "to-an-alias", &["admin@example.org", "you@example.org"]);
    cluster.expect_mail(POD, "to-postmaster", &["postmaster@example.org"]);
    cluster.expect_mail(POD, "to-a-role-address", &["postmaster@example.org"]);
    cluster.expect_mail(POD, "to-a-tag", &["you@example.org"]);
    assert_eq!(cluster.rcpt("press@example.org"), Ok(250), "an alias to somewhere else");
    assert_eq!(cluster.rcpt("nobody@example.org"), Ok(550));
    assert_eq!(cluster.rcpt("you@elsewhere.example"), Ok(554), "never a relay");
    assert!(matches!(cluster.rcpt("you%elsewhere.example@example.org"), Ok(550 | 554)), "no percent hack");
    assert_eq!(cluster.rcpt("postmaster"), Ok(250), "RFC 5321 4.5.1");
    assert_eq!(cluster.rcpt("postmaster@mail.example.test"), Ok(250));
    let columns = cluster.kubectl(&["get", "md,mbx,ma", "-n", "mail"]).expect("listed");
    for word in
        ["DOMAIN", "READY", "REASON", "MX", "mail.example.test", "you@example.org", "root@example.org"]
    {
        assert!(columns.contains(word), "{word} is missing in\n{columns}");
    }
    println!("{columns}");
}

fn second_domain(cluster: &Cluster) {
    let before = (cluster.field("mail", ORG, "{.metadata.resourceVersion}"), cluster.dig_mx("example.org"));
    cluster.apply("mail", &example("example.net.yaml")).expect("applied");
    let ready = || cluster.condition("mail", NET, "Ready").is_ok_and(|ready| ready.starts_with("True"));
    let mut asked = 0;
    while !ready() {
        assert_eq!(cluster.rcpt("you@example.org"), Ok(250), "while the other domain came");
        asked += 1;
        assert!(asked < 2000, "example.net does not become ready");
    }
    assert_eq!(cluster.dig_mx("example.net"), "10 mail.example.test.");
    cluster.wait_ready("mail", "mailalias/sales.example.net");
    assert_eq!(cluster.send("sales@example.net", "to-the-second-domain"), 250);
    cluster.expect_mail(POD, "to-the-second-domain", &["info@example.net"]);
    assert_eq!(cluster.rcpt("postmaster@example.net"), Ok(250), "goes to the installation's postmaster");
    assert_eq!(cluster.rcpt("you@example.net"), Ok(550), "a mailbox of the other domain");
    let after = (cluster.field("mail", ORG, "{.metadata.resourceVersion}"), cluster.dig_mx("example.org"));
    assert_eq!(before, after);
}

fn malformed_objects(cluster: &Cluster) {
    let manifest = |kind: &str, spec: &str| {
        format!("{{apiVersion: vmail.dev/v1alpha1, kind: {kind}, metadata: {{name: wrong}}, spec: {spec}}}")
    };
    for (kind, spec, sentence) in [
        ("Mailbox", "{address: not an address}", "must be local@domain"),
        ("MailDomain", "{domain: Example.ORG}", "write the domain in lower case"),
        ("MailAlias", "{address: a@example.org, targets: ['a,b@example.org']}", "plain addresses"),
    ] {
        let error = cluster.apply("mail", &manifest(kind, spec)).expect_err("refused");
        assert!(error.contains(sentence), "{error}");
    }
    let patch = ["patch", "-n", "mail", ORG, "--type=merge", "-p", "{\"spec\":{\"domain\":\"example.com\"}}"];
    let error = cluster.kubectl(&patch).expect_err("refused");
    assert!(error.contains("spec.domain is immutable"), "{error}");
}

/// Default deny, and a mailbox from a namespace that the domain does not know.
fn tenancy(cluster: &Cluster) {
    cluster.kubectl(&["create", "namespace", "shop"]).expect("created");
    cluster
        .apply(
            "shop",
            "
{apiVersion: vmail.dev/v1alpha1, kind: MailDomain, metadata: {name: d}, spec: {domain: shop.example.net}}
---
{apiVersion: vmail.dev/v1alpha1, kind: Mailbox, metadata: {name: m}, spec: {address: thief@example.org}}
",
        )
        .expect("applied");
    for (object, reason) in
        [("maildomain/d", "False DomainNotPermitted"), ("mailbox/m", "False NotAllowedByDomain")]
    {
        eventually(reason, Duration::from_secs(20), || {
            let accepted = cluster.condition("shop", object, "Accepted")?;
            accepted.starts_with(reason).then_some(()).ok_or(accepted)
        });
    }
    assert_eq!(cluster.dig_mx("shop.example.net"), "");
    assert_eq!(cluster.rcpt("thief@example.org"), Ok(550));
    cluster.kubectl(&["delete", "namespace", "shop", "--timeout=60s"]).expect("nothing holds a namespace up");
}

/// Changes when the pod is another one, or was restarted.
fn identity(cluster: &Cluster) -> Result<String, String> {
    let path = "{.metadata.uid} {.status.containerStatuses[0].restartCount}";
    cluster.field("mail", &format!("pod/{POD}"), path)
}

/// Added later, without a restart: the time from `kubectl apply` to 250.
fn later_mailbox(cluster: &Cluster) {
    let before = identity(cluster);
    let mut times = Vec::new();
    for number in 0..20 {
        let address = format!("later{number}@example.org");
        assert_eq!(cluster.rcpt(&address), Ok(550));
        let manifest = format!(
            "{{apiVersion: vmail.dev/v1alpha1, kind: Mailbox, metadata: {{name: later{number}}}, spec: {{address: {address}}}}}"
        );
        let began = Instant::now();
        cluster.apply("mail", &manifest).expect("applied");
        let applied = began.elapsed();
        eventually("the new mailbox is accepted", Duration::from_secs(30), || match cluster.rcpt(&address) {
            Ok(250) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        times.push((began.elapsed(), applied));
        // kubelet spaces out the syncs of one pod; people do not type this fast either.
        std::thread::sleep(Duration::from_millis(1500));
    }
    times.sort();
    let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
    println!(
        "kubectl apply of a Mailbox to RCPT 250, 20 times: p50 {:.0} ms, max {:.0} ms, of which kubectl itself p50 {:.0} ms",
        milliseconds(times[10].0),
        milliseconds(times[19].0),
        milliseconds(times[10].1)
    );
    cluster.wait_ready("mail", "mailbox/later0");
    assert_eq!(identity(cluster), before, "the pod was restarted");
    assert_eq!(cluster.send("later0@example.org", "to-a-later-mailbox"), 250);
    cluster.expect_mail(POD, "to-a-later-mailbox", &["later0@example.org"]);
}

/// With `logLevel` at `info,timing=debug`, both programs say how long each step of a change took.
fn steps_are_timed(cluster: &Cluster) {
    let steps: [(&str, &[&str]); 2] = [
        ("deployment/vmail-operator", &["pass", "rules", "render", "write", "poke", "dns"]),
        (POD, &["read", "check", "compile", "reload", "relay", "prove", "install"]),
    ];
    for (of, names) in steps {
        let log = cluster.kubectl(&["logs", "-n", "mail", of]).expect("a log");
        let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let closed: Vec<_> = lines.filter(|line| line["target"] == "timing").collect();
        for name in names {
            let step = closed.iter().find(|line| line["span"]["name"] == *name);
            let step = step.unwrap_or_else(|| panic!("{of} does not say how long `{name}` took"));
            assert!(step["time.busy"].is_string() && step["time.idle"].is_string(), "{step}");
        }
    }
}

/// Tables grow from one ConfigMap into shards, and back.
fn growth(cluster: &Cluster) {
    let before = identity(cluster);
    let maps = || cluster.kubectl(&["get", "configmaps", "-n", "mail", "-o", "name"]).expect("listed");
    let list = |number: usize| {
        let target =
            |target: usize| format!("subscriber-{number}-{target}-{}@lists.remote.example", "x".repeat(40));
        let targets: Vec<String> = (0..100).map(target).collect();
        format!(
            "---\n{{apiVersion: vmail.dev/v1alpha1, kind: MailAlias, metadata: {{name: list{number}}}, spec: {{address: list{number}@example.org, targets: [{}]}}}}\n",
            targets.join(", ")
        )
    };
    let manifests: String = (0..80).map(list).collect();
    cluster.apply("mail", &manifests).expect("applied");
    eventually("the last list is accepted", Duration::from_secs(60), || {
        assert_eq!(cluster.rcpt("you@example.org"), Ok(250), "while the tables grow");
        match cluster.rcpt("list79@example.org") {
            Ok(250) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    eventually("there are shards, and nothing else", Duration::from_secs(30), || {
        let maps = maps();
        let shards = maps.matches("configmap/vmail-default-shard-").count();
        if shards == 64 && !maps.contains("vmail-default-tables") { Ok(()) } else { Err(maps) }
    });
    cluster
        .exec(&["kubectl", "delete", "-n", "mail", "--wait=false", "-f", "-"], &manifests)
        .expect("deleted");
    eventually("the tables are small again", Duration::from_secs(60), || {
        assert_eq!(cluster.rcpt("you@example.org"), Ok(250), "while the tables shrink");
        let maps = maps();
        if maps.contains("vmail-default-tables") && !maps.contains("shard") { Ok(()) } else { Err(maps) }
    });
    eventually("a list is refused", Duration::from_secs(60), || match cluster.rcpt("list79@example.org") {
        Ok(550) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(identity(cluster), before, "the pod was restarted");
}

/// An MX that somebody else wrote is quoted and not touched.
fn foreign_record(cluster: &Cluster) {
    let foreign = |change: &str| {
        cluster.change_mx(change, "example.net", "taken.example.net", "5 other.example.com.");
    };
    foreign("REPLACE");
    cluster.apply("mail", "{apiVersion: vmail.dev/v1alpha1, kind: MailDomain, metadata: {name: taken}, spec: {domain: taken.example.net}}").expect("applied");
    eventually("the conflict is told", Duration::from_secs(30), || {
        let published = cluster.condition("mail", "maildomain/taken", "Published")?;
        (published.starts_with("False RecordConflict") && published.contains("other.example.com"))
            .then_some(())
            .ok_or(published)
    });
    assert_eq!(cluster.dig_mx("taken.example.net"), "5 other.example.com.");
    // It goes away, and ours comes: nobody has to touch the MailDomain.
    foreign("DELETE");
    cluster.wait_ready("mail", "maildomain/taken");
    eventually("its Events tell the story", Duration::from_secs(10), || {
        let line = "jsonpath={range .items[*]}{.type} {.reason},{end}";
        let about = "--field-selector=involvedObject.kind=MailDomain,involvedObject.name=taken";
        let told = cluster.kubectl(&["get", "events", "-n", "mail", about, "-o", line])?;
        let all = ["Normal Programmed,", "Warning RecordConflict,", "Normal Ready,"];
        all.iter().all(|event| told.contains(event)).then_some(()).ok_or(told)
    });
    cluster.kubectl(&["delete", "-n", "mail", "maildomain/taken"]).expect("deleted");
    eventually("it is withdrawn", Duration::from_secs(30), || match cluster.dig_mx("taken.example.net") {
        mx if mx.is_empty() => Ok(()),
        mx => Err(mx),
    });
}

/// Whatever restarts, what was so stays so, and a converged operator writes nothing.
fn restarts(cluster: &Cluster) {
    let versions = || {
        let list = [
            "get",
            "-A",
            "md,mbx,ma",
            "-o",
            "jsonpath={range .items[*]}{.metadata.name}={.metadata.resourceVersion} {end}",
        ];
        let tables = cluster.field("mail", "configmap/vmail-default-index", "{.metadata.resourceVersion}");
        (cluster.kubectl(&list).expect("listed"), tables)
    };
    eventually("everything is said", Duration::from_secs(30), || {
        let before = versions();
        std::thread::sleep(Duration::from_secs(1));
        (before == versions()).then_some(()).ok_or_else(|| "still writing".to_owned())
    });
    let before = versions();
    cluster.kubectl(&["rollout", "restart", "-n", "mail", "deployment/vmail-operator"]).expect("restarted");
    cluster
        .kubectl(&["rollout", "status", "-n", "mail", "deployment/vmail-operator", "--timeout=90s"])
        .expect("rolled out");
    cluster.kubectl(&["delete", "pod", "-n", "mail", POD, "--wait=true"]).expect("deleted");
    eventually("Postfix is back", Duration::from_secs(90), || match cluster.rcpt("you@example.org") {
        Ok(250) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(cluster.dig_mx("example.org"), "10 mail.example.test.");
    assert_eq!(before, versions());
    assert!(cluster.condition("mail", ORG, "Ready").expect("a condition").starts_with("True"));
}

/// MX out first, then the drain, then the end; the mail stays on the volume.
fn withdrawal(cluster: &Cluster, node_ip: &str) {
    cluster.kubectl(&["delete", "-n", "mail", ORG, "mailbox/you.example.org"]).expect("deleted at once");
    eventually("the MX is out", Duration::from_secs(30), || match cluster.dig_mx("example.org") {
        mx if mx.is_empty() => Ok(()),
        mx => Err(mx),
    });
    let out = Instant::now();
    assert_eq!(cluster.rcpt("admin@example.org"), Ok(250), "senders still hold the MX");
    eventually("the deleted mailbox is refused for now", Duration::from_secs(10), || {
        match cluster.rcpt("you@example.org") {
            Ok(450) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let accepted_until = loop {
        match cluster.rcpt("admin@example.org") {
            Ok(250) => assert!(out.elapsed() < Duration::from_secs(180), "it never stops"),
            Ok(554) => break out.elapsed(),
            other => panic!("{other:?} from {node_ip} while draining"),
        }
        assert_eq!(cluster.dig_mx("example.org"), "");
        std::thread::sleep(Duration::from_millis(200));
    };
    // TTL 60 s and a margin of 3 s.
    assert!(accepted_until >= Duration::from_secs(62), "refused {accepted_until:?} after the MX went out");
    println!("mail was accepted for {accepted_until:?} after the MX was out");
    assert_eq!(cluster.rcpt("info@example.net"), Ok(250));
    assert_eq!(cluster.find_mail(POD, "to-a-mailbox").len(), 1, "its mail is kept");
}

fn uninstall(cluster: &Cluster) {
    cluster.helm(&["uninstall", "vmail", "-n", "mail", "--wait", "--timeout=120s"]).expect("uninstalled");
    let left = cluster.kubectl(&["get", "crd,pvc,md", "-n", "mail", "-o", "name"]).expect("listed");
    for name in [
        "maildomains.vmail.dev",
        "mailboxes.vmail.dev",
        "mailaliases.vmail.dev",
        "vmail-vmail-postfix-default-0",
        "spool-vmail-postfix-default-0",
        "example.net",
    ] {
        assert!(left.contains(name), "{name} is gone: {left}");
    }
    assert_eq!(
        cluster.dig_mx("example.net"),
        "10 mail.example.test.",
        "an uninstallation is not a withdrawal"
    );
}
