//! Compiling a revision beside the live one, and putting it in its place.
//!
//! Every `.cdb` is renamed over the live file: running Postfix processes notice that, and do not notice a
//! swapped directory or symlink (measured).

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::command::{complaints, postfix_command, run};
use super::mounted::Revision;
use super::{edit, leaving, tables};

/// What compiling all tables may take; a million entries take 3 s.
const COMPILE: Duration = Duration::from_secs(60);

/// An age at which Postfix takes a file for finished.
const SETTLED: Duration = Duration::from_secs(60);

/// Where the pod has what. These are its own, whatever a revision's `main.cf` says.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The configuration directory of the running Postfix.
    pub config: PathBuf,
    /// Its `queue_directory`.
    pub queue: PathBuf,
    /// Its `data_directory`.
    pub data: PathBuf,
    /// The Maildirs (`virtual_mailbox_base`).
    pub vmail: PathBuf,
}

/// Who can reach the running Postfix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// The agent alone.
    Private,
    /// Everybody.
    Public,
}

/// Why a revision was not kept: the stage and the message of [`crate::revision::Rejected`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The step that failed.
    pub stage: &'static str,
    /// What Postfix said.
    pub message: String,
    /// Whether the same revision may pass later.
    pub passing: bool,
}

impl Refusal {
    /// A refusal for good.
    pub fn new(stage: &'static str, message: impl ToString) -> Self {
        Self { stage, message: message.to_string(), passing: false }
    }
}

/// The tables of a revision, compiled beside the live ones.
#[derive(Debug)]
pub struct Staged {
    routes: Vec<(PathBuf, PathBuf)>,
    adding: Vec<(PathBuf, PathBuf)>,
    removing: Vec<(PathBuf, PathBuf)>,
    /// Whether `main.cf` or `master.cf` differ.
    pub config_changed: bool,
    /// Whether a table differs that running processes remember.
    pub domains_changed: bool,
}

/// Whether a revision's `main.cf` or `master.cf` is another one than what is live.
pub fn config_differs(live: Option<&Revision>, next: &Revision) -> bool {
    ["main.cf", "master.cf"].iter().any(|name| live.is_none_or(|live| live.file(name) != next.file(name)))
}

