//! The program, and directories for it.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// What a run of the program left behind.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}{}", self.out, self.err))
    }
}

/// Runs the program in a directory.
pub fn run(directory: &Path, args: &[&str]) -> Ran {
    run_with(directory, args, Stdio::null())
}

/// Runs the program with a file as its standard input.
pub fn run_with(directory: &Path, args: &[&str], stdin: impl Into<Stdio>) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_vmail-operator"))
        .args(args)
        .current_dir(directory)
        // Whatever cluster this machine knows is none of ours.
        .env("HOME", directory)
        .env_remove("KUBECONFIG")
        .env_remove("POD_NAMESPACE")
        .stdin(stdin)
        .output()
        .expect("the program runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ran { code: output.status.code().expect("no signal"), out: text(output.stdout), err: text(output.stderr) }
}

/// A directory with these files.
pub fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, content) in files {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(path, content).expect("writes");
    }
    directory
}

/// A manifest.
pub fn manifest(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: vmail.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
    )
}

/// The operator's configuration as the chart renders it.
pub const CONFIG: &str = "
name: vmail
postmaster: admin@example.com
cells:
  default: {hostname: mail.example.test, pod: vmail-postfix-default-0}
  other: {hostname: other.example.test, pod: vmail-postfix-other-0}
tenancy: {rules: [{namespaces: [team], domains: ['*.example.net']}]}
dns: {powerdns: {url: 'http://powerdns:8081', apiKeyFile: /etc/vmail-operator/powerdns/api-key}}
";
