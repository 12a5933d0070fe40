//! What outlives a pod.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::Arc;

use tempfile::TempDir;

use super::{TOKEN, set_mode};

/// The files that outlive a pod: what is mounted, and its two volumes.
pub struct Volumes {
    pub(super) sand: Arc<TempDir>,
}

impl Volumes {
    pub fn new() -> Self {
        let sand = tempfile::Builder::new().prefix("vmail-pod").tempdir().unwrap();
        for name in ["mnt", "etc", "etc/revision", "vmail", "spool"] {
            fs::create_dir(sand.path().join(name)).unwrap();
        }
        chown(sand.path().join("vmail"), Some(0), Some(2000)).unwrap();
        for (name, mode) in [("vmail", 0o2770), ("spool", 0o2775)] {
            set_mode(&sand.path().join(name), mode);
        }
        fs::write(sand.path().join("token"), TOKEN).unwrap();
        fs::create_dir(sand.path().join("etc/token")).unwrap();
        fs::write(sand.path().join("etc/token/token"), format!("{TOKEN}\n")).unwrap();
        Self { sand: Arc::new(sand) }
    }

    /// The same, for another pod beside this one.
    pub fn shared(&self) -> Self {
        Self { sand: self.sand.clone() }
    }

    /// New ones, with a copy of what is on the two volumes.
    pub fn copy(&self) -> Self {
        self.copy_of(&["vmail", "spool"])
    }

    /// The same, and what is mounted.
    pub fn copy_with_mounts(&self) -> Self {
        self.copy_of(&["etc", "vmail", "spool"])
    }

    fn copy_of(&self, names: &[&str]) -> Self {
        let copy = Self::new();
        for name in names {
            let paths = [self.sand.path().join(name), copy.sand.path().join(name)];
            let copied = Command::new("cp").arg("-aT").args(paths).status();
            assert!(copied.as_ref().is_ok_and(ExitStatus::success), "{name}: {copied:?}");
        }
        copy
    }

    /// The volume with the queue and the last good revision.
    pub fn spool(&self) -> PathBuf {
        self.sand.path().join("spool")
    }

    pub fn revision(&self) -> PathBuf {
        self.sand.path().join("etc/revision")
    }

    pub fn vmail(&self) -> PathBuf {
        self.sand.path().join("vmail")
    }

    /// The file with the token of the report.
    pub fn token(&self) -> PathBuf {
        self.sand.path().join("etc/token/token")
    }

    /// Where the Secret with the certificate is mounted; not there unless a test makes it.
    pub fn tls(&self) -> PathBuf {
        self.sand.path().join("etc/tls")
    }

    /// How a path of the pod is called outside of its root, in its mount namespace.
    pub fn seen_from_the_pod(&self, path: &str) -> PathBuf {
        self.sand.path().join("mnt/root").join(path)
    }

    /// Where strace(1) writes to.
    pub fn steps(&self) -> PathBuf {
        self.sand.path().join("steps")
    }

    /// Whether strace(1) saw somebody killed.
    pub fn saw_a_kill(&self) -> bool {
        fs::read_to_string(self.steps()).is_ok_and(|steps| steps.contains("killed by SIGKILL"))
    }

    /// The system call that strace(1) saw last.
    pub fn last_step(&self) -> String {
        let steps = fs::read_to_string(self.steps()).unwrap_or_default();
        let mut calls = steps.lines().filter(|line| line.contains('('));
        let sand = self.sand.path().display().to_string() + "/mnt/root/";
        calls.next_back().unwrap_or_default().replace(&sand, "")
    }

    /// What strace(1) saw, in its order: each system call, and that some thread made it for the n-th time. It counts so
    /// too.
    pub fn steps_of_each_thread(&self) -> Vec<(String, usize)> {
        let steps = fs::read_to_string(self.steps()).unwrap();
        let (mut made, mut seen) = (BTreeMap::new(), Vec::new());
        for line in steps.lines() {
            let Some((thread, rest)) = line.split_once(' ') else { continue };
            let Some((call, _)) = rest.trim_start().split_once('(') else { continue };
            let count = made.entry((thread, call)).or_insert(0);
            *count += 1;
            let step = (call.to_owned(), *count);
            if !seen.contains(&step) {
                seen.push(step);
            }
        }
        seen
    }

    fn maildir(&self, address: &str) -> PathBuf {
        let (local, domain) = address.split_once('@').expect("an address");
        self.vmail().join(domain).join(local)
    }

    /// Has Postfix deliver nothing to this address until [`Volumes::release`]: its Maildir, which this gives, belongs to
    /// somebody else.
    pub fn hold(&self, address: &str) -> PathBuf {
        let maildir = self.maildir(address);
        fs::create_dir_all(&maildir).unwrap();
        set_mode(&maildir, 0o700);
        chown(maildir.parent().unwrap(), Some(2000), Some(2000)).unwrap();
        chown(&maildir, Some(0), Some(0)).unwrap();
        maildir
    }

    /// Gives the Maildir back.
    pub fn release(&self, address: &str) {
        chown(self.maildir(address), Some(2000), Some(2000)).unwrap();
    }

    /// What the pod wrote, also after its end.
    pub fn log_text(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    pub(super) fn log(&self) -> PathBuf {
        self.sand.path().join("log")
    }
}
