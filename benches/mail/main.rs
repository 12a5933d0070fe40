#![allow(missing_docs)]
//! Mail through the pod and through the same Postfix set up by hand: throughput, with and without changes of the tables,
//! memory, and the time in which a change is live. Needs root.
//!
//! `VMAIL_BENCH_ROUNDS` names another number of rounds.

mod by_hand;
mod load;
#[path = "../page.rs"]
#[allow(dead_code)]
mod page;
#[path = "../../tests/postfix/pod.rs"]
#[allow(dead_code)]
mod pod;
mod processes;
#[path = "../../tests/postfix/revision.rs"]
#[allow(dead_code)]
mod revision;
mod tables;

use std::time::{Duration, Instant};

use load::{CLIENTS, DOMAINS, LENGTH, MESSAGES, Round, SESSIONS};
use page::{part, quantile, step, table};
use pod::{PATIENCE, Pod, TOKEN, Volumes, meanwhile};
use processes::Memory;
use tables::{IN_EACH, Tables};

/// Rounds of each kind, unless another number is asked for.
const ROUNDS: usize = 5;
/// Single changes whose median is told.
const CHANGES: usize = 7;
/// Domains of the larger pod.
const MANY: usize = 1000;

fn main() {
    let mut tables = Tables::new(DOMAINS);
    let pod = serve(&tables);
    let at_rest = Memory::of(&pod);
    throughput(&pod, &mut tables);
    let mut sizes = vec![Size::of(DOMAINS, at_rest, &pod, &mut tables)];
    drop(pod);

    step(&format!("{} mailboxes", MANY * IN_EACH));
    let mut tables = Tables::new(MANY);
    let pod = serve(&tables);
    sizes.push(Size::of(MANY, Memory::of(&pod), &pod, &mut tables));
    small_and_fast(&sizes);
}

/// The pod, once these tables are live.
fn serve(tables: &Tables) -> Pod {
    let volumes = Volumes::new();
    tables.mount(&volumes.revision());
    let pod = Pod::start(volumes, &[]);
    pod.wait_for_live(tables.revision());
    pod
}

/// Mounts the tables, and waits until the agent says that they are live.
fn install(pod: &Pod, tables: &Tables) -> Duration {
    let mut report = pod.report().expect("a report");
    tables.mount(&pod.volumes.revision());
    let began = Instant::now();
    while report.revision.as_deref() != Some(tables.revision()) {
        assert!(began.elapsed() < PATIENCE, "not live: {report:#?}");
        let after = format!("/v1/status?after={}", report.etag());
        let (_, body) = pod.get(&after, Some(TOKEN)).expect("an answer");
        report = serde_json::from_str(&body).expect("a report");
    }
    began.elapsed()
}

/// Does one thing, and another once a second meanwhile.
fn every_second<T>(mut change: impl FnMut() + Send, once: impl FnOnce() -> T) -> T {
    let mut due = Instant::now();
    let again = || {
        if Instant::now() < due {
            std::thread::sleep(Duration::from_millis(10));
            return;
        }
        due += Duration::from_secs(1);
        change();
    };
    meanwhile(again, once)
}

