//! The commands of vmail-operator.

use clap::{Parser, Subcommand};

/// Postfix virtual mail domains on Kubernetes, published in DNS once proved.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the custom resource definitions as YAML
    Crds,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    match Cli::parse().command {
        Command::Crds => {
            for crd in vmail_operator::api::crds() {
                print!("---\n{}", serde_yaml::to_string(&crd)?);
            }
        }
    }
    Ok(())
}
