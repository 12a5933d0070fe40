//! Ways out of service other than that a domain is deleted and nothing is queued, and what is done to a domain that stays.
//!
//! A client sends numbered messages the whole time, one message or more wait in the queue before the change, and in the
//! end each message that was answered 250 is in a Maildir, or in the queue for who is gone. Nothing bounces, nothing is
//! handed to smtp(8), no valid recipient is refused for good while an MX names us, and where service goes on, the MX
//! never leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::lanes::{Lanes, all};
use crate::pod::set_mode;
use crate::traffic::{Queued, SENDER, Traffic, delivered, queue};
use crate::watch::{Watch, names_us, resolver};
use crate::world::{HOST, Parts, State, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    TenancyRuleChanged,
    PostmasterDeleted,
    NoLongerManaged,
    ZoneChanged,
    MxListChanged,
    CatchAllRemoved,
    MailboxDeleted,
    MailboxBecomesAlias,
    AddressOfAnother,
    DomainDeleted,
    ReappliedInTheDrain,
    OtherNamespace,
    OtherClass,
    OtherCell,
    BadNeighbours,
}

use Way::*;

const ALL: [Way; 15] = [
    TenancyRuleChanged,
    PostmasterDeleted,
    NoLongerManaged,
    ZoneChanged,
    MxListChanged,
    CatchAllRemoved,
    MailboxDeleted,
    MailboxBecomesAlias,
    AddressOfAnother,
    DomainDeleted,
    ReappliedInTheDrain,
    OtherNamespace,
    OtherClass,
    OtherCell,
    BadNeighbours,
];

const SOME: [Way; 3] = [AddressOfAnother, DomainDeleted, OtherClass];

const PATIENCE: Duration = Duration::from_secs(120);
const YOU: &str = "you@one.test";
/// Mail for it waits, see [`Story::hold`].
const HELD: &str = "held@one.test";

/// One run.
struct Story<'a> {
    world: World<'a>,
    /// Another namespace.
    other: String,
    watch: Watch,
    traffic: Traffic,
    domain: &'static str,
    /// When it was looked whether an MX of the domain names us, and what was seen.
    looks: Arc<Mutex<Vec<(Instant, bool)>>>,
    looking: Looking,
    /// Numbers of messages for those who are gone: they may stay in the queue.
    left: BTreeSet<usize>,
    violations: Vec<String>,
}

/// Looks until it is dropped.
struct Looking(tokio::task::JoinHandle<()>);

impl Drop for Looking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A manifest of a MailDomain that waits for no resolver.
fn domain(name: &str, more: Value) -> Value {
    let mut spec = json!({ "domain": name, "withdrawal": "Immediate", "dns": { "ttl": 60 } });
    let fields = spec.as_object_mut().expect("a map");
    fields.extend(more.as_object().expect("a map").clone());
    spec
}