fn throughput(pod: &Pod, tables: &mut Tables) {
    let hand = by_hand::start(tables);
    for pod in [pod, &hand] {
        load::prepare(pod);
        step("a first round, which makes the Maildirs");
        load::round(pod);
    }
    let mut by_hand = Tables::new(DOMAINS);
    let mut revisions = Vec::new();
    let mut rounds: [Vec<Round>; 4] = Default::default();
    let asked = std::env::var("VMAIL_BENCH_ROUNDS").ok();
    for round in 0..asked.map_or(ROUNDS, |text| text.parse().expect("a number")) {
        let mut order = [0, 1, 2, 3];
        if round % 2 == 1 {
            order.reverse();
        }
        for kind in order {
            let done = match kind {
                0 => load::round(pod),
                1 => load::round(&hand),
                2 => {
                    let change = || {
                        tables.grow();
                        tables.mount(&pod.volumes.revision());
                        revisions.push(tables.revision().to_owned());
                    };
                    let done = every_second(change, || load::round(pod));
                    pod.wait_for_live(tables.revision());
                    done
                }
                _ => {
                    let change = || {
                        by_hand.grow();
                        by_hand::compile(&hand, &by_hand);
                    };
                    every_second(change, || load::round(&hand))
                }
            };
            step(&format!("round {round}, {}: {}", KINDS[kind], rate(done.delivered)));
            rounds[kind].push(done);
        }
    }
    let live = live(pod, &revisions);
    let refused = [pod, &hand].map(load::refusals);
    tell_throughput(&rounds, (live, revisions.len()), refused);
    assert_eq!(refused, [0, 0], "answers or deliveries that failed");
}

const KINDS: [&str; 4] =
    ["the pod", "by hand", "the pod, a new revision each second", "by hand, `postmap` each second"];

/// How many of these revisions the agent's log has as live.
fn live(pod: &Pod, revisions: &[String]) -> usize {
    let log = pod.log();
    let live: Vec<&str> =
        log.lines().filter(|line| line.contains("live") && line.contains("milliseconds")).collect();
    revisions.iter().filter(|revision| live.iter().any(|line| line.contains(revision.as_str()))).count()
}

fn tell_throughput(rounds: &[Vec<Round>; 4], (live, mounted): (usize, usize), refused: [usize; 2]) {
    part(
        "Mail throughput",
        &format!(
            "The pod, and the same Postfix out of the same image, with the same capabilities and on the same kinds of volumes, \
             that is set up by hand (`benches/mail/by-hand`) and run by `postfix start-fg`. Both have the same tables: {} \
             mailboxes in {DOMAINS} domains. In a round smtp-source(1) sends {} messages of {LENGTH} bytes to as many \
             mailboxes, from {CLIENTS} addresses with {SESSIONS} sessions at a time each, every message in a session of its own; it \
             runs on the same machine. The kinds of rounds alternate, and every other time in reverse order. A figure is the \
             median of {} rounds, with the least and the most of them; CPU is that of the whole pod, agent included.\n\n\
             By hand there are Debian's master.cf without chroot(2), what virtual domains need, and Postfix's defaults. The \
             pod does more: three more tables are asked for each recipient (`check_recipient_access`, `transport_maps`, \
             `virtual_alias_domains`), virtual(8) has one more table and a `virtual_delivery_status_filter`, each request has a \
             deadline, queue IDs are long, and the log goes through the agent, which counts deliveries. Set equal are the \
             size limits; `smtpd_peername_lookup = no`, since there is no name server to ask; and `default_process_limit` with \
             100 processes of virtual(8), since qmgr(8) lets as many messages come in ahead of it before each waits for \
             `in_flow_delay`, a second. Limits of processes and of sessions of a client (20 in the pod, 50 by hand) are \
             reached in neither.",
            thousands(DOMAINS * IN_EACH),
            thousands(MESSAGES),
            rounds[0].len(),
        ),
    );
    let [quiet, hand, changing, hand_changing] = rounds;
    let rows = [
        row(KINDS[0], quiet),
        row(KINDS[1], hand),
        ratio("the pod / by hand", quiet, hand),
        row(KINDS[2], changing),
        row(KINDS[3], hand_changing),
        ratio("the pod, with / without changes", changing, quiet),
        ratio("by hand, with / without changes", hand_changing, hand),
        ratio("the pod / by hand, with changes", changing, hand_changing),
    ];
    table(["", "accepted, messages/s", "in the Maildirs, messages/s", "CPU for a message"], &rows);
    let lasted: Duration = changing.iter().map(|round| round.delivered).sum();
    println!(
        "\nA new revision has one mailbox more. In the {:.0} s of mail with changes {mounted} were mounted, and {live} were \
         live one after the other. Of {} messages {} were refused or deferred, and every one was in its Maildir exactly once: the \
         files are counted after each round, and the bench ends with the first answer other than the one for success.",
        lasted.as_secs_f64(),
        thousands(rounds.iter().flatten().count() * MESSAGES),
        refused[0] + refused[1],
    );
}

