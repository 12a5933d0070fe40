//! Outside commands, each with a time limit.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::Command;

/// What a command left behind.
#[derive(Debug)]
pub struct Output {
    /// Its exit status; `postmap`'s says nothing.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

/// Why a command did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It could not be started.
    #[error("cannot run {program}: {error}")]
    Spawn {
        /// The program.
        program: String,
        /// The operating system's error.
        error: std::io::Error,
    },
    /// It did not end in time, and was killed.
    #[error("{program} did not finish within {seconds} s and was killed")]
    TimedOut {
        /// The program.
        program: String,
        /// The limit.
        seconds: u64,
    },
    /// It ended with an error.
    #[error("{program} failed ({status}): {stderr}")]
    Failed {
        /// The program.
        program: String,
        /// The exit status.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },
}

/// A command with the environment that Postfix's own scripts expect, and nothing of ours.
pub fn postfix_command(program: impl AsRef<Path>, config: &Path) -> Command {
    let mut command = Command::new(program.as_ref());
    postfix_environment(&mut command).arg("-c").arg(config);
    command
}

/// The environment alone.
pub fn postfix_environment(command: &mut Command) -> &mut Command {
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C")
}

/// Runs a command to its end; `program` is its name in errors. It is killed when the caller stops waiting.
pub async fn run(mut command: Command, program: &str, limit: Duration) -> Result<Output, CommandError> {
    command.stdout(Stdio::piped());
    outcome(command, program, limit).await
}

/// As [`run`], without what it writes to standard output.
pub async fn run_mute(mut command: Command, program: &str, limit: Duration) -> Result<Output, CommandError> {
    command.stdout(Stdio::null());
    outcome(command, program, limit).await
}

async fn outcome(mut command: Command, program: &str, limit: Duration) -> Result<Output, CommandError> {
    command.stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let failed = |error| CommandError::Spawn { program: program.into(), error };
    let child = command.spawn().map_err(failed)?;
    match tokio::time::timeout(limit, child.wait_with_output()).await {
        Err(_) => Err(CommandError::TimedOut { program: program.into(), seconds: limit.as_secs() }),
        Ok(Err(error)) => Err(failed(error)),
        Ok(Ok(output)) => Ok(Output {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }),
    }
}

/// As [`run`], where an exit status other than 0 is an error.
pub async fn succeed(command: Command, program: &str, limit: Duration) -> Result<Output, CommandError> {
    let output = run(command, program, limit).await?;
    if output.status.success() {
        return Ok(output);
    }
    let stderr = output.stderr.trim().to_owned();
    Err(CommandError::Failed { program: program.into(), status: output.status, stderr })
}

/// What Postfix complained of on standard error, without what harms nothing: a parameter that this version
/// of Postfix does not use, and a machine without IPv6.
pub fn complaints(stderr: &str) -> String {
    let harmless = |line: &&str| {
        line.contains(" unused parameter: ") || line.contains("disabling IPv6 name/address support")
    };
    let lines: Vec<&str> =
        stderr.lines().filter(|line| !line.trim().is_empty()).filter(|line| !harmless(line)).collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_command_that_hangs_is_killed_in_time() {
        let mut command = Command::new("sleep");
        command.arg("60");
        let error = run(command, "sleep", Duration::from_millis(50)).await.unwrap_err();
        assert!(matches!(error, CommandError::TimedOut { .. }), "{error}");
    }

    #[tokio::test]
    async fn failing_says_what_the_command_said() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo because >&2; exit 3"]);
        let error = succeed(command, "sh", Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(error.to_string(), "sh failed (exit status: 3): because");
    }

    #[test]
    fn harmless_complaints_are_left_out() {
        let text = "postconf: warning: /c/main.cf: unused parameter: a=b\n\npostmap: warning: x\n";
        assert_eq!(complaints(text), "postmap: warning: x");
    }
}
