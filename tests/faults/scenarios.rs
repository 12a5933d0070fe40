//! What happens, and what must be true in the end.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::json;

use crate::proxy::Moment;
use crate::watch::Watch;
use crate::world::{Parts, State, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scenario {
    FirstDomain,
    SecondDomain,
    ChangedMailbox,
    ChangedAlias,
    CatchAllSwitched,
    MxListChanged,
    AdoptedMx,
    NoLongerManaged,
    DeletedDomain,
    TakenOutOfService,
    RecreatedWhileItDrains,
    ChangedConfiguration,
    GrownTables,
}

use Scenario::*;

/// So many lists of 13 KB do not fit into one ConfigMap.
const LISTS: usize = 45;

const ALL: [Scenario; 13] = [
    FirstDomain,
    SecondDomain,
    ChangedMailbox,
    ChangedAlias,
    CatchAllSwitched,
    MxListChanged,
    AdoptedMx,
    NoLongerManaged,
    DeletedDomain,
    TakenOutOfService,
    RecreatedWhileItDrains,
    ChangedConfiguration,
    GrownTables,
];

impl Scenario {
    /// What is there before.
    async fn prepare(self, world: &World<'_>) {
        if self == AdoptedMx {
            world.foreign_mx("one.test").await;
        }
        if [FirstDomain, AdoptedMx].contains(&self) {
            return;
        }
        let withdrawal =
            if [DeletedDomain, TakenOutOfService].contains(&self) { "Immediate" } else { "WaitForTTL" };
        world.apply("MailDomain", "one", json!({ "domain": "one.test", "withdrawal": withdrawal })).await;
        world.apply("Mailbox", "you", json!({ "address": "you@one.test" })).await;
        world
            .apply("MailAlias", "list", json!({ "address": "list@one.test", "targets": ["you@one.test"] }))
            .await;
        world.settle("the first domain", |state| state.all_ready(3)).await;
        if self == RecreatedWhileItDrains {
            world.delete("MailDomain", "one").await;
            world.settle("the drain", |state| state.phase("one.test") == Some("draining")).await;
        }
    }

    /// What is done.
    async fn act(self, world: &World<'_>) {
        let first = |field: serde_json::Value| {
            let mut spec = json!({ "domain": "one.test" });
            spec.as_object_mut().expect("a map").extend(field.as_object().expect("a map").clone());
            spec
        };
        match self {
            FirstDomain => {
                world.apply("MailDomain", "one", first(json!({}))).await;
                world.apply("Mailbox", "you", json!({ "address": "you@one.test" })).await;
            }
            SecondDomain => world.apply("MailDomain", "two", json!({ "domain": "two.test" })).await,
            // An address cannot be changed: whoever wants another one makes another Mailbox.
            ChangedMailbox => {
                world.apply("Mailbox", "new", json!({ "address": "new@one.test" })).await;
                world.delete("Mailbox", "you").await;
            }
            ChangedAlias => {
                let spec =
                    json!({ "address": "list@one.test", "targets": ["you@one.test", "x@elsewhere.example"] });
                world.apply("MailAlias", "list", spec).await;
            }
            CatchAllSwitched => {
                world.apply("MailDomain", "one", first(json!({ "catchAll": "you@one.test" }))).await
            }
            MxListChanged => {
                let mx = json!([{ "host": "mail.us.test", "preference": 5 }, { "host": "backup.us.test", "preference": 50 }]);
                world.apply("MailDomain", "one", first(json!({ "dns": { "mx": mx } }))).await;
            }
            AdoptedMx => world.apply("MailDomain", "one", first(json!({ "dns": { "adopt": true } }))).await,
            NoLongerManaged => {
                world.apply("MailDomain", "one", first(json!({ "dns": { "managed": false } }))).await
            }
            DeletedDomain => world.delete("MailDomain", "one").await,
            TakenOutOfService => world.order_withdrawal("one.test").await,
            RecreatedWhileItDrains => world.apply("MailDomain", "one", first(json!({}))).await,
            // Large lists, so that it takes few writes.
            GrownTables => {
                for list in 0..LISTS {
                    let target =
                        |target: usize| format!("{}{target}@{}.example", "x".repeat(50), "y".repeat(60));
                    let targets: Vec<String> = (0..100).map(target).collect();
                    let spec = json!({ "address": format!("list{list}@one.test"), "targets": targets });
                    world.apply("MailAlias", &format!("list{list}"), spec).await;
                }
            }
            // What an upgrade of the chart does.
            ChangedConfiguration => {
                world.stop_operator();
                world.configure("postfix", json!({ "messageSizeLimit": 20000000 }));
                world.start_operator().await;
            }
        }
    }

    /// Whether it came to its end.
    fn done(self, state: &State) -> bool {
        match self {
            FirstDomain => state.all_ready(2),
            SecondDomain => state.all_ready(4),
            AdoptedMx => state.all_ready(1),
            MxListChanged => state.all_ready(3) && state.stored["MX one.test"].contains("backup"),
            NoLongerManaged => state.all_ready(3) && state.published.is_empty(),
            ChangedMailbox => {
                state.ready.get("Mailbox new") == Some(&true)
                    && state.stored["MailAlias list"].contains("TargetNotFound")
            }
            GrownTables => {
                let shards = state.stored.keys().filter(|key| key.starts_with("vmail-default-shard-"));
                let small = state.stored.contains_key("vmail-default-tables/domains");
                state.all_ready(3 + LISTS) && shards.count() > 64 && !small
            }
            ChangedConfiguration => {
                state.all_ready(3) && state.stored["vmail-default-index/main.cf"].contains("20000000")
            }
            ChangedAlias | CatchAllSwitched | RecreatedWhileItDrains => state.all_ready(3),
            DeletedDomain | TakenOutOfService => state.phase("one.test") == Some("withdrawn"),
        }
    }
}

/// How one run ended.
struct Ended {
    state: State,
    digest: BTreeMap<(String, String), usize>,
    writes: usize,
    killed: usize,
    asked: usize,
    violations: Vec<String>,
}

async fn run(parts: &mut Parts, scenario: Scenario, fatal: Option<(usize, Moment)>) -> Ended {
    let world = World::start(parts).await;
    let watch = Watch::start(world.dns(), world.pod.clone(), &["one.test", "two.test"]);
    scenario.prepare(&world).await;
    let before = world.tally.lock().expect("not poisoned").writes().len();
    let digest_before = world.tally.lock().expect("not poisoned").digest();
    world.tally.lock().expect("not poisoned").arm(fatal);
    scenario.act(&world).await;
    let state = world.settle(&format!("{scenario:?} with {fatal:?}"), |state| scenario.done(state)).await;
    let (digest, writes) = {
        let tally = world.tally.lock().expect("not poisoned");
        let mut digest = tally.digest();
        for (key, count) in digest_before {
            *digest.entry(key).or_default() -= count;
        }
        digest.retain(|_, count| *count > 0);
        (digest, tally.writes().len() - before)
    };
    let killed = *world.killed.lock().expect("not poisoned");
    // Converged means silent, and a restart writes nothing.
    let silent = world.tally.lock().expect("not poisoned").writes().len();
    let mut violations = watch.seen().violations;
    world.stop_operator();
    world.start_operator().await;
    world.settle("silence", |state| scenario.done(state)).await;
    let after: Vec<_> = world.tally.lock().expect("not poisoned").writes()[silent..].to_vec();
    if !after.is_empty() {
        violations.push(format!("a restart wrote {after:?}"));
    }
    violations.extend(watch.seen().violations);
    violations.dedup();
    let asked = watch.seen().asked;
    drop(watch);
    world.clear().await;
    Ended { state, digest, writes, killed, asked, violations }
}

/// Every write of a scenario, or a few of them.
async fn crash(parts: &mut Parts, scenario: Scenario, every: usize) -> Result<String, String> {
    let began = Instant::now();
    let reference = run(parts, scenario, None).await;
    let mut wrong: Vec<String> = reference.violations.clone();
    let (mut runs, mut asked) = (1, reference.asked);
    for number in (1..=reference.writes).step_by(every) {
        for moment in [Moment::Before, Moment::After] {
            let ended = run(parts, scenario, Some((number, moment))).await;
            runs += 1;
            asked += ended.asked;
            let at = format!("{scenario:?}, {moment:?} write {number} of {}", reference.writes);
            // How many statuses are written depends on what is seen together.
            if ended.killed == 0 && ended.writes >= number {
                wrong.push(format!("{at}: it was not killed"));
            }
            wrong.extend(ended.violations.iter().map(|violation| format!("{at}: {violation}")));
            if ended.state != reference.state {
                let differs = reference.state.differences(&ended.state);
                wrong.push(format!("{at}: another end: {differs}"));
            }
            if ended.digest != reference.digest {
                wrong.push(format!("{at}: {:?} and not {:?}", ended.digest, reference.digest));
            }
        }
    }
    let row = format!(
        "{:<24} {:>3} writes {:>4} runs {:>6} questions {:>3} violations {:>5} s",
        format!("{scenario:?}"),
        reference.writes,
        runs,
        asked,
        wrong.len(),
        began.elapsed().as_secs()
    );
    if wrong.is_empty() { Ok(row) } else { Err(format!("{row}\n{}", wrong.join("\n"))) }
}

/// `VMAIL_FAULTS=all` tries every write of every scenario; otherwise a few of some.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_write_changes_nothing() {
    let all = std::env::var("VMAIL_FAULTS").is_ok_and(|value| value == "all");
    let only = std::env::var("VMAIL_SCENARIO").ok();
    let mut parts = Parts::start().await;
    let mut failed = 0;
    let scenarios: &[Scenario] = if all || only.is_some() { &ALL } else { &[FirstDomain, DeletedDomain] };
    for scenario in scenarios {
        if only.as_ref().is_some_and(|only| *only != format!("{scenario:?}")) {
            continue;
        }
        match crash(&mut parts, *scenario, if all { 1 } else { 4 }).await {
            Ok(row) => println!("{row}"),
            Err(report) => {
                println!("{report}");
                failed += 1;
            }
        }
    }
    assert_eq!(failed, 0, "scenarios with violations, see above");
}
