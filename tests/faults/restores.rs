//! A cluster is lost and comes back: from Git alone, with its volumes, with its records, with or without DNS, or from an
//! older backup. Senders come all the while: nobody is refused for good, no MX leaves, and no mail is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, PostParams};
use serde_json::{Value, json};

use crate::lanes::{Lanes, all};
use crate::pod::{Pod, Volumes, wait};
use crate::watch::{names_us, rcpt, resolver};
use crate::world::{Parts, State, World};

mod newer;

/// For which the agent takes what is missing for not there yet.
const SETTLE: &str = "25";
const OLD_CLUSTER: &str = "00000000-0000-0000-0000-000000000001";
/// Addresses that accept mail before and after.
const VALID: [&str; 5] =
    ["you@one.test", "stuck@one.test", "list@one.test", "postmaster@one.test", "me@two.test"];

/// What is brought back, and in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Restore {
    Git,
    GitWithoutDns,
    GitAndVolumes,
    RecordsBeforeObjects,
    RecordsAfterObjects,
    RecordsLost,
    DnsLost,
    OlderDns,
    DnsOfAnotherCluster,
    OlderBackup,
    RecordOlderThanDns,
    OtherNamespace,
}

use Restore::*;

const ALL: [Restore; 12] = [
    Git,
    GitWithoutDns,
    GitAndVolumes,
    RecordsBeforeObjects,
    RecordsAfterObjects,
    RecordsLost,
    DnsLost,
    OlderDns,
    DnsOfAnotherCluster,
    OlderBackup,
    RecordOlderThanDns,
    OtherNamespace,
];

/// Those that `make test` tries.
const REPRESENTATIVE: [Restore; 2] = [GitAndVolumes, RecordsAfterObjects];

impl Restore {
    /// Whether the volumes are those of before.
    fn has_volumes(self) -> bool {
        ![Git, GitWithoutDns].contains(&self)
    }

    /// Whether an MX is away for a time, since DNS itself was lost.
    fn loses_dns(self) -> bool {
        [GitWithoutDns, DnsLost, OlderDns, OlderBackup, RecordOlderThanDns].contains(&self)
    }

    /// Whether it is another cluster, whose `kube-system` has another UID.
    fn is_another_cluster(self) -> bool {
        ![RecordsLost, DnsLost, OlderDns, DnsOfAnotherCluster, OlderBackup, RecordOlderThanDns]
            .contains(&self)
    }
}

