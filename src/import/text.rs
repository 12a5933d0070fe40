//! Postfix's text files: logical lines, as postconf(5) and postmap(1) define them.

use std::fs;
use std::path::{Path, PathBuf};

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
}

/// A line with its continuations, without comments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Where it begins.
    pub place: Place,
    /// Its text, or why there is none.
    pub text: Result<String, String>,
}

/// Reads a file into its logical lines.
///
/// # Errors
/// When the file cannot be read: a sentence that names it.
pub fn read(file: &Path) -> Result<Vec<Line>, String> {
    let bytes = fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    Ok(logical_lines(file, &bytes))
}

/// A line that begins with white space continues the one before. Empty lines, and lines whose first character besides
/// white space is `#`, are ignored, within a continued line too.
pub fn logical_lines(file: &Path, bytes: &[u8]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for (number, raw) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let trimmed = raw.trim_ascii();
        if trimmed.is_empty() || trimmed.starts_with(b"#") {
            continue;
        }
        let place = Place { file: file.to_owned(), line: number + 1 };
        let text = match std::str::from_utf8(trimmed) {
            Ok(text) if text.contains('\0') => Err("holds a NUL character".to_owned()),
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err("is not UTF-8".to_owned()),
        };
        match lines.last_mut() {
            Some(last) if raw.first().is_some_and(u8::is_ascii_whitespace) => match (&mut last.text, text) {
                (Ok(whole), Ok(more)) => {
                    whole.push(' ');
                    whole.push_str(&more);
                }
                (whole, Err(why)) => *whole = Err(why),
                (Err(_), Ok(_)) => {}
            },
            _ => lines.push(Line { place, text }),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &[u8]) -> Vec<(usize, Result<String, String>)> {
        logical_lines(Path::new("f"), text).into_iter().map(|line| (line.place.line, line.text)).collect()
    }

    #[test]
    fn lines_continue_through_comments() {
        let text = b"# head\none  1\n\t2\n # not in it\n\n  3\r\ntwo\n#end";
        assert_eq!(texts(text), [(2, Ok("one  1 2 3".to_owned())), (7, Ok("two".to_owned()))]);
    }

    #[test]
    fn bytes_that_are_no_text_are_told() {
        let found = texts(b"a\xff b\nc d\n\xfe\ne\0 f");
        assert_eq!(found.len(), 4);
        assert!(found[0].1.is_err() && found[1].1.is_ok() && found[2].1.is_err() && found[3].1.is_err());
    }
}
