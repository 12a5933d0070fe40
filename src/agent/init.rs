//! Being process 1 of the container.
//!
//! Orphans of Postfix end up with process 1, which must collect them, while the agent itself has to learn
//! how its own commands ended. So process 1 only waits, passes signals on, and runs the agent as its child.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitCode, ExitStatus};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// As process 1: runs the same command as a child until that ends, and gives its exit code. As any other
/// process: nothing.
///
/// To be called before any thread is started, since it decides which signals the process takes.
pub fn become_init() -> Option<ExitCode> {
    if std::process::id() != 1 {
        // The mask of process 1 is inherited by the agent, and would be by Postfix: a master(8) that never
        // hears that a process of its own has ended stands still.
        if let Err(error) = SigSet::empty().thread_set_mask() {
            eprintln!("cannot unblock signals: {error}");
        }
        return None;
    }
    Some(supervise().unwrap_or_else(|message| {
        eprintln!("cannot start the agent: {message}");
        ExitCode::FAILURE
    }))
}

fn supervise() -> Result<ExitCode, String> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().map_err(|error| format!("cannot block signals: {error}"))?;
    let program = std::env::current_exe().map_err(|error| format!("cannot find my own binary: {error}"))?;
    let child = Command::new(program)
        .args(std::env::args_os().skip(1))
        .spawn()
        .map_err(|error| format!("cannot start my own binary: {error}"))?;
    let child = Pid::from_raw(i32::try_from(child.id()).map_err(|error| error.to_string())?);
    loop {
        match signals.wait() {
            Ok(Signal::SIGCHLD) => {
                if let Some(code) = collect(child) {
                    return Ok(code);
                }
            }
            Ok(signal) => {
                let _ = kill(child, signal);
            }
            Err(Errno::EINTR) => {}
            Err(error) => return Err(format!("cannot wait for signals: {error}")),
        }
    }
}

/// Collects everything that has ended, and gives the agent's exit code if it is among it.
fn collect(agent: Pid) -> Option<ExitCode> {
    let mut ended = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == agent => ended = Some(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == agent => ended = Some(128 + signal as i32),
            Ok(WaitStatus::StillAlive) => break,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => break,
        }
    }
    ended.map(|code| ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// How a process ended, in words.
pub fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no exit code".into(),
    }
}