/// Whoever sends mail, to whichever pod there is.
struct Senders {
    pod: Arc<Mutex<Option<Arc<Pod>>>>,
    seen: Arc<Mutex<(usize, BTreeSet<String>)>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Senders {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Senders {
    /// With `mx`, each domain must have its MX all the time.
    fn start(dns: std::net::SocketAddr, pod: Arc<Pod>, mx: bool) -> Self {
        let pod = Arc::new(Mutex::new(Some(pod)));
        let seen: Arc<Mutex<(usize, BTreeSet<String>)>> = Arc::default();
        let (to, reached) = (seen.clone(), pod.clone());
        let task = tokio::spawn(async move {
            let resolver = resolver(dns);
            loop {
                for address in VALID {
                    let domain = address.split('@').nth(1).expect("a domain");
                    let mut published = names_us(&resolver, domain).await;
                    if mx && !published {
                        // A question that was lost is asked again.
                        published = names_us(&resolver, domain).await;
                        if !published {
                            to.lock().expect("not poisoned").1.insert(format!("no MX of {domain}"));
                        }
                    }
                    let pod = reached.lock().expect("not poisoned").clone();
                    let (true, Some(pod)) = (published, pod) else { continue };
                    let reply = tokio::task::spawn_blocking(move || rcpt(&pod, address)).await;
                    let reply = reply.expect("no panic").unwrap_or_default();
                    // It may have gone in between.
                    let violated = reply.starts_with('5') && names_us(&resolver, domain).await;
                    let mut seen = to.lock().expect("not poisoned");
                    seen.0 += 1;
                    if violated {
                        seen.1.insert(format!("{address}: {reply}"));
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        Self { pod, seen, task }
    }

    fn reach(&self, pod: Option<Arc<Pod>>) {
        *self.pod.lock().expect("not poisoned") = pod;
    }
}

/// What Git has.
async fn git(world: &World<'_>, slowly: bool) {
    let objects: [(&str, &str, Value); 6] = [
        ("MailDomain", "one", json!({ "domain": "one.test", "dns": { "ttl": 60 } })),
        ("Mailbox", "you", json!({ "address": "you@one.test" })),
        ("Mailbox", "stuck", json!({ "address": "stuck@one.test" })),
        (
            "MailAlias",
            "list",
            json!({ "address": "list@one.test", "targets": ["you@one.test", "me@two.test"] }),
        ),
        ("MailDomain", "two", json!({ "domain": "two.test", "dns": { "ttl": 60 } })),
        ("Mailbox", "me", json!({ "address": "me@two.test" })),
    ];
    for (kind, name, spec) in objects {
        let address = match kind {
            "MailDomain" => format!("postmaster@{name}.test"),
            _ => spec["address"].as_str().expect("an address").to_owned(),
        };
        world.apply(kind, name, spec).await;
        // The worst of all orders: each is served before the next one comes.
        if slowly {
            answer(world, &address, "250").await;
        }
    }
}

async fn answer(world: &World<'_>, address: &str, begins: &str) {
    let (pod, address, begins) = (world.pod.clone(), address.to_owned(), begins.to_owned());
    let what = format!("{begins} for {address}");
    let asked = move || {
        wait(&what, || rcpt(&pod, &address).ok().filter(|reply| reply.starts_with(&begins)));
    };
    tokio::task::spawn_blocking(asked).await.expect("answered");
}

async fn send(world: &World<'_>, address: &'static str) {
    let pod = world.pod.clone();
    tokio::task::spawn_blocking(move || pod.smtp().send(address, &format!("to {address}")))
        .await
        .expect("sent");
}

/// Every message on a volume: where it lies, and its subject. Times in names of directories do not count.
fn mail(volume: &Path) -> BTreeSet<String> {
    fn walk(directory: &Path, name: &str, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let part = entry.file_name().to_string_lossy().into_owned();
            let is_time = part.len() == 16 && part.ends_with('Z');
            let path = if is_time { name.to_owned() } else { format!("{name}/{part}") };
            if entry.path().is_dir() {
                walk(&entry.path(), &path, found);
            } else if name.ends_with("/new") {
                let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
                let subject = text.lines().find(|line| line.starts_with("Subject: ")).unwrap_or_default();
                found.insert(format!("{name}: {subject}"));
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(volume, "", &mut found);
    found
}

fn lies(volume: &Path, what: &str) {
    wait(what, || mail(volume).iter().any(|one| one.contains(what)).then_some(()));
}

/// What stands in DNS, to be put back: an older copy of it.
async fn zones(world: &World<'_>) -> BTreeMap<(String, &'static str), (u64, Vec<String>)> {
    let mut found = BTreeMap::new();
    for zone in ["one.test", "two.test"] {
        for (name, kind) in [(zone.to_owned(), "MX"), (format!("_vmail-owner.{zone}"), "TXT")] {
            if let Some(rrset) = world.pdns().get(zone, &name, kind).await {
                found.insert((name, kind), rrset);
            }
        }
    }
    found
}

async fn put(world: &World<'_>, zones: &BTreeMap<(String, &'static str), (u64, Vec<String>)>) {
    for ((name, kind), (ttl, contents)) in zones {
        let zone = name.trim_start_matches("_vmail-owner.");
        let contents: Vec<&str> = contents.iter().map(String::as_str).collect();
        world.pdns().put(zone, name, kind, u32::try_from(*ttl).expect("a TTL"), &contents).await;
    }
}

/// As the operator of another cluster wrote it.
async fn written_elsewhere(world: &World<'_>) {
    let mut all = zones(world).await;
    for (_, contents) in all.values_mut() {
        for content in contents {
            *content = elsewhere(content, "instance=", ';');
        }
    }
    put(world, &all).await;
}

/// The text with the UID of another cluster.
fn elsewhere(text: &str, before: &str, after: char) -> String {
    let Some((head, tail)) = text.split_once(before) else { return text.to_owned() };
    let rest = tail.find(after).map_or("", |end| &tail[end..]);
    format!("{head}{before}{OLD_CLUSTER}{rest}")
}

async fn records(world: &World<'_>) -> Vec<ConfigMap> {
    let maps: Api<ConfigMap> = world.namespaced();
    let all = maps.list(&ListParams::default()).await.expect("a list").items;
    let of_domain =
        |map: &ConfigMap| map.metadata.name.as_ref().is_some_and(|name| name.starts_with("vmail-domain."));
    all.into_iter().filter(of_domain).collect()
}

async fn put_records(world: &World<'_>, records: &[ConfigMap], another_cluster: bool) {
    let maps: Api<ConfigMap> = world.namespaced();
    for record in records {
        let mut map = record.clone();
        map.metadata.resource_version = None;
        map.metadata.uid = None;
        for text in map.data.iter_mut().flat_map(BTreeMap::values_mut).filter(|_| another_cluster) {
            *text = elsewhere(text, "instance: ", '\n');
        }
        maps.create(&PostParams::default(), &map).await.expect("put back");
    }
}

fn served(state: &State) -> bool {
    state.all_ready(6) && state.published.len() == 2
}

struct Row {
    before: usize,
    after: usize,
    asked: usize,
    seconds: u64,
    wrong: Vec<String>,
}

async fn run(parts: &mut Parts, restore: Restore) -> Row {
    let began = Instant::now();
    let (mut namespace, other) = (parts.namespace(), parts.namespace());
    let parts = &*parts;
    for zone in ["one.test", "two.test"] {
        parts.pdns.zone(zone, "Native").await;
    }
    let hold = ["--deletion-hold-seconds", "1", "--settle-seconds", "0"];
    let world = World::with(parts, &namespace, Volumes::new(), &hold).await;
    world.start_operator().await;

    // A life: mail in Maildirs, in the archive, in the trash and in the queue.
    git(&world, false).await;
    world.apply("Mailbox", "put", json!({ "address": "put@one.test", "deletionPolicy": "Archive" })).await;
    world.apply("Mailbox", "gone", json!({ "address": "gone@one.test", "deletionPolicy": "Delete" })).await;
    world.apply("Mailbox", "later", json!({ "address": "later@two.test", "deletionPolicy": "Delete" })).await;
    world.settle("service", |state| state.all_ready(9) && state.published.len() == 2).await;
    let vmail = world.pod.volumes.vmail();
    for address in ["put@one.test", "gone@one.test", "later@two.test", "list@one.test"] {
        send(&world, address).await;
    }
    for place in [
        "/one.test/put/new",
        "/one.test/gone/new",
        "/two.test/later/new",
        "/two.test/me/new",
        "/one.test/you/new",
    ] {
        lies(&vmail, place);
    }
    world.delete("Mailbox", "put").await;
    world.delete("Mailbox", "gone").await;
    lies(&vmail, "/.archive/one.test/put/new");
    lies(&vmail, "/.trash/one.test/gone/new");
    // An older backup, and what came after it.
    let (older, older_dns) = (records(&world).await, zones(&world).await);
    std::fs::write(vmail.join("one.test/stuck"), "").expect("writes");
    send(&world, "stuck@one.test").await;
    let queue = || world.pod.postfix(&["postqueue", "-j"]);
    wait("the queue", || queue().contains(r#""queue_name": "deferred""#).then_some(()));
    let revision = world.pod.report().expect("a report").revision.expect("live");
    let saved = world.pod.volumes.spool().join("last-good/current/index.json");
    wait("the saved revision", || std::fs::read_to_string(&saved).ok()?.contains(&revision).then_some(()));
    let before = mail(&vmail);
    let kept = records(&world).await;

    // It is lost.
    // Nobody sends while files are copied: what comes and goes in the queue cannot be.
    let volumes = if restore.has_volumes() { world.pod.volumes.copy() } else { Volumes::new() };
    let senders = Senders::start(world.dns(), world.pod.clone(), !restore.loses_dns());
    let _ = std::fs::remove_file(volumes.vmail().join("one.test/stuck"));
    senders.reach(None);
    world.lose().await;
    if restore == OtherNamespace {
        namespace = other;
    }
    let again = ["--deletion-hold-seconds", "1", "--settle-seconds", SETTLE];
    let world = World::with(parts, &namespace, volumes, &again).await;
    if restore.is_another_cluster() {
        written_elsewhere(&world).await;
    }
    let lacks = "lack what nobody withdrew";
    let mut wrong = Vec::new();
    let zone_again = async |zone: &str| {
        world.pdns().delete_zone(zone).await;
        world.pdns().zone(zone, "Native").await;
    };
    match restore {
        GitWithoutDns => {
            zone_again("one.test").await;
            zone_again("two.test").await;
        }
        RecordsBeforeObjects => put_records(&world, &kept, true).await,
        OlderBackup => {
            // Since the backup, two.test was withdrawn, and its MailDomain deleted.
            zone_again("two.test").await;
            put_records(&world, &older, false).await;
            git(&world, false).await;
        }
        RecordOlderThanDns => {
            // The MailDomain was deleted while nobody looked, and the record is from before the MX was written.
            let two = |map: &&ConfigMap| map.metadata.name.as_deref() == Some("vmail-domain.two.test");
            let mut records: Vec<ConfigMap> = kept.iter().filter(two).cloned().collect();
            for text in records.iter_mut().flat_map(|map| map.data.iter_mut()).flat_map(BTreeMap::values_mut)
            {
                *text = text.split("published:").next().expect("a beginning").to_owned();
            }
            put_records(&world, &records, false).await;
        }
        DnsLost | OlderDns | DnsOfAnotherCluster => put_records(&world, &kept, false).await,
        RecordsAfterObjects => {
            git(&world, false).await;
            put_records(&world, &kept, true).await;
        }
        _ => {}
    }
    if [DnsLost, OlderDns, DnsOfAnotherCluster].contains(&restore) {
        git(&world, false).await;
    }
    world.start_operator().await;
    senders.reach(Some(world.pod.clone()));
    match restore {
        GitAndVolumes | RecordsLost | OtherNamespace => {
            // Nothing is declared yet, and everything is served.
            wait("what is missing", || world.pod.log().contains(lacks).then_some(()));
            let pod = world.pod.clone();
            let flush = move || pod.postfix(&["postqueue", "-f"]);
            tokio::task::spawn_blocking(flush).await.expect("flushed");
            git(&world, true).await;
        }
        Git | GitWithoutDns => {
            answer(&world, "you@one.test", "4").await;
            git(&world, true).await;
        }
        RecordsBeforeObjects => {
            world.settle("the withdrawal", |state| state.phase("one.test") == Some("withdrawing")).await;
            git(&world, true).await;
        }
        RecordOlderThanDns => {
            let out = |state: &State| {
                state.published == ["one.test"] && state.phase("two.test") == Some("draining")
            };
            // Nobody has asked for one.test yet.
            world.settle("the way out", out).await;
            // It drains; what was asked while a new main.cf is proved has no answer.
            answer(&world, "postmaster@two.test", "250").await;
            git(&world, true).await;
        }
        DnsLost | OlderDns | DnsOfAnotherCluster => {
            world.settle("service", served).await;
            match restore {
                DnsLost => {
                    zone_again("one.test").await;
                    zone_again("two.test").await;
                }
                OlderDns => {
                    zone_again("one.test").await;
                    world
                        .pdns()
                        .put("one.test", "one.test", "MX", 600, &["10 mail.us.test.", "20 old.us.test."])
                        .await;
                    let owner = ("_vmail-owner.one.test".to_owned(), "TXT");
                    let text: Vec<&str> = older_dns[&owner].1.iter().map(String::as_str).collect();
                    world.pdns().put("one.test", &owner.0, "TXT", 600, &text).await;
                }
                _ => {
                    written_elsewhere(&world).await;
                    let says = |state: &State| state.stored["MailDomain one"].contains("TakenOver");
                    world.settle("the other cluster's", says).await;
                    // The way out that the documentation names.
                    for zone in ["one.test", "two.test"] {
                        let owner = format!("_vmail-owner.{zone}");
                        world.pdns().put(zone, &owner, "TXT", 60, &[]).await;
                    }
                }
            }
        }
        OlderBackup | RecordsAfterObjects => {}
    }
    let right = |state: &State| served(state) && !state.stored["MX one.test"].contains("old.us.test");
    world.settle(&format!("service after {restore:?}"), right).await;
    let owner = world.pdns().get("one.test", "_vmail-owner.one.test", "TXT").await.expect("ours").1.concat();
    if owner.contains(OLD_CLUSTER) {
        wrong.push(format!("not taken up: {owner}"));
    }

    // All that was there is there, and what was queued with it.
    let mut wanted = if restore.has_volumes() { before.clone() } else { BTreeSet::new() };
    if restore.has_volumes() {
        wanted.insert("/one.test/stuck/new: Subject: to stuck@one.test".to_owned());
    }
    if restore == OtherNamespace {
        // Nobody gets it by being in another namespace.
        wanted = wanted.iter().map(|one| one.replace("/.archive", "")).collect();
        let of_trash = |one: &String| one.starts_with("/.trash");
        wanted = wanted
            .iter()
            .map(|one| if of_trash(one) { one.clone() } else { format!("/.archive{one}") })
            .collect();
        wanted.retain(|one| !one.contains("later@"));
    }
    let vmail = world.pod.volumes.vmail();
    let deadline = Instant::now() + Duration::from_secs(60);
    let pod = world.pod.clone();
    loop {
        let flush = pod.clone();
        tokio::task::spawn_blocking(move || flush.postfix(&["postqueue", "-f"])).await.expect("flushed");
        let found = mail(&vmail);
        let missing: Vec<&String> = wanted.difference(&found).collect();
        if missing.is_empty() {
            break;
        }
        if Instant::now() > deadline {
            wrong.push(format!("missing: {missing:?} of {found:?}"));
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // And it ends: who is still missing is refused.
    if restore == GitAndVolumes {
        answer(&world, "nobody@one.test", "550").await;
        answer(&world, "anybody@three.test", "554").await;
    }
    let (asked, seen) = senders.seen.lock().expect("not poisoned").clone();
    wrong.extend(seen);
    let after = mail(&vmail).len();
    drop(senders);
    world.clear().await;
    Row { before: before.len() + 1, after, asked, seconds: began.elapsed().as_secs(), wrong }
}

/// `VMAIL_FAULTS=all` tries every restore; `VMAIL_RESTORE` those that have this in their name.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_comes_back_loses_nothing() {
    let only = std::env::var("VMAIL_RESTORE").ok();
    let chosen = |restore: &Restore| match &only {
        Some(only) => format!("{restore:?}").contains(only.as_str()),
        None => all() || REPRESENTATIVE.contains(restore),
    };
    let restores: Vec<Restore> = ALL.into_iter().filter(chosen).collect();
    let mut lanes = Lanes::start().await;
    let rows = lanes.run(&restores, async |parts: &mut Parts, restore: &Restore| run(parts, *restore).await);
    let (mut table, mut wrong) = (String::new(), Vec::new());
    for (restore, row) in restores.iter().zip(rows) {
        match row {
            Some(Row { before, after, asked, seconds, wrong: violations }) => {
                let count = violations.len();
                table += &format!("| {restore:?} | {before} | {after} | {asked} | {count} | {seconds} |\n");
                wrong.extend(violations.iter().map(|violation| format!("{restore:?}: {violation}")));
            }
            None => wrong.push(format!("{restore:?}: see above")),
        }
    }
    println!(
        "\n### Restores (I1, I2, I3, I4)\n\n| restore | before | after | questions | violations | seconds |\n|---|--:|--:|--:|--:|--:|\n{table}"
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
