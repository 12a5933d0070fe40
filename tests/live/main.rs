//! Faults on a live cluster: pods, programs, volumes and objects are killed and spoilt while a client sends mail
//! without end. Every message that was answered 250 is found in a Maildir, no valid recipient is refused for good, no MX
//! leaves DNS or stands for a domain that is refused, and after each fault everything comes right by itself.
//!
//! `VMAIL_FAULTS` is empty for a representative part, `all`, or parts of the names of those to try, with commas between.
//! `VMAIL_CLUSTERS` is how many clusters share them out among themselves, one if it is not set.
#![allow(missing_docs)]

#[path = "../e2e/cluster.rs"]
#[allow(dead_code)]
mod cluster;
mod faults;
#[path = "../e2e/smtp.rs"]
mod smtp;
mod traffic;
mod versions;
mod world;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use faults::{FAULTS, Fault};
use world::{SERVED, World};

/// Lines of the table, each with its place in the list, and what was violated.
type Outcome = (Vec<(usize, String)>, Vec<String>);

#[test]
fn nothing_is_lost() {
    let wanted = std::env::var("VMAIL_FAULTS").unwrap_or_default();
    let chosen = |fault: &&Fault| match wanted.as_str() {
        "" => fault.brief,
        "all" => true,
        parts => parts.split(',').any(|part| fault.name.contains(part)),
    };
    let chosen: Vec<&Fault> = FAULTS.iter().filter(chosen).collect();
    assert!(!chosen.is_empty(), "no fault is called {wanted}");
    let clusters = std::env::var("VMAIL_CLUSTERS").map_or(1, |n| n.parse().expect("a number"));
    let next = AtomicUsize::new(0);
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let name = |n: usize| if n == 0 { "live".to_owned() } else { format!("live{}", n + 1) };
        let start = |n| {
            scope.spawn({
                let (chosen, next) = (&chosen, &next);
                move || try_faults(&name(n), chosen, next)
            })
        };
        let started: Vec<_> = (0..clusters).map(start).collect();
        started.into_iter().map(|thread| thread.join().expect("it says what is wrong above")).collect()
    });
    let (rows, violations): (Vec<_>, Vec<_>) = outcomes.into_iter().unzip();
    let (mut rows, violations) = (rows.concat(), violations.concat());
    rows.sort();
    println!(
        "\n### A live cluster (I1, I2, I3)\n\n| fault | times | seconds | sent | accepted | 4xx | no answer | 5xx | delivered | duplicates | queued | lost | violations |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    rows.iter().for_each(|(_, row)| println!("{row}"));
    assert!(violations.is_empty(), "{violations:#?}");
}

/// Takes one fault after the other, as long as there are any, to a cluster of its own.
fn try_faults(name: &str, chosen: &[&Fault], next: &AtomicUsize) -> Outcome {
    let began = Instant::now();
    let world = World::new(name);
    println!("{:6.1} s  the cluster {name} is up, and two domains are served", began.elapsed().as_secs_f64());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| world.send());
        }
        scope.spawn(|| world.watch());
        // Also when the harness fails: the threads would hold it up for ever.
        let _over = world.until_dropped();
        let mut rows = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(fault) = chosen.get(number) else { return (rows, world.violations()) };
            rows.push((number, try_fault(&world, fault)));
        }
    })
}

fn try_fault(world: &World, fault: &Fault) -> String {
    let times = if std::env::var_os("VMAIL_FAULTS").is_none() { 1 } else { fault.times };
    let (start, violations, began) = (world.ledger.count(), world.violations().len(), Instant::now());
    let serials = || SERVED.map(|(zone, _)| world.serial(zone));
    let before = serials();
    for _ in 0..times {
        for step in [fault.run, World::converge] {
            if let Err(error) = step(world) {
                world.violation(format!("{}: {error}; {}", fault.name, world.cluster.summary()));
            }
        }
    }
    let after = serials();
    if before != after && !world.dns_is_free(false) {
        world.violation(format!("{}: the zones changed from {before:?} to {after:?}", fault.name));
    }
    let count = world.count(start).unwrap_or_else(|error| {
        world.violation(format!("{}: {error}", fault.name));
        world::Count::default()
    });
    let violations = world.violations().len() - violations;
    if violations > 0 {
        world.cluster.tell();
    }
    let seconds = began.elapsed().as_secs();
    let row = format!(
        "| {} | {times} | {seconds} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {violations} |",
        fault.name,
        count.sent,
        count.accepted,
        count.later,
        count.unanswered,
        count.refused,
        count.delivered,
        count.duplicates,
        count.queued,
        count.lost,
    );
    println!("{:6} {row}", world.cluster.name());
    count.told().iter().for_each(|line| println!("         {line}"));
    row
}
