//! The faults: each is tried, and what must hold meanwhile beyond what is watched anyway is checked here.

use std::time::Duration;

use crate::versions::upgraded;
use crate::world::{POD, SERVED, Version, World, until};

pub struct Fault {
    pub name: &'static str,
    /// Part of `make test`.
    pub brief: bool,
    /// How often `make faults` tries it.
    pub times: usize,
    pub run: fn(&World) -> Result<(), String>,
}

const fn fault(
    name: &'static str,
    brief: bool,
    times: usize,
    run: fn(&World) -> Result<(), String>,
) -> Fault {
    Fault { name, brief, times, run }
}

pub const FAULTS: &[Fault] = &[
    // First, since not one message may fail in them: for two minutes after a pod is gone, a connection from a port that was
    // used before may still be led to it (conntrack remembers a closed connection for so long).
    fault("API server away for 20 s", true, 1, |world| api_away(world, 20)),
    fault("API server away for 120 s", false, 1, |world| api_away(world, 120)),
    fault("Postfix pod deleted by force", true, 3, pod_deleted),
    fault("all processes of the Postfix pod killed", false, 2, container_killed),
    fault("Postfix master killed", false, 2, master_killed),
    fault("operator pod deleted by force", true, 2, operator_deleted),
    fault("tables ConfigMap deleted", false, 1, tables_deleted),
    fault("both ConfigMaps filled with garbage", true, 1, garbage),
    fault("garbage without an operator, Postfix pod deleted too", false, 1, garbage_without_operator),
    fault("torn update: an index without its tables", false, 1, torn),
    fault("etcd killed and started", false, 1, |world| restart(world, "etcd")),
    fault("kubelet killed and started", false, 1, |world| restart(world, "kubelet")),
    fault("containerd killed and started", false, 1, |world| restart(world, "containerd")),
    fault("kube-proxy killed and started", false, 1, |world| restart(world, "proxy")),
    fault("PowerDNS away", false, 1, dns_away),
    fault("node restarted", false, 1, reboot),
    fault("volume of the mail full", false, 1, volume_full),
    fault("volume of the mail read-only", false, 1, volume_read_only),
    fault("both volumes owned by root, with mail in the queue", false, 1, volumes_owner),
    fault("Services deleted, chart applied again", false, 1, services_deleted),
    fault("CRDs applied again", false, 1, definitions_replaced),
    fault("a parameter that Postfix refuses", false, 1, refused_parameter),
    fault("helm upgrade with another value, and rollback", false, 1, upgrade_and_rollback),
    fault("helm uninstall, and install", false, 1, uninstall_and_install),
    fault("namespace of a tenant deleted", false, 1, namespace_deleted),
    fault("namespace of a tenant deleted while the operator is away", false, 1, namespace_deleted_unseen),
    fault("namespace of the release deleted, and installed again", false, 1, release_deleted),
    fault("upgrade from the version before, in pieces, and rollback", false, 1, upgraded),
];

fn pod_deleted(world: &World) -> Result<(), String> {
    world.cluster.kubectl(&["delete", "pod", "-n", "mail", POD, "--force", "--grace-period=0"]).map(drop)
}

fn container_killed(world: &World) -> Result<(), String> {
    world.shell("kill -9 $(pgrep -f '^/usr/local/bin/vmail-operator agent')").map(drop)
}

fn master_killed(world: &World) -> Result<(), String> {
    world.shell("kill -9 $(pgrep -x master)").map(drop)
}

fn operator_deleted(world: &World) -> Result<(), String> {
    let operator = "--selector=app.kubernetes.io/component=operator";
    world.cluster.kubectl(&["delete", "pod", "-n", "mail", operator, "--force", "--grace-period=0"]).map(drop)
}

fn scale_operator(world: &World, replicas: u8) -> Result<(), String> {
    let replicas = format!("--replicas={replicas}");
    world.cluster.kubectl(&["scale", "-n", "mail", "deployment/vmail-operator", &replicas])?;
    world
        .cluster
        .kubectl(&["rollout", "status", "-n", "mail", "deployment/vmail-operator", "--timeout=120s"])
        .map(drop)
}

/// The name of the ConfigMap of the cell that ends so.
fn config_map(world: &World, end: &str) -> Result<String, String> {
    let names = world.cluster.kubectl(&["get", "configmaps", "-n", "mail", "-o", "name"])?;
    names.lines().find(|name| name.ends_with(end)).map(str::to_owned).ok_or(names)
}

fn tables_deleted(world: &World) -> Result<(), String> {
    let name = config_map(world, "-tables")?;
    world.cluster.kubectl(&["delete", "-n", "mail", &name]).map(drop)
}

