//! `check`: what the operator would say of every object.

use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::said::Printed;
use super::{Input, Judged, UNREADABLE, complain, print};
use crate::api::conditions::Reason;

/// Say of every object in manifests what the operator would say
///
/// First what the API server would say: the schema of the kind, and its rules.
/// Then the rules across objects, among the objects given. Whatever is no
/// MailDomain, Mailbox or MailAlias is left out. No cluster is asked.
///
/// On a cluster, of two objects that claim the same, the older one wins. Files have
/// no age, so namespace and name decide.
///
/// The exit code is 0 when every object is accepted, 1 when one is not, and 2 when
/// something cannot be read. A target or a role address that leads nowhere
/// (ResolvedRefs) is told, and is no failure.
#[derive(Args, Clone, Debug)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  vmail-operator check -f apps/mail -n mail
  kustomize build overlays/live | vmail-operator check -f - -o json
  kubectl -n mail get configmap vmail-config -o jsonpath='{.data.config\\.yaml}' >operator.yaml
  vmail-operator check -f apps -n mail --config operator.yaml --release-namespace mail"
)]
pub struct CheckOptions {
    #[command(flatten)]
    input: Input,
    /// How the result is written
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// How the result is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For reading
    Table,
    /// An array of {kind, namespace, name, conditions}
    Json,
    /// The same as YAML
    Yaml,
}

/// Runs `check`.
pub fn check(options: &CheckOptions) -> ExitCode {
    let done = options.input.judge().and_then(|judged| {
        print(written(&judged, options.output)?.as_bytes())?;
        Ok(judged.exit_code())
    });
    done.unwrap_or_else(|error| {
        complain(&error);
        ExitCode::from(UNREADABLE)
    })
}

fn written(judged: &Judged, output: Output) -> Result<String, String> {
    let printed = || judged.said.iter().map(Printed::from).collect::<Vec<_>>();
    match output {
        Output::Table => Ok(table(judged)),
        Output::Json => serde_json::to_string_pretty(&printed())
            .map(|text| text + "\n")
            .map_err(|error| error.to_string()),
        Output::Yaml => serde_yaml::to_string(&printed()).map_err(|error| error.to_string()),
    }
}

/// A line for each object; below, for each one with something wrong, what that is.
fn table(judged: &Judged) -> String {
    let mut rows = vec![["KIND", "NAMESPACE", "NAME", "ACCEPTED", "REASON"]];
    rows.extend(judged.said.iter().map(|said| {
        let (kind, id) = &said.object;
        let accepted = if said.accepted() { "True" } else { "False" };
        let reason = said.trouble().map_or(Reason::Accepted, |statement| statement.reason);
        [kind.as_str(), id.namespace(), id.name(), accepted, reason.as_str()]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 5] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows.iter().filter(|_| !judged.said.is_empty()) {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    for (object, message) in judged.complaints() {
        text.push_str(&format!("\n{object}\n"));
        for line in wrapped(message, 76) {
            text.push_str(&format!("    {line}\n"));
        }
    }
    text
}

/// A text in lines of at most `width` characters, where its words allow it.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
