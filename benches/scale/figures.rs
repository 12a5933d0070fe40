//! What was measured, as tables and pictures of docs/benchmarks.md.

use std::time::Duration;

use crate::growth::{self, Growth};
use crate::measure::{BURST, CHANGES, Measured, Took};
use crate::page::{milliseconds, picture, table};
use crate::plot::plot;

/// One line of the table: what, the figure, and the goal for 100,000 mailboxes.
type Line = (String, String, &'static str);

/// A column for each number of mailboxes.
pub fn sizes(all: &[Measured]) {
    let columns: Vec<Vec<Line>> = all.iter().map(lines).collect();
    let header: Vec<String> = all.iter().map(|measured| grouped(measured.mailboxes)).collect();
    let header: Vec<&str> =
        ["mailboxes"].into_iter().chain(header.iter().map(String::as_str)).chain(["goal"]).collect();
    let Some(last) = columns.last() else { return };
    let rows: Vec<Vec<String>> = last
        .iter()
        .enumerate()
        .map(|(row, (what, _, goal))| {
            let figures = columns.iter().map(|column| column[row].1.clone());
            [what.clone()].into_iter().chain(figures).chain([(*goal).to_owned()]).collect()
        })
        .collect();
    table(header, &rows);
}

fn lines(measured: &Measured) -> Vec<Line> {
    let Measured { cold_start, restart, change, silence, burst, .. } = measured;
    let mut lines: Vec<Line> = Vec::new();
    let mut line = |what: &str, figure: String, goal| lines.push((what.to_owned(), figure, goal));
    let of = |took: &Took| format!("{}, {}", mebibytes(took.rss), mebibytes(took.peak));
    line("domains", grouped(measured.domains), "");
    line("**cold start** until all tables are written", seconds(cold_start.tables), "≤ 10 s");
    line("— CPU", seconds(cold_start.tables_took.cpu), "");
    line("— memory, at its peak", of(&cold_start.tables_took), "");
    line("— from mounted to live, with the start of Postfix", milliseconds(cold_start.live), "");
    line("— until every status is written", seconds(cold_start.statuses), "");
    line("— ConfigMap rounds", grouped(cold_start.rounds), "");
    line("— statuses written", grouped(cold_start.written), "");
    line("— CPU until then", seconds(cold_start.statuses_took.cpu), "");
    line("— memory then, at its peak", of(&cold_start.statuses_took), "");
    line("**restart** until all is known", seconds(restart.known), "");
    line("— CPU", seconds(restart.took.cpu), "");
    line("— writes to the API server", grouped(restart.writes), "0");
    line("— ConfigMaps changed", grouped(restart.config_maps), "0");
    line("— memory, at its peak", of(&restart.took), "");
    line(&format!("**one mailbox more**, median of {CHANGES}: CPU"), milliseconds(change.cpu), "≤ 50 ms");
    line("— ConfigMaps written", grouped(change.config_maps), "2");
    line("— bytes in them", grouped(change.bytes), "");
    line("— statuses written", grouped(change.statuses), "1");
    line("— from mounted to live", milliseconds(change.live), "≤ 1,000 ms");
    line("— CPU of the agent and what it runs", milliseconds(change.agent_cpu), "");
    line("— until it is ready", milliseconds(change.ready), "");
    line("**silence**", format!("{} s", silence.lasted.as_secs()), "");
    line("— writes to the API server", grouped(silence.writes), "0");
    line("— reloads of Postfix", grouped(silence.reloads), "0");
    line("— CPU of the operator", milliseconds(silence.cpu), "");
    line("— CPU of the agent and what it runs", milliseconds(silence.agent_cpu), "");
    line("— memory of the operator after it", mebibytes(silence.rss), "≤ 64 MiB");
    line("— memory of the agent after it", mebibytes(silence.agent_rss), "");
    let burst = |figure: fn(&crate::measure::Burst) -> String| burst.as_ref().map(figure).unwrap_or_default();
    line(
        &format!("**{} more at once**: created in", grouped(BURST)),
        burst(|burst| seconds(burst.created)),
        "",
    );
    line("— until all are ready", burst(|burst| seconds(burst.ready)), "");
    line("— ConfigMap rounds", burst(|burst| grouped(burst.rounds)), "≤ 60");
    line("— statuses written", burst(|burst| grouped(burst.statuses)), "10,000");
    line("— CPU", burst(|burst| seconds(burst.took.cpu)), "");
    line("— memory at its peak", burst(|burst| mebibytes(burst.took.peak)), "");
    line(
        "**from mounted to live**, the longest but for the start",
        milliseconds(measured.longest_to_live),
        "≤ 1,000 ms",
    );
    lines
}

/// A line for each number of domains.
pub fn domains(all: &[&Measured]) {
    let rows: Vec<[String; 7]> = all
        .iter()
        .map(|measured| {
            let Measured { cold_start, change, silence, .. } = measured;
            [
                grouped(measured.domains),
                seconds(cold_start.tables),
                seconds(cold_start.tables_took.cpu),
                mebibytes(silence.rss),
                mebibytes(cold_start.statuses_took.peak),
                milliseconds(change.cpu),
                milliseconds(change.live),
            ]
        })
        .collect();
    let header = [
        "domains",
        "cold start",
        "CPU",
        "memory at rest",
        "peak",
        "one mailbox more: CPU",
        "mounted to live",
    ];
    table(header, &rows);
}

/// The step from one ConfigMap to many and back.
pub fn growth(growth: &Growth) {
    let [before, between, after] = growth.config_maps;
    let rows = [
        ("ConfigMaps of the tables", format!("{before}, {between}, {after}")),
        ("until every status is written of those that came", seconds(growth.grown)),
        ("until the tables are in one ConfigMap again", seconds(growth.shrunk)),
        ("questions on port 25", grouped(growth.questions)),
        ("not answered 250", "0".to_owned()),
        ("longest answer", milliseconds(growth.longest)),
        ("reloads of Postfix", grouped(growth.reloads)),
    ];
    let rows = rows.map(|(what, figure)| [what.to_owned(), figure]);
    let few = grouped(growth::FEW);
    table([&*format!("{few} mailboxes, {}, and {few} again", grouped(growth::MANY)), ""], &rows);
}

/// What grows with the number of mailboxes.
pub fn pictures(all: &[Measured]) {
    let points = |of: fn(&Measured) -> f64| -> Vec<(f64, f64)> {
        all.iter().map(|measured| (measured.mailboxes as f64, of(measured))).collect()
    };
    let memory = [
        ("peak of the cold start", points(|measured| measured.cold_start.statuses_took.peak)),
        ("at rest", points(|measured| measured.silence.rss)),
    ];
    plot("scale-memory.svg", "MiB", &memory);
    picture("Memory of the operator by number of mailboxes", "scale-memory.svg");
    let cpu = [
        ("cold start", points(|measured| measured.cold_start.tables_took.cpu.as_secs_f64() * 1000.0)),
        ("one mailbox more", points(|measured| measured.change.cpu.as_secs_f64() * 1000.0)),
    ];
    plot("scale-cpu.svg", "ms of CPU", &cpu);
    picture("CPU time of the operator by number of mailboxes", "scale-cpu.svg");
    plot(
        "scale-bytes.svg",
        "bytes",
        &[("written for one mailbox more", points(|measured| measured.change.bytes as f64))],
    );
    picture(
        "Bytes written to the API server for one mailbox more, by number of mailboxes",
        "scale-bytes.svg",
    );
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

fn mebibytes(size: f64) -> String {
    format!("{size:.0} MiB")
}

/// With a comma between thousands.
pub fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(",")
}
