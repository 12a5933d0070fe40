//! The version before this one, and the way from it and back to it.

use std::time::Duration;

use crate::world::{POD, Version, World, until};

/// With objects in place: the operator first, then the agent; back in the same order; then both at once.
///
/// `helm upgrade` changes both, and either may be late: a pod that cannot be scheduled, an image that cannot be had. A
/// partition of the StatefulSet keeps the agent here.
pub fn upgraded(world: &World) -> Result<(), String> {
    from_the_beginning(world)?;
    pieces(world, Version::Current, || world.install(Version::Current, UNSETTLED))?;
    pieces(world, Version::Previous, || {
        world.cluster.helm(&["rollback", "vmail", "-n", "mail", "--timeout=240s"]).map(drop)
    })?;
    world.install(Version::Current, UNSETTLED)?;
    runs(world, Version::Current, Version::Current)?;
    world.converge()
}

/// On empty volumes, everything unknown is answered "try again".
const UNSETTLED: &[&str] = &["--set", "postfix.settleSeconds=120"];

/// A cluster that never saw this version, but for what stands in DNS. Whoever has written there is taken away first, or
/// it would withdraw what is deleted.
fn from_the_beginning(world: &World) -> Result<(), String> {
    let quiet = world.quiet(world.ledger.count())?;
    world.cluster.kubectl(&["scale", "-n", "mail", "deployment/vmail-operator", "--replicas=0"])?;
    let operator = "--selector=app.kubernetes.io/component=operator";
    world.cluster.kubectl(&["wait", "-n", "mail", "pod", operator, "--for=delete", "--timeout=120s"])?;
    world.cluster.kubectl(&["delete", "namespace", "mail", "--timeout=240s"])?;
    let definitions = ["maildomains.vmail.dev", "mailboxes.vmail.dev", "mailaliases.vmail.dev"];
    world.cluster.kubectl(&[&["delete", "crd", "--timeout=120s"], &definitions[..]].concat())?;
    world.set_up(Version::Previous, UNSETTLED)?;
    drop(quiet);
    runs(world, Version::Previous, Version::Previous)
}

/// Changes to a version, the agent later than the operator; the whole road works in between and after.
fn pieces(
    world: &World,
    version: Version,
    change: impl FnOnce() -> Result<(), String>,
) -> Result<(), String> {
    let before = if version == Version::Current { Version::Previous } else { Version::Current };
    partition(world, 1)?;
    change()?;
    runs(world, version, before)?;
    world.converge().map_err(|error| format!("operator {version:?}, agent {before:?}: {error}"))?;
    runs(world, version, before)?;
    println!("         {version:?} operator, {before:?} agent: all is served");
    partition(world, 0)?;
    runs(world, version, version)?;
    world.converge().map_err(|error| format!("operator and agent {version:?}: {error}"))?;
    println!("         both {version:?}: all is served");
    Ok(())
}

fn partition(world: &World, from: u8) -> Result<(), String> {
    let patch = format!("{{\"spec\":{{\"updateStrategy\":{{\"rollingUpdate\":{{\"partition\":{from}}}}}}}}}");
    let set = "statefulset/vmail-postfix-default";
    world.cluster.kubectl(&["patch", "-n", "mail", set, "--type=merge", "-p", &patch]).map(drop)
}

/// Waits until these versions are what runs, and nothing else.
fn runs(world: &World, operator: Version, agent: Version) -> Result<(), String> {
    let tag = |version| if version == Version::Previous { ":previous" } else { ":dev" };
    until("the versions run", Duration::from_secs(300), || {
        let path = "jsonpath={range .items[*]}{.metadata.name} {.spec.containers[0].image} {.status.containerStatuses[0].ready}{\"\\n\"}{end}";
        let pods = world.cluster.kubectl(&["get", "pods", "-n", "mail", "-o", path])?;
        let fits = |line: &str| {
            let version = if line.starts_with(POD) { agent } else { operator };
            line.ends_with(&format!("{} true", tag(version)))
        };
        if pods.lines().count() == 2 && pods.lines().all(fits) { Ok(()) } else { Err(pods) }
    })
}
