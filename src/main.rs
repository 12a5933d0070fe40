//! The commands of vmail-operator.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;
use vmail_operator::{agent, command, import, operator};

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
    /// Supervise Postfix in its container
    Agent(agent::AgentOptions),
    /// Create, rename and remove a file in a directory, as the calling user
    #[command(hide = true)]
    ProbeStorage {
        /// The directory
        directory: PathBuf,
    },
    /// Print the custom resource definitions as YAML
    Crds,
    Check(command::CheckOptions),
    Render(command::RenderOptions),
    Trace(command::TraceOptions),
    Withdraw(command::WithdrawOptions),
    Import(import::ImportOptions),
    Completion(command::CompletionOptions),
    /// Print the reference of the API as Markdown
    #[command(hide = true)]
    ApiReference,
    /// Print the reference of the metrics as Markdown
    #[command(hide = true)]
    MetricsReference,
}

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Crds => print_crds(),
        Command::Check(options) => return command::check(&options),
        Command::Render(options) => return command::render(&options),
        Command::Trace(options) => match block_on(command::trace(&options)) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Command::Withdraw(options) => match block_on(command::withdraw(&options)) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Command::Import(options) => return import::import(&options),
        Command::Completion(options) => return command::completion(&options, &Cli::command()),
        Command::ApiReference => {
            print!("{}", vmail_operator::api::reference::reference());
            Ok(())
        }
        Command::MetricsReference => {
            print!("{}", vmail_operator::metrics::reference());
            Ok(())
        }
        Command::ProbeStorage { directory } => agent::storage::probe(&directory).map_err(Into::into),
        Command::Run(options) => run_operator(options),
        Command::Agent(options) => {
            // As the first process of its container, it has orphans to reap.
            if let Some(code) = agent::init::become_init() {
                return code;
            }
            start_logs();
            agent::run_blocking(options).map_err(Into::into)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vmail-operator: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print_crds() -> Outcome {
    for crd in vmail_operator::api::crds() {
        print!("---\n{}", serde_yaml::to_string(&crd)?);
    }
    Ok(())
}

fn run_operator(options: operator::RunOptions) -> Outcome {
    start_logs();
    Ok(block_on(operator::run(options))??)
}

fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Box<dyn std::error::Error>> {
    // One TLS provider for everything in this process.
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| "the TLS provider was installed twice")?;
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work))
}

/// JSON in a cluster, readable on a terminal. A step that is a span, of the target `timing`, is told when it ends, with the
/// time that it took.
fn start_logs() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let logs = logs.with_span_events(FmtSpan::CLOSE);
    if std::io::stderr().is_terminal() {
        logs.init();
    } else {
        logs.json().flatten_event(true).init();
    }
}
