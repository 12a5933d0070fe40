//! What all ways have in common: a client that sends the whole time, somebody who watches, and the count in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::Way;
use crate::traffic::{Queued, SENDER, Traffic, delivered, queue};
use crate::watch::{Watch, names_us, resolver};
use crate::world::World;

const PATIENCE: Duration = Duration::from_secs(120);
pub const YOU: &str = "you@one.test";
/// Mail for it waits, see [`Story::hold`].
pub const HELD: &str = "held@one.test";

/// One run.
pub struct Story<'a> {
    pub world: World<'a>,
    /// Another namespace.
    other: String,
    watch: Watch,
    pub traffic: Traffic,
    domain: &'static str,
    /// When it was looked whether an MX of the domain names us, and what was seen.
    looks: Arc<Mutex<Vec<(Instant, bool)>>>,
    looking: Looking,
    /// Numbers of messages for those who are gone: they may stay in the queue.
    pub left: BTreeSet<usize>,
    pub violations: Vec<String>,
}

/// Looks until it is dropped.
struct Looking(tokio::task::JoinHandle<()>);

impl Drop for Looking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A manifest of a MailDomain that waits for no resolver.
pub fn domain(name: &str, more: Value) -> Value {
    let mut spec = json!({ "domain": name, "withdrawal": "Immediate", "dns": { "ttl": 60 } });
    let fields = spec.as_object_mut().expect("a map");
    fields.extend(more.as_object().expect("a map").clone());
    spec
}

impl<'a> Story<'a> {
    /// The client sends to `to` from now on.
    pub async fn begin(world: World<'a>, domain: &'static str, to: &[&str]) -> Self {
        let other = format!("{}-other", world.namespace);
        let namespaces: Api<Namespace> = Api::all(world.client());
        let namespace =
            serde_json::from_value(json!({ "metadata": { "name": other } })).expect("a namespace");
        namespaces.create(&PostParams::default(), &namespace).await.expect("created");
        let watch = Watch::start(world.dns(), world.pod.clone(), &["one.test", "two.test", "sub.one.test"]);
        let to = to.iter().map(|address| (*address).to_owned()).collect();
        let looks: Arc<Mutex<Vec<(Instant, bool)>>> = Arc::default();
        let (seen, dns) = (looks.clone(), world.dns());
        let looking = Looking(tokio::spawn(async move {
            let resolver = resolver(dns);
            loop {
                let named = names_us(&resolver, domain).await;
                seen.lock().expect("not poisoned").push((Instant::now(), named));
                sleep(Duration::from_millis(10)).await;
            }
        }));
        let traffic = Traffic::start(world.pod.clone(), to);
        Self {
            other,
            watch,
            traffic,
            domain,
            looks,
            looking,
            left: BTreeSet::new(),
            violations: vec![],
            world,
        }
    }

    fn api_in(&self, namespace: &str, kind: &str) -> Api<DynamicObject> {
        let plural = match kind {
            "MailDomain" => "maildomains",
            "Mailbox" => "mailboxes",
            _ => "mailaliases",
        };
        let gvk = GroupVersionKind::gvk("vmail.dev", "v1alpha1", kind);
        let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
        Api::namespaced_with(self.world.client(), namespace, &resource)
    }

    pub async fn apply_other(&self, kind: &str, name: &str, spec: Value) {
        let object = json!({
            "apiVersion": "vmail.dev/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec,
        });
        let params = PatchParams::apply("user").force();
        let api = self.api_in(&self.other, kind);
        api.patch(name, &params, &Patch::Apply(object)).await.expect("applied");
    }

    pub async fn delete_other(&self, kind: &str, name: &str) {
        self.api_in(&self.other, kind).delete(name, &DeleteParams::default()).await.expect("deleted");
    }

