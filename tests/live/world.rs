//! The cluster with the chart, its mail traffic, and what is watched all the time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, RwLock, RwLockWriteGuard};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::json;

use crate::cluster::Cluster;
use crate::traffic::{Ledger, Maildirs, Outcome, recipient};

pub const POD: &str = "vmail-postfix-default-0";
/// Domain, and an address in it that is valid all the time.
pub const SERVED: [(&str, &str); 2] =
    [("example.org", "you@example.org"), ("example.net", "info@example.net")];
/// For whatever comes right by itself, on a machine that may be busy.
const LIMIT: Duration = Duration::from_secs(300);

pub struct World {
    pub cluster: Cluster,
    pub ledger: Ledger,
    /// Domains and addresses about which both DNS and Postfix are asked; the first two may never leave DNS.
    pub watched: Mutex<Vec<(String, String)>>,
    violations: Mutex<Vec<String>>,
    maildirs: Mutex<Maildirs>,
    over: AtomicBool,
    probes: AtomicUsize,
    /// Held by whoever sends a message, and wholly by who wants nobody to.
    sending: RwLock<()>,
    dns_is_free: AtomicBool,
}

/// Which chart and which images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Current,
    /// Of the commit in `tests/live/previous`.
    Previous,
}

/// Ends what runs beside the faults.
pub struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What came of the messages sent during a fault.
#[derive(Default)]
pub struct Count {
    pub sent: usize,
    pub accepted: usize,
    pub later: usize,
    pub unanswered: usize,
    pub refused: usize,
    pub delivered: usize,
    pub duplicates: usize,
    /// Not delivered yet when all was converged.
    pub queued: usize,
    pub lost: usize,
    /// The answers other than 250, and when each was given.
    pub said: BTreeMap<String, Vec<Timestamp>>,
}

impl Count {
    /// How often each answer other than 250 was given, and from when to when.
    pub fn told(&self) -> Vec<String> {
        let told = |(said, times): (&String, &Vec<Timestamp>)| {
            let (first, last) = (times.first()?, times.last()?);
            Some(format!("{:4} times from {first:.1} to {last:.1}: {said}", times.len()))
        };
        self.said.iter().filter_map(told).collect()
    }
}

