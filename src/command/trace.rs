//! `trace`: what happens to mail for one address.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::{Input, NOT_ACCEPTED, UNREADABLE, complain, print};
use crate::api::address::Address;
use crate::directory::Rules;
use crate::directory::trace::Trace;
use crate::operator::snapshot::Snapshot;

/// Say what happens to mail for an address, step by step
///
/// The domain and who serves it, its MX, each alias on the way, and the Maildir
/// or the other server at each end; or why the address is refused.
///
/// With -f, manifests are read, as by `check`. Without, a cluster is asked: all
/// MailDomains, Mailboxes and MailAliases, and in the namespace of the release the
/// domain records and the configuration. The pod of the operator may read all of
/// that.
///
/// The exit code is 0 when mail is accepted, 1 when it is refused, and 2 when
/// something cannot be read.
#[derive(Args, Clone, Debug)]
#[command(
    verbatim_doc_comment,
    mut_arg("paths", |arg| arg.required(false)),
    after_help = "\
Examples:
  vmail-operator trace you+lists@example.org -f apps/mail
  kubectl -n mail exec deploy/vmail-operator -- vmail-operator trace you@example.org
  vmail-operator trace you@example.org --release-namespace mail -o json"
)]
pub struct TraceOptions {
    /// The address, such as you@example.org
    address: String,
    #[command(flatten)]
    input: Input,
    /// How the result is written
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// How the result is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For reading
    Text,
    /// An object; fields are added, never changed
    Json,
    /// The same as YAML
    Yaml,
}

/// Runs `trace`.
pub async fn trace(options: &TraceOptions) -> ExitCode {
    match attempt(options).await {
        Ok(code) => code,
        Err(error) => {
            complain(&error);
            ExitCode::from(UNREADABLE)
        }
    }
}

async fn attempt(options: &TraceOptions) -> Result<ExitCode, String> {
    let Some(address) = Address::target(&options.address) else {
        return Err(format!("{:?} is not an address such as you@example.org", options.address));
    };
    let trace = if options.input.paths.is_empty() {
        let namespace = options.input.release_namespace.as_deref();
        let snapshot = Snapshot::take(namespace).await.map_err(|error| error.to_string())?;
        let Snapshot { config, namespace, objects, records, directory, held } = &snapshot;
        let rules = Rules { config, namespace, records };
        let mut trace = Trace::new(&address, directory, objects, rules);
        trace.held = [address.domain(), &address.to_string()].into_iter().any(|name| held.contains(name));
        trace
    } else {
        let judged = options.input.judge()?;
        let rules =
            Rules { config: &judged.config, namespace: &judged.release_namespace, records: &BTreeMap::new() };
        Trace::new(&address, &judged.directory, &judged.objects, rules)
    };
    let text = match options.output {
        Output::Text => trace.to_string(),
        Output::Json => serde_json::to_string_pretty(&trace).map_err(|error| error.to_string())? + "\n",
        Output::Yaml => serde_yaml::to_string(&trace).map_err(|error| error.to_string())?,
    };
    print(text.as_bytes())?;
    Ok(if trace.accepted { ExitCode::SUCCESS } else { ExitCode::from(NOT_ACCEPTED) })
}
