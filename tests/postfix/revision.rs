//! What a test wants served, and how kubelet would bring it into the pod.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use vmail_operator::custody::CUSTODY_FILE;
use vmail_operator::directory::Directory;
use vmail_operator::postfix::main_cf::{MainCf, TABLES, main_cf, master_cf};
use vmail_operator::postfix::tables::tables;
use vmail_operator::revision::{INDEX_FILE, Index};

/// Name of the server in all tests.
pub const HOST: &str = "mx.example.net";

/// A revision in the making; every method gives a changed one.
#[derive(Clone)]
pub struct Wanted {
    pub files: BTreeMap<String, String>,
}

impl Wanted {
    /// A server without domains, but with its own postmaster.
    pub fn empty() -> Self {
        let mut files: BTreeMap<String, String> =
            TABLES.iter().map(|name| (name.to_string(), String::new())).collect();
        files.insert("main.cf".into(), main_cf(&MainCf::new(HOST)).unwrap());
        files.insert("master.cf".into(), master_cf(false));
        files.insert("domains".into(), String::new());
        let wanted = Self { files };
        wanted.line("virtual_alias_domains", &format!("{HOST} OK"))
    }

    /// What the operator makes of a directory, once its domains are recorded and without addresses that vanished.
    pub fn of(directory: &Directory, hostname: &str) -> Self {
        let mut files = tables(directory, "default", hostname, |_| true, &BTreeSet::new(), |_| true);
        files.insert("transport_maps".into(), String::new());
        files.insert("main.cf".into(), main_cf(&MainCf::new(hostname)).unwrap());
        files.insert("master.cf".into(), master_cf(false));
        Self { files }
    }

    /// A domain with one mailbox, `you@`, that gets role mail too.
    pub fn one(domain: &str) -> Self {
        Self::empty().domain(domain).mailbox(&format!("you@{domain}"))
    }

    /// One more line in a file.
    pub fn line(mut self, file: &str, line: &str) -> Self {
        let text = self.files.get_mut(file).unwrap();
        text.push_str(line);
        text.push('\n');
        self
    }

    /// Without the lines that begin with `start`.
    pub fn without(mut self, file: &str, start: &str) -> Self {
        let text = self.files.get_mut(file).unwrap();
        *text =
            text.lines().filter(|line| !line.starts_with(start)).map(|line| format!("{line}\n")).collect();
        self
    }

    /// One more domain whose postmaster is `you@`.
    pub fn domain(self, domain: &str) -> Self {
        self.bare_domain(domain).alias(&format!("postmaster@{domain}"), &format!("you@{domain}"))
    }

    /// One more domain without anybody.
    pub fn bare_domain(self, domain: &str) -> Self {
        self.line("virtual_mailbox_domains", &format!("{domain} OK"))
            .line("domains", &format!("{domain} hash1 serving"))
    }

    /// One more mailbox.
    pub fn mailbox(self, address: &str) -> Self {
        let (local, domain) = address.split_once('@').unwrap();
        self.line("virtual_mailbox_maps", &format!("{address} {domain}/{local}/"))
    }

    /// One more alias.
    pub fn alias(self, address: &str, targets: &str) -> Self {
        self.line("virtual_alias_maps", &format!("{address} {targets}"))
    }

    /// The domain is on its way out.
    pub fn draining(self, domain: &str) -> Self {
        self.without("domains", &format!("{domain} "))
            .line("domains", &format!("{domain} hash2 draining"))
            .line("check_recipient_access", &format!("{domain} DEFER_IF_REJECT 4.2.1 on its way out"))
    }

    /// With this list of owners.
    pub fn custody(mut self, owners: &str) -> Self {
        self.files.insert(CUSTODY_FILE.into(), owners.into());
        self
    }

    /// `main.cf` with this parameter set anew.
    pub fn parameter(self, name: &str, value: &str) -> Self {
        self.without("main.cf", &format!("{name} =")).line("main.cf", &format!("{name} = {value}"))
    }

    pub fn index(&self) -> Index {
        Index::new("default", &self.files, BTreeMap::new())
    }

    pub fn revision(&self) -> String {
        self.index().revision
    }

    /// Brings all of it into `directory`, as kubelet does.
    pub fn mount(&self, directory: &Path) {
        let mut files = self.files.clone();
        files.insert(INDEX_FILE.into(), serde_json::to_string(&self.index()).unwrap());
        mount_files(directory, &files);
    }

    /// With a listener for PROXY protocol.
    pub fn behind_proxy(mut self) -> Self {
        self.files.insert("master.cf".into(), master_cf(true));
        self
    }

    /// The index is already this one's; the files are still those of `older`.
    pub fn mount_torn(&self, directory: &Path, older: &Self) {
        let mut files = older.files.clone();
        files.insert(INDEX_FILE.into(), serde_json::to_string(&self.index()).unwrap());
        mount_files(directory, &files);
    }
}

/// A new directory with the files, `..data` renamed over, the old directory removed: kubelet's way.
pub fn mount_files<C: AsRef<[u8]>>(directory: &Path, files: &BTreeMap<String, C>) {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    fs::create_dir_all(directory).unwrap();
    let name = format!("..update_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let content = directory.join(&name);
    fs::create_dir(&content).unwrap();
    for (name, text) in files {
        fs::write(content.join(name), text).unwrap();
    }
    let data = directory.join("..data");
    let old = fs::read_link(&data).ok();
    let next = directory.join("..data_tmp");
    symlink(&name, &next).unwrap();
    fs::rename(&next, &data).unwrap();
    for name in files.keys() {
        let link = directory.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("..data").join(name), &link).unwrap();
        }
    }
    if let Some(old) = old {
        fs::remove_dir_all(directory.join(old)).unwrap();
    }
}