/// Polls until `check` answers, or tells what it said last.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut check: impl FnMut() -> Result<T, String>,
) -> Result<T, String> {
    let began = Instant::now();
    loop {
        match check() {
            Ok(value) => return Ok(value),
            Err(last) if began.elapsed() > limit => {
                return Err(format!("{what}: not within {limit:?}; last: {last}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl World {
    /// A cluster with the chart, two domains and mailboxes, all of them ready.
    pub fn new(name: &str) -> Self {
        let cluster = Cluster::up(name);
        // Volumes of a size, so that one can be full, and file systems of their own, so that one can be read-only.
        let script =
            "for d in \"$1\"/volumes/*; do mount -t tmpfs -o size=256m,mode=0755 volume \"$d\"; done";
        cluster.exec(&["sh", "-ec", script, "sh", cluster.env("CLUSTER_STATE")], "").expect("mounted");
        for namespace in ["tenant", "other"] {
            cluster.kubectl(&["create", "namespace", namespace]).expect("created");
        }
        set_up(&cluster, Version::Current, &[]).expect("installed");
        // All volumes: a namespace that is made anew gets others.
        let root =
            PathBuf::from(format!("/proc/{}/root{}/volumes", cluster.pid(), cluster.env("CLUSTER_STATE")));
        let watched = SERVED.map(|(domain, address)| (domain.to_owned(), address.to_owned()));
        Self {
            cluster,
            ledger: Ledger::default(),
            watched: Mutex::new(watched.into()),
            violations: Mutex::default(),
            maildirs: Mutex::new(Maildirs::new(root)),
            over: AtomicBool::new(false),
            probes: AtomicUsize::new(0),
            sending: RwLock::default(),
            dns_is_free: AtomicBool::new(false),
        }
    }

    fn public(&self) -> String {
        format!("{}:25", self.cluster.env("NODE_IP"))
    }

    pub fn violation(&self, what: String) {
        println!("         VIOLATION {what}");
        locked(&self.violations).push(what);
    }

    pub fn violations(&self) -> Vec<String> {
        locked(&self.violations).clone()
    }

    /// Until this is dropped, messages are sent and watched.
    pub fn until_dropped(&self) -> Over<'_> {
        Over(&self.over)
    }

    /// Sets whether MX records may leave and zones change, and says whether they might before.
    pub fn dns_is_free(&self, free: bool) -> bool {
        self.dns_is_free.swap(free, Ordering::Relaxed)
    }

    /// Nothing is sent until this is dropped, and what was sent before is delivered.
    pub fn quiet(&self, start: usize) -> Result<RwLockWriteGuard<'_, ()>, String> {
        let quiet = self.sending.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        match self.count(start)?.lost {
            0 => Ok(quiet),
            lost => Err(format!("{lost} messages are not delivered")),
        }
    }

    /// Sends without end.
    pub fn send(&self) {
        for (_, address) in SERVED.iter().cycle() {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            let sending = self.sending.read().unwrap_or_else(|poisoned| poisoned.into_inner());
            self.ledger.send(self.cluster.pid(), &self.public(), address);
            drop(sending);
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Asks DNS and Postfix without end: an MX that stands before and after a refusal is a violation, and so is one of
    /// ours that is gone.
    pub fn watch(&self) {
        while !self.over.load(Ordering::Relaxed) {
            for (number, (domain, address)) in locked(&self.watched).clone().iter().enumerate() {
                let before = self.mx(domain);
                let answer = recipient(self.cluster.pid(), &self.public(), address);
                let after = self.mx(domain);
                if let Outcome::Refused(said) = &answer
                    && before == Some(true)
                    && after == Some(true)
                {
                    self.violation(format!("{domain} has its MX, and {address} is answered {said}"));
                }
                let fixed = number < SERVED.len() && !self.dns_is_free.load(Ordering::Relaxed);
                if fixed && (before == Some(false) || after == Some(false)) {
                    self.violation(format!("the MX of {domain} is out of DNS"));
                }
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Whether an MX stands in DNS, if the name server says so.
    pub fn mx(&self, domain: &str) -> Option<bool> {
        let said = self.dig(domain, "MX").ok()?;
        Some(said.lines().any(|line| line.contains("mail.example.test")))
    }

    /// Changes when anything of the zone does.
    pub fn serial(&self, zone: &str) -> Result<String, String> {
        let said = self.dig(zone, "SOA")?;
        said.split_whitespace().nth(2).map(str::to_owned).ok_or(said)
    }

    fn dig(&self, name: &str, kind: &str) -> Result<String, String> {
        let (server, port) = self.cluster.env("PDNS_DNS").rsplit_once(':').ok_or("address:port")?;
        let server = format!("@{server}");
        self.cluster.exec(&["dig", "+short", "+time=2", "+tries=1", &server, "-p", port, name, kind], "")
    }

    /// Where the volume of this name is mounted, as the cluster sees it.
    pub fn volume(&self, claim: &str) -> Result<String, String> {
        volume(&self.cluster, claim)
    }

    /// Runs a shell script in the cluster's namespaces.
    pub fn shell(&self, script: &str) -> Result<String, String> {
        self.cluster.exec(&["sh", "-ec", script], "")
    }

    /// Installs or upgrades the chart.
    pub fn release(&self, more: &[&str]) -> Result<(), String> {
        release(&self.cluster, Version::Current, more)
    }

    /// The same of this version.
    pub fn install(&self, version: Version, more: &[&str]) -> Result<(), String> {
        release(&self.cluster, version, more)
    }

    /// Makes the namespace of the release, and all that is in it.
    pub fn set_up(&self, version: Version, more: &[&str]) -> Result<(), String> {
        set_up(&self.cluster, version, more)
    }

    /// Declares a mailbox that is there no more than this once, and names it.
    pub fn declare(&self) -> Result<String, String> {
        let name = format!("probe{}", self.probes.fetch_add(1, Ordering::Relaxed));
        let manifest = format!(
            "{{apiVersion: vmail.dev/v1alpha1, kind: Mailbox, metadata: {{name: {name}}}, spec: {{address: {name}@example.org}}}}"
        );
        until("a mailbox can be declared", LIMIT, || self.cluster.apply("mail", &manifest))?;
        Ok(format!("mailbox/{name}"))
    }

    /// Waits until a mailbox that is declared now says so in its condition `Programmed`, and prints what it says.
    pub fn told(&self, wanted: &str) -> Result<(), String> {
        let mailbox = self.declare()?;
        let said = until("the condition says why", LIMIT, || {
            let said = self.cluster.condition("mail", &mailbox, "Programmed")?;
            if said.starts_with(wanted) { Ok(said) } else { Err(said) }
        })?;
        println!("         told: {said}");
        Ok(())
    }

    /// The whole road works again: a mailbox declared now is served, and both domains are as they were.
    pub fn converge(&self) -> Result<(), String> {
        let mailbox = self.declare()?;
        until("the new mailbox is ready", LIMIT, || self.condition("mail", &mailbox, "Ready", "True"))?;
        for (domain, address) in SERVED {
            until("the domain is ready", LIMIT, || {
                self.condition("mail", &format!("maildomain/{domain}"), "Ready", "True")
            })?;
            until("the MX stands", LIMIT, || {
                (self.mx(domain) == Some(true)).then_some(()).ok_or_else(|| domain.to_owned())
            })?;
            until("Postfix accepts", LIMIT, || {
                match recipient(self.cluster.pid(), &self.public(), address) {
                    Outcome::Accepted => Ok(()),
                    other => Err(format!("{address}: {other:?}")),
                }
            })?;
        }
        until("the pod is ready", LIMIT, || {
            let ready = "{.status.conditions[?(@.type==\"Ready\")].status}";
            let ready = self.cluster.field("mail", &format!("pod/{POD}"), ready)?;
            (ready == "True").then_some(()).ok_or(ready)
        })
    }

    /// Whether the condition's status, reason and message begin with `wanted`.
    pub fn condition(&self, namespace: &str, object: &str, kind: &str, wanted: &str) -> Result<(), String> {
        let said = self.cluster.condition(namespace, object, kind)?;
        said.starts_with(wanted).then_some(()).ok_or(said)
    }

    /// What came of the messages from number `start` on; the queue is flushed, as after any outage.
    pub fn count(&self, start: usize) -> Result<Count, String> {
        let end = self.ledger.count();
        let outcomes = until("all have an answer", Duration::from_secs(60), || {
            self.ledger.settled(start, end).ok_or_else(|| "some are under way".to_owned())
        })?;
        let mut count = Count { sent: outcomes.len(), ..Count::default() };
        let mut accepted = Vec::new();
        for (number, (when, outcome)) in outcomes.iter().enumerate() {
            match outcome {
                Outcome::Accepted => accepted.push(start + number),
                Outcome::Later(said) => {
                    count.later += 1;
                    count.said.entry(said.clone()).or_default().push(*when);
                }
                Outcome::Unanswered(said) => {
                    count.unanswered += 1;
                    count.said.entry(said.clone()).or_default().push(*when);
                }
                Outcome::Refused(said) => {
                    count.refused += 1;
                    self.violation(format!("message {} to a valid address: {said}", start + number));
                }
            }
        }
        count.accepted = accepted.len();
        let missing = || {
            let mut maildirs = locked(&self.maildirs);
            let copies = maildirs.look();
            accepted.iter().filter(|number| !copies.contains_key(number)).copied().collect::<Vec<_>>()
        };
        count.queued = missing().len();
        let found = until("all are delivered", Duration::from_secs(120), || {
            let missing = missing();
            if missing.is_empty() {
                return Ok(());
            }
            let flush = ["postqueue", "-c", "/run/vmail-operator/postfix", "-f"];
            let _ = self.cluster.kubectl(&[&["exec", "-n", "mail", POD, "--"], &flush[..]].concat());
            Err(format!("{missing:?}"))
        });
        if let Err(said) = found {
            self.violation(format!("answered 250 and not found: {said}"));
        }
        count.lost = missing().len();
        count.delivered = count.accepted - count.lost;
        let maildirs = &mut *locked(&self.maildirs);
        let copies = maildirs.look();
        count.duplicates = accepted.iter().filter_map(|number| copies.get(number)).map(|n| n - 1).sum();
        Ok(count)
    }
}

fn volume(cluster: &Cluster, claim: &str) -> Result<String, String> {
    let claim = format!("persistentvolumeclaim/{claim}-{POD}");
    let name = cluster.field("mail", &claim, "{.spec.volumeName}")?;
    cluster.field("mail", &format!("persistentvolume/{name}"), "{.spec.local.path}")
}

/// Namespace, Secret, chart and examples; ready in the end.
fn set_up(cluster: &Cluster, version: Version, more: &[&str]) -> Result<(), String> {
    cluster.make_release_namespace()?;
    release(cluster, version, &[&["--wait"], more].concat())?;
    for example in ["example.org.yaml", "example.net.yaml"] {
        let path = source(cluster, version).join("examples").join(example);
        cluster.apply("mail", &std::fs::read_to_string(path).map_err(|error| error.to_string())?)?;
    }
    for object in ["maildomain/example.org", "maildomain/example.net", "mailbox/you.example.org"] {
        let ready = ["wait", "-n", "mail", "--for=condition=Ready", object, "--timeout=180s"];
        cluster.kubectl(&ready).map_err(|error| {
            format!("{object} is not ready: {error}; {:?}", cluster.field("mail", object, "{.status}"))
        })?;
    }
    Ok(())
}

fn source(cluster: &Cluster, version: Version) -> PathBuf {
    match version {
        Version::Current => PathBuf::from(env!("CARGO_MANIFEST_DIR")),
        Version::Previous => cluster.previous(include_str!("previous").trim()),
    }
}

fn release(cluster: &Cluster, version: Version, more: &[&str]) -> Result<(), String> {
    let mut values = cluster.chart_values((version == Version::Previous).then_some("previous"));
    values["vanishedSeconds"] = json!(5);
    values["dns"]["drainMarginSeconds"] = json!(3);
    values["tenancy"] =
        json!({ "rules": [{ "namespaces": ["tenant", "other"], "domains": ["*.example.test"] }] });
    let chart = source(cluster, version).join("charts/vmail-operator").to_string_lossy().into_owned();
    let fixed = ["helm", "upgrade", "--install", "vmail", &chart, "-n", "mail", "--timeout=240s", "-f", "-"];
    cluster.exec(&[&fixed, more].concat(), &values.to_string()).map(drop)
}
