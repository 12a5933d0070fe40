//! A revision on disk: read whole, or not at all.
//!
//! kubelet updates a volume by swapping the `..data` symlink, but a projected volume mixes sources of
//! different age, so only hashes say whether the files belong together.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::Deserialize;

use super::tables;
use crate::postfix::shards;
use crate::revision::{DOMAINS_FILE, DomainLine, FORMAT, INDEX_FILE, Index, content_hash};

/// More than any index or file of a revision may have; a ConfigMap has less than 1 MiB, a decompressed
/// shard some more.
const LARGEST_FILE: u64 = 512 * 1024 * 1024;

/// One complete revision: the index, and the text of every file that it lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// The index as mounted.
    pub index: Index,
    /// File name to content.
    pub files: BTreeMap<String, String>,
    /// The lines of [`DOMAINS_FILE`].
    pub domains: Vec<DomainLine>,
    /// Compressed shards as they came, if the tables came in shards.
    pub shards: BTreeMap<String, Vec<u8>>,
}

impl Revision {
    /// The names of the lookup tables.
    pub fn tables(&self) -> impl Iterator<Item = &String> {
        self.files.keys().filter(|name| tables::is_table(name))
    }

    /// One file's text, empty where there is none.
    pub fn file(&self, name: &str) -> &str {
        self.files.get(name).map_or("", String::as_str)
    }

    /// The key of each line of a file.
    pub fn keys<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        self.file(name).lines().map(key)
    }
}

/// What is looked up, in a line of a lookup table (postmap(1)) or of a list.
pub fn key(line: &str) -> &str {
    line.split(' ').next().unwrap_or_default()
}

/// The domain of a key that is an address, a catch-all or a domain.
pub fn domain_of(key: &str) -> &str {
    key.rsplit_once('@').map_or(key, |(_, domain)| domain)
}

/// Why there is no revision to be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Nothing is mounted yet.
    #[error("there is no {INDEX_FILE}")]
    Nothing,
    /// The files do not belong together (yet), or cannot be read.
    #[error("incomplete: {0}")]
    Incomplete(String),
    /// Written by a newer operator, in a form that this agent does not understand.
    #[error("format {format} is newer than this agent's {FORMAT}; update the Postfix image")]
    Format {
        /// The revision, when the index still says so.
        revision: String,
        /// The unknown number.
        format: u32,
    },
    /// Complete, and of no use: `main.cf` is missing, or a line cannot be read.
    #[error("{message}")]
    Unusable {
        /// The revision.
        revision: String,
        /// What is wrong.
        message: String,
    },
}

/// What every format of the index has.
#[derive(Deserialize)]
struct AnyIndex {
    format: u32,
    #[serde(default)]
    revision: String,
}

/// The text of the index, to see cheaply whether anything changed.
pub fn index_text(directory: &Path) -> Result<String, ReadError> {
    match read_file(&directory.join(INDEX_FILE)) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(ReadError::Nothing),
        Err(error) => Err(ReadError::Incomplete(format!("{INDEX_FILE}: {error}"))),
    }
}

/// Reads the revision below `directory`, where `text` is its index.
#[tracing::instrument(target = "timing", level = "debug", skip_all)]
pub fn read(directory: &Path, text: &str) -> Result<Revision, ReadError> {
    let incomplete = |message: String| ReadError::Incomplete(message);
    let any: AnyIndex =
        serde_json::from_str(text).map_err(|error| incomplete(format!("{INDEX_FILE}: {error}")))?;
    if any.format > FORMAT {
        return Err(ReadError::Format { revision: any.revision, format: any.format });
    }
    let index: Index =
        serde_json::from_str(text).map_err(|error| incomplete(format!("{INDEX_FILE}: {error}")))?;
    if let Some(name) = index.files.keys().chain(index.shards.keys()).find(|name| !is_plain_name(name)) {
        let message = format!("{INDEX_FILE} lists `{name}`, which is no plain file name");
        return Err(ReadError::Unusable { revision: index.revision.clone(), message });
    }
    let differs = |name: &str| incomplete(format!("{name} has another content than {INDEX_FILE} says"));
    let mut shards = BTreeMap::new();
    let mut parts = Vec::new();
    for (name, hash) in &index.shards {
        let bytes =
            read_bytes(&directory.join(name)).map_err(|error| incomplete(format!("{name}: {error}")))?;
        // Half a shard cannot be unpacked.
        let (found, tables) = shards::unpack(&bytes).map_err(|_| differs(name))?;
        if found != *hash {
            return Err(differs(name));
        }
        shards.insert(name.clone(), bytes);
        parts.push(tables);
    }
    let mut files = shards::join(parts);
    for (name, hash) in &index.files {
        let content =
            read_file(&directory.join(name)).map_err(|error| incomplete(format!("{name}: {error}")))?;
        if content_hash(&content) != *hash {
            return Err(differs(name));
        }
        files.insert(name.clone(), content);
    }
    let unusable = |message| ReadError::Unusable { revision: index.revision.clone(), message };
    for name in ["main.cf", "master.cf", DOMAINS_FILE] {
        if !files.contains_key(name) {
            return Err(unusable(format!("{INDEX_FILE} does not list {name}")));
        }
    }
    let domains = files[DOMAINS_FILE].lines().map(str::parse).collect::<Result<_, _>>();
    let domains = domains.map_err(|error| unusable(format!("{DOMAINS_FILE}: {error}")))?;
    Ok(Revision { index, files, domains, shards })
}

