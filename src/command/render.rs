//! `render`: what the operator would write, as files.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueHint};

use super::{Input, UNREADABLE, complain};
use crate::operator::objects::revision_config_maps;
use crate::postfix::main_cf::TABLES;
use crate::postfix::{revision_files, shards};

const TABLES_DIRECTORY: &str = "tables";
const CONFIG_MAPS: &str = "configmaps.yaml";
/// How a main.cf of ours begins.
const OURS: &str = "# Rendered by vmail-operator";

/// Write what the operator would write for manifests
///
/// That is main.cf, master.cf, the lookup tables as source texts in tables/, and
/// configmaps.yaml. No cluster is asked: every accepted domain counts as recorded,
/// and none as draining. Without --config, the host name in main.cf is a
/// placeholder.
///
/// Objects that are not accepted are told on standard error; the rest is rendered,
/// as the operator would. The exit code is 0 when every object is accepted, 1 when
/// one is not, and 2 when something cannot be read or written.
///
/// DIR is made if it is not there. What else is in it is left alone, but a main.cf,
/// tables/ and so on that are not of an earlier render are not overwritten. Tables
/// of an earlier render that are no more are removed.
#[derive(Args, Clone, Debug)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  vmail-operator render -f apps/mail -n mail --out rendered && git diff rendered
  vmail-operator render -f apps -n mail --config operator.yaml --cell default --out rendered
  kubectl -n mail diff --server-side --force-conflicts -f rendered/configmaps.yaml"
)]
pub struct RenderOptions {
    #[command(flatten)]
    input: Input,
    /// Where to write
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    out: PathBuf,
    /// The cell to render
    #[arg(long, default_value = "default", value_hint = ValueHint::Other)]
    cell: String,
}

/// Runs `render`.
pub fn render(options: &RenderOptions) -> ExitCode {
    attempt(options).unwrap_or_else(|error| {
        complain(&error);
        ExitCode::from(UNREADABLE)
    })
}

fn attempt(options: &RenderOptions) -> Result<ExitCode, String> {
    let RenderOptions { input, out, cell } = options;
    let judged = input.judge()?;
    for (object, message) in judged.complaints() {
        complain(&format!("{object}: {message}"));
    }

    let config = &judged.config;
    let cells: Vec<&str> = config.cells.keys().map(String::as_str).collect();
    let hostname = config.cells.get(cell).map(|cell| cell.hostname.as_str());
    let hostname = hostname
        .ok_or_else(|| format!("--cell: there is no cell {cell}; cells are: {}", cells.join(", ")))?;
    let files =
        revision_files(&judged.directory, cell, hostname, config, |_| true, &BTreeSet::new(), |_| true);
    let mut files = files.map_err(|error| error.to_string())?;
    let packed = shards::pack(cell, files.clone(), false, None)?;
    let maps = revision_config_maps(&config.name, cell, &packed).map_err(|error| error.to_string())?;
    let maps = maps.iter().map(|map| serde_yaml::to_string(map).map(|text| format!("---\n{text}")));
    let maps = maps.collect::<Result<String, _>>().map_err(|error| error.to_string())?;

    // The list of domains is no table of Postfix's; it is in the ConfigMaps.
    files.retain(|name, _| name.ends_with(".cf") || TABLES.contains(&name.as_str()));
    files.insert(CONFIG_MAPS.to_owned(), maps);
    write(out, &files).map_err(|error| format!("cannot write to {}: {error}", out.display()))?;
    Ok(judged.exit_code())
}

/// Writes files into a directory that is new, or holds an earlier render. Other files there are left alone, and a
/// Postfix's own configuration is not overwritten.
fn write(out: &Path, files: &BTreeMap<String, String>) -> io::Result<()> {
    let tables = out.join(TABLES_DIRECTORY);
    let at = |name: &str| if TABLES.contains(&name) { tables.join(name) } else { out.join(name) };
    let ours = std::fs::read_to_string(out.join("main.cf")).is_ok_and(|text| text.starts_with(OURS));
    let foreign = files.keys().map(|name| at(name)).chain([tables.clone()]).find(|path| path.exists());
    if let Some(foreign) = foreign.filter(|_| !ours) {
        return Err(io::Error::other(format!(
            "{} is there and not of an earlier render; give an empty directory, or a new one",
            foreign.display()
        )));
    }
    std::fs::create_dir_all(&tables)?;
    // main.cf comes first: it says that the directory is ours, should what follows fail.
    let first = files.get_key_value("main.cf");
    for (name, content) in first.into_iter().chain(files) {
        replace(&at(name), content)?;
    }
    for entry in std::fs::read_dir(&tables)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_str().unwrap_or_default();
        // What postmap made of a table has a dot in its name.
        let table = !name.is_empty() && !name.contains('.') && entry.file_type()?.is_file();
        if table && !TABLES.contains(&name) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Puts a file in its place as a whole, unless it is there already.
fn replace(path: &Path, content: &str) -> io::Result<()> {
    if std::fs::read(path).is_ok_and(|present| present == content.as_bytes()) {
        return Ok(());
    }
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, content)?;
    std::fs::rename(&fresh, path)
}
