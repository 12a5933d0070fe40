//! `docs/tutorial.md`, followed word for word on a cluster: each command that stands there is run, and must say what stands
//! there.

use std::path::Path;
use std::time::Duration;

use crate::cluster::{Cluster, eventually};
use crate::{POD, helm};

/// What the old server's DNS has.
const OLD_MX: &str = "10 old.example.test.";

/// A command of the page, and the lines shown below it.
#[derive(Debug)]
struct Shown {
    command: String,
    output: Vec<String>,
}

/// The commands of a page: what begins with `$` in an indented block, to the end of the block or the next one.
fn commands(page: &str) -> Vec<Shown> {
    let mut commands: Vec<Shown> = Vec::new();
    let mut open = false;
    for line in page.lines() {
        let Some(line) = line.strip_prefix("    ") else {
            open = false;
            continue;
        };
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (Some(command), _) => {
                commands.push(Shown { command: command.to_owned(), output: Vec::new() });
                open = true;
            }
            (None, Some(last)) if open && last.output.is_empty() && last.command.ends_with(['|', '\\']) => {
                last.command.push_str(&format!("\n{line}"));
            }
            (None, Some(last)) if open => last.output.push(line.to_owned()),
            _ => {}
        }
    }
    commands
}

/// Words, without what differs from run to run: ages, and the names of files in a Maildir.
fn words(line: &str) -> String {
    let differs = |word: &str| {
        let digits = word.trim_start_matches(|c: char| c.is_ascii_digit());
        digits.len() < word.len() && (["s", "m"].contains(&digits) || digits.starts_with(".V"))
    };
    line.split_whitespace().map(|word| if differs(word) { "ANY" } else { word }).collect::<Vec<_>>().join(" ")
}

/// Whether each line shown is found in the output, in this order. `…` stands for whatever was left out.
fn shows(shown: &[String], output: &str) -> Result<(), String> {
    let mut lines = output.lines().map(words);
    for line in shown.iter().map(|line| words(line)) {
        let told = line.split('…').next().unwrap_or_default().trim();
        if !told.is_empty() && !lines.any(|line| line.contains(told)) {
            return Err(format!("`{line}` is not in\n{output}"));
        }
    }
    Ok(())
}

/// What is edited between two commands: the MX that stands there may be replaced.
fn allow_adoption(dir: &Path) {
    for domain in ["example.net", "example.org"] {
        let path = dir.join(format!("mail/{domain}.yaml"));
        let text = std::fs::read_to_string(&path).expect("imported");
        let spec = format!("spec:\n  domain: {domain}\n");
        assert!(text.contains(&spec), "{text}");
        std::fs::write(path, text.replace(&spec, &format!("{spec}  dns:\n    adopt: true\n")))
            .expect("written");
    }
}

#[test]
fn the_tutorial_says_what_happens() {
    let commands = commands(include_str!("../../docs/tutorial.md"));
    assert!(commands.len() > 10, "{commands:?}");
    let cluster = Cluster::up("tutorial");
    cluster.make_release_namespace().expect("created");
    helm(&cluster, "install", &["--wait", "--timeout=120s"]);
    for domain in ["example.org", "example.net"] {
        cluster.change_mx("REPLACE", domain, domain, OLD_MX);
    }

    let dir = tempfile::tempdir().expect("a directory");
    let old = dir.path().join("vhosts");
    std::fs::create_dir_all(old.join("net/me/cur")).expect("a Maildir");
    std::fs::write(old.join("net/me/cur/1.old:2,S"), "Subject: from-the-old-server\n\nHello.\n")
        .expect("a message");
    std::fs::write(dir.path().join("message.txt"), "Subject: to-the-new-server\n\nHello.\n")
        .expect("a message");
    std::os::unix::fs::symlink(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("examples"),
        dir.path().join("examples"),
    )
    .expect("a link");
    let program = Path::new(env!("CARGO_BIN_EXE_vmail-operator")).parent().expect("a directory");
    let (server, port) = cluster.env("PDNS_DNS").rsplit_once(':').expect("address:port");
    let run = |command: &str| {
        let command = command
            .replace("/var/mail/vhosts", &old.to_string_lossy())
            .replace("ADDRESS-OF-vmail-smtp-default", cluster.env("NODE_IP"))
            .replace("dig +short", &format!("dig +short @{server} -p {port}"));
        let script = format!(
            "cd '{}' && export PATH='{}':$PATH && export GIT_{{AUTHOR,COMMITTER}}_{{NAME=you,EMAIL=you@example.org}}\n{command}",
            dir.path().display(),
            program.display()
        );
        let script = format!("{{\n{script}\n}} 2>&1; echo \"exit code $?\"");
        let said = cluster.exec(&["bash", "-c", &script], "").expect("bash ends well");
        let (output, code) = said.rsplit_once("exit code ").expect("its last line");
        (output.to_owned(), code.trim().to_owned())
    };
    for Shown { command, output } in &commands {
        println!("$ {command}");
        if command.contains("kubectl wait") {
            // The reader changed the files, and applied them in the command before.
            assert_eq!(run("git diff --quiet").1, "1", "nothing was changed");
        }
        // What only looks may look again: not everything is there at once.
        let looks = ["kubectl get", "kubectl exec -n", "kubectl -n mail exec", "dig"];
        let limit = if looks.iter().any(|start| command.starts_with(start)) { 90 } else { 0 };
        let expected = if command.contains(" import ") { "1" } else { "0" };
        eventually(&format!("`{command}`"), Duration::from_secs(limit), || {
            let (said, code) = run(command);
            shows(output, &said)?;
            if code == expected { Ok(()) } else { Err(format!("exit code {code}: {said}")) }
        });
        if command.contains("tar --owner") {
            allow_adoption(dir.path());
        }
    }
    cluster.expect_mail(POD, "to-the-new-server", &["me@example.net"]);
    let moved = cluster.find_mail(POD, "from-the-old-server");
    assert_eq!(moved, ["2000:2000 /var/vmail/example.net/me/cur/1.old:2,S"]);
}