/// Names that cannot lead out of a directory.
fn is_plain_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty() && !name.starts_with('.') && name.len() < 200 && name.chars().all(plain)
}

fn read_file(path: &Path) -> io::Result<String> {
    String::from_utf8(read_bytes(path)?).map_err(io::Error::other)
}

fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    if std::fs::metadata(path)?.len() > LARGEST_FILE {
        return Err(io::Error::other("too large"));
    }
    std::fs::read(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> BTreeMap<String, String> {
        ["main.cf", "master.cf", "domains", "virtual_mailbox_maps"]
            .map(|name| (name.to_string(), String::new()))
            .into()
    }

    fn written(files: &BTreeMap<String, String>, index: &Index) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(directory.path().join(name), content).unwrap();
        }
        let text = serde_json::to_string(index).unwrap();
        std::fs::write(directory.path().join(INDEX_FILE), text).unwrap();
        directory
    }

    fn read_back(directory: &Path) -> Result<Revision, ReadError> {
        read(directory, &index_text(directory)?)
    }

    #[test]
    fn a_complete_revision_is_read() {
        let mut files = files();
        files.insert("domains".into(), "a.b 1 serving\n".into());
        let directory = written(&files, &Index::new("default", &files, BTreeMap::new()));
        let revision = read_back(directory.path()).unwrap();
        assert_eq!(revision.files, files);
        assert_eq!(revision.domains[0].domain, "a.b");
    }

    #[test]
    fn an_index_that_is_newer_than_a_file_is_incomplete() {
        let files = files();
        let mut newer = files.clone();
        newer.insert("domains".into(), "a.b 1 serving\n".into());
        let directory = written(&files, &Index::new("default", &newer, BTreeMap::new()));
        let error = read_back(directory.path()).unwrap_err();
        assert!(matches!(&error, ReadError::Incomplete(m) if m.starts_with("domains ")), "{error}");
    }

    #[test]
    fn a_missing_file_or_half_an_index_is_incomplete() {
        let files = files();
        let directory = written(&files, &Index::new("default", &files, BTreeMap::new()));
        std::fs::remove_file(directory.path().join("main.cf")).unwrap();
        assert!(matches!(read_back(directory.path()), Err(ReadError::Incomplete(_))));
        std::fs::write(directory.path().join(INDEX_FILE), "{\"format\":1,").unwrap();
        assert!(matches!(read_back(directory.path()), Err(ReadError::Incomplete(_))));
        std::fs::remove_file(directory.path().join(INDEX_FILE)).unwrap();
        assert_eq!(read_back(directory.path()), Err(ReadError::Nothing));
    }

    #[test]
    fn a_newer_format_is_named_even_when_its_index_has_another_form() {
        let directory = written(&files(), &Index::new("default", &files(), BTreeMap::new()));
        let text = format!("{{\"format\":{},\"revision\":\"r\",\"files\":[]}}", FORMAT + 1);
        let error = read(directory.path(), &text).unwrap_err();
        assert_eq!(error, ReadError::Format { revision: "r".into(), format: FORMAT + 1 });
    }

    #[test]
    fn a_name_cannot_lead_out_of_the_directory() {
        for name in ["../passwd", "a/b", "/etc/passwd", ".hidden", "", "a b"] {
            assert!(!is_plain_name(name), "{name}");
        }
    }
}
