//! The commands of all pages but the tutorial, which has a test of its own: each is run on a cluster, and must succeed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cluster::{Cluster, eventually};

/// Pages and directories of pages.
const PAGES: [&str; 4] = ["README.md", "charts/vmail-operator/README.md", "docs", "CONTRIBUTING.md"];

/// What an indented line begins with that is a command.
const PROGRAMS: [&str; 9] = [
    "kubectl ",
    "helm ",
    "vmail-operator ",
    "curl ",
    "pdnsutil ",
    "postqueue ",
    "docker ",
    "make ",
    "cargo ",
];

/// How commands begin that are not run here, and why.
const ELSEWHERE: [(&str, &str); 10] = [
    ("make ", "what runs this test, and what takes an hour"),
    ("cargo ", "part of the same"),
    ("docker ", "the local cluster's images are built from the same file, by another program"),
    ("helm install", "done before anything else, with the addresses of the local cluster"),
    ("kubectl create namespace mail", "the same"),
    ("kubectl -n mail create secret generic powerdns", "the same"),
    ("helm … ", "a part of a command"),
    ("kubectl apply -n mail -f claims.yaml", "there is no driver for snapshots"),
    ("kubectl -n argocd ", "tests/health asks Argo CD's own library"),
    ("kubectl -n mail get certificate,", "there is no cert-manager"),
];

/// What is left for the end, in this order.
const LAST: [&str; 3] = ["withdraw --all", "withdraw ", "helm uninstall"];

/// Whether a command found nothing, which is an answer, too: in a log, of a container that never ended before, or while
/// nothing is held back.
fn found_nothing(command: &str, errors: &str) -> bool {
    command.contains("| grep ") && errors.is_empty()
        || command.contains("--previous") && errors.contains("previous terminated container")
        || command.contains("vmail-brake") && errors.contains("NotFound")
}

/// The pages below a path, in order.
fn pages(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let mut entries: Vec<_> =
        std::fs::read_dir(path).expect("a directory").map(|entry| entry.expect("an entry").path()).collect();
    entries.sort();
    let below =
        entries.iter().filter(|entry| entry.is_dir() || entry.extension().is_some_and(|end| end == "md"));
    below.flat_map(|entry| pages(entry)).collect()
}

/// The commands in the indented blocks of a page, with their further lines and without the remarks beside them.
fn commands(page: &str) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let mut open = false;
    for line in page.lines() {
        let text = line.trim_start();
        let text = text.strip_prefix("$ ").unwrap_or(text);
        let text = text.split("    # ").next().unwrap_or(text).trim_end();
        match commands.last_mut().filter(|_| open) {
            Some(last) => last.push_str(&format!("\n{text}")),
            None if line.starts_with("    ") && PROGRAMS.iter().any(|program| text.starts_with(program)) => {
                commands.push(text.to_owned());
            }
            None => continue,
        }
        open = text.ends_with('\\');
    }
    commands
}

/// All commands that are run, each once.
fn all_commands() -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for page in PAGES {
        for page in pages(&Path::new(env!("CARGO_MANIFEST_DIR")).join(page)) {
            if page.ends_with("docs/tutorial.md") {
                continue;
            }
            let text = std::fs::read_to_string(&page).expect("a page");
            for command in commands(&text) {
                let elsewhere = ELSEWHERE.iter().any(|(start, _)| command.starts_with(start));
                if !elsewhere && !all.contains(&command) {
                    all.push(command);
                }
            }
        }
    }
    all.sort_by_key(|command| LAST.iter().position(|last| command.contains(last)).map_or(0, |at| at + 1));
    all
}

