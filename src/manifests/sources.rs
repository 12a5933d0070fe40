//! Files and directories → texts.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{Place, Problem};

/// The text of every file, in order, and what could not be read. No file is read twice.
pub fn texts(paths: &[PathBuf]) -> (Vec<(PathBuf, String)>, Vec<Problem>) {
    let mut found = Found::default();
    for path in paths {
        if path.as_os_str() == "-" {
            found.take(path, std::io::stdin());
        } else if path.is_dir() {
            found.directory(path);
        } else {
            found.file(path);
        }
    }
    (found.texts, found.problems)
}

#[derive(Default)]
struct Found {
    texts: Vec<(PathBuf, String)>,
    problems: Vec<Problem>,
    seen: BTreeSet<PathBuf>,
}

impl Found {
    /// All manifests below a directory. Links to directories are not followed, so there is no going in circles.
    fn directory(&mut self, path: &Path) {
        let entries = std::fs::read_dir(path).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
        let mut entries = match entries {
            Ok(entries) => entries,
            Err(error) => return self.fail(path, format!("cannot be read: {error}")),
        };
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            // .git, .github, and what kubelet keeps beside the files of a mounted ConfigMap.
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.directory(&path);
            } else if is_manifest(&path) && !path.is_dir() {
                self.file(&path);
            }
        }
    }

    fn file(&mut self, path: &Path) {
        match std::fs::File::open(path) {
            Ok(file) if std::fs::canonicalize(path).is_ok_and(|path| !self.seen.insert(path)) => drop(file),
            Ok(file) => self.take(path, file),
            Err(error) => self.fail(path, format!("cannot be read: {error}")),
        }
    }

    fn fail(&mut self, path: &Path, message: String) {
        let place = Place { file: path.to_owned(), document: None, item: None };
        self.problems.push(Problem { place, message });
    }

    fn take(&mut self, path: &Path, mut from: impl Read) {
        let mut bytes = Vec::new();
        if let Err(error) = from.read_to_end(&mut bytes) {
            return self.fail(path, format!("cannot be read: {error}"));
        }
        match String::from_utf8(bytes) {
            Ok(text) => self.texts.push((path.to_owned(), text)),
            Err(error) => self.fail(path, format!("is not UTF-8 text: {}", error.utf8_error())),
        }
    }
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
}
