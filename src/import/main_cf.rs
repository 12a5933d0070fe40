//! Parameters of a main.cf (postconf(5)).

use std::collections::BTreeMap;
use std::path::Path;

use super::text::{self, Line, Place};

/// Where files are that come with a main.cf. In a copy of that directory they are beside it.
const USUAL_DIRECTORY: &str = "/etc/postfix/";

/// The parameters that a main.cf sets.
pub struct Parameters {
    set: BTreeMap<String, (String, Place)>,
    file: Place,
    /// With a slash at the end.
    directory: String,
}

/// How deep one parameter may refer to another.
const DEPTH: usize = 20;

impl Parameters {
    /// Reads `main.cf` of a configuration directory.
    ///
    /// # Errors
    /// When the file cannot be read, or a line in it cannot be understood.
    pub fn read(directory: &Path) -> Result<Self, String> {
        let file = directory.join("main.cf");
        let mut set = BTreeMap::new();
        for Line { place, text } in text::read(&file)? {
            let at = || format!("{}:{}", place.file.display(), place.line);
            let text = text.map_err(|why| format!("{}: the line {why}", at()))?;
            let Some((name, value)) = text.split_once('=') else {
                return Err(format!("{}: `{text}` is not of the form `name = value`", at()));
            };
            // Set twice, the last one counts.
            set.insert(name.trim().to_owned(), (value.trim().to_owned(), place));
        }
        let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
        let directory = format!("{}/", directory.display().to_string().trim_end_matches('/'));
        let here = Place { file, line: 1 };
        let usual = USUAL_DIRECTORY.trim_end_matches('/').to_owned();
        set.entry("config_directory".to_owned()).or_insert((usual, here.clone()));
        Ok(Self { set, file: here, directory })
    }

    /// A parameter with all that it refers to, and where it is set; what is not set has this default. Files of
    /// `/etc/postfix/` are taken from the directory of this main.cf.
    ///
    /// # Errors
    /// When it refers to others in a form that this does not know, or to itself.
    pub fn get(&self, name: &str, default: &str) -> Result<(String, Place), String> {
        let (value, place) = self.set.get(name).cloned().unwrap_or((default.to_owned(), self.file.clone()));
        let expanded = self
            .expand(&value, 0)
            .map_err(|why| format!("{}:{}: {name}: {why}", place.file.display(), place.line))?;
        Ok((expanded.replace(USUAL_DIRECTORY, &self.directory), place))
    }

    fn expand(&self, value: &str, depth: usize) -> Result<String, String> {
        if depth > DEPTH {
            return Err(format!("`{value}` refers to itself"));
        }
        let mut expanded = String::new();
        let mut rest = value;
        while let Some(at) = rest.find('$') {
            expanded.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                expanded.push('$');
                rest = after;
                continue;
            }
            let name;
            (name, rest) = reference(rest).ok_or_else(|| {
                format!("`${rest}` is a reference in a form that is not known here; write out its value")
            })?;
            match name {
                // What these lists are when they are not set.
                "virtual_mailbox_maps" | "virtual_alias_maps" | "config_directory" => {}
                name if !self.set.contains_key(name) => {
                    return Err(format!("`${name}` is not set in this file; write out its value"));
                }
                _ => {}
            }
            let value = self.set.get(name).map_or("", |(value, _)| value.as_str());
            expanded.push_str(&self.expand(value, depth + 1)?);
        }
        expanded.push_str(rest);
        Ok(expanded)
    }
}

/// The name behind a `$`, and what follows it.
fn reference(text: &str) -> Option<(&str, &str)> {
    for (open, close) in [('{', '}'), ('(', ')')] {
        if let Some(inner) = text.strip_prefix(open) {
            let (name, rest) = inner.split_once(close)?;
            return is_name(name).then_some((name, rest));
        }
    }
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    is_name(&text[..end]).then_some((&text[..end], &text[end..]))
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(text: &str) -> (tempfile::TempDir, Parameters) {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("main.cf"), text).expect("writes");
        let parameters = Parameters::read(directory.path()).expect("read");
        (directory, parameters)
    }

    #[test]
    fn the_last_one_counts_and_refers_to_others() {
        let (directory, parameters) =
            parameters("a = 1\nb = x$a\n  hash:${c}\n# b = 5\nc = $(config_directory)/y\na = 2 $$\n");
        let here = directory.path().display();
        let (value, place) = parameters.get("b", "").expect("a value");
        assert_eq!((value, place.line), (format!("x2 $ hash:{here}/y"), 2));
        assert_eq!(parameters.get("z", "default").expect("a value").0, "default");
    }

    #[test]
    fn what_is_not_understood_is_told() {
        let (_directory, parameters) = parameters("a = $a\nb = ${a?yes}\nc = $nowhere\n");
        for (name, says) in [("a", "itself"), ("b", "not known"), ("c", "not set")] {
            let error = parameters.get(name, "").expect_err(name);
            assert!(error.contains(says) && error.contains("main.cf:"), "{error}");
        }
    }
}
