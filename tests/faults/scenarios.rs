//! What happens, and what must be true in the end.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::json;

use crate::lanes::{Lanes, all};
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

/// A scenario with more writes than this, of many shards that are alike, has the operator die at so many of them.
const MOST: usize = 24;

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
    seconds: usize,
    violations: Vec<String>,
}

async fn run(parts: &mut Parts, scenario: Scenario, fatal: Option<(usize, Moment)>) -> Ended {
    let began = Instant::now();
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
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap_or(usize::MAX);
    Ended { state, digest, writes, killed, asked, seconds, violations }
}

/// A run, and the write at which the operator dies in it.
type Job = (Scenario, Option<(usize, Moment)>);

/// What is wrong with a run, beside the one without a crash.
fn judge((scenario, fatal): Job, ended: &Ended, reference: &Ended) -> Vec<String> {
    let mut wrong = ended.violations.clone();
    // How many statuses are written depends on what is seen together.
    if ended.killed == 0 && fatal.is_some_and(|(number, _)| ended.writes >= number) {
        wrong.push("it was not killed".to_owned());
    }
    if ended.state != reference.state {
        wrong.push(format!("another end: {}", reference.state.differences(&ended.state)));
    }
    if ended.digest != reference.digest {
        wrong.push(format!("{:?} and not {:?}", ended.digest, reference.digest));
    }
    wrong.iter().map(|wrong| format!("{scenario:?}, {fatal:?} of {}: {wrong}", reference.writes)).collect()
}

/// `VMAIL_FAULTS=all` tries every write of every scenario (of [`GrownTables`] one in a few), otherwise a few of some; `VMAIL_SCENARIO` those of one.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_write_changes_nothing() {
    let only = std::env::var("VMAIL_SCENARIO").ok();
    let scenarios: &[Scenario] = if all() || only.is_some() { &ALL } else { &[FirstDomain, DeletedDomain] };
    let chosen = |scenario: &&Scenario| only.as_ref().is_none_or(|only| *only == format!("{scenario:?}"));
    let scenarios: Vec<Scenario> = scenarios.iter().filter(chosen).copied().collect();

    let mut lanes = Lanes::start().await;
    let try_out = async |parts: &mut Parts, (scenario, fatal): &Job| run(parts, *scenario, *fatal).await;
    let undisturbed: Vec<Job> = scenarios.iter().map(|scenario| (*scenario, None)).collect();
    let references: Vec<Ended> =
        lanes.run(&undisturbed, try_out).into_iter().map(|ended| ended.expect("see above")).collect();
    let crashes = scenarios.iter().zip(&references).flat_map(|(scenario, reference)| {
        let every = if all() { reference.writes.div_ceil(MOST) } else { 4 };
        let numbers = (1..=reference.writes).step_by(every);
        numbers.flat_map(|number| {
            [Moment::Before, Moment::After].map(|moment| (*scenario, Some((number, moment))))
        })
    });
    let crashes: Vec<Job> = crashes.collect();
    let ended = lanes.run(&crashes, try_out);

    let (mut table, mut wrong) = (String::new(), Vec::new());
    for (scenario, reference) in scenarios.iter().zip(&references) {
        let mut runs = vec![reference];
        let mut violations = reference.violations.clone();
        for (job, ended) in crashes.iter().zip(&ended).filter(|((of, _), _)| of == scenario) {
            match ended {
                Some(ended) => {
                    runs.push(ended);
                    violations.extend(judge(*job, ended, reference));
                }
                None => violations.push(format!("{job:?}: see above")),
            }
        }
        let asked: usize = runs.iter().map(|ended| ended.asked).sum();
        let seconds: usize = runs.iter().map(|ended| ended.seconds).sum();
        let (writes, runs) = (reference.writes, runs.len());
        table +=
            &format!("| {scenario:?} | {writes} | {runs} | {asked} | {} | {seconds} |\n", violations.len());
        wrong.extend(violations);
    }
    println!(
        "\n### Crash at every write (I1, I3, I7)\n\n| scenario | writes | runs | questions | violations | seconds |\n|---|--:|--:|--:|--:|--:|\n{table}"
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
