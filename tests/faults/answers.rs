//! Bad answers and bad views: a domain comes in and goes out again while one thing goes wrong. All the while whoever
//! sees its MX must find a Postfix that accepts it, and once the fault is over the end is that of the undisturbed run.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::sleep;

use crate::fault::{Action, Asked, Events, Fault, Side, status};
use crate::lanes::{Lanes, all};
use crate::watch::Watch;
use crate::world::{HOST, Parts, State, World};

/// What goes wrong.
#[derive(Clone, Debug)]
enum Trouble {
    Nothing,
    /// With a request, on the way in and on the way out.
    Request(Fault),
    /// The same, for so long.
    Outage(Fault, Duration),
    /// The operator starts while every request meets this.
    FirstReads(Action),
    /// A list of a resource is answered as it was before the domain was there.
    StaleList(&'static str),
    /// The events of a resource.
    Events(&'static str, Events),
    /// Every watch ends with 410, again and again.
    Expiry,
    /// A kind that this version cannot decode.
    Undecodable,
    /// PowerDNS loses the zone, and gets it back as it was.
    ZoneLost,
    /// Somebody deletes the domain record, or writes this into it.
    RecordDeleted,
    RecordWritten(fn(&str) -> String),
    /// The operator stands still for longer than its lease, and wakes up beside its successor.
    Suspended,
    /// Somebody takes the lease.
    LeaseTaken,
    /// A write to the zone arrives when the operator that sent it is dead, and its successor has finished.
    LateWrite,
}

use Trouble::*;

/// How one run ended.
struct Ended {
    /// With the domain in, and out again.
    states: [State; 2],
    digest: BTreeMap<(String, String), usize>,
    struck: usize,
    asked: usize,
    writes: usize,
    seconds: usize,
    violations: Vec<String>,
}

const LONGER_THAN_A_LEASE: Duration = Duration::from_secs(25);
const PATIENCE: Duration = Duration::from_secs(60);

async fn run(parts: &mut Parts, trouble: &Trouble) -> Ended {
    let began = Instant::now();
    let world = World::new(parts).await;
    let tally = || world.tally.lock().expect("not poisoned");
    let watch = Watch::start(world.dns(), world.pod.clone(), &["one.test", "two.test"]);
    let stale = match trouble {
        StaleList(path) => world.list(&world.path(path)).await,
        _ => String::new(),
    };

    // In.
    if let FirstReads(action) = trouble {
        tally().set_fault(Some(Fault::every(|asked| asked.side == Side::Api, action.clone())));
        world.start_operator().await;
        until("the operator asks", || tally().struck() > 1).await;
        sleep(Duration::from_secs(2)).await;
        tally().set_fault(None);
    } else {
        world.start_operator().await;
    }
    begin(&world, trouble).await;
    world.apply("MailDomain", "one", json!({ "domain": "one.test", "withdrawal": "Immediate" })).await;
    world.apply("Mailbox", "you", json!({ "address": "you@one.test" })).await;
    go_on(&world, trouble).await;
    let what = |way: &str| format!("the way {way} with {trouble:?}");
    let within = world.settle(&what("in"), |state| state.all_ready(2)).await;
    tally().set_fault(None);

    between(&world, trouble, stale).await;
    world.settle(&what("on"), |state| state.all_ready(2)).await;

    // Out.
    begin(&world, trouble).await;
    world.delete("MailDomain", "one").await;
    go_on(&world, trouble).await;
    let gone = |state: &State| state.phase("one.test") == Some("withdrawn") && !state.ready["Mailbox you"];
    let out = world.settle(&what("out"), gone).await;
    tally().set_fault(None);

    let seen = watch.seen();
    let mut violations = seen.violations;
    violations.dedup();
    let ended = world.ended.load(Ordering::Relaxed);
    let may_end = matches!(trouble, LeaseTaken);
    if ended > 0 && !may_end {
        violations.push(format!("the operator ended by itself {ended} times"));
    }
    let (digest, struck, writes) = {
        let tally = tally();
        (tally.digest(), tally.struck(), tally.writes().len())
    };
    drop(watch);
    world.clear().await;
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap_or(usize::MAX);
    Ended { states: [within, out], digest, struck, asked: seen.asked, writes, seconds, violations }
}

/// What goes wrong from here on.
async fn begin(world: &World<'_>, trouble: &Trouble) {
    let mut tally = world.tally.lock().expect("not poisoned");
    match trouble {
        Request(fault) | Outage(fault, _) => tally.set_fault(Some(fault.clone())),
        Events(resource, events) => tally.set_events(Some((*resource, *events))),
        _ => {}
    }
}

/// What happens while something is on its way.
async fn go_on(world: &World<'_>, trouble: &Trouble) {
    let tally = || world.tally.lock().expect("not poisoned");
    match trouble {
        Outage(_, duration) => {
            sleep(*duration).await;
            tally().set_fault(None);
        }
        Events(_, events) => {
            sleep(Duration::from_secs(2)).await;
            tally().set_events(None);
            // A list tells what the events did not. A watch that fell silent must be noticed by itself.
            if *events != Events::Stall {
                tally().expire_watches();
            }
        }
        Expiry => {
            for _ in 0..5 {
                tally().expire_watches();
                tally().strike();
                sleep(Duration::from_millis(300)).await;
            }
        }
        Suspended => {
            let begun = tally().writes().len();
            until("a write", || tally().writes().len() > begun).await;
            world.signal(Signal::SIGSTOP);
            tally().strike();
            let mut first = world.start_second().expect("it ran");
            sleep(LONGER_THAN_A_LEASE).await;
            let pid = nix::unistd::Pid::from_raw(i32::try_from(first.id()).expect("a process id"));
            nix::sys::signal::kill(pid, Signal::SIGCONT).expect("sent");
            until("the first operator ends", || first.try_wait().expect("a state").is_some()).await;
        }
        LeaseTaken => {
            let begun = tally().writes().len();
            until("a write", || tally().writes().len() > begun).await;
            world.take_lease().await;
            tally().strike();
            until("the operator ends", || world.has_ended()).await;
        }
        _ => {}
    }
}

/// What goes wrong while the domain is in, and is over again.
async fn between(world: &World<'_>, trouble: &Trouble, stale: String) {
    let tally = || world.tally.lock().expect("not poisoned");
    let relist = async || {
        let struck = tally().struck();
        tally().expire_watches();
        until("a list", || tally().struck() > struck).await;
        // Whatever came of it has come.
        sleep(Duration::from_secs(2)).await;
    };
    match trouble {
        StaleList(resource) => {
            let applies: fn(&Asked) -> bool = match *resource {
                "maildomains" => |asked| asked.is_list("maildomains"),
                "mailboxes" => |asked| asked.is_list("mailboxes"),
                "configmaps" => |asked| asked.is_list("configmaps"),
                _ => |asked| asked.is_list("pods"),
            };
            tally().set_fault(Some(Fault::every(applies, Action::Answer(200, stale))));
            relist().await;
            tally().set_fault(None);
        }
        Undecodable => {
            let rewrite = Action::Rewrite(r#""class":"Mailbox""#, r#""class":"Later""#);
            tally().set_fault(Some(Fault::every(|asked| asked.path.ends_with("maildomains"), rewrite)));
            relist().await;
            tally().set_fault(None);
            tally().expire_watches();
        }
        ZoneLost => {
            world.lose_zone("one.test", Duration::from_secs(3)).await;
            tally().strike();
        }
        LateWrite => {
            let spec = |dns| json!({ "domain": "one.test", "withdrawal": "Immediate", "dns": dns });
            tally().set_fault(Some(Fault::every(zone_changes, Action::Late)));
            let two =
                json!([{ "host": HOST, "preference": 5 }, { "host": "backup.us.test", "preference": 50 }]);
            world.apply("MailDomain", "one", spec(json!({ "mx": two }))).await;
            until("the write", || tally().struck() > 0).await;
            world.stop_operator();
            world.apply("MailDomain", "one", spec(json!({}))).await;
            world.start_operator().await;
            world.settle("the successor", |state| state.all_ready(2)).await;
            let before = tally().writes().len();
            tally().set_fault(None);
            until("the late write", || tally().writes().len() > before).await;
            let back = |state: &State| state.all_ready(2) && !state.stored["MX one.test"].contains("backup");
            world.settle("the way back", back).await;
        }
        RecordDeleted => {
            world.delete_record("one.test").await;
            tally().strike();
        }
        RecordWritten(edit) => {
            let before = world.edit_record("one.test", edit).await;
            tally().strike();
            sleep(Duration::from_secs(2)).await;
            // What cannot be read is mended by hand.
            if edit(&before).is_empty() {
                world.edit_record("one.test", |_| before.clone()).await;
            }
        }
        _ => {}
    }
}

/// What must be made more often than without: a record that somebody deleted, what a late write was taken back with.
fn more(trouble: &Trouble, method: &str, path: &str) -> usize {
    match trouble {
        RecordDeleted if method == "POST" && path.ends_with("configmaps") => 1,
        LateWrite if path.ends_with("zones/one.test.") => 2,
        _ => 0,
    }
}

pub async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: does not come");
        sleep(Duration::from_millis(5)).await;
    }
}

fn api_writes(asked: &Asked) -> bool {
    asked.side == Side::Api && asked.is_write()
}

fn powerdns(asked: &Asked) -> bool {
    asked.side == Side::PowerDns
}

fn zone_changes(asked: &Asked) -> bool {
    asked.side == Side::PowerDns && asked.is_write()
}

/// Every row of the table: what it is called, and each try of it.
fn rows(writes: usize, every: usize) -> Vec<(String, Vec<Trouble>)> {
    let mut rows = Vec::new();
    let at_each = |applies: fn(&Asked) -> bool, upto: usize, every: usize, action: &Action| {
        let numbers = (1..=upto).step_by(every);
        let fault = |first| Fault { applies, first, count: 1, action: action.clone() };
        numbers.map(|first| Request(fault(first))).collect::<Vec<_>>()
    };
    for (name, action) in [
        ("API server answers 409", status(409)),
        ("API server answers 410", status(410)),
        ("API server answers 429", status(429)),
        ("API server answers 500", status(500)),
        ("API server answers 503", status(503)),
        ("API server never answers", Action::Hang),
        ("API server hangs up", Action::HangUp),
        ("API server hangs up after it wrote", Action::LoseAnswer),
    ] {
        rows.push((format!("{name}, k-th write"), at_each(api_writes, writes, every, &action)));
    }
    let api = |asked: &Asked| asked.side == Side::Api;
    for (name, action) in [("answers 503", status(503)), ("is away", Action::HangUp)] {
        let outage = Outage(Fault::every(api, action), Duration::from_secs(4));
        rows.push((format!("API server {name} for 4 s"), vec![outage]));
    }
    let first_reads = [status(503), Action::HangUp].map(FirstReads).to_vec();
    rows.push(("API server away at the start".to_owned(), first_reads));

    for (name, action) in [
        ("answers 401", Action::Answer(401, "Unauthorized".to_owned())),
        ("answers 404", Action::Answer(404, r#"{"error":"Not Found"}"#.to_owned())),
        ("answers 422", Action::Answer(422, r#"{"error":"made up"}"#.to_owned())),
        ("answers 500", Action::Answer(500, r#"{"error":"Internal Server Error"}"#.to_owned())),
        ("answers garbage", Action::Answer(200, "<html>".to_owned())),
        ("hangs up", Action::HangUp),
        ("never answers", Action::Hang),
    ] {
        rows.push((format!("PowerDNS {name}, k-th request"), at_each(powerdns, 9, every, &action)));
        let outage = Outage(Fault::every(powerdns, action), Duration::from_secs(4));
        rows.push((format!("PowerDNS {name} for 4 s"), vec![outage]));
    }
    for (name, action) in [
        ("says 204 and does nothing", Action::Answer(204, String::new())),
        ("hangs up after it wrote", Action::LoseAnswer),
    ] {
        rows.push((format!("PowerDNS {name}"), at_each(zone_changes, 1, 1, &action)));
    }
    rows.push(("PowerDNS loses the zone for 3 s".to_owned(), vec![ZoneLost]));

    for resource in ["maildomains", "mailboxes", "configmaps", "pods"] {
        rows.push((format!("stale list of {resource}"), vec![StaleList(resource)]));
    }
    for resource in ["maildomains", "mailboxes", "configmaps"] {
        let dropped = [1, 2, 4].map(|count| Events(resource, Events::Drop(count)));
        rows.push((format!("dropped events of {resource}"), dropped.to_vec()));
        let swapped = [1, 4].map(|count| Events(resource, Events::Swap(count)));
        rows.push((format!("reordered events of {resource}"), swapped.to_vec()));
    }
    for resource in ["maildomains", "mailboxes", "configmaps"] {
        rows.push((format!("a silent watch of {resource}"), vec![Events(resource, Events::Stall)]));
    }
    rows.push(("410 in every watch".to_owned(), vec![Expiry]));
    rows.push(("a MailDomain that cannot be decoded".to_owned(), vec![Undecodable]));
    rows.push(("domain record deleted by hand".to_owned(), vec![RecordDeleted]));
    let edits: [fn(&str) -> String; 3] = [
        |_| String::new(),
        |record| record.replace("name: Serving", "name: Leaving").replace("name: serving", "name: leaving"),
        |record| record.replace("confirmed: true", "confirmed: false"),
    ];
    rows.push(("domain record edited by hand".to_owned(), edits.map(RecordWritten).to_vec()));
    rows.push(("operator stopped for longer than its lease".to_owned(), vec![Suspended]));
    rows.push(("late write of a dead leader".to_owned(), vec![LateWrite]));
    rows.push(("lease taken by somebody else".to_owned(), vec![LeaseTaken]));
    rows
}

/// Rows that `make test` tries: one of each kind, and those that found something once.
const REPRESENTATIVE: [&str; 9] = [
    "API server answers 409, k-th write",
    "API server hangs up after it wrote, k-th write",
    "API server answers 503 for 4 s",
    "API server away at the start",
    "PowerDNS answers 404 for 4 s",
    "PowerDNS says 204 and does nothing",
    "stale list of maildomains",
    "a MailDomain that cannot be decoded",
    "domain record deleted by hand",
];

/// What is wrong with a run, beside the one in which nothing goes wrong.
fn judge(trouble: &Trouble, ended: &Ended, reference: &Ended) -> Vec<String> {
    let mut wrong = ended.violations.clone();
    for (way, (undisturbed, state)) in ["in", "out"].iter().zip(reference.states.iter().zip(&ended.states)) {
        if undisturbed != state {
            wrong.push(format!("another end of the way {way}: {}", undisturbed.differences(state)));
        }
    }
    let mut expected = reference.digest.clone();
    for ((method, path), count) in &mut expected {
        *count += more(trouble, method, path);
    }
    if ended.digest != expected {
        wrong.push(format!("{:?} and not {expected:?}", ended.digest));
    }
    wrong.iter().map(|wrong| format!("{trouble:?}: {wrong}")).collect()
}

/// `VMAIL_FAULTS=all` tries every row; `VMAIL_ROW` those that have this in their name.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_answer_or_view_changes_nothing() {
    let only = std::env::var("VMAIL_ROW").ok();
    let chosen = |name: &str| match &only {
        Some(only) => name.contains(only.as_str()),
        None => all() || REPRESENTATIVE.contains(&name),
    };
    let mut lanes = Lanes::start().await;
    let try_out = async |parts: &mut Parts, trouble: &Trouble| run(parts, trouble).await;
    let reference = lanes.run(&[Nothing], try_out).remove(0).expect("see above");
    assert_eq!(reference.violations, Vec::<String>::new());
    let mut rows = rows(reference.writes, if all() { 3 } else { 8 });
    rows.retain(|(name, _)| chosen(name));
    let troubles: Vec<Trouble> = rows.iter().flat_map(|(_, troubles)| troubles.clone()).collect();
    let mut ended = lanes.run(&troubles, try_out).into_iter();

    let (mut table, mut wrong) = (String::new(), Vec::new());
    for (name, troubles) in rows {
        let (tries, mut runs, mut violations) = (troubles.len(), Vec::new(), Vec::new());
        for (trouble, ended) in troubles.iter().zip(&mut ended) {
            match ended {
                Some(ended) => {
                    violations.extend(judge(trouble, &ended, &reference));
                    runs.push(ended);
                }
                None => violations.push(format!("{trouble:?}: see above")),
            }
        }
        let sum = |number: fn(&Ended) -> usize| runs.iter().map(number).sum::<usize>();
        let (struck, asked, seconds) = (sum(|e| e.struck), sum(|e| e.asked), sum(|e| e.seconds));
        if struck == 0 {
            violations.push(format!("{name}: nothing was done to anything"));
        }
        table += &format!("| {name} | {tries} | {struck} | {asked} | {} | {seconds} |\n", violations.len());
        wrong.extend(violations);
    }
    println!(
        "\n### Bad answers and bad views (I1, I3, I7)\n\n| fault | runs | struck | questions | violations | seconds |\n|---|--:|--:|--:|--:|--:|\n{table}"
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