    /// The conditions of an object in the other namespace, as `type status reason message` lines.
    pub async fn said_other(&self, kind: &str, name: &str) -> String {
        let object = self.api_in(&self.other, kind).get(name).await.expect("it is there");
        let conditions = object.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let line = |c: &Value| {
            format!(
                "{} {} {} {}",
                text(&c["type"]),
                text(&c["status"]),
                text(&c["reason"]),
                text(&c["message"])
            )
        };
        conditions.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    pub async fn until(&self, what: &str, mut done: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done().await {
            if Instant::now() > deadline {
                let state = self.world.state().await;
                panic!("{what} does not come: {state:#?}\n{}", self.world.log());
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    pub async fn until_ready_other(&self, kind: &str, name: &str) {
        let ready = async || self.said_other(kind, name).await.contains("Ready True");
        self.until(&format!("{kind} {name}"), ready).await;
    }

    /// What Postfix says of a recipient.
    pub async fn rcpt(&self, address: &str) -> String {
        let (pod, address) = (self.world.pod.clone(), address.to_owned());
        tokio::task::spawn_blocking(move || pod.rcpt(&address)).await.expect("an answer")
    }

    /// Delivers nothing into this Maildir, until it is released.
    pub fn hold(&self, address: &str) {
        self.world.pod.volumes.hold(address);
    }

    pub fn release(&self, address: &str) {
        self.world.pod.volumes.release(address);
    }

    async fn queue(&self) -> Vec<Queued> {
        let pod = self.world.pod.clone();
        tokio::task::spawn_blocking(move || queue(&pod)).await.expect("a queue")
    }

    /// Sends a message that cannot be delivered now, and waits until it was tried.
    pub async fn stuck(&self, address: &str) -> usize {
        let number = self.traffic.send(address);
        self.until("a message in the deferred queue", async || {
            self.queue().await.iter().any(|one| self.is(one, number) && one.queue == "deferred")
        })
        .await;
        number
    }

    /// Whether this is the message with the number.
    fn is(&self, one: &Queued, number: usize) -> bool {
        self.traffic.sent()[number].id().is_some_and(|id| id == one.id)
    }

    async fn flush(&self) {
        let pod = self.world.pod.clone();
        tokio::task::spawn_blocking(move || pod.postfix(&["postqueue", "-f"])).await.expect("flushed");
    }

    /// Where a message is, once it is in some Maildir.
    pub async fn arrives(&self, number: usize) -> BTreeSet<String> {
        let vmail = self.world.pod.volumes.vmail();
        let mut last = Instant::now();
        self.flush().await;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = delivered(&vmail).remove(&number) {
                return found;
            }
            assert!(Instant::now() < deadline, "{number} does not arrive: {:?}", self.queue().await);
            if last.elapsed() > Duration::from_secs(1) {
                self.flush().await;
                last = Instant::now();
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Whether a message was tried again and is still in the queue.
    pub async fn waits(&self, number: usize) {
        let count = || self.world.pod.log().matches("status=deferred").count();
        let before = count();
        self.flush().await;
        self.until("another try", async || count() > before).await;
        let queued = async || self.queue().await.iter().any(|one| self.is(one, number));
        self.until("the message in the queue", queued).await;
    }

    /// Waits until the client got so many answers more.
    pub async fn goes_on(&self, messages: usize) {
        let wanted = self.traffic.sent().len() + messages;
        self.until("the client", async || self.traffic.sent().len() >= wanted).await;
    }

    pub fn violation(&mut self, text: String) {
        self.violations.push(text);
    }

    /// From `since` to now, an MX that names us was there whenever it was looked.
    pub fn never_left(&mut self, since: Instant) {
        let looks = self.looks.lock().expect("not poisoned").clone();
        let missing = looks.iter().filter(|(at, named)| *at > since && !named).count();
        if missing > 0 {
            self.violation(format!("no MX of {} in {missing} looks", self.domain));
        }
    }

    /// Whether the MX was there right before and right after a moment.
    fn named_around(looks: &[(Instant, bool)], at: Instant) -> bool {
        let before = looks.iter().rev().find(|(look, _)| *look < at);
        let after = looks.iter().find(|(look, _)| *look >= at);
        before.is_some_and(|(_, named)| *named) && after.is_none_or(|(_, named)| *named)
    }

    /// Ends it: what became of each message, as a row.
    pub async fn end(mut self, way: Way, began: Instant) -> Result<String, String> {
        self.traffic.stop();
        let sent = self.traffic.sent();
        let taken: BTreeSet<usize> = sent.iter().filter(|sent| sent.taken).map(|sent| sent.number).collect();
        let taken_as: BTreeMap<String, usize> =
            sent.iter().filter_map(|sent| Some((sent.id()?, sent.number))).collect();
        let vmail = self.world.pod.volumes.vmail();
        // What is not for those who are gone arrives, and may need a while.
        let deadline = Instant::now() + Duration::from_secs(20);
        let (mut waiting, mut elsewhere) = (BTreeSet::new(), BTreeSet::new());
        let (arrived, queued) = loop {
            let queued = self.queue().await;
            let arrived = delivered(&vmail);
            // What moves from queue to queue is easily missed, so that a look before counts too.
            let numbers = |wanted: fn(&Queued) -> bool| {
                let found = queued.iter().filter(move |one| wanted(one));
                found.filter_map(|one| taken_as.get(&one.id).copied()).collect::<Vec<usize>>()
            };
            waiting.extend(numbers(|_| true));
            elsewhere.extend(numbers(goes_elsewhere));
            let known = |number| {
                arrived.contains_key(number) || self.left.contains(number) || elsewhere.contains(number)
            };
            if taken.iter().all(known) || Instant::now() > deadline {
                break (arrived, queued);
            }
            if queued.iter().any(|one| !goes_elsewhere(one)) {
                self.flush().await;
            }
            sleep(Duration::from_millis(300)).await;
        };
        for number in taken.iter().filter(|number| !arrived.contains_key(number)) {
            match (waiting.contains(number), self.left.contains(number) || elsewhere.contains(number)) {
                (true, true) => {}
                (true, false) => self.violation(format!("{:?} stays in the queue", sent[*number])),
                (false, _) => self.violation(format!("{:?} is lost", sent[*number])),
            }
        }
        for one in queued.iter().filter(|one| one.sender != SENDER) {
            self.violation(format!("nobody sent {one:?}"));
        }
        let log = self.world.pod.log();
        let mut bounced = 0;
        for line in log.lines() {
            let ours = line.contains(".test>,") && !line.contains("orig_to=<");
            let bounces = ["status=bounced", "status=expired", "non-delivery notification"];
            let bounce = bounces.iter().any(|word| line.contains(word));
            bounced += usize::from(bounce);
            if bounce || (line.contains("postfix/smtp[") && ours) {
                self.violation(line.to_owned());
            }
        }
        let looks = self.looks.lock().expect("not poisoned").clone();
        let refused = sent.iter().filter(|sent| sent.reply.starts_with('5'));
        let wrong: Vec<String> = refused
            .filter(|sent| Self::named_around(&looks, sent.at))
            .map(|sent| format!("refused while the MX stands: {sent:?}"))
            .collect();
        self.violations.extend(wrong);
        let seen = self.watch.seen();
        self.violations.extend(seen.violations.clone());
        self.violations.dedup();
        let row = format!(
            "| {way:?} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
            sent.len(),
            taken.len(),
            taken.iter().filter(|number| arrived.contains_key(number)).count(),
            taken.iter().filter(|number| waiting.contains(number) && !arrived.contains_key(number)).count(),
            bounced,
            seen.asked + looks.len(),
            self.violations.len(),
            began.elapsed().as_secs(),
        );
        // Other runs would see what is there.
        for kind in ["MailDomain", "Mailbox", "MailAlias"] {
            let api = self.api_in(&self.other, kind);
            api.delete_collection(&DeleteParams::default(), &ListParams::default()).await.expect("deleted");
        }
        let Self { world, watch, looking, violations, .. } = self;
        drop((watch, looking));
        world.clear().await;
        if violations.is_empty() { Ok(row) } else { Err(format!("{row}\n{}", shown(&violations))) }
    }
}

/// Whether a message is on its way to others, whom nobody finds from here.
fn goes_elsewhere(one: &Queued) -> bool {
    one.recipients.iter().all(|to| to.ends_with("@elsewhere.example"))
}

/// As many as can be read.
fn shown(violations: &[String]) -> String {
    let some: Vec<&str> = violations.iter().take(10).map(String::as_str).collect();
    some.join("\n")
}
