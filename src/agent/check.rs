//! What Postfix's own programs say of a configuration that nobody serves yet.
//!
//! `postfix check` looks at files and directories, and takes whatever a parameter says (measured with 3.10). A program
//! of Postfix's reads its parameters when it starts, and ends with `fatal:` when it cannot take one: as long as it runs
//! below master(8), that closes its service. By hand, each serves one client on its standard input (`-S`), without a
//! port and without master(8), and says on standard error what it otherwise logs (`-V`). So all that `master.cf` names
//! are started once, on the staged files and a scratch queue. What they cannot tell, such as a misspelt restriction, is
//! left to the proof.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;
use tokio::task::JoinSet;

use super::command::{
    CommandError, complaints, postfix_command, postfix_environment, run, run_mute, succeed,
};
use super::edit;
use super::install::{Layout, Refusal, stage_configuration};
use super::mounted::Revision;
use super::spool;
use crate::postfix::main_cf::PROBE_LISTENER;

/// What `postfix check` may take on an empty queue.
const CHECK: Duration = Duration::from_secs(60);

/// What a program may take; without a tlsmgr(8), smtp(8) alone waits for a second.
const PROGRAM: Duration = Duration::from_secs(20);

/// Asks Postfix about the configuration of a revision; nothing that is live changes. `own` are parameters that are the
/// agent's to say.
///
/// # Errors
/// When a program of Postfix's cannot take it, with what it said. It may pass later: a program may also want for memory
/// or room on the disk.
#[tracing::instrument(target = "timing", level = "debug", skip_all)]
pub async fn check(
    layout: &Layout,
    next: &Revision,
    own: Vec<(&'static str, String)>,
) -> Result<(), Refusal> {
    let refusal = |message: String| Refusal { passing: true, ..Refusal::new("Check", message) };
    if !edit::has_probe_listener(next.file("master.cf")) {
        let message = format!("master.cf has no listener {PROBE_LISTENER} for the proof");
        return Err(Refusal::new("Check", message));
    }
    let staged = stage_configuration(layout, next, own).map_err(|error| refusal(error.to_string()))?;
    spool::prepare(&staged).map_err(|error| refusal(error.to_string()))?;
    let (files, programs) = tokio::join!(files(&staged.config), programs(&staged.config, next));
    files.and(programs).map_err(refusal)
}

/// `postfix check`.
async fn files(config: &Path) -> Result<(), String> {
    let mut postfix = postfix_command("postfix", config);
    postfix.arg("check");
    let output = run(postfix, "postfix check", CHECK).await.map_err(|error| error.to_string())?;
    let complaints = complaints(&output.stderr);
    if output.status.success() && complaints.is_empty() {
        return Ok(());
    }
    let message = if complaints.is_empty() { output.stdout.trim().to_owned() } else { complaints };
    Err(format!("postfix check: {message}"))
}

/// All programs at once.
async fn programs(config: &Path, next: &Revision) -> Result<(), String> {
    let mut postconf = postfix_command("postconf", config);
    postconf.args(["-h", "daemon_directory"]);
    let daemons = succeed(postconf, "postconf", PROGRAM).await.map_err(|error| error.to_string())?;
    let daemons = PathBuf::from(daemons.stdout.trim());

    let mut asked = JoinSet::new();
    let mut services: BTreeSet<Service> =
        edit::services(next.file("master.cf")).into_iter().map(Service::new).collect();
    services.extend(transport_limits(next.file("main.cf")));
    for service in services {
        asked.spawn(service.complaint(daemons.clone(), config.to_owned()));
    }
    // Most parameters are read by several programs, which then all say the same.
    let mut said = BTreeMap::new();
    while let Some(answer) = asked.join_next().await {
        if let Ok(Some((program, complaint))) = answer {
            said.insert(complaint, program);
        }
    }
    if said.is_empty() {
        return Ok(());
    }
    let said: Vec<String> =
        said.into_iter().map(|(complaint, program)| format!("{program}: {complaint}")).collect();
    Err(said.join("; "))
}

/// A program with its arguments.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Service {
    program: String,
    arguments: Vec<String>,
    /// What stands in a complaint, and what is meant.
    meaning: Option<(String, String)>,
}

impl Service {
    fn new((program, arguments): (String, Vec<String>)) -> Self {
        Self { program, arguments, meaning: None }
    }

    /// Its name and what it ended with, if it cannot serve.
    async fn complaint(self, daemons: PathBuf, config: PathBuf) -> Option<(String, String)> {
        let mut command = Command::new(daemons.join(&self.program));
        postfix_environment(&mut command).env("MAIL_CONFIG", config);
        command.args(["-S", "-V"]).args(&self.arguments);
        // It waits for the end of what it writes to as well, which a pipe does not have.
        let output = heard(run_mute(command, &self.program, PROGRAM).await)?;
        let complaint = complaint(&output.stderr)?;
        let complaint = match &self.meaning {
            Some((said, meant)) => complaint.replace(said, meant),
            None => complaint,
        };
        Some((self.program, complaint))
    }
}

/// A program that does not answer in time has said nothing; the proof will tell.
fn heard<T>(output: Result<T, CommandError>) -> Option<T> {
    output.inspect_err(|error| tracing::warn!("not asked about the new configuration: {error}")).ok()
}

/// What a program ended with. Those that only wait to be woken end when nobody is there who could.
fn complaint(stderr: &str) -> Option<String> {
    let said = stderr.lines().filter_map(|line| line.split_once(": fatal: "));
    said.map(|(_, complaint)| complaint.trim().to_owned()).find(|complaint| !complaint.starts_with("read: "))
}

/// qmgr(8) reads the limits of a transport when it first has mail for it, and would then end again and again. It is
/// asked about each as if it were the limit of all transports, whose form is the same.
fn transport_limits(main_cf: &str) -> impl Iterator<Item = Service> {
    edit::parameters(main_cf).into_iter().filter_map(|(name, value)| {
        let (transport, limit) = name.split_once("_destination_")?;
        let all = format!("default_destination_{limit}");
        (transport != "default").then(|| Service {
            program: "qmgr".to_owned(),
            arguments: vec!["-o".to_owned(), format!("{all}={value}")],
            meaning: Some((all, name.clone())),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_program_ends_with_counts() {
        let text = "postfix/smtpd: error: open database x\npostfix/qmgr: fatal: read: Application error\n";
        assert_eq!(complaint(text), None);
        let text = "postfix/smtpd: warning: a\npostfix/smtpd: fatal: bad numerical configuration: a = many\n";
        assert_eq!(complaint(text).as_deref(), Some("bad numerical configuration: a = many"));
    }

    #[test]
    fn a_limit_of_one_transport_is_asked_about() {
        let text = "default_destination_rate_delay = 1\nsmtp_destination_rate_delay =\n  many\n";
        let services: Vec<_> = transport_limits(text).collect();
        assert_eq!(services.len(), 1);
        assert_eq!(services[0].arguments, ["-o", "default_destination_rate_delay=many"]);
        let meaning = ("default_destination_rate_delay".into(), "smtp_destination_rate_delay".into());
        assert_eq!(services[0].meaning, Some(meaning));
    }
}
