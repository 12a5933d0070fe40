//! The operator as a process, and what it took of the machine.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::apiserver::{ApiServer, User, free_port};

pub struct Operator {
    child: Child,
    port: u16,
    log: std::path::PathBuf,
}

/// What the operator says of itself, by metric with its labels.
pub type Metrics = BTreeMap<String, f64>;

impl Operator {
    /// Starts the release binary. `dir` has its configuration and the agents' token.
    pub fn start(server: &ApiServer, dir: &Path) -> Self {
        let (port, log) = (free_port(), dir.join("operator.log"));
        let file = File::create(&log).expect("a log");
        let program =
            std::env::var("VMAIL_OPERATOR").unwrap_or(env!("CARGO_BIN_EXE_vmail-operator").to_owned());
        let child = Command::new(program)
            .args(["run", "--namespace", "mail", "--listen", &format!("127.0.0.1:{port}")])
            .arg("--config")
            .arg(dir.join("config.yaml"))
            .arg("--agent-token-file")
            .arg(dir.join("token"))
            .env("KUBECONFIG", server.kubeconfig(User::Admin))
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a log"))
            .stderr(file)
            .spawn()
            .expect("the operator starts");
        Self { child, port, log }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("a log")
    }

    /// Rounds in which tables were written.
    pub fn rounds(&self) -> usize {
        self.log().matches("\"tables written\"").count()
    }

    /// Its metrics; none before it serves them.
    pub async fn metrics(&self) -> Metrics {
        let url = format!("http://127.0.0.1:{}/metrics", self.port);
        let Ok(answer) = reqwest::get(url).await else { return Metrics::new() };
        let text = answer.text().await.unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.rsplit_once(' '));
        lines.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
    }

    /// CPU time that it has taken, in user and kernel mode (proc_pid_stat(5), fields 14 and 15; 100 ticks a second).
    pub fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it runs");
        let fields = stat.rsplit_once(')').expect("a name").1.split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).map(|field| field.parse::<u64>().expect("a number")).sum();
        Duration::from_millis(10 * ticks)
    }

    /// `VmRSS` or `VmHWM` in MiB (proc_pid_status(5)).
    pub fn memory(&self, field: &str) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with(field)).expect("a field");
        let kib: f64 =
            line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number");
        kib / 1024.0
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The sum of the metrics whose names begin so.
pub fn sum(metrics: &Metrics, start: &str) -> f64 {
    metrics.iter().filter(|(name, _)| name.starts_with(start)).map(|(_, value)| value).sum()
}