/// Changes the data of the ConfigMap of the cell that ends so, past the operator.
fn edit(world: &World, end: &str, change: impl Fn(&str, &mut serde_json::Value)) -> Result<(), String> {
    let name = config_map(world, end)?;
    let text = world.cluster.kubectl(&["get", "-n", "mail", &name, "-o", "json"])?;
    let mut object: serde_json::Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    for field in ["data", "binaryData"] {
        object[field].as_object_mut().into_iter().flatten().for_each(|(_, value)| change(field, value));
    }
    // Whatever the operator wrote in between: it is spoilt.
    object["metadata"].as_object_mut().ok_or("no metadata")?.remove("resourceVersion");
    world.cluster.exec(&["kubectl", "replace", "-n", "mail", "-f", "-"], &object.to_string()).map(drop)
}

fn spoil(world: &World, end: &str) -> Result<(), String> {
    edit(world, end, |field, value| {
        *value = if field == "data" { "garbage = \u{fffd} {" } else { "Z2FyYmFnZQ==" }.into();
    })
}

fn garbage(world: &World) -> Result<(), String> {
    spoil(world, "-tables")?;
    spoil(world, "-index")
}

fn garbage_without_operator(world: &World) -> Result<(), String> {
    scale_operator(world, 0)?;
    garbage(world)?;
    pod_deleted(world)?;
    // From the last good revision on the volume.
    let served = serves(world);
    scale_operator(world, 1)?;
    served
}

/// The index names other tables than those that are there.
fn torn(world: &World) -> Result<(), String> {
    scale_operator(world, 0)?;
    let seen = || {
        let log = world.cluster.kubectl(&["logs", "-n", "mail", POD])?;
        Ok::<_, String>(log.matches("is not installed: incomplete").count())
    };
    let before = seen()?;
    edit(world, "-index", |_, value| {
        let index = value.as_str().and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
        if let Some(mut index) = index {
            index["files"]["virtual_mailbox_maps"] = "0".repeat(32).into();
            *value = index.to_string().into();
        }
    })?;
    // Who writes to the Pod has kubelet look at once.
    world.cluster.kubectl(&["annotate", "-n", "mail", "pod", POD, "torn=true", "--overwrite"])?;
    let looked = until("the agent sees it", Duration::from_secs(180), || match seen()? {
        now if now > before => Ok(()),
        _ => Err("nothing in its log".to_owned()),
    });
    let served = serves(world);
    scale_operator(world, 1)?;
    looked.and(served)
}

fn serves(world: &World) -> Result<(), String> {
    until("mail is accepted", Duration::from_secs(120), || match world.cluster.rcpt(SERVED[0].1) {
        Ok(250) => Ok(()),
        other => Err(format!("{other:?}")),
    })
}

/// Mail flows all the time: of these messages not one may fail.
fn api_away(world: &World, seconds: u64) -> Result<(), String> {
    let before = world.ledger.count();
    world.cluster.program("stop", "apiserver");
    std::thread::sleep(Duration::from_secs(seconds));
    let during = world.ledger.count();
    world.cluster.program("start", "apiserver");
    // What the node's controller thinks of a node that said nothing shows only now.
    std::thread::sleep(Duration::from_secs(10));
    let count = world.count(before)?;
    println!("         {} messages while it was away", during - before);
    match count.later + count.unanswered {
        0 => Ok(()),
        _ => Err(format!("messages were not accepted while the API server was away: {:?}", count.told())),
    }
}

fn restart(world: &World, program: &str) -> Result<(), String> {
    world.cluster.program("stop", program);
    world.cluster.program("start", program);
    Ok(())
}

/// What comes meanwhile is told why it waits, and is published as soon as it can be.
fn dns_away(world: &World) -> Result<(), String> {
    let domain = "{apiVersion: vmail.dev/v1alpha1, kind: MailDomain, metadata: {name: away}, spec: {domain: away.example.test}}";
    world.cluster.program("stop", "pdns");
    let told = world.cluster.apply("mail", domain).and_then(|_| {
        until("the condition says why", Duration::from_secs(120), || {
            let said = world.cluster.condition("mail", "maildomain/away", "Published")?;
            // Cluster DNS asks the same server.
            if said.contains("Unreachable ") { Ok(said) } else { Err(said) }
        })
    });
    world.cluster.program("start", "pdns");
    println!("         told: {}", told?);
    until("the domain is published", Duration::from_secs(360), || {
        world.condition("mail", "maildomain/away", "Ready", "True")
    })?;
    world.cluster.kubectl(&["delete", "-n", "mail", "maildomain/away"]).map(drop)
}

