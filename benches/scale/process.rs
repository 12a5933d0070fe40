//! What a process took of the machine.

use std::fs;
use std::time::Duration;

use nix::time::ClockId;
use nix::unistd::Pid;

#[derive(Clone, Copy)]
pub struct Process(pub Pid);

impl Process {
    /// CPU time that it has taken, and that the commands took which it waited for (proc_pid_stat(5), fields 16 and 17;
    /// 100 ticks a second).
    pub fn cpu(self) -> Duration {
        let own = ClockId::pid_cpu_clock_id(self.0).and_then(ClockId::now).expect("it runs");
        let stat = self.file("stat");
        let fields = stat.rsplit_once(')').expect("a name").1.split_whitespace();
        let ticks: u64 = fields.skip(13).take(2).map(|field| field.parse::<u64>().expect("a number")).sum();
        Duration::from(own) + Duration::from_millis(10 * ticks)
    }

    /// `VmRSS`, or its peak `VmHWM`, in MiB (proc_pid_status(5)).
    pub fn memory(self, field: &str) -> f64 {
        let status = self.file("status");
        let line = status.lines().find(|line| line.starts_with(field)).expect("a field");
        let kib = line.split_whitespace().nth(1).and_then(|number| number.parse::<f64>().ok());
        kib.expect("a number") / 1024.0
    }

    fn file(self, name: &str) -> String {
        let path = format!("/proc/{}/{name}", self.0);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}: the process ended"))
    }
}
