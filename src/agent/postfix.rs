//! The running Postfix: its master(8) as a child, so that its end is noticed at once.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::command::{self, CommandError, postfix_command};
use super::init::in_words;
use super::maillog;
use super::metrics::Metrics;

/// postsuper(1) renames queue files whose name does not fit their inode, as they are after a restore from
/// a backup; it walks the whole queue.
const QUEUE_CHECK: Duration = Duration::from_secs(600);

/// Any other short command.
const SHORT: Duration = Duration::from_secs(30);

/// Between two looks at what has not ended.
const PAUSE: Duration = Duration::from_millis(50);

/// What the last lines of the log get to pass.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Postfix with one configuration directory.
#[derive(Debug)]
pub struct Postfix {
    config: PathBuf,
    metrics: Metrics,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    master: Pid,
    ended: watch::Receiver<Option<String>>,
    /// Ends when the last line of the log has passed.
    log: oneshot::Receiver<()>,
}

/// Why Postfix does not run as it should.
#[derive(Debug, thiserror::Error)]
pub enum PostfixError {
    /// A command of Postfix's failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The master process did not take a signal.
    #[error("cannot signal the Postfix master process {pid}: {error}")]
    Signal {
        /// The process.
        pid: Pid,
        /// The operating system's error.
        error: nix::errno::Errno,
    },
    /// It is not running.
    #[error("Postfix is not running; its log, above, says why")]
    NotRunning,
}

impl Postfix {
    /// Postfix, not running yet, with the configuration in `config`.
    pub fn new(config: &Path, metrics: Metrics) -> Self {
        Self { config: config.to_owned(), metrics, running: None }
    }

    /// Whether the master process is there.
    pub fn is_running(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.ended.borrow().is_none())
    }

    /// Starts it, once its queue is in order. It logs to our standard output.
    pub async fn start(&mut self) -> Result<(), PostfixError> {
        let daemons = self.setting("daemon_directory").await?;
        let commands = self.setting("command_directory").await?;
        let check = postfix_command(Path::new(&commands).join("postsuper"), &self.config);
        command::succeed(check, "postsuper", QUEUE_CHECK).await?;
        let mut master: Command = postfix_command(Path::new(&daemons).join("master"), &self.config);
        let program = "the Postfix master process";
        let failed = |error| CommandError::Spawn { program: program.into(), error };
        let (log, to_log) = std::io::pipe().map_err(failed)?;
        master.arg("-s").stdin(Stdio::null()).stdout(to_log).kill_on_drop(true);
        let log = maillog::pass_on(log, self.metrics.clone()).map_err(failed)?;
        let mut child = master.spawn().map_err(failed)?;
        // Our own end of the pipe: the log ends with Postfix.
        drop(master);
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).ok_or(PostfixError::NotRunning)?;
        let (tell, ended) = watch::channel(None);
        tokio::spawn(async move {
            let how = match child.wait().await {
                Ok(status) => in_words(status),
                Err(error) => error.to_string(),
            };
            tell.send_replace(Some(how));
        });
        self.running = Some(Running { master: Pid::from_raw(pid), ended, log });
        Ok(())
    }

    /// Has Postfix read its configuration again, as `postfix reload` does: processes finish what they are
    /// at and are replaced (master(8), SIGHUP). Returns at once.
    pub fn reload(&self) -> Result<(), PostfixError> {
        self.signal(Signal::SIGHUP)
    }

    /// The processes that serve a client by SMTP, or wait for one.
    pub fn sessions(&self) -> BTreeSet<Pid> {
        let Some(master) = self.running.as_ref().map(|running| running.master) else {
            return BTreeSet::new();
        };
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let sessions = processes.filter_map(|process| {
            let pid = process.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(process.path().join("stat")).ok()?;
            is_session(&stat, master).then(|| Pid::from_raw(pid))
        });
        sessions.collect()
    }

    /// Waits until these have ended, and ends those that have not within `patience`: who is cut off sends again.
    pub async fn outlast(&self, sessions: BTreeSet<Pid>, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut told = false;
        loop {
            let left = &sessions & &self.sessions();
            if left.is_empty() || Instant::now() > deadline + LAST_LINES {
                return;
            }
            if Instant::now() > deadline {
                if !told {
                    tracing::info!(
                        "{} sessions by SMTP are ended, so that they do not go by old tables",
                        left.len()
                    );
                    told = true;
                }
                for session in left {
                    let _ = kill(session, Signal::SIGTERM);
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Stops Postfix in an orderly way (`postfix stop` sends the same signal), or by force after `patience`.
    pub async fn stop(&mut self, patience: Duration) {
        let Some(mut running) = self.running.take() else { return };
        let _ = kill(running.master, Signal::SIGTERM);
        let ended = running.ended.wait_for(Option::is_some);
        if tokio::time::timeout(patience, ended).await.is_err() {
            tracing::warn!("Postfix did not stop within {} s and is killed", patience.as_secs());
            let _ = killpg(running.master, Signal::SIGKILL);
            let _ = kill(running.master, Signal::SIGKILL);
            let _ = tokio::time::timeout(SHORT, running.ended.wait_for(Option::is_some)).await;
        }
        let _ = tokio::time::timeout(LAST_LINES, running.log).await;
    }

    /// Waits until a running master process ends by itself, and says how. Never, while there is none.
    pub async fn ended(&self) -> String {
        let Some(running) = &self.running else { return std::future::pending().await };
        let mut ended = running.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(how) => how.clone().unwrap_or_default(),
            Err(_) => "for a reason that nobody saw".into(),
        }
    }

    fn signal(&self, signal: Signal) -> Result<(), PostfixError> {
        if !self.is_running() {
            return Err(PostfixError::NotRunning);
        }
        let pid = self.running.as_ref().map(|running| running.master).ok_or(PostfixError::NotRunning)?;
        kill(pid, signal).map_err(|error| PostfixError::Signal { pid, error })
    }

    async fn setting(&self, name: &str) -> Result<String, CommandError> {
        let mut postconf = postfix_command("postconf", &self.config);
        postconf.args(["-h", name]);
        Ok(command::succeed(postconf, "postconf", SHORT).await?.stdout.trim().to_owned())
    }
}

/// Whether a line of `/proc/PID/stat`, which begins with `pid (name) state parent` (proc_pid_stat(5)), is that of a smtpd(8)
/// below this master(8).
fn is_session(stat: &str, master: Pid) -> bool {
    let Some((start, rest)) = stat.rsplit_once(')') else { return false };
    start.ends_with("(smtpd") && rest.split_whitespace().nth(1) == Some(master.to_string().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_a_smtpd_of_this_master() {
        let master = Pid::from_raw(77);
        assert!(is_session("123 (smtpd) S 77 77 1 0 -1", master));
        for other in ["123 (smtpd) S 7 77 1", "123 (smtp) S 77 77", "9 (a) smtpd) S 77 1", "", "1 (smtpd)"] {
            assert!(!is_session(other, master), "{other}");
        }
    }
}