impl<'a> Story<'a> {
    /// The client sends to `to` from now on.
    async fn begin(world: World<'a>, domain: &'static str, to: &[&str]) -> Self {
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

    async fn apply_other(&self, kind: &str, name: &str, spec: Value) {
        let object = json!({
            "apiVersion": "vmail.dev/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec,
        });
        let params = PatchParams::apply("user").force();
        let api = self.api_in(&self.other, kind);
        api.patch(name, &params, &Patch::Apply(object)).await.expect("applied");
    }

    async fn delete_other(&self, kind: &str, name: &str) {
        self.api_in(&self.other, kind).delete(name, &DeleteParams::default()).await.expect("deleted");
    }

    /// The conditions of an object in the other namespace, as `type status reason message` lines.
    async fn said_other(&self, kind: &str, name: &str) -> String {
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

    async fn until(&self, what: &str, mut done: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done().await {
            if Instant::now() > deadline {
                let state = self.world.state().await;
                panic!("{what} does not come: {state:#?}\n{}", self.world.log());
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn until_ready_other(&self, kind: &str, name: &str) {
        let ready = async || self.said_other(kind, name).await.contains("Ready True");
        self.until(&format!("{kind} {name}"), ready).await;
    }

    /// What Postfix says of a recipient.
    async fn rcpt(&self, address: &str) -> String {
        let (pod, address) = (self.world.pod.clone(), address.to_owned());
        tokio::task::spawn_blocking(move || pod.rcpt(&address)).await.expect("an answer")
    }

    fn maildir(&self, address: &str) -> PathBuf {
        let (local, domain) = address.split_once('@').expect("an address");
        self.world.pod.volumes.vmail().join(domain).join(local)
    }

    /// Delivers nothing into this Maildir, until it is released: it belongs to somebody else.
    fn hold(&self, address: &str) {
        let maildir = self.maildir(address);
        let domain = maildir.parent().expect("the domain's");
        std::fs::create_dir_all(&maildir).expect("a directory");
        chown(domain, Some(2000), Some(2000)).expect("given");
        chown(&maildir, Some(0), Some(0)).expect("taken");
        set_mode(&maildir, 0o700);
    }

    fn release(&self, address: &str) {
        chown(self.maildir(address), Some(2000), Some(2000)).expect("given back");
    }

    async fn queue(&self) -> Vec<Queued> {
        let pod = self.world.pod.clone();
        tokio::task::spawn_blocking(move || queue(&pod)).await.expect("a queue")
    }

    /// Sends a message that cannot be delivered now, and waits until it was tried.
    async fn stuck(&self, address: &str) -> usize {
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
    async fn arrives(&self, number: usize) -> BTreeSet<String> {
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
    async fn waits(&self, number: usize) {
        let count = || self.world.pod.log().matches("status=deferred").count();
        let before = count();
        self.flush().await;
        self.until("another try", async || count() > before).await;
        let queued = async || self.queue().await.iter().any(|one| self.is(one, number));
        self.until("the message in the queue", queued).await;
    }

    /// Waits until the client got so many answers more.
    async fn goes_on(&self, messages: usize) {
        let wanted = self.traffic.sent().len() + messages;
        self.until("the client", async || self.traffic.sent().len() >= wanted).await;
    }

    fn violation(&mut self, text: String) {
        self.violations.push(text);
    }

    /// From `since` to now, an MX that names us was there whenever it was looked.
    fn never_left(&mut self, since: Instant) {
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
    async fn end(mut self, way: Way, began: Instant) -> Result<String, String> {
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

fn published(state: &State, domain: &str, hosts: &[&str]) -> bool {
    let mx = &state.stored[&format!("MX {domain}")];
    hosts.iter().all(|host| mx.contains(host))
}

/// A domain with two mailboxes of which one holds a message back, and its number.
async fn domain_with_a_queue<'a>(world: World<'a>, more: Value) -> (Story<'a>, usize) {
    world.apply("MailDomain", "one", domain("one.test", more)).await;
    world.apply("Mailbox", "you", json!({ "address": YOU })).await;
    world.apply("Mailbox", "held", json!({ "address": HELD })).await;
    world.settle("service", |state| state.all_ready(3) && state.published == ["one.test"]).await;
    let story = Story::begin(world, "one.test", &[YOU]).await;
    story.hold(HELD);
    let stuck = story.stuck(HELD).await;
    (story, stuck)
}

async fn tell<'a>(way: Way, world: World<'a>) -> Story<'a> {
    match way {
        TenancyRuleChanged => tenancy_rule_changed(world).await,
        PostmasterDeleted => postmaster_deleted(world).await,
        NoLongerManaged => no_longer_managed(world).await,
        ZoneChanged => zone_changed(world).await,
        MxListChanged => mx_list_changed(world).await,
        CatchAllRemoved => catch_all_removed(world).await,
        MailboxDeleted => mailbox_deleted(world).await,
        MailboxBecomesAlias => mailbox_becomes_alias(world).await,
        AddressOfAnother => address_of_another(world).await,
        DomainDeleted => domain_deleted(world).await,
        ReappliedInTheDrain => reapplied_in_the_drain(world).await,
        OtherNamespace => other_namespace(world).await,
        OtherClass => other_class(world).await,
        OtherCell => other_cell(world).await,
        BadNeighbours => bad_neighbours(world).await,
    }
}

/// A rule gates new claims; what is served stays.
async fn tenancy_rule_changed(world: World<'_>) -> Story<'_> {
    let mut story = Story::begin(world, "one.test", &[YOU]).await;
    story.apply_other("MailDomain", "one", domain("one.test", json!({}))).await;
    story.apply_other("Mailbox", "you", json!({ "address": YOU })).await;
    story.apply_other("Mailbox", "held", json!({ "address": HELD })).await;
    story.until_ready_other("MailDomain", "one").await;
    story.until_ready_other("Mailbox", "held").await;
    story.hold(HELD);
    let stuck = story.stuck(HELD).await;
    let since = Instant::now();
    story.world.stop_operator();
    story.world.configure("tenancy", json!({ "rules": [] }));
    story.world.start_operator().await;
    story.apply_other("MailDomain", "two", domain("two.test", json!({}))).await;
    let refused =
        async || story.said_other("MailDomain", "two").await.contains("Accepted False DomainNotPermitted");
    story.until("the changed rule", refused).await;
    // What is served can be changed.
    story.apply_other("Mailbox", "new", json!({ "address": "new@one.test" })).await;
    story.until_ready_other("Mailbox", "new").await;
    let said = story.said_other("MailDomain", "one").await;
    if !said.contains("Ready True") || !said.contains("tenancy.rules") {
        story.violation(format!("the owner is not warned: {said}"));
    }
    story.release(HELD);
    story.arrives(stuck).await;
    story.goes_on(20).await;
    story.never_left(since);
    story
}

/// Where role mail went is gone: postmaster@ must be answered all the same (RFC 5321 4.5.1).
async fn postmaster_deleted(world: World<'_>) -> Story<'_> {
    world.apply("MailDomain", "one", domain("one.test", json!({ "postmaster": HELD }))).await;
    world.apply("Mailbox", "you", json!({ "address": YOU })).await;
    world.apply("Mailbox", "held", json!({ "address": HELD })).await;
    world.settle("service", |state| state.all_ready(3) && state.published == ["one.test"]).await;
    let mut story = Story::begin(world, "one.test", &[YOU, "postmaster@one.test", "abuse@one.test"]).await;
    story.hold(HELD);
    let stuck = story.stuck("postmaster@one.test").await;
    let since = Instant::now();
    story.world.delete("Mailbox", "held").await;
    let told = |state: &State| state.stored["MailDomain one"].contains("TargetNotFound");
    story.world.settle("the verdict", told).await;
    story.release(HELD);
    story.arrives(stuck).await;
    story.goes_on(30).await;
    // Something else changes, and the MX with it.
    let mx = json!([{ "host": HOST, "preference": 5 }]);
    let spec = domain("one.test", json!({ "postmaster": HELD, "dns": { "ttl": 60, "mx": mx } }));
    story.world.apply("MailDomain", "one", spec).await;
    story.world.settle("the changed MX", |state| published(state, "one.test", &["5 mail"])).await;
    story.world.apply("Mailbox", "held", json!({ "address": HELD })).await;
    story.world.settle("the mailbox", |state| state.all_ready(3)).await;
    story.never_left(since);
    story
}

async fn no_longer_managed(world: World<'_>) -> Story<'_> {
    let (story, stuck) = domain_with_a_queue(world, json!({})).await;
    let unmanaged = domain("one.test", json!({ "dns": { "ttl": 60, "managed": false } }));
    story.world.apply("MailDomain", "one", unmanaged).await;
    story.world.settle("no MX", |state| state.all_ready(3) && state.published.is_empty()).await;
    // Whoever still has the MX, or has another that names us, is served.
    story.goes_on(20).await;
    assert!(story.rcpt(YOU).await.starts_with("250"));
    story.world.apply("MailDomain", "one", domain("one.test", json!({}))).await;
    story.world.settle("the MX", |state| state.all_ready(3) && state.published == ["one.test"]).await;
    story.release(HELD);
    story.arrives(stuck).await;
    story
}

/// From a zone to one below it, which the administrator filled before; the way back is refused while PowerDNS has both.
async fn zone_changed(world: World<'_>) -> Story<'_> {
    let (address, name) = ("you@sub.one.test", "sub.one.test");
    let in_zone = |zone: &str| domain(name, json!({ "dns": { "ttl": 60, "zone": zone } }));
    world.apply("MailDomain", "one", in_zone("one.test")).await;
    world.apply("Mailbox", "you", json!({ "address": address })).await;
    world.apply("Mailbox", "held", json!({ "address": "held@sub.one.test" })).await;
    world.settle("service", |state| state.all_ready(3)).await;
    let mut story = Story::begin(world, name, &[address]).await;
    story.hold("held@sub.one.test");
    let stuck = story.stuck("held@sub.one.test").await;
    let since = Instant::now();
    // A copy, as whoever divides a zone makes it: served by nobody until it is whole.
    let pdns = story.world.pdns();
    let kinds = [(name.to_owned(), "MX"), (format!("_vmail-owner.{name}"), "TXT")];
    let mut rrsets = Vec::new();
    for (at, kind) in &kinds {
        let (ttl, contents) = pdns.get("one.test", at, kind).await.expect("it stands there");
        let records: Vec<Value> =
            contents.iter().map(|content| json!({ "content": content, "disabled": false })).collect();
        rrsets.push(json!({ "name": format!("{at}."), "type": kind, "ttl": ttl, "records": records }));
    }
    pdns.zone_with(name, "Native", rrsets).await;
    story.world.apply("MailDomain", "one", in_zone(name)).await;
    story.until("the move", async || pdns.get("one.test", name, "MX").await.is_none()).await;
    story.world.settle("the new zone", |state| state.all_ready(3)).await;
    let owner = &kinds[1].0;
    assert!(pdns.get(name, name, "MX").await.is_some() && pdns.get("one.test", owner, "TXT").await.is_none());
    story.world.apply("MailDomain", "one", in_zone("one.test")).await;
    let delegated = |state: &State| state.stored["MailDomain one"].contains("ZoneDelegated");
    story.world.settle("the refusal", delegated).await;
    assert!(pdns.get(name, name, "MX").await.is_some());
    story.never_left(since);
    story.world.pdns().delete_zone(name).await;
    story.world.settle("the zone above", |state| state.all_ready(3)).await;
    assert!(story.world.pdns().get("one.test", name, "MX").await.is_some());
    story.release("held@sub.one.test");
    story.arrives(stuck).await;
    story
}

async fn mx_list_changed(world: World<'_>) -> Story<'_> {
    let (mut story, stuck) = domain_with_a_queue(world, json!({})).await;
    let since = Instant::now();
    let with = |mx: Value| domain("one.test", json!({ "dns": { "ttl": 120, "mx": mx } }));
    let backup = json!({ "host": "backup.us.test", "preference": 50 });
    let ours = json!({ "host": HOST, "preference": 5 });
    story.world.apply("MailDomain", "one", with(json!([ours, backup]))).await;
    let both = |state: &State| state.all_ready(3) && published(state, "one.test", &["5 mail", "50 backup"]);
    story.world.settle("both", both).await;
    // Without our host it is not changed.
    story.world.apply("MailDomain", "one", with(json!([backup]))).await;
    let missing = |state: &State| state.stored["MailDomain one"].contains("MXHostMissing");
    story.world.settle("the refusal", missing).await;
    let state = story.world.state().await;
    assert!(published(&state, "one.test", &["5 mail", "50 backup"]), "{state:#?}");
    story.world.apply("MailDomain", "one", domain("one.test", json!({}))).await;
    let alone = |state: &State| state.all_ready(3) && published(state, "one.test", &["10 mail"]);
    story.world.settle("our host alone", alone).await;
    story.release(HELD);
    story.arrives(stuck).await;
    story.never_left(since);
    story
}

/// Mail that was accepted because of a catch-all is delivered, also when it came while the catch-all went.
async fn catch_all_removed(world: World<'_>) -> Story<'_> {
    let (mut story, _) = domain_with_a_queue(world, json!({ "catchAll": HELD })).await;
    let since = Instant::now();
    let stuck = story.stuck("whoever@one.test").await;
    let begun = story.traffic.begin("whoever@one.test");
    story.world.apply("MailDomain", "one", domain("one.test", json!({}))).await;
    story.world.settle("no catch-all", |state| state.all_ready(3)).await;
    story.until("a refusal", async || story.rcpt("whoever@one.test").await.starts_with("550")).await;
    let late = story.traffic.finish(begun);
    story.release(HELD);
    story.arrives(stuck).await;
    let taken = story.traffic.sent()[late].taken;
    if taken {
        story.arrives(late).await;
    }
    story.never_left(since);
    story
}

/// What was accepted for it is delivered, be it that its end comes in later, and nothing more is taken.
async fn mailbox_deleted(world: World<'_>) -> Story<'_> {
    let (mut story, stuck) = domain_with_a_queue(world, json!({})).await;
    let since = Instant::now();
    let begun = story.traffic.begin(HELD);
    story.world.delete("Mailbox", "held").await;
    story.world.settle("the mailbox is gone", |state| state.all_ready(2)).await;
    story.until("a refusal", async || story.rcpt(HELD).await.starts_with("550")).await;
    story.waits(stuck).await;
    story.release(HELD);
    let place = BTreeSet::from(["one.test/held".to_owned()]);
    assert_eq!(story.arrives(stuck).await, place);
    let late = story.traffic.finish(begun);
    let taken = story.traffic.sent()[late].taken;
    if taken {
        assert_eq!(story.arrives(late).await, place);
    }
    assert!(story.rcpt(HELD).await.starts_with("550"));
    story.never_left(since);
    story
}

/// What was queued for the mailbox is the mailbox's.
async fn mailbox_becomes_alias(world: World<'_>) -> Story<'_> {
    let (mut story, stuck) = domain_with_a_queue(world, json!({})).await;
    let since = Instant::now();
    story.world.delete("Mailbox", "held").await;
    let alias = json!({ "address": HELD, "targets": [YOU] });
    story.world.apply("MailAlias", "held", alias).await;
    story.world.settle("the alias", |state| state.all_ready(3)).await;
    let new = story.traffic.send(HELD);
    assert_eq!(story.arrives(new).await, BTreeSet::from(["one.test/you".to_owned()]));
    story.release(HELD);
    assert_eq!(story.arrives(stuck).await, BTreeSet::from(["one.test/held".to_owned()]));
    story.never_left(since);
    story
}

/// Another namespace gets the address when its predecessor has the mail that was on its way to him, and none of that.
async fn address_of_another(world: World<'_>) -> Story<'_> {
    let open = json!({ "allowedNamespaces": { "from": "All" } });
    let (mut story, stuck) = domain_with_a_queue(world, open).await;
    let since = Instant::now();
    story.world.delete("Mailbox", "held").await;
    story.apply_other("Mailbox", "held", json!({ "address": HELD })).await;
    story.until("the wait", async || story.rcpt(HELD).await.starts_with("450")).await;
    story.waits(stuck).await;
    story
        .until("the reason", async || {
            story.said_other("Mailbox", "held").await.contains("nothing is queued for it")
        })
        .await;
    assert!(story.rcpt(HELD).await.starts_with("450"));
    assert!(!delivered(&story.world.pod.volumes.vmail()).contains_key(&stuck));
    story.delete_other("Mailbox", "held").await;
    story.world.apply("Mailbox", "held", json!({ "address": HELD })).await;
    story.world.settle("the first owner", |state| state.all_ready(3)).await;
    story.world.delete("Mailbox", "held").await;
    story.apply_other("Mailbox", "held", json!({ "address": HELD })).await;
    story.until("the wait", async || story.rcpt(HELD).await.starts_with("450")).await;
    story.release(HELD);
    story.arrives(stuck).await;
    story.until_ready_other("Mailbox", "held").await;
    let new = story.traffic.send(HELD);
    assert_eq!(story.arrives(new).await, BTreeSet::from(["one.test/held".to_owned()]));
    let archived = story.arrives(stuck).await;
    assert!(archived.iter().all(|path| path.starts_with(".archive/")), "{archived:?}");
    story.never_left(since);
    story
}

/// It waits for its queue, and what comes in until the last moment is delivered.
async fn domain_deleted(world: World<'_>) -> Story<'_> {
    let (story, stuck) = domain_with_a_queue(world, json!({})).await;
    // As `kubectl delete -f` does it.
    story.world.delete("Mailbox", "held").await;
    story.world.delete("MailDomain", "one").await;
    let draining = |state: &State| state.published.is_empty() && state.phase("one.test") == Some("draining");
    story.world.settle("the drain", draining).await;
    story.waits(stuck).await;
    story.goes_on(20).await;
    assert_eq!(story.world.state().await.phase("one.test"), Some("draining"));
    story.release(HELD);
    story.arrives(stuck).await;
    story.world.settle("the end", |state| state.phase("one.test") == Some("withdrawn")).await;
    assert!(!story.rcpt(YOU).await.starts_with("250"));
    story
}

async fn reapplied_in_the_drain(world: World<'_>) -> Story<'_> {
    let (mut story, stuck) = domain_with_a_queue(world, json!({})).await;
    for name in ["you", "held"] {
        story.world.delete("Mailbox", name).await;
    }
    story.world.delete("MailDomain", "one").await;
    story.world.settle("the drain", |state| state.phase("one.test") == Some("draining")).await;
    story.waits(stuck).await;
    for (name, address) in [("you", YOU), ("held", HELD)] {
        story.world.apply("Mailbox", name, json!({ "address": address })).await;
    }
    story.world.apply("MailDomain", "one", domain("one.test", json!({}))).await;
    story.world.settle("service", |state| state.all_ready(3) && state.published == ["one.test"]).await;
    let since = Instant::now();
    story.release(HELD);
    assert_eq!(story.arrives(stuck).await, BTreeSet::from(["one.test/held".to_owned()]));
    story.goes_on(20).await;
    story.never_left(since);
    story
}

/// The next owner gets the domain when the first one's mail is delivered, and none of it.
async fn other_namespace(world: World<'_>) -> Story<'_> {
    let (mut story, stuck) = domain_with_a_queue(world, json!({})).await;
    story.world.delete("MailDomain", "one").await;
    story.apply_other("MailDomain", "one", domain("one.test", json!({}))).await;
    story.apply_other("Mailbox", "you", json!({ "address": YOU })).await;
    story.apply_other("Mailbox", "held", json!({ "address": HELD })).await;
    story.world.settle("the drain", |state| state.phase("one.test") == Some("draining")).await;
    story.waits(stuck).await;
    assert!(story.said_other("MailDomain", "one").await.contains("Accepted False DomainConflict"));
    story.release(HELD);
    assert_eq!(story.arrives(stuck).await, BTreeSet::from(["one.test/held".to_owned()]));
    story.world.settle("the end", |state| state.phase("one.test") == Some("withdrawn")).await;
    let before = story.traffic.sent().len();
    story.until_ready_other("MailDomain", "one").await;
    story.until_ready_other("Mailbox", "you").await;
    let since = Instant::now();
    story.goes_on(20).await;
    let new = story.traffic.send(HELD);
    assert_eq!(story.arrives(new).await, BTreeSet::from(["one.test/held".to_owned()]));
    for (number, places) in delivered(&story.world.pod.volumes.vmail()) {
        let archived = places.iter().all(|place| place.starts_with(".archive/"));
        if archived != (number < before) {
            story.violation(format!("{number}, of {before} for the first owner, is in {places:?}"));
        }
    }
    story.never_left(since);
    story
}

/// Mail for a mailbox would bounce in an alias domain.
async fn other_class(world: World<'_>) -> Story<'_> {
    world.apply("MailDomain", "two", domain("two.test", json!({}))).await;
    world.apply("Mailbox", "sink", json!({ "address": "sink@two.test" })).await;
    world.settle("the other domain", |state| state.all_ready(2)).await;
    world.apply("MailDomain", "one", domain("one.test", json!({}))).await;
    world.apply("Mailbox", "you", json!({ "address": YOU })).await;
    world.apply("Mailbox", "held", json!({ "address": HELD })).await;
    world.settle("service", |state| state.all_ready(5)).await;
    let story = Story::begin(world, "one.test", &[YOU]).await;
    story.hold(HELD);
    let stuck = story.stuck(HELD).await;
    story.world.delete("MailDomain", "one").await;
    story.world.apply("MailDomain", "one", domain("one.test", json!({ "class": "Alias" }))).await;
    for (name, address) in [("you", YOU), ("held", HELD)] {
        let alias = json!({ "address": address, "targets": ["sink@two.test"] });
        story.world.apply("MailAlias", name, alias).await;
    }
    story.world.settle("the drain", |state| state.phase("one.test") == Some("draining")).await;
    story.waits(stuck).await;
    assert_eq!(story.world.state().await.phase("one.test"), Some("draining"));
    story.release(HELD);
    assert_eq!(story.arrives(stuck).await, BTreeSet::from(["one.test/held".to_owned()]));
    let of_aliases = |state: &State| state.ready["MailAlias you"] && state.ready["MailAlias held"];
    story.world.settle("the aliases", |state| state.published.len() == 2 && of_aliases(state)).await;
    for name in ["you", "held"] {
        story.world.delete("Mailbox", name).await;
    }
    let served = |state: &State| state.all_ready(5) && state.published.len() == 2;
    story.world.settle("the other class", served).await;
    let new = story.traffic.send(HELD);
    assert_eq!(story.arrives(new).await, BTreeSet::from(["two.test/sink".to_owned()]));
    story.goes_on(20).await;
    story
}

/// The other cell has no pod here: it shows that the first one serves to the end. What goes from cell to cell is in
/// `tests/postfix/cells.rs`.
async fn other_cell(world: World<'_>) -> Story<'_> {
    let (story, stuck) = domain_with_a_queue(world, json!({})).await;
    story.world.delete("MailDomain", "one").await;
    story.world.apply("MailDomain", "one", domain("one.test", json!({ "cell": "other" }))).await;
    story.world.settle("the drain", |state| state.phase("one.test") == Some("draining")).await;
    story.waits(stuck).await;
    assert_eq!(story.world.state().await.phase("one.test"), Some("draining"));
    assert!(story.rcpt(YOU).await.starts_with("250"));
    story.release(HELD);
    assert_eq!(story.arrives(stuck).await, BTreeSet::from(["one.test/held".to_owned()]));
    let moved = |state: &State| {
        let record = &state.stored["vmail-domain.one.test/record.yaml"];
        state.phase("one.test") == Some("serving") && record.contains("cell: other")
    };
    story.world.settle("the move", moved).await;
    assert!(story.world.state().await.published.is_empty(), "nobody proved it there");
    story
}

/// One tenant's domain is refused by its proof, a Maildir of his is full, and his lists lead to as many addresses as one may.
async fn bad_neighbours(world: World<'_>) -> Story<'_> {
    world.apply("MailDomain", "one", domain("one.test", json!({}))).await;
    world.apply("Mailbox", "you", json!({ "address": YOU })).await;
    world.settle("service", |state| state.all_ready(2)).await;
    let mut story = Story::begin(world, "one.test", &[YOU]).await;
    let since = Instant::now();
    story.apply_other("MailDomain", "two", domain("two.test", json!({}))).await;
    story.apply_other("Mailbox", "full", json!({ "address": "full@two.test" })).await;
    story.until_ready_other("Mailbox", "full").await;

    // A file system of its own, as a quota makes it.
    let pod = story.world.pod.clone();
    let said = tokio::task::spawn_blocking(move || {
        pod.postfix(&["install", "-d", "-o", "2000", "-g", "2000", "-m", "700", "/var/vmail/two.test/full"])
            + &pod.postfix(&[
                "mount",
                "-t",
                "tmpfs",
                "-o",
                "size=4k,nr_inodes=3,uid=2000,gid=2000,mode=700",
                "tmpfs",
                "/var/vmail/two.test/full",
            ])
    });
    assert_eq!(said.await.expect("mounted"), "");
    for _ in 0..30 {
        let number = story.traffic.send("full@two.test");
        story.left.insert(number);
    }
    story
        .until("a full Maildir", async || {
            let log = story.world.pod.log();
            log.lines().any(|line| line.contains("to=<full@two.test>") && line.contains("status=deferred"))
        })
        .await;

    // A message to ten lists is one to 980 addresses, which wait for the DNS.
    for list in 0..11 {
        let targets: Vec<String> = (0..98).map(|n| format!("r{n}x{list}@elsewhere.example")).collect();
        let spec = json!({ "address": format!("list{list}@two.test"), "targets": targets });
        story.apply_other("MailAlias", &format!("list{list}"), spec).await;
    }
    let lists = |count: usize| (0..count).map(|n| format!("list{n}@two.test")).collect::<Vec<_>>();
    story.apply_other("MailAlias", "all", json!({ "address": "all@two.test", "targets": lists(10) })).await;
    story.apply_other("MailAlias", "more", json!({ "address": "more@two.test", "targets": lists(11) })).await;
    story.until_ready_other("MailAlias", "all").await;
    assert!(story.said_other("MailAlias", "more").await.contains("Accepted False AliasTooLarge"));
    for _ in 0..3 {
        story.traffic.send("all@two.test");
    }

    // A domain that its proof fails: nobody answers for postmaster@.
    let without = json!({ "roleAddresses": ["abuse"], "dns": { "managed": false } });
    story.apply_other("MailDomain", "bad", domain("bad.test", without)).await;
    story
        .until("a failed proof", async || story.said_other("MailDomain", "bad").await.contains("ProofFailed"))
        .await;

    // All the while, and from now on, the first tenant's mail arrives.
    story.goes_on(50).await;
    let number = story.traffic.send(YOU);
    story.arrives(number).await;
    story.world.apply("Mailbox", "new", json!({ "address": "new@one.test" })).await;
    story.world.settle("another mailbox", |state| state.all_ready(3)).await;
    story.traffic.stop();
    let not_taken = story
        .traffic
        .sent()
        .iter()
        .filter(|sent| sent.to == YOU && !sent.taken)
        .map(|sent| format!("{sent:?}"))
        .collect::<Vec<_>>();
    story.violations.extend(not_taken);
    story.never_left(since);
    story
}

async fn run(parts: &mut Parts, way: Way) -> Result<String, String> {
    let began = Instant::now();
    let world = World::new(parts).await;
    let rights = ["adopt", "unmanaged"];
    world.configure(
        "tenancy",
        json!({ "rules": [{ "namespaces": ["*"], "domains": ["*"], "rights": rights }] }),
    );
    if way == OtherCell {
        let mut config: Value = serde_json::from_str(&world.config()).expect("JSON");
        let other = json!({ "hostname": "other.us.test", "pod": "vmail-postfix-other-0", "agentPort": 1 });
        config["cells"]["other"] = other;
        world.configure("cells", config["cells"].clone());
    }
    world.start_operator().await;
    let mut story = tell(way, world).await;
    story.traffic.stop();
    story.end(way, began).await
}

/// `VMAIL_FAULTS=all` tells every way, `VMAIL_WAY=<name>` one; otherwise a few.
#[tokio::test(flavor = "multi_thread")]
async fn accepted_mail_is_delivered_whatever_way_a_domain_goes() {
    let only = std::env::var("VMAIL_WAY").ok();
    let mut ways = if all() || only.is_some() { ALL.to_vec() } else { SOME.to_vec() };
    ways.retain(|way| only.as_ref().is_none_or(|only| format!("{way:?}").contains(only)));
    let mut lanes = Lanes::start().await;
    let told = lanes.run(&ways, async |parts: &mut Parts, way: &Way| run(parts, *way).await);
    let (mut table, mut wrong) = (String::new(), Vec::new());
    for (way, told) in ways.iter().zip(told) {
        match told {
            Some(Ok(row)) => table += &(row + "\n"),
            Some(Err(report)) => {
                table += &format!("{}\n", report.lines().next().unwrap_or_default());
                wrong.push(report);
            }
            None => wrong.push(format!("{way:?}: see above")),
        }
    }
    println!(
        "\n### Ways out of service (I1, I2, I4)\n\n| way | sent | taken | delivered | queued | bounced | questions | violations | seconds |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n{table}"
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
