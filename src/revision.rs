//! What passes between operator and agent: the index of a revision, and the agent's report on it.
//!
//! Both sides of a rolling upgrade read these, so a field is added, never changed, and
//! [`FORMAT`] is raised when an older agent could not do the right thing with a newer revision.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The newest format of [`Index`] that this version writes and understands: 2 has shards. Without shards, 1 is written,
/// which older agents understand.
pub const FORMAT: u32 = 2;

/// The file name of the index in the mounted volume, and its key in the index ConfigMap.
pub const INDEX_FILE: &str = "index.json";

/// The file that lists the served domains, one a line, see [`DomainLine`].
pub const DOMAINS_FILE: &str = "domains";

/// The file that lists domains of other cells that are on their way out, one a line: `domain draining`. Mail that is
/// queued here for one of them is counted, since the domain waits for it. An agent that does not know the file takes it
/// for one more lookup table.
pub const ELSEWHERE_FILE: &str = "draining_elsewhere";

/// The index of one revision: every file that belongs to it, with its hash.
///
/// The agent installs a revision only when each file is mounted with exactly the listed content, so
/// that a volume in the middle of an update is never live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// See [`FORMAT`]. An agent that does not know the number keeps what it has.
    pub format: u32,
    /// The cell whose tables these are.
    pub cell: String,
    /// Names the complete content; the same content always has the same revision.
    pub revision: String,
    /// File name to [`content_hash`]. `main.cf`, `master.cf`, [`DOMAINS_FILE`], and for each lookup
    /// table a file named after the Postfix parameter that refers to it.
    pub files: BTreeMap<String, String>,
    /// Shard to the [`content_hash`] of its uncompressed content, where the tables and [`DOMAINS_FILE`] come in shards
    /// (`postfix::shards`). They are not among `files` then.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub shards: BTreeMap<String, String>,
}

impl Index {
    /// The index of these files (name to content) and shards (name to hash). The revision follows from everything else.
    pub fn new(cell: &str, files: &BTreeMap<String, String>, shards: BTreeMap<String, String>) -> Self {
        let files: BTreeMap<_, _> =
            files.iter().map(|(name, content)| (name.clone(), content_hash(content))).collect();
        let format = if shards.is_empty() { 1 } else { FORMAT };
        let mut all = format!("{format}\n{cell}\n");
        for (name, hash) in files.iter().chain(&shards) {
            all.push_str(&format!("{name} {hash}\n"));
        }
        Self { format, cell: cell.to_owned(), revision: content_hash(&all), files, shards }
    }
}

/// SHA-256 of a file's content, the first 128 bits in hex.
pub fn content_hash(content: impl AsRef<[u8]>) -> String {
    Sha256::digest(content)[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One line of [`DOMAINS_FILE`]: `domain hash state`, separated by one space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainLine {
    /// The domain, lower case, without a trailing dot.
    pub domain: String,
    /// The domain hash. Opaque to the agent, which reports the one it has proved.
    pub hash: String,
    /// What Postfix must answer for this domain.
    pub state: DomainState,
}

/// What Postfix must answer for recipients of a domain, and so what the proof asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainState {
    /// `postmaster@` 250, an unknown recipient 550.
    Serving,
    /// On its way out: an unknown recipient gets 450, since an ordinary `kubectl delete` takes
    /// mailboxes and domain at once while senders still hold the MX.
    Draining,
}

impl std::fmt::Display for DomainLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match self.state {
            DomainState::Serving => "serving",
            DomainState::Draining => "draining",
        };
        write!(f, "{} {} {state}", self.domain, self.hash)
    }
}

impl std::str::FromStr for DomainLine {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let fields: Vec<&str> = line.split(' ').collect();
        let [domain, hash, state] = fields[..] else {
            return Err(format!("`{line}` is not of the form `domain hash state`"));
        };
        let state = match state {
            "serving" => DomainState::Serving,
            "draining" => DomainState::Draining,
            other => return Err(format!("`{line}`: unknown state `{other}`")),
        };
        Ok(Self { domain: domain.to_owned(), hash: hash.to_owned(), state })
    }
}

