//! The cluster with the chart, its mail traffic, and what is watched all the time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::traffic::{Ledger, Maildirs, Outcome, recipient};

pub const POD: &str = "vmail-postfix-default-0";
/// Domain, and an address in it that is valid all the time.
pub const SERVED: [(&str, &str); 2] =
    [("example.org", "you@example.org"), ("example.net", "info@example.net")];
/// For whatever comes right by itself: kubelet alone may wait five minutes between restarts of a container.
const LIMIT: Duration = Duration::from_secs(420);

pub struct World {
    pub cluster: Cluster,
    pub ledger: Ledger,
    /// Domains and addresses about which both DNS and Postfix are asked; the first two may never leave DNS.
    pub watched: Mutex<Vec<(String, String)>>,
    violations: Mutex<Vec<String>>,
    maildirs: Mutex<Maildirs>,
    over: AtomicBool,
    probes: AtomicUsize,
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
    /// The answers other than 250, and how often each was given.
    pub said: BTreeMap<String, usize>,
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
    pub fn new() -> Self {
        let cluster = Cluster::up("live");
        // Volumes of a size, so that one can be full, and file systems of their own, so that one can be read-only.
        let script =
            "for d in \"$1\"/volumes/*; do mount -t tmpfs -o size=256m,mode=0755 volume \"$d\"; done";
        cluster.exec(&["sh", "-ec", script, "sh", cluster.env("CLUSTER_STATE")], "").expect("mounted");
        for namespace in ["mail", "tenant", "other"] {
            cluster.kubectl(&["create", "namespace", namespace]).expect("created");
        }
        let key = format!("--from-file=api-key={}", cluster.env("PDNS_API_KEY_FILE"));
        cluster.kubectl(&["create", "secret", "generic", "powerdns", "-n", "mail", &key]).expect("created");
        release(&cluster, &["--wait"]).expect("installed");
        for example in ["example.org.yaml", "example.net.yaml"] {
            let path = format!("{}/examples/{example}", env!("CARGO_MANIFEST_DIR"));
            cluster.apply("mail", &std::fs::read_to_string(path).expect("an example")).expect("applied");
        }
        for object in ["maildomain/example.org", "maildomain/example.net", "mailbox/you.example.org"] {
            cluster.wait_ready("mail", object);
        }
        let volume = volume(&cluster, "vmail").expect("bound");
        let root = PathBuf::from(format!("/proc/{}/root{volume}", cluster.pid()));
        let watched = SERVED.map(|(domain, address)| (domain.to_owned(), address.to_owned()));
        Self {
            cluster,
            ledger: Ledger::default(),
            watched: Mutex::new(watched.into()),
            violations: Mutex::default(),
            maildirs: Mutex::new(Maildirs::new(root)),
            over: AtomicBool::new(false),
            probes: AtomicUsize::new(0),
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

    /// Ends what runs beside the faults.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Sends without end.
    pub fn send(&self) {
        for (_, address) in SERVED.iter().cycle() {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            self.ledger.send(self.cluster.pid(), &self.public(), address);
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
                if number < SERVED.len() && (before == Some(false) || after == Some(false)) {
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
        release(&self.cluster, more)
    }

    /// The whole road works again: a mailbox declared now is served, and both domains are as they were.
    pub fn converge(&self) -> Result<(), String> {
        let number = self.probes.fetch_add(1, Ordering::Relaxed);
        let address = format!("probe{number}@example.org");
        let manifest = format!(
            "{{apiVersion: vmail.dev/v1alpha1, kind: Mailbox, metadata: {{name: probe{number}}}, spec: {{address: {address}}}}}"
        );
        until("a mailbox can be declared", LIMIT, || self.cluster.apply("mail", &manifest))?;
        until("the new mailbox is ready", LIMIT, || {
            self.condition("mail", &format!("mailbox/probe{number}"), "Ready", "True")
        })?;
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
        for (number, outcome) in outcomes.iter().enumerate() {
            match outcome {
                Outcome::Accepted => accepted.push(start + number),
                Outcome::Later(said) => {
                    count.later += 1;
                    *count.said.entry(said.clone()).or_default() += 1;
                }
                Outcome::Unanswered(said) => {
                    count.unanswered += 1;
                    *count.said.entry(said.clone()).or_default() += 1;
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

fn release(cluster: &Cluster, more: &[&str]) -> Result<(), String> {
    let image = |key: &str| {
        let (repository, tag) = cluster.env(key).rsplit_once(':').expect("name:tag");
        format!("{{repository: {repository}, tag: {tag}}}")
    };
    let values = format!(
        "{{hostname: {}, postmaster: hostmaster@example.com, vanishedSeconds: 5,
           dns: {{drainMarginSeconds: 3, powerdns: {{url: '{}', secretName: powerdns}}}},
           tenancy: {{rules: [{{namespaces: [tenant, other], domains: ['*.example.test']}}]}},
           postfix: {{settleSeconds: 0}}, service: {{type: ClusterIP, externalIPs: [{}]}},
           image: {{pullPolicy: Never, operator: {}, postfix: {}}},
           storage: {{vmail: {{size: 1Gi}}, spool: {{size: 1Gi}}}}}}",
        cluster.env("MAIL_HOST"),
        cluster.env("PDNS_URL"),
        cluster.env("NODE_IP"),
        image("IMAGE_OPERATOR"),
        image("IMAGE_POSTFIX"),
    );
    let chart = format!("{}/charts/vmail-operator", env!("CARGO_MANIFEST_DIR"));
    let fixed = ["helm", "upgrade", "--install", "vmail", &chart, "-n", "mail", "--timeout=240s", "-f", "-"];
    cluster.exec(&[&fixed, more].concat(), &values).map(drop)
}
