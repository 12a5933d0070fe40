//! The commands of the binary.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use vmail_operator::agent;

/// Postfix virtual mail domains on Kubernetes, published in DNS once proved.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Supervise Postfix in its container.
    Agent(agent::AgentOptions),
    /// Create, rename and remove a file in a directory, as the calling user.
    #[command(hide = true)]
    ProbeStorage {
        /// The directory.
        directory: PathBuf,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Agent(options) => {
            if let Some(code) = agent::init::become_init() {
                return code;
            }
            tracing_subscriber::fmt().init();
            agent::run_blocking(options).map_err(|error| error.to_string())
        }
        Command::ProbeStorage { directory } => agent::storage::probe(&directory),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