/// As after a power cut: every program of the node and every process of every pod is gone.
fn reboot(world: &World) -> Result<(), String> {
    let programs = ["kubelet", "containerd", "proxy", "scheduler", "controllers", "apiserver", "etcd"];
    for program in programs {
        world.cluster.program("stop", program);
    }
    world.shell(
        "for c in /proc/[0-9]*/cgroup; do grep -q kubepods $c 2>/dev/null || continue; p=${c#/proc/}; kill -9 ${p%/cgroup} || true; done
         kill -9 $(pgrep -x containerd-shim) || true",
    )?;
    for program in programs.iter().rev() {
        world.cluster.program("start", program);
    }
    Ok(())
}

fn fill(world: &World) -> Result<String, String> {
    let filler = format!("{}/filler", world.volume("vmail")?);
    world.shell(&format!("dd if=/dev/zero of={filler} bs=64k 2>/dev/null || true"))?;
    Ok(filler)
}

fn volume_full(world: &World) -> Result<(), String> {
    let filler = fill(world)?;
    let told = world.told("False StorageNotWritable");
    world.shell(&format!("rm {filler}"))?;
    told
}

fn volume_read_only(world: &World) -> Result<(), String> {
    let volume = world.volume("vmail")?;
    // Refused while a file is open for writing.
    until("the volume is read-only", Duration::from_secs(60), || {
        world.shell(&format!("mount -o remount,ro {volume}"))
    })?;
    let told = world.told("False StorageNotWritable");
    world.shell(&format!("mount -o remount,rw {volume}"))?;
    told
}

/// As on a volume that was copied: the mail in the queue must be Postfix's again.
fn volumes_owner(world: &World) -> Result<(), String> {
    let set = "statefulset/vmail-postfix-default";
    let (mail, spool) = (world.volume("vmail")?, world.volume("spool")?);
    let filler = fill(world)?;
    let told = world.told("False StorageNotWritable");
    world.cluster.kubectl(&["scale", "-n", "mail", set, "--replicas=0"])?;
    let pod = format!("pod/{POD}");
    let gone = world.cluster.kubectl(&["wait", "-n", "mail", "--for=delete", &pod, "--timeout=120s"]);
    let queued = world.shell(&format!(
        "rm {filler}; chown -R 0:0 {mail} {spool}; find {spool}/postfix/active {spool}/postfix/deferred {spool}/postfix/incoming -type f | wc -l"
    ));
    world.cluster.kubectl(&["scale", "-n", "mail", set, "--replicas=1"])?;
    told?;
    gone?;
    match queued?.trim() {
        "0" => Err("nothing was in the queue".to_owned()),
        queued => {
            println!("         {queued} messages were in the queue");
            Ok(())
        }
    }
}

/// Nothing in the cluster brings Services back. The rest of the road does not need them, and no MX leaves.
fn services_deleted(world: &World) -> Result<(), String> {
    let names = world.cluster.kubectl(&["get", "services", "-n", "mail", "-o", "name"])?;
    for name in names.lines() {
        world.cluster.kubectl(&["delete", "-n", "mail", name])?;
    }
    until("nobody answers", Duration::from_secs(60), || match world.cluster.rcpt(SERVED[0].1) {
        Err(_) => Ok(()),
        Ok(code) => Err(code.to_string()),
    })?;
    let told = world.told("True Programmed");
    world.release(&[])?;
    told
}

fn definitions_replaced(world: &World) -> Result<(), String> {
    let directory = format!("{}/crds", env!("CARGO_MANIFEST_DIR"));
    let apply = ["apply", "--server-side", "--force-conflicts", "-f", &directory];
    world.cluster.kubectl(&apply).map(drop)?;
    world.release(&[])
}

fn refused_parameter(world: &World) -> Result<(), String> {
    world.release(&["--set-string", "postfix.parameters.smtpd_client_connection_rate_limit=many"])?;
    // What is served stays programmed; what comes now is told why it must wait.
    let manifest = "{apiVersion: vmail.dev/v1alpha1, kind: Mailbox, metadata: {name: waits}, spec: {address: waits@example.org}}";
    world.cluster.apply("mail", manifest)?;
    let told = until("the condition says why", Duration::from_secs(120), || {
        let said = world.cluster.condition("mail", "mailbox/waits", "Programmed")?;
        if said.starts_with("False RevisionRejected") { Ok(said) } else { Err(said) }
    });
    // The administrator reads it on the pod.
    let about = format!("--field-selector=involvedObject.name={POD},reason=RevisionRejected");
    let events = ["get", "events", "-n", "mail", &about, "-o", "jsonpath={.items[*].message}"];
    until("an Event says why", Duration::from_secs(60), || {
        let said = world.cluster.kubectl(&events)?;
        if said.contains("smtpd_client_connection_rate_limit = many") { Ok(said) } else { Err(said) }
    })?;
    serves(world)?;
    world.release(&[])?;
    println!("         told: {}", told?);
    Ok(())
}

