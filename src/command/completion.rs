//! `completion`: what a shell needs to complete commands and options.

use std::process::ExitCode;

use clap::{Args, Command};
use clap_complete::{Shell, generate};

use super::{UNREADABLE, complain, print};

/// Print a completion script for a shell
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  source <(vmail-operator completion bash)
  vmail-operator completion zsh >\"${fpath[1]}/_vmail-operator\"
  vmail-operator completion fish >~/.config/fish/completions/vmail-operator.fish")]
pub struct CompletionOptions {
    /// The shell
    shell: Shell,
}

/// Runs `completion` for a command line. Hidden commands are not completed.
pub fn completion(options: &CompletionOptions, cli: &Command) -> ExitCode {
    let name = env!("CARGO_PKG_NAME");
    let shown = cli.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let mut cli = Command::new(name).version(env!("CARGO_PKG_VERSION")).subcommands(shown);
    let mut script = Vec::new();
    generate(options.shell, &mut cli, name, &mut script);
    match print(&script) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::from(UNREADABLE)
        }
    }
}
