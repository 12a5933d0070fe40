//! The operator as a process, and what it says of itself.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::unistd::Pid;

use crate::apiserver::{ApiServer, User, free_port};
use crate::process::Process;

pub struct Operator {
    child: Child,
    pub process: Process,
    port: u16,
    log: PathBuf,
}

/// What it counted since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Mailboxes whose condition `Ready` says so.
    pub ready: usize,
    /// Statuses that were written.
    pub statuses: usize,
    /// Writes of any kind, good or bad, without its Lease.
    pub writes: usize,
}

impl Operator {
    /// Starts the release binary, or the one that `VMAIL_OPERATOR` names. `dir` has its configuration and the agents'
    /// token.
    pub fn start(server: &ApiServer, dir: &Path) -> Self {
        let (port, log) = (free_port(), dir.join("operator.log"));
        let file = File::create(&log).expect("a log");
        let program =
            std::env::var_os("VMAIL_OPERATOR").unwrap_or(env!("CARGO_BIN_EXE_vmail-operator").into());
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
        let process = Process(Pid::from_raw(child.id().try_into().expect("a process id")));
        Self { child, process, port, log }
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        let log = self.whole_log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    fn whole_log(&self) -> String {
        fs::read_to_string(&self.log).expect("a log")
    }

    /// Rounds in which tables were written.
    pub fn rounds(&self) -> usize {
        self.whole_log().matches("\"tables written\"").count()
    }

    /// Nothing before it serves its metrics.
    pub async fn counts(&self) -> Counts {
        let url = format!("http://127.0.0.1:{}/metrics", self.port);
        let Ok(answer) = reqwest::get(url).await else { return Counts::default() };
        let text = answer.text().await.unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.rsplit_once(' '));
        let metrics: BTreeMap<&str, &str> = lines.collect();
        let sum = |start: &str| {
            let those = metrics.iter().filter(|(name, _)| name.starts_with(start));
            those.map(|(_, value)| value.parse::<usize>().expect("a number")).sum()
        };
        Counts {
            ready: sum("vmail_objects{kind=\"Mailbox\",reason=\"Ready\"}"),
            statuses: sum("vmail_api_writes_total{what=\"status\""),
            writes: sum("vmail_api_writes_total{"),
        }
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