fn thousands(number: usize) -> String {
    if number < 1000 { number.to_string() } else { format!("{},{:03}", number / 1000, number % 1000) }
}

fn rate(time: Duration) -> String {
    format!("{:.0}", MESSAGES as f64 / time.as_secs_f64())
}

type Measure = fn(&Round) -> Duration;

fn median(rounds: &[Round], measure: Measure) -> f64 {
    quantile(&rounds.iter().map(measure).collect::<Vec<_>>(), 0.5).as_secs_f64()
}

const MEASURES: [Measure; 3] = [|round| round.accepted, |round| round.delivered, |round| round.cpu];

fn row(name: &str, rounds: &[Round]) -> [String; 4] {
    let [accepted, delivered, cpu] = MEASURES.map(|measure| {
        let all: Vec<Duration> = rounds.iter().map(measure).collect();
        [0.5, 0.0, 1.0].map(|part| quantile(&all, part))
    });
    let rates =
        |[median, least, most]: [Duration; 3]| format!("{} ({}–{})", rate(median), rate(most), rate(least));
    let each = cpu.map(|cpu| format!("{:.2}", cpu.as_secs_f64() * 1000.0 / MESSAGES as f64));
    let cpu = format!("{} ms ({}–{})", each[0], each[1], each[2]);
    [name.to_owned(), rates(accepted), rates(delivered), cpu]
}

/// Of the medians: of rates, and of CPU.
fn ratio(name: &str, these: &[Round], those: &[Round]) -> [String; 4] {
    let [accepted, delivered, cpu] = MEASURES.map(|measure| median(these, measure) / median(those, measure));
    let cell = |ratio: f64| format!("**{ratio:.3}**");
    [format!("**{name}**"), cell(1.0 / accepted), cell(1.0 / delivered), cell(cpu)]
}

/// A pod with so many domains.
struct Size {
    domains: usize,
    at_rest: Memory,
    after: Memory,
    changes: Vec<Duration>,
}

impl Size {
    /// Measures single changes.
    fn of(domains: usize, at_rest: Memory, pod: &Pod, tables: &mut Tables) -> Self {
        let changes = (0..CHANGES).map(|_| {
            tables.grow();
            install(pod, tables)
        });
        let changes = changes.collect();
        Self { domains, at_rest, after: Memory::of(pod), changes }
    }
}

fn small_and_fast(sizes: &[Size]) {
    part(
        "The pod: memory, and one mailbox more",
        &format!(
            "At rest is once the tables are live, and before any mail. The agent's memory is resident (VmRSS, and VmHWM for the \
             most it ever had; process 1, which waits for its children, has its own), that of Postfix's processes the sum of \
             their shares (Pss). A change is one mailbox more in a new revision, {CHANGES} times one after the other: from the \
             swap of the mounted files, as kubelet does it, until the agent reports the revision as live, compiled and proved."
        ),
    );
    let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
    let rows: Vec<_> = sizes
        .iter()
        .map(|Size { domains, at_rest, after, changes }| {
            let [median, least, most] = [0.5, 0.0, 1.0].map(|part| quantile(changes, part).as_millis());
            [
                format!("{} in {domains} domains", thousands(domains * IN_EACH)),
                mib(at_rest.agent),
                mib(after.agent_peak),
                mib(at_rest.process_one),
                format!("{} in {} processes", mib(at_rest.postfix), at_rest.processes),
                format!("{median} ms ({least}–{most})"),
            ]
        })
        .collect();
    let header =
        ["mailboxes", "agent, at rest", "at most", "process 1", "Postfix, at rest", "mounted to live"];
    table(header, &rows);
}
