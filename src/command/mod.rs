//! Commands that people run: manifests in, or a look at a cluster; out comes what the operator would say or write. One
//! asks the operator for something: `withdraw`.

mod check;
mod completion;
mod render;
mod said;
mod trace;
mod withdraw;

pub use check::{CheckOptions, check};
pub use completion::{CompletionOptions, completion};
pub use render::{RenderOptions, render};
pub use trace::{TraceOptions, trace};
pub use withdraw::{WithdrawOptions, withdraw};

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueHint};
use serde_json::{Value, json};

use crate::api::conditions::Reason;
use crate::config::Config;
use crate::directory::{Directory, Objects, Rules};
use crate::manifests::{self, Manifests};

use said::{Said, said};

/// The exit code when an object is not accepted.
const NOT_ACCEPTED: u8 = 1;
/// The exit code when something cannot be read or written; that of wrong usage (clap), too.
const UNREADABLE: u8 = 2;

/// The namespace of the release where nothing says otherwise: that of the documentation.
const USUAL_NAMESPACE: &str = "mail";
/// Stands for the host name of every cell while no configuration says it. Nobody can ever have it (RFC 2606).
const PLACEHOLDER_HOSTNAME: &str = "mail.invalid";
const PLACEHOLDER_POSTMASTER: &str = "postmaster@installation.invalid";

const NOT_JUDGED: &str =
    "without --config, tenancy rules, cells, host names and the installation's postmaster are not judged";

/// Which manifests are judged, and by whose rules.
#[derive(Args, Clone, Debug)]
pub struct Input {
    /// Files, directories, or - for standard input
    ///
    /// In a directory and all below it: *.yaml, *.yml and *.json, but nothing that begins with a dot.
    #[arg(
        short = 'f', long = "filename", value_name = "PATH",
        required = true, num_args = 1.., value_hint = ValueHint::AnyPath
    )]
    paths: Vec<PathBuf>,
    /// Namespace of objects that name none
    #[arg(short, long, default_value = "default", value_hint = ValueHint::Other)]
    namespace: String,
    /// The operator's configuration
    ///
    /// The chart renders it: key config.yaml of the ConfigMap <release>-config. Without it, rules that need it (tenancy,
    /// cells, host names, the installation's postmaster) are not judged.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// Namespace of the release, which may claim any domain
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE", value_hint = ValueHint::Other)]
    release_namespace: Option<String>,
}

/// Manifests, and what the rules make of them.
pub struct Judged {
    /// What was read.
    pub manifests: Manifests,
    /// The configuration; one that permits everything where none was given.
    pub config: Config,
    /// The objects that the API server would let in.
    pub objects: Objects,
    /// The namespace of the release.
    pub release_namespace: String,
    /// Who would be served, and a verdict for every object.
    pub directory: Directory,
    /// The verdicts as conditions.
    said: Vec<Said>,
}

impl Input {
    /// Reads and judges. What cannot be read, and what is not judged, is told on standard error.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn judge(&self) -> Result<Judged, String> {
        let manifests = manifests::read(&self.paths, &self.namespace);
        for problem in &manifests.problems {
            complain(&problem.to_string());
        }
        if manifests.objects.is_empty() {
            complain("there is no MailDomain, Mailbox or MailAlias in what was given");
        }
        let objects = manifests::judge(&manifests);
        let config = match &self.config {
            Some(file) => Config::read(file).map_err(|error| error.to_string())?,
            None => {
                complain(NOT_JUDGED);
                permissive(&objects)?
            }
        };
        let records = BTreeMap::new();
        let release_namespace = self.release_namespace.clone().unwrap_or_else(|| USUAL_NAMESPACE.to_owned());
        let rules = Rules { config: &config, namespace: &release_namespace, records: &records };
        let directory = Directory::compute(&objects, rules);
        let said = said(&directory);
        if self.config.is_some() && said.iter().any(|said| said.refused_for(Reason::DomainNotPermitted)) {
            complain(&format!(
                "the namespace of the release is taken to be {release_namespace}; --release-namespace says otherwise"
            ));
        }
        Ok(Judged { manifests, config, objects, release_namespace, directory, said })
    }
}

impl Judged {
    /// Each object with something wrong, with the place where it was read, and what that is.
    fn complaints(&self) -> impl Iterator<Item = (String, &str)> {
        self.said.iter().filter_map(|said| {
            let (kind, id) = &said.object;
            let place = &self.manifests.objects.get(&said.object)?.place;
            Some((format!("{kind} {id} at {place}"), said.trouble()?.message.as_str()))
        })
    }

    fn exit_code(&self) -> ExitCode {
        if !self.manifests.problems.is_empty() {
            ExitCode::from(UNREADABLE)
        } else if self.said.iter().all(Said::accepted) {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(NOT_ACCEPTED)
        }
    }
}

/// A configuration that keeps nobody out: every cell that a MailDomain names is there, and everybody may claim
/// everything.
fn permissive(objects: &Objects) -> Result<Config, String> {
    let named = objects.domains.values().filter_map(|object| object.spec.as_ref().ok());
    let cells: BTreeSet<&str> = named.map(|spec| spec.cell.as_str()).chain(["default"]).collect();
    let cell = json!({ "hostname": PLACEHOLDER_HOSTNAME, "pod": "" });
    let cells: Value = cells.into_iter().map(|name| (name.to_owned(), cell.clone())).collect();
    let config = json!({
        "name": "vmail",
        "postmaster": PLACEHOLDER_POSTMASTER,
        "cells": cells,
        "tenancy": { "rules": [{ "namespaces": ["*"], "domains": ["*"], "rights": ["adopt", "unmanaged"] }] },
        "dns": { "powerdns": { "url": "", "apiKeyFile": "" } },
    });
    serde_json::from_value(config).map_err(|error| error.to_string())
}

fn complain(sentence: &str) {
    eprintln!("vmail-operator: {sentence}");
}

/// Writes to standard output. A reader that has seen enough (`head`) is no failure.
fn print(text: &[u8]) -> Result<(), String> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write to standard output: {error}"))
        }
        _ => Ok(()),
    }
}
