//! What is measured of one number of mailboxes, on parts of its own.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::objects;
use crate::operator::Operator;
use crate::page::{quantile, step};
use crate::world::{PATIENCE, World};

/// Mailboxes that are applied at once.
pub const BURST: usize = 10_000;
/// Single changes whose medians are told.
pub const CHANGES: usize = 7;

/// What is done.
pub struct Plan {
    pub mailboxes: usize,
    pub domains: usize,
    /// For so long nothing is done, and nothing may happen.
    pub silence: Duration,
    /// Whether [`BURST`] mailboxes are applied at once in the end.
    pub burst: bool,
}

/// CPU time and memory of the operator, in MiB.
#[derive(Clone, Copy, Debug)]
pub struct Took {
    pub cpu: Duration,
    pub rss: f64,
    pub peak: f64,
}

#[derive(Debug)]
pub struct Measured {
    pub mailboxes: usize,
    pub domains: usize,
    pub cold_start: ColdStart,
    pub restart: Restart,
    pub change: Change,
    pub silence: Silence,
    pub burst: Option<Burst>,
    /// From mounted to live, the longest of all revisions but the very first, with which Postfix starts.
    pub longest_to_live: Duration,
}

/// The operator starts where objects are, and nothing else.
#[derive(Debug)]
pub struct ColdStart {
    /// Until all tables are written.
    pub tables: Duration,
    pub tables_took: Took,
    /// From mounted to live; Postfix starts, too.
    pub live: Duration,
    /// Until every status is written.
    pub statuses: Duration,
    pub statuses_took: Took,
    pub rounds: usize,
    pub written: usize,
}

/// The operator starts where all is done.
#[derive(Debug)]
pub struct Restart {
    pub known: Duration,
    pub took: Took,
    pub writes: usize,
    pub config_maps: usize,
}

/// One mailbox more; each the median of several.
#[derive(Debug)]
pub struct Change {
    pub cpu: Duration,
    pub agent_cpu: Duration,
    pub config_maps: usize,
    pub bytes: usize,
    pub statuses: usize,
    pub ready: Duration,
    pub live: Duration,
}

#[derive(Debug)]
pub struct Silence {
    pub lasted: Duration,
    pub writes: usize,
    pub reloads: usize,
    pub cpu: Duration,
    pub agent_cpu: Duration,
    /// Memory of the operator and of the agent, in MiB.
    pub rss: f64,
    pub agent_rss: f64,
}

/// [`BURST`] mailboxes at once.
#[derive(Debug)]
pub struct Burst {
    pub created: Duration,
    pub ready: Duration,
    pub rounds: usize,
    pub statuses: usize,
    pub took: Took,
}

pub async fn measure(plan: &Plan) -> Measured {
    let Plan { mailboxes, domains, .. } = *plan;
    let now = |what: &str| step(&format!("{mailboxes} mailboxes in {domains} domains: {what}"));
    now("create");
    let mut world = World::start(domains).await;
    world.have(mailboxes).await;
    now("cold start");
    let cold_start = world.cold_start().await;
    now("restart");
    let (operator, restart) = world.restart().await;
    now("changes");
    let change = world.changes(&operator).await;
    now("silence");
    let silence = world.silence(&operator, plan.silence).await;
    let mut burst = None;
    if plan.burst {
        now("burst");
        burst = Some(world.burst(&operator).await);
    }
    let longest_to_live = world.cell.longest_to_live().max(change.live);
    Measured { mailboxes, domains, cold_start, restart, change, silence, burst, longest_to_live }
}

fn took(operator: &Operator) -> Took {
    let process = operator.process;
    Took { cpu: process.cpu(), rss: process.memory("VmRSS"), peak: process.memory("VmHWM") }
}

