//! What the processes of a pod take of the machine: proc_pid_stat(5), proc_pid_status(5), proc_pid_smaps(5).

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::pod::Pod;

/// Memory in KiB.
pub struct Memory {
    /// Of the agent, resident.
    pub agent: u64,
    /// The most that it ever was.
    pub agent_peak: u64,
    /// Of its parent, process 1, resident.
    pub process_one: u64,
    /// Of all else, that is of Postfix: what each has for itself, and its share of what several have.
    pub postfix: u64,
    /// How many processes that is.
    pub processes: usize,
}

impl Memory {
    pub fn of(pod: &Pod) -> Self {
        let mut memory = Self { agent: 0, agent_peak: 0, process_one: 0, postfix: 0, processes: 0 };
        let one = pod.process_one().to_string();
        for process in processes(pod) {
            let read = |file, field| number(&process.join(file), field);
            if process.ends_with(&one) {
                memory.process_one = read("status", "VmRSS:");
            } else if fs::read_to_string(process.join("comm")).is_ok_and(|name| name.starts_with("vmail")) {
                memory.agent = read("status", "VmRSS:");
                memory.agent_peak = read("status", "VmHWM:");
            } else {
                memory.postfix += read("smaps_rollup", "Pss:");
                memory.processes += 1;
            }
        }
        memory
    }
}

/// CPU time of all processes that there are in the pod, and of those that were.
pub fn cpu(pod: &Pod) -> Duration {
    let ticks = |process: PathBuf| {
        let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
        let (_, fields) = stat.rsplit_once(") ").unwrap_or_default();
        // utime, stime, cutime and cstime, in a hundredth of a second.
        fields.split(' ').skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>()
    };
    Duration::from_millis(10 * processes(pod).map(ticks).sum::<u64>())
}

/// Their directories below /proc.
fn processes(pod: &Pod) -> impl Iterator<Item = PathBuf> {
    let ours = fs::read_link(format!("/proc/{}/ns/pid", pod.process_one())).expect("a namespace");
    let all = fs::read_dir("/proc").expect("processes").flatten().map(|entry| entry.path());
    all.filter(move |process| fs::read_link(process.join("ns/pid")).is_ok_and(|namespace| namespace == ours))
}

/// The number behind a word that begins a line; 0 where the process has ended.
fn number(file: &std::path::Path, word: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(word)).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}
