//! Manifests in files: our objects out of whatever else a repository of manifests holds.
//!
//! [`read`] finds them, [`schema`] says what the API server would say of each alone, and [`judge`] makes of the
//! ones that it would take what the rules across objects look at.

mod judge;
mod names;
pub mod schema;
mod sources;
pub mod yaml;

pub use judge::judge;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::api::GROUP;
use crate::directory::ObjectId;

/// The version of the group that manifests are written in.
const API_VERSION: &str = "vmail.dev/v1alpha1";

/// The kinds of our group. Ordered by name, as they are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A MailAlias.
    MailAlias,
    /// A MailDomain.
    MailDomain,
    /// A Mailbox.
    Mailbox,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::MailAlias, Self::MailDomain, Self::Mailbox];

    /// The kind as it stands in a manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MailAlias => "MailAlias",
            Self::MailDomain => "MailDomain",
            Self::Mailbox => "Mailbox",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where something was read: `mail.yaml:12 (document 2)`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file; `-` is standard input.
    pub file: PathBuf,
    /// Line and number of the document, both counted from 1; absent for the file as a whole.
    pub document: Option<(usize, usize)>,
    /// Its position in a List, counted from 1.
    pub item: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.file.to_str() {
            Some("-") => f.write_str("standard input")?,
            _ => write!(f, "{}", self.file.display())?,
        }
        let Some((line, number)) = self.document else { return Ok(()) };
        write!(f, ":{line} (document {number}")?;
        if let Some(item) = self.item {
            write!(f, ", item {item}")?;
        }
        f.write_str(")")
    }
}

/// One object of ours, as it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Where it was read.
    pub place: Place,
    /// All of it.
    pub content: Value,
}

/// Something that cannot be read, or cannot be told apart from something else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct Problem {
    /// Where it is.
    pub place: Place,
    /// What is wrong, and what to do.
    pub message: String,
}

/// What was read.
#[derive(Clone, Debug, Default)]
pub struct Manifests {
    /// Our objects by kind, namespace and name.
    pub objects: BTreeMap<(Kind, ObjectId), Manifest>,
    /// What could not be read. The objects are all the others.
    pub problems: Vec<Problem>,
}

/// Reads files, directories (with all below them; `*.yaml`, `*.yml` and `*.json`, nothing that begins with a dot), and
/// `-` for standard input. Objects that name no namespace get `namespace`. What is not of our group is left out.
pub fn read(paths: &[PathBuf], namespace: &str) -> Manifests {
    let (texts, problems) = sources::texts(paths);
    let mut manifests = Manifests { problems, ..Manifests::default() };
    for (file, text) in texts {
        manifests.add(&file, &text, namespace);
    }
    manifests
}

impl Manifests {
    /// Adds what a file holds.
    pub fn add(&mut self, file: &Path, text: &str, namespace: &str) {
        for document in yaml::documents(text) {
            let place =
                Place { file: file.to_owned(), document: Some((document.line, document.number)), item: None };
            match document.content {
                Ok(content) => self.take(place, content, namespace),
                Err(message) => self.problems.push(Problem { place, message }),
            }
        }
    }

    /// Takes in an object, if it is one of ours, or each one of a List.
    fn take(&mut self, place: Place, content: Value, namespace: &str) {
        let text = |field: &str| content.get(field).and_then(Value::as_str).unwrap_or_default();
        let (version, kind) = (text("apiVersion"), text("kind"));
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let list_of = kind.strip_suffix("List");
        let is_list = match list_of {
            Some("") => version == "v1",
            Some(of) => group == GROUP && Kind::named(of).is_some(),
            None => false,
        };
        if is_list {
            let Value::Object(mut content) = content else { return };
            let Some(Value::Array(items)) = content.remove("items") else { return };
            for (position, item) in items.into_iter().enumerate() {
                self.take(Place { item: Some(position + 1), ..place.clone() }, item, namespace);
            }
            return;
        }
        match identified(&content, version, kind, group, namespace) {
            None => {}
            Some(Err(message)) => self.problems.push(Problem { place, message }),
            Some(Ok(key)) => match self.objects.get(&key) {
                None => {
                    self.objects.insert(key, Manifest { place, content });
                }
                Some(first) => {
                    let (kind, id) = key;
                    let message = format!("{kind} {id} is at {} already; remove one of the two", first.place);
                    self.problems.push(Problem { place, message });
                }
            },
        }
    }
}

/// Kind, namespace and name of an object; `None` for what is none of ours.
fn identified(
    content: &Value,
    version: &str,
    kind: &str,
    group: &str,
    namespace: &str,
) -> Option<Result<(Kind, ObjectId), String>> {
    let known = Kind::named(kind);
    if group != GROUP {
        // A kind of ours that forgot its version would be dropped in silence.
        let message = format!("a {kind} without apiVersion; write apiVersion: {API_VERSION}");
        return (version.is_empty() && known.is_some()).then_some(Err(message));
    }
    if version != API_VERSION {
        return Some(Err(format!("there is no version {version}; write apiVersion: {API_VERSION}")));
    }
    let Some(kind) = known else {
        let kinds = Kind::ALL.map(Kind::as_str).join(", ");
        return Some(Err(format!("there is no kind {kind:?} in {GROUP}; kinds are: {kinds}")));
    };
    let metadata = |field: &str| match content.get("metadata").and_then(|metadata| metadata.get(field)) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        Some(other) => Err(format!("metadata.{field} is not text but {other}; put it in quotes")),
    };
    Some(metadata("namespace").and_then(|given| {
        let namespace = given.unwrap_or_else(|| namespace.to_owned());
        let name = metadata("name")?.ok_or_else(|| format!("a {kind} without metadata.name"))?;
        Ok((kind, ObjectId::new(namespace, name)))
    }))
}

#[cfg(test)]
mod tests;