impl World {
    async fn cold_start(&self) -> ColdStart {
        let began = Instant::now();
        let operator = self.operator().await;
        while operator.rounds() == 0 {
            assert!(began.elapsed() < PATIENCE, "no tables:\n{}", operator.log());
            sleep(Duration::from_millis(20)).await;
        }
        let (tables, tables_took) = (began.elapsed(), took(&operator));
        let (since, counts) = self.converged(&operator).await;
        ColdStart {
            tables,
            tables_took,
            live: self.cell.longest_to_live(),
            statuses: since - began,
            statuses_took: took(&operator),
            rounds: operator.rounds(),
            written: counts.statuses,
        }
    }

    async fn restart(&self) -> (Operator, Restart) {
        let before = self.tables().await;
        let began = Instant::now();
        let operator = self.operator().await;
        while operator.counts().await.ready != self.mailboxes {
            assert!(began.elapsed() < PATIENCE, "not ready:\n{}", operator.log());
            sleep(Duration::from_millis(20)).await;
        }
        let known = began.elapsed();
        let (_, counts) = self.converged(&operator).await;
        let config_maps = self.written(&before).await.0;
        let restart = Restart { known, took: took(&operator), writes: counts.writes, config_maps };
        (operator, restart)
    }

    async fn changes(&mut self, operator: &Operator) -> Change {
        let mut all = Vec::new();
        self.cell.longest_to_live();
        for _ in 0..CHANGES {
            let (before, counts) = (self.tables().await, operator.counts().await);
            let (cpu, agent_cpu) = (operator.process.cpu(), self.cell.agent().cpu());
            let began = Instant::now();
            self.have(self.mailboxes + 1).await;
            objects::ready(&self.server.client, self.mailboxes - 1, self.domains).await;
            let ready = began.elapsed();
            let (_, after) = self.converged(operator).await;
            let (cpu, agent_cpu) = (operator.process.cpu() - cpu, self.cell.agent().cpu() - agent_cpu);
            let (config_maps, bytes) = self.written(&before).await;
            let statuses = after.statuses - counts.statuses;
            let live = self.cell.longest_to_live();
            all.push(Change { cpu, agent_cpu, config_maps, bytes, statuses, ready, live });
        }
        let time = |of: fn(&Change) -> Duration| quantile(&all.iter().map(of).collect::<Vec<_>>(), 0.5);
        let count = |of: fn(&Change) -> usize| {
            let mut counts: Vec<usize> = all.iter().map(of).collect();
            counts.sort_unstable();
            counts[CHANGES / 2]
        };
        Change {
            cpu: time(|change| change.cpu),
            agent_cpu: time(|change| change.agent_cpu),
            config_maps: count(|change| change.config_maps),
            bytes: count(|change| change.bytes),
            statuses: count(|change| change.statuses),
            ready: time(|change| change.ready),
            live: time(|change| change.live),
        }
    }

    async fn silence(&self, operator: &Operator, lasted: Duration) -> Silence {
        let (counts, reloads) = (operator.counts().await, self.cell.reloads());
        let (cpu, agent_cpu) = (operator.process.cpu(), self.cell.agent().cpu());
        sleep(lasted).await;
        let (cpu, agent_cpu) = (operator.process.cpu() - cpu, self.cell.agent().cpu() - agent_cpu);
        Silence {
            lasted,
            writes: operator.counts().await.writes - counts.writes,
            reloads: self.cell.reloads() - reloads,
            cpu,
            agent_cpu,
            rss: operator.process.memory("VmRSS"),
            agent_rss: self.cell.agent().memory("VmRSS"),
        }
    }

    async fn burst(&mut self, operator: &Operator) -> Burst {
        let (rounds, cpu, counts) = (operator.rounds(), operator.process.cpu(), operator.counts().await);
        let began = Instant::now();
        self.have(self.mailboxes + BURST).await;
        let created = began.elapsed();
        let (since, after) = self.converged(operator).await;
        let took = took(operator);
        Burst {
            created,
            ready: since - began,
            rounds: operator.rounds() - rounds,
            statuses: after.statuses - counts.statuses,
            took: Took { cpu: took.cpu - cpu, ..took },
        }
    }
}