/// What the agent answers on `GET /v1/status?after=<etag>`.
///
/// With `after` equal to the report's current [`Report::etag`], the answer waits until something
/// changes or [`LONG_POLL`] has passed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// The agent's newest [`FORMAT`].
    pub format: u32,
    /// UID of the pod that answers: an address may be re-used by a stranger.
    pub pod_uid: String,
    /// Version of the agent.
    pub version: String,
    /// Cell of the live revision; empty before there is one.
    pub cell: String,
    /// The revision that the running Postfix serves, proved as a whole (it compiles, passes
    /// `postfix check`, relays for nobody). Absent while port 25 is still closed.
    pub revision: Option<String>,
    /// The newest complete revision that was refused and rolled back, and why.
    pub rejected: Option<Rejected>,
    /// Whether a file can be written below `/var/vmail` as the delivering user.
    pub storage: Storage,
    /// How full the volumes `vmail` and `spool` are; one that cannot be asked is absent.
    pub volumes: BTreeMap<String, VolumeFill>,
    /// Every domain of the live revision, with the outcome of its proof.
    pub domains: BTreeMap<String, DomainProof>,
    /// Recipients still queued, for draining domains only: those of the cell, and those of other cells that the revision
    /// lists in [`ELSEWHERE_FILE`]. Absent is not known.
    pub queued: BTreeMap<String, u64>,
    /// STARTTLS on port 25.
    pub tls: Tls,
    /// What became of mail that nobody has any more.
    pub kept: Kept,
}

/// How long the agent holds a long poll before it answers with an unchanged report.
pub const LONG_POLL: std::time::Duration = std::time::Duration::from_secs(25);

impl Report {
    /// Changes when anything in the report changes.
    pub fn etag(&self) -> String {
        content_hash(serde_json::to_string(self).unwrap_or_default())
    }
}

/// A complete revision that the agent did not keep.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rejected {
    /// The refused revision.
    pub revision: String,
    /// The step that failed: `Format`, `Compile`, `Check`, `Start` or `Relay`.
    pub stage: String,
    /// What Postfix said, with the name of the table or parameter.
    pub message: String,
}

impl Rejected {
    /// What conditions and Events say of it.
    pub fn in_words(&self) -> String {
        let Self { stage, message, .. } = self;
        format!("Postfix refused the new configuration ({stage}), the last good one stays: {message}")
    }
}

/// The outcome of creating, renaming and removing a file below `/var/vmail` as 2000:2000.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Storage {
    /// Whether it worked the last time.
    pub writable: bool,
    /// The operating system's error where it did not.
    pub message: String,
}

/// STARTTLS on port 25.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Tls {
    /// When the certificate expires that Postfix offers; absent while it offers none.
    pub not_after: Option<jiff::Timestamp>,
    /// Whether a certificate is mounted, or was, that is not the one offered.
    pub rejected: bool,
    /// Why the mounted certificate is not the one that is offered, or none is; empty when all is well.
    pub message: String,
}

/// How full a volume is, in whole percent of what is not reserved, rounded up: fine enough to warn, and coarse enough
/// to stay the same from one look to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeFill {
    /// Of the bytes.
    pub bytes_percent: u64,
    /// Of the inodes, of which a Maildir needs one for each message; 0 where the file system does not count them.
    pub inodes_percent: u64,
}

/// What became, since the agent started, of mail on disk that nobody has any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Kept {
    /// Addresses of the live revision that are answered 450 until what lies there of another namespace is archived.
    pub held_back: BTreeSet<String>,
    /// What lost its owner, and waits to be archived or put into the trash.
    pub waiting: u64,
    /// Why nothing is moved although it is time: too much would go at once.
    pub brake: String,
    /// What went wrong the last time, if it did.
    pub trouble: String,
    /// Maildirs, and what else domains left behind, that were moved to the archive.
    pub archived: u64,
    /// The same, moved to the trash.
    pub trashed: u64,
    /// Files that were erased.
    pub erased: u64,
    /// Moves to the trash that are not erased yet.
    pub in_trash: u64,
}

/// The outcome of the SMTP proof for one domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DomainProof {
    /// The domain hash that was live when the proof was made.
    pub hash: String,
    /// Whether Postfix answered as the domain's state demands.
    pub accepted: bool,
    /// Question and answer where it did not, for instance `RCPT TO:<postmaster@example.com>: 550 5.1.1 …`.
    pub message: String,
}