/// Writes the configuration of a revision beside the live one, with a queue and a data directory of its own, which are
/// not below the configuration, where all belongs to root.
pub fn stage_configuration(
    layout: &Layout,
    next: &Revision,
    own: Vec<(&'static str, String)>,
) -> io::Result<Layout> {
    let scratch = layout.config.with_extension("check");
    let staged = Layout {
        config: layout.config.join("staging"),
        queue: scratch.join("queue"),
        data: scratch.join("data"),
        vmail: layout.vmail.clone(),
    };
    remove(&scratch)?;
    remove(&staged.config)?;
    make_directory(&staged.config)?;
    write(&staged.config.join("main.cf"), &main_cf(&staged, next, own))?;
    write(&staged.config.join("master.cf"), next.file("master.cf"))?;
    Ok(staged)
}

/// Compiles what differs between `live` and `next`.
#[tracing::instrument(target = "timing", level = "debug", skip_all, name = "compile")]
pub async fn stage(layout: &Layout, live: Option<&Revision>, next: &Revision) -> Result<Staged, Refusal> {
    let failed = |error: io::Error| Refusal {
        passing: true,
        ..Refusal::new("Compile", format!("{}: {error}", layout.config.join("staging").display()))
    };
    let staging = stage_configuration(layout, next, Vec::new()).map_err(failed)?.config;

    let mut staged = Staged {
        routes: Vec::new(),
        adding: Vec::new(),
        removing: Vec::new(),
        config_changed: config_differs(live, next),
        domains_changed: false,
    };
    let mut names: Vec<String> = next.tables().cloned().collect();
    tables::order(&mut names);
    for name in &names {
        let old = live.and_then(|live| live.files.get(name));
        let steps = tables::steps(old.map(String::as_str), next.file(name))
            .map_err(|error| Refusal::new("Compile", format!("{name}: {error}")))?;
        if tables::decides_domains(name) && (steps.adding.is_some() || steps.removing.is_some()) {
            staged.domains_changed = true;
        }
        let live_file = layout.config.join("tables").join(format!("{name}.cdb"));
        let adding = if name == tables::ROUTES { &mut staged.routes } else { &mut staged.adding };
        let phases = [("adding", steps.adding, adding), ("removing", steps.removing, &mut staged.removing)];
        for (phase, text, list) in phases {
            let Some(text) = text else { continue };
            make_directory(&staging.join(phase)).map_err(failed)?;
            let source = staging.join(phase).join(name);
            write(&source, &text).map_err(failed)?;
            list.push((source, live_file.clone()));
        }
    }
    staged.removing.reverse();
    let all = staged.routes.iter().chain(&staged.adding).chain(&staged.removing);
    compile(&staging, all.map(|(source, _)| source)).await?;
    Ok(staged)
}

/// Puts one table in place by itself, beside a revision that was staged.
pub async fn put_table(layout: &Layout, name: &str, text: &str) -> Result<(), Refusal> {
    let staging = layout.config.join("staging");
    let failed = |error: io::Error| Refusal { passing: true, ..Refusal::new("Start", error) };
    let directory = staging.join("before");
    make_directory(&directory).map_err(failed)?;
    let source = directory.join(name);
    write(&source, text).map_err(failed)?;
    make_directory(&layout.config.join("tables")).map_err(failed)?;
    compile(&staging, std::iter::once(&source)).await?;
    put(&[(source, layout.config.join("tables").join(format!("{name}.cdb")))]).map_err(failed)
}

/// One `postmap` for all of them. It says what is wrong on standard error and exits with 0 nevertheless.
async fn compile(staging: &Path, sources: impl Iterator<Item = &PathBuf>) -> Result<(), Refusal> {
    let sources: Vec<_> = sources.map(|source| format!("cdb:{}", source.display())).collect();
    if sources.is_empty() {
        return Ok(());
    }
    let mut postmap = postfix_command("postmap", staging);
    postmap.args(sources);
    // A full disk is cured without a new revision.
    let refusal = |message: String| Refusal { passing: true, ..Refusal::new("Compile", message) };
    let output = run(postmap, "postmap", COMPILE).await.map_err(|error| refusal(error.to_string()))?;
    let complaints = complaints(&output.stderr);
    if output.status.success() && complaints.is_empty() {
        return Ok(());
    }
    let message = if complaints.is_empty() { format!("postmap: {}", output.status) } else { complaints };
    Err(refusal(message))
}

impl Staged {
    /// Puts new routes in place. Whether there are any, so that Postfix is to be reloaded before it gets new aliases.
    pub fn add_routes(&self, layout: &Layout) -> io::Result<bool> {
        make_directory(&layout.config.join("tables"))?;
        put(&self.routes)?;
        Ok(!self.routes.is_empty())
    }

    /// Puts the other additions in place, mailboxes first.
    pub fn add(&self) -> io::Result<()> {
        put(&self.adding)
    }

    /// Takes away what is gone, domains first.
    pub fn remove(&self) -> io::Result<()> {
        put(&self.removing)
    }
}

fn put(files: &[(PathBuf, PathBuf)]) -> io::Result<()> {
    for (source, live) in files {
        let mut compiled = source.clone().into_os_string();
        compiled.push(".cdb");
        fs::rename(&compiled, live)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", live.display())))?;
    }
    Ok(())
}

/// Writes the live `main.cf` and `master.cf`. `own` are parameters that are the agent's to say, `mark` is what the proof's listener greets with.
pub fn configure(
    layout: &Layout,
    revision: &Revision,
    own: Vec<(&'static str, String)>,
    listen: Listen,
    mark: &str,
) -> io::Result<()> {
    let mut master = revision.file("master.cf").to_owned();
    if listen == Listen::Private {
        master = edit::without_public_listeners(&master);
    }
    let parameters = edit::parameters(revision.file("main.cf"));
    let maps = parameters.iter().find(|(name, _)| name == "virtual_mailbox_maps");
    let maps = leaving::maps(maps.map_or("", |(_, maps)| maps));
    let master = edit::deliver_from(&master, &maps);
    replace(&layout.config.join("main.cf"), &main_cf(layout, revision, own))?;
    replace(&layout.config.join("master.cf"), &edit::mark_probe_listener(&master, mark))
}

/// `main.cf` with the pod's own directories.
fn main_cf(layout: &Layout, revision: &Revision, own: Vec<(&'static str, String)>) -> String {
    let mut parameters = vec![
        ("queue_directory", layout.queue.display().to_string()),
        ("data_directory", layout.data.display().to_string()),
        ("virtual_mailbox_base", layout.vmail.display().to_string()),
    ];
    parameters.extend(own);
    edit::set_parameters(revision.file("main.cf"), &parameters)
}

/// Begins with an empty configuration directory: what an earlier container left there is of no use.
pub fn clear(layout: &Layout) -> io::Result<()> {
    fs::create_dir_all(&layout.config)?;
    for name in ["tables", "staging", "main.cf", "master.cf"] {
        remove(&layout.config.join(name))?;
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    let result = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    result.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

fn make_directory(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

/// Writes a file that looks as if it had stood there for a while. Postfix reads a main.cf again and again until
/// it is no longer fresh, lest an editor is still at it: two seconds for every command and every reload
/// (measured with 3.10). What we write is whole before anybody reads it.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(text.as_bytes())?;
    file.set_modified(SystemTime::now() - SETTLED)?;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let next = path.with_extension("next");
    write(&next, text)?;
    fs::rename(next, path)
}