#[test]
fn every_command_of_the_pages_works() {
    let commands = all_commands();
    assert!(commands.len() > 50, "{commands:#?}");
    let cluster = Cluster::up("pages");
    cluster.make_release_namespace().expect("created");
    crate::helm(&cluster, "install", &["--wait", "--timeout=120s"]);

    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = tempfile::tempdir().expect("a directory");
    for name in ["charts", "crds"] {
        std::os::unix::fs::symlink(root.join(name), dir.path().join(name)).expect("a link");
    }
    let copied =
        std::process::Command::new("cp").arg("-r").arg(root.join("examples")).arg(dir.path()).status();
    assert!(copied.expect("cp runs").success());
    // What a pipeline has in Git.
    for name in ["mail", "git"] {
        std::fs::create_dir(dir.path().join(name)).expect("a directory");
    }
    for domain in ["example.org", "example.net"] {
        let path = dir.path().join(format!("examples/{domain}.yaml"));
        let text = std::fs::read_to_string(&path).expect("an example");
        // So that it is soon out of every cache.
        let text = text.replace("  domain: example.net\n", "  domain: example.net\n  dns: {ttl: 60}\n");
        assert!(text.contains("ttl: 60"), "{text}");
        std::fs::write(&path, &text).expect("written");
        let text = text.replace("\nmetadata:\n", "\nmetadata:\n  namespace: mail\n");
        for name in ["mail", "git"] {
            std::fs::write(dir.path().join(format!("{name}/{domain}.yaml")), &text).expect("written");
        }
    }
    let certificate = "openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=mail.example.test \
                       -keyout tls.key -out tls.crt 2>/dev/null && kubectl -n mail create secret tls certificate --cert tls.crt --key tls.key";
    let program = Path::new(env!("CARGO_BIN_EXE_vmail-operator")).parent().expect("a directory");
    let pdns = format!("{}/pdns", cluster.env("CLUSTER_STATE"));
    let run = |command: &str| {
        let command = command
            .replace("CELL", "default")
            .replace("DOMAIN", "example.org")
            .replace(" NAME ", " certificate ")
            .replace(" POD ", " deployment/vmail-operator ")
            .replace("/etc/postfix", "examples/handmade")
            .replace(
                "--domains F --mailboxes F --aliases F",
                "--domains empty --mailboxes empty --aliases empty",
            )
            // The local cluster has no load balancer.
            .replace(
                "cells.second.service.loadBalancerIP=192.0.2.2",
                "'cells.second.service.externalIPs={192.0.2.2}'",
            )
            .replace("pdnsutil ", &format!("pdnsutil --config-dir={pdns} "));
        let script = format!(
            "cd '{}' && export PATH='{}':$PATH URL='{}' KEY=$(cat '{}')\n{{\n{command}\n}} 2>err; \
             echo \"exit code $?\"; cat err",
            dir.path().display(),
            program.display(),
            cluster.env("PDNS_URL"),
            cluster.env("PDNS_API_KEY_FILE"),
        );
        let said = cluster.exec(&["bash", "-c", &script], "").expect("bash ends well");
        let (output, rest) = said.rsplit_once("exit code ").expect("the code");
        let (code, errors) = rest.split_once('\n').unwrap_or((rest, ""));
        (output.to_owned(), code.trim().to_owned(), errors.trim().to_owned())
    };
    std::fs::write(dir.path().join("empty"), "").expect("written");
    assert_eq!(run(certificate).1, "0");
    for command in &commands {
        println!("$ {command}");
        // Not everything is there at once: a pod that an upgrade replaces, an MX. What withdraws may be run again.
        let changes = ["create", "apply", "annotate", "import", "helm", "delete-rrset"];
        let limit = if changes.iter().any(|verb| command.contains(verb)) { 0 } else { 90 };
        eventually(&format!("`{command}`"), Duration::from_secs(limit), || {
            let (output, code, errors) = run(command);
            match code.as_str() {
                "0" => Ok(()),
                "1" if found_nothing(command, &errors) => Ok(()),
                // It differs, or something is left out: both are said so.
                "1" if command.contains(" diff ") || command.contains(" import ") => Ok(()),
                _ => Err(format!("exit code {code}: {output}{errors}")),
            }
        });
    }
    for object in ["deployment/vmail-operator", "statefulset/vmail-postfix-default"] {
        cluster.kubectl(&["get", "-n", "mail", object]).expect_err("uninstalled");
    }
    // That of example.org was left to itself, by the annotation.
    assert_eq!(cluster.dig_mx("example.net"), "");
}

#[test]
fn commands_are_found_with_all_their_lines() {
    let page = "    $ kubectl a \\\n        b     # why\n\ntext\n\n    helm c\n    said\nkubectl d\n";
    assert_eq!(commands(page), ["kubectl a \\\nb", "helm c"]);
}
