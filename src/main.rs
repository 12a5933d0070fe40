//! The commands of vmail-operator.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing::error;
use tracing_subscriber::EnvFilter;
use vmail_operator::operator;

/// Postfix virtual mail domains on Kubernetes, published in DNS once proved.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the operator
    Run(operator::RunOptions),
    /// Print the custom resource definitions as YAML
    Crds,
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let result = match command {
        Command::Crds => print_crds(),
        Command::Run(options) => serve(|| async { Ok(operator::run(options).await?) }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error}");
            ExitCode::FAILURE
        }
    }
}

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn print_crds() -> Outcome {
    for crd in vmail_operator::api::crds() {
        print!("---\n{}", serde_yaml::to_string(&crd)?);
    }
    Ok(())
}

/// Runs a long-lived command: JSON logs in a cluster, readable ones on a terminal.
fn serve<F: Future<Output = Outcome>>(command: impl FnOnce() -> F) -> Outcome {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        logs.init();
    } else {
        logs.json().flatten_event(true).init();
    }
    // One TLS provider for everything in this process.
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| "the TLS provider was installed twice")?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(command())
}
