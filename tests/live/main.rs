//! Faults on a live cluster: pods, programs, volumes and objects are killed and spoilt while a client sends mail
//! without end. Every message that was answered 250 is found in a Maildir, no valid recipient is refused for good, no MX
//! leaves DNS or stands for a domain that is refused, and after each fault everything comes right by itself.
//!
//! `VMAIL_FAULTS` is empty for a representative part, `all`, or a part of the names of those to try.
#![allow(missing_docs)]

#[path = "../e2e/cluster.rs"]
#[allow(dead_code)]
mod cluster;
mod faults;
#[path = "../e2e/smtp.rs"]
mod smtp;
mod traffic;
mod world;

use std::time::Instant;

use faults::{FAULTS, Fault};
use world::{SERVED, World};

#[test]
fn nothing_is_lost() {
    let wanted = std::env::var("VMAIL_FAULTS").unwrap_or_default();
    let chosen = |fault: &&Fault| match wanted.as_str() {
        "" => fault.brief,
        "all" => true,
        part => fault.name.contains(part),
    };
    let began = Instant::now();
    let world = World::new();
    println!("{:6.1} s  the cluster is up, and two domains are served", began.elapsed().as_secs_f64());
    let rows = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| world.send());
        }
        scope.spawn(|| world.watch());
        let rows: Vec<String> =
            FAULTS.iter().filter(chosen).map(|fault| try_fault(&world, fault, &wanted)).collect();
        world.end();
        rows
    });
    println!(
        "\n| fault | times | sent | accepted | 4xx | no answer | 5xx | delivered | duplicates | queued | lost | violations |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    rows.iter().for_each(|row| println!("{row}"));
    assert!(!rows.is_empty(), "no fault is called {wanted}");
    assert!(world.violations().is_empty(), "{:#?}", world.violations());
}

fn try_fault(world: &World, fault: &Fault, wanted: &str) -> String {
    let times = if wanted.is_empty() { 1 } else { fault.times };
    let (start, violations, began) = (world.ledger.count(), world.violations().len(), Instant::now());
    let serials = || SERVED.map(|(zone, _)| world.serial(zone));
    let before = serials();
    for _ in 0..times {
        for step in [fault.run, World::converge] {
            if let Err(error) = step(world) {
                world.violation(format!("{}: {error}", fault.name));
            }
        }
    }
    let after = serials();
    if before != after {
        world.violation(format!("{}: the zones changed from {before:?} to {after:?}", fault.name));
    }
    let count = world.count(start).unwrap_or_else(|error| {
        world.violation(format!("{}: {error}", fault.name));
        world::Count::default()
    });
    let row = format!(
        "| {} | {times} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
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
        world.violations().len() - violations,
    );
    println!("{:6.1} s  {row}", began.elapsed().as_secs_f64());
    count.said.iter().for_each(|(said, times)| println!("         {times:4} times {said}"));
    row
}
