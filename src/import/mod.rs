//! `import`: the files of a hand-made Postfix become manifests.

mod main_cf;
mod manifests;
mod report;
mod table;
mod text;
mod translate;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueHint};

use main_cf::Parameters;
use report::Report;
use text::Place;
use translate::{Old, translate};

const LEFT_OUT: u8 = 1;
const UNREADABLE: u8 = 2;
const REPORT_FILE: &str = "import-report.txt";

/// Turn the files of a hand-made Postfix into manifests
///
/// Reads the virtual_* parameters of a main.cf and the text files behind them, or the
/// three classic files. Files of /etc/postfix/ are looked for beside main.cf, so that
/// a copy of that directory will do.
///
/// What cannot be carried over is told with file and line; nothing is dropped in
/// silence. The exit code is 0 when all was carried over, 1 when something was left
/// out (the rest is written), and 2 when something cannot be read or written.
#[derive(Args, Clone, Debug)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  vmail-operator import --config-directory /etc/postfix --out apps/mail
  vmail-operator import --domains virtual_domains --mailboxes virtual_mailbox_maps --aliases virtual_aliases
  vmail-operator check -f apps/mail -n mail"
)]
pub struct ImportOptions {
    /// Directory with main.cf
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, required_unless_present_any = ["domains", "mailboxes", "aliases"], conflicts_with_all = ["domains", "mailboxes", "aliases"])]
    config_directory: Option<PathBuf>,
    /// virtual_mailbox_domains as a file: a domain in each line, what follows it is ignored
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    domains: Option<PathBuf>,
    /// virtual_mailbox_maps as a file: an address and a path in each line
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    mailboxes: Option<PathBuf>,
    /// virtual_alias_maps as a file: an address and its targets in each line
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    aliases: Option<PathBuf>,
    /// Namespace of the objects; by default they name none
    #[arg(short, long, value_hint = ValueHint::Other)]
    namespace: Option<String>,
    /// Directory to write to, a file for each domain, and the report; by default all goes to standard output
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    out: Option<PathBuf>,
}

/// Runs `import`.
pub fn import(options: &ImportOptions) -> ExitCode {
    match attempt(options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(LEFT_OUT),
        Err(error) => {
            eprintln!("vmail-operator: {error}");
            ExitCode::from(UNREADABLE)
        }
    }
}

/// Whether everything was carried over.
fn attempt(options: &ImportOptions) -> Result<bool, String> {
    let mut report = Report::default();
    let old = match &options.config_directory {
        Some(directory) => from_main_cf(directory, &mut report)?,
        None => from_files(options, &mut report)?,
    };
    let new = translate(&old, &mut report);
    let files = manifests::files(&new, options.namespace.as_deref())?;
    let text = report.to_string();
    eprint!("{text}");
    match &options.out {
        None => {
            let all: String = files.into_values().collect();
            print(&all)?;
        }
        Some(directory) => {
            let failed = |error: std::io::Error| format!("cannot write to {}: {error}", directory.display());
            std::fs::create_dir_all(directory).map_err(failed)?;
            for (name, content) in &files {
                std::fs::write(directory.join(name), content).map_err(failed)?;
            }
            std::fs::write(directory.join(REPORT_FILE), text).map_err(failed)?;
        }
    }
    Ok(report.complete())
}

fn print(text: &str) -> Result<(), String> {
    use std::io::Write as _;
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write to standard output: {error}"))
        }
        _ => Ok(()),
    }
}

/// The three classic files.
fn from_files(options: &ImportOptions, report: &mut Report) -> Result<Old, String> {
    let mut old = Old::default();
    if let Some(file) = &options.domains {
        let lines = text::read(file)?;
        for line in lines {
            match line.text {
                // `domain OK`: the domain, and a value that means nothing.
                Ok(text) => {
                    let name = text.split_ascii_whitespace().next().unwrap_or_default();
                    old.mailbox_domains.push((name.to_lowercase(), line.place));
                }
                Err(why) => report.left_out(&line.place, "the line", &why, "write it in plain ASCII"),
            }
        }
    }
    if let Some(file) = &options.mailboxes {
        old.mailboxes = table::read_table(file, report)?;
    }
    if let Some(file) = &options.aliases {
        old.aliases = table::read_table(file, report)?;
        // `domain anything` makes an alias domain where virtual_alias_domains is not set.
        let listed: Vec<&String> = old.mailbox_domains.iter().map(|(name, _)| name).collect();
        let marks = old.aliases.iter().filter(|entry| !entry.key.contains('@') && entry.key.contains('.'));
        let marks = marks.filter(|entry| !listed.contains(&&entry.key));
        old.alias_domains = marks.map(|entry| (entry.key.clone(), entry.place.clone())).collect();
    }
    Ok(old)
}

/// What main.cf refers to. The defaults are those of postconf(5).
fn from_main_cf(directory: &Path, report: &mut Report) -> Result<Old, String> {
    let parameters = Parameters::read(directory)?;
    let get = |name: &str, default: &str| parameters.get(name, default);
    let (maps, at) = get("virtual_mailbox_maps", "")?;
    let mailboxes = table::entries("virtual_mailbox_maps", &maps, &at, report)?;
    let (maps, at) = get("virtual_alias_maps", "")?;
    let aliases = table::entries("virtual_alias_maps", &maps, &at, report)?;
    let (list, at) = get("virtual_mailbox_domains", "$virtual_mailbox_maps")?;
    let mailbox_domains = table::names("virtual_mailbox_domains", &list, &at, report)?;
    let (list, at) = get("virtual_alias_domains", "$virtual_alias_maps")?;
    let alias_domains = table::names("virtual_alias_domains", &list, &at, report)?;
    let (base, _) = get("virtual_mailbox_base", "")?;
    beside(&parameters, report)?;
    let mailbox_base = Some(base).filter(|base| !base.is_empty());
    Ok(Old { mailbox_domains, alias_domains, mailboxes, aliases, mailbox_base })
}

/// Parameters that decide about addresses, too, and are not carried over.
fn beside(parameters: &Parameters, report: &mut Report) -> Result<(), String> {
    let mut note = |name: &str, usual: &[&str], why: &str, todo: &str| -> Result<(), String> {
        // What cannot be expanded is told as it stands.
        let (value, place): (String, Place) = match parameters.get(name, usual[0]) {
            Ok(found) => found,
            Err(_) => return Ok(()),
        };
        if !usual.contains(&value.as_str()) {
            report.note(&place, &format!("{name} = {value}"), why, todo);
        }
        Ok(())
    };
    note(
        "recipient_delimiter",
        &["+"],
        "here it is `+`",
        "mail for addresses with another delimiter is refused, and you+tag@ belongs to you@",
    )?;
    note(
        "virtual_transport",
        &["virtual"],
        "here the mail is delivered into Maildirs by Postfix itself",
        "see that whoever reads the mail finds it there",
    )?;
    note(
        "relay_domains",
        &["", "$mydestination"],
        "nothing is relayed here",
        "keep the old server for these domains",
    )?;
    note(
        "canonical_maps",
        &[""],
        "addresses are not rewritten here",
        "declare a MailAlias for each recipient that was",
    )?;
    note(
        "recipient_canonical_maps",
        &[""],
        "addresses are not rewritten here",
        "declare a MailAlias for each recipient that was",
    )?;
    Ok(())
}
