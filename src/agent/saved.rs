//! The last good revision, kept on the spool volume: a restarted pod serves it even when nothing, or
//! nothing usable, is mounted.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::mounted::{self, ReadError, Revision};
use crate::revision::INDEX_FILE;

/// Names the directory that holds the complete revision; replaced by a rename.
const CURRENT: &str = "current";

/// A directory on the spool volume.
#[derive(Clone, Debug)]
pub struct Saved {
    directory: PathBuf,
}

impl Saved {
    /// Keeps revisions below `directory`, which is made when it is needed.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The last revision that was saved completely.
    pub fn load(&self) -> Result<Revision, ReadError> {
        let current = self.directory.join(CURRENT);
        mounted::read(&current, &mounted::index_text(&current)?)
    }

    /// Saves a revision, so that after a crash at any moment either it or the one before is there.
    pub fn save(&self, revision: &Revision) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let current = self.directory.join(CURRENT);
        let serving = fs::read_link(&current).ok();
        let name = ["a", "b"].into_iter().find(|name| serving.as_deref() != Some(Path::new(name)));
        let name = name.unwrap_or("a");
        let target = self.directory.join(name);
        if target.exists() {
            fs::remove_dir_all(&target)?;
        }
        fs::create_dir(&target)?;
        for name in revision.index.files.keys() {
            write_through(&target.join(name), revision.file(name).as_bytes())?;
        }
        for (name, bytes) in &revision.shards {
            write_through(&target.join(name), bytes)?;
        }
        let index = serde_json::to_string(&revision.index).map_err(io::Error::other)?;
        write_through(&target.join(INDEX_FILE), index.as_bytes())?;
        File::open(&target)?.sync_all()?;
        let link = self.directory.join("next");
        let _ = fs::remove_file(&link);
        symlink(name, &link)?;
        fs::rename(&link, &current)?;
        File::open(&self.directory)?.sync_all()
    }
}

fn write_through(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::revision::Index;

    fn revision(text: &str) -> Revision {
        let mut files: BTreeMap<String, String> =
            ["main.cf", "master.cf", "domains"].map(|name| (name.to_string(), String::new())).into();
        files.insert("main.cf".into(), text.into());
        let index = Index::new("default", &files, BTreeMap::new());
        Revision { index, files, domains: Vec::new(), shards: BTreeMap::new() }
    }

    #[test]
    fn what_was_saved_last_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let saved = Saved::new(directory.path().join("last-good"));
        assert_eq!(saved.load(), Err(ReadError::Nothing));
        for text in ["1", "2", "3"] {
            saved.save(&revision(text)).unwrap();
            assert_eq!(saved.load().unwrap(), revision(text));
        }
    }

    #[test]
    fn a_save_that_was_cut_off_leaves_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let saved = Saved::new(directory.path().to_owned());
        saved.save(&revision("1")).unwrap();
        fs::create_dir(directory.path().join("b")).unwrap();
        fs::write(directory.path().join("b").join("main.cf"), "half").unwrap();
        symlink("b", directory.path().join("next")).unwrap();
        assert_eq!(saved.load().unwrap(), revision("1"));
        saved.save(&revision("2")).unwrap();
        assert_eq!(saved.load().unwrap(), revision("2"));
    }
}