fn upgrade_and_rollback(world: &World) -> Result<(), String> {
    world.release(&["--set", "postfix.messageSizeLimit=1000000", "--wait"])?;
    world.converge()?;
    world.cluster.helm(&["rollback", "vmail", "-n", "mail", "--wait", "--timeout=240s"]).map(drop)
}

fn uninstall_and_install(world: &World) -> Result<(), String> {
    world.cluster.helm(&["uninstall", "vmail", "-n", "mail", "--wait", "--timeout=240s"])?;
    let left = world.cluster.kubectl(&["get", "crd,pvc,md,mbx", "-n", "mail", "-o", "name"])?;
    for name in
        ["maildomains.vmail.dev", "vmail-vmail-postfix-default-0", "example.net", "mailbox.vmail.dev/you"]
    {
        if !left.contains(name) {
            return Err(format!("{name} is gone: {left}"));
        }
    }
    world.release(&["--wait"])
}

/// Declares a domain of a tenant, and watches it from then on.
fn tenant(world: &World, namespace: &str) -> Result<String, String> {
    let domain = format!("{namespace}.example.test");
    let manifest = format!(
        "{{apiVersion: vmail.dev/v1alpha1, kind: MailDomain, metadata: {{name: d}}, spec: {{domain: {domain}, dns: {{ttl: 60}}}}}}
---
{{apiVersion: vmail.dev/v1alpha1, kind: Mailbox, metadata: {{name: m}}, spec: {{address: m@{domain}}}}}"
    );
    world.cluster.apply(namespace, &manifest)?;
    until("the tenant's domain is ready", Duration::from_secs(120), || {
        world.condition(namespace, "maildomain/d", "Ready", "True")
    })?;
    let watched = (domain.clone(), format!("postmaster@{domain}"));
    world.watched.lock().map_err(|error| error.to_string())?.push(watched);
    Ok(domain)
}

/// MX out, mail accepted as long as senders may hold it, then refused, and its record gone.
fn leaves(world: &World, domain: &str) -> Result<(), String> {
    until("the MX is out", Duration::from_secs(120), || {
        (world.mx(domain) == Some(false)).then_some(()).ok_or_else(|| "it stands".to_owned())
    })?;
    until("the domain is refused", Duration::from_secs(240), || {
        match world.cluster.rcpt(&format!("postmaster@{domain}")) {
            Ok(554) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    until("its record is gone", Duration::from_secs(120), || {
        config_map(world, &format!("vmail-domain.{domain}")).map_or(Ok(()), Err)
    })
}

fn namespace_deleted(world: &World) -> Result<(), String> {
    let domain = tenant(world, "tenant")?;
    world.cluster.kubectl(&["delete", "namespace", "tenant", "--timeout=120s"])?;
    leaves(world, &domain)
}

fn namespace_deleted_unseen(world: &World) -> Result<(), String> {
    let domain = tenant(world, "other")?;
    scale_operator(world, 0)?;
    world.cluster.kubectl(&["delete", "-n", "other", "maildomain/d", "--timeout=60s"])?;
    world.cluster.kubectl(&["delete", "namespace", "other", "--timeout=120s"])?;
    let (mx, answer) = (world.mx(&domain), world.cluster.rcpt(&format!("postmaster@{domain}")));
    scale_operator(world, 1)?;
    if mx != Some(true) || answer != Ok(250) {
        return Err(format!("while the operator is away: MX {mx:?}, postmaster@{domain} {answer:?}"));
    }
    leaves(world, &domain)
}

/// Its mail is gone with the claims, and nobody is left to take the MX out; `vmail-operator withdraw` comes before. What
/// is installed again takes up what stands in DNS.
fn release_deleted(world: &World) -> Result<(), String> {
    world.dns_is_free(true);
    let quiet = world.quiet(world.ledger.count())?;
    world.cluster.kubectl(&["delete", "namespace", "mail", "--timeout=240s"])?;
    println!("         the MX of both domains after it: {:?}", SERVED.map(|(domain, _)| world.mx(domain)));
    // On empty volumes, everything unknown is answered "try again".
    world.set_up(Version::Current, &["--set", "postfix.settleSeconds=120"])?;
    drop(quiet);
    Ok(())
}
