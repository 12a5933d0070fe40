//! What the benches say: Markdown on standard output, for `docs/benchmarks.md`, and what they are at on standard error.

use std::time::{Duration, Instant};

/// Begins a part of the page, with what was done.
pub fn part(heading: &str, text: &str) {
    println!("\n## {heading}\n\n{text}");
}

/// A table below the text; each row has a cell below each of the header's.
pub fn table<'a>(header: impl AsRef<[&'a str]>, rows: &[impl AsRef<[String]>]) {
    let header = header.as_ref();
    println!("\n| {} |", header.join(" | "));
    // What stands to the left names the line; all else are figures.
    println!("|---|{}", "--:|".repeat(header.len() - 1));
    rows.iter().for_each(|row| println!("| {} |", row.as_ref().join(" | ")));
}

/// A picture below the text; `name` is that of a file in `docs/benchmarks`.
pub fn picture(title: &str, name: &str) {
    println!("\n![{title}](benchmarks/{name})");
}

/// What is done now.
pub fn step(text: &str) {
    thread_local!(static BEGAN: Instant = Instant::now());
    eprintln!("{:6.1} s  {text}", BEGAN.with(Instant::elapsed).as_secs_f64());
}

/// The duration below which this part of them is, 0.5 for the median (the nearest rank).
pub fn quantile(durations: &[Duration], part: f64) -> Duration {
    let mut sorted = durations.to_vec();
    sorted.sort();
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// In milliseconds.
pub fn milliseconds(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}
