//! Numbered messages that never stop coming, what each was answered, and where each was found.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use jiff::Timestamp;

use crate::smtp::Session;

/// What the client was told about one message.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// 250 after the message: it must be found at least once.
    Accepted,
    /// 4xx: a sender comes back.
    Later(String),
    /// No connection, or no answer: a sender comes back too.
    Unanswered(String),
    /// 5xx: a sender gives up, and the recipient is valid.
    Refused(String),
}

/// Outcomes by number, and when they came; none while the message is under way.
#[derive(Default)]
pub struct Ledger(Mutex<Vec<Option<(Timestamp, Outcome)>>>);

impl Ledger {
    fn entries(&self) -> std::sync::MutexGuard<'_, Vec<Option<(Timestamp, Outcome)>>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn count(&self) -> usize {
        self.entries().len()
    }

    /// Those from `start` on, or none as long as one of them is under way.
    pub fn settled(&self, start: usize, end: usize) -> Option<Vec<(Timestamp, Outcome)>> {
        self.entries()[start..end].iter().cloned().collect()
    }

    /// Sends the next message, and keeps what it was answered.
    pub fn send(&self, pid: &str, address: &str, to: &str) {
        let number = {
            let mut entries = self.entries();
            entries.push(None);
            entries.len() - 1
        };
        let outcome = deliver(pid, address, to, number).unwrap_or_else(of_error);
        self.entries()[number] = Some((Timestamp::now(), outcome));
    }
}

/// The session's errors begin with the code when Postfix said one.
fn of_error(error: String) -> Outcome {
    match error.as_bytes() {
        [b'4', b'0'..=b'9', b'0'..=b'9', ..] => Outcome::Later(error),
        [b'5', b'0'..=b'9', b'0'..=b'9', ..] => Outcome::Refused(error),
        _ => Outcome::Unanswered(error),
    }
}

fn deliver(pid: &str, address: &str, to: &str, number: usize) -> Result<Outcome, String> {
    let mut session = Session::open(pid, address)?;
    let mut ask = |line: &str, wanted: u16| match session.command(line)? {
        (code, _) if code == wanted => Ok(()),
        (code, text) => Err(format!("{code} {text}")),
    };
    ask("MAIL FROM:<sender@example.com>", 250)?;
    ask(&format!("RCPT TO:<{to}>"), 250)?;
    ask("DATA", 354)?;
    ask(&format!("Subject: live-{number}\r\n\r\nHello.\r\n."), 250)?;
    Ok(Outcome::Accepted)
}

/// The answer to RCPT TO in a session of its own.
pub fn recipient(pid: &str, address: &str, to: &str) -> Outcome {
    let talk = || {
        let mut session = Session::open(pid, address)?;
        session.command("MAIL FROM:<sender@example.com>")?;
        let (code, text) = session.command(&format!("RCPT TO:<{to}>"))?;
        Ok(if code == 250 { Outcome::Accepted } else { of_error(format!("{code} {text}")) })
    };
    talk().unwrap_or_else(of_error)
}

/// The messages in the Maildirs of a volume.
pub struct Maildirs {
    root: PathBuf,
    seen: HashSet<PathBuf>,
    copies: BTreeMap<usize, usize>,
}

impl Maildirs {
    pub fn new(root: PathBuf) -> Self {
        Self { root, seen: HashSet::new(), copies: BTreeMap::new() }
    }

    /// Reads what is new, and says how many copies there are of each number.
    pub fn look(&mut self) -> &BTreeMap<usize, usize> {
        let mut directories = vec![self.root.clone()];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
                let path = entry.path();
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    directories.push(path);
                } else if directory.ends_with("new")
                    && !self.seen.contains(&path)
                    && let Some(number) = number(&path)
                {
                    *self.copies.entry(number).or_default() += 1;
                    self.seen.insert(path);
                }
            }
        }
        &self.copies
    }
}

fn number(path: &Path) -> Option<usize> {
    let text = String::from_utf8_lossy(&std::fs::read(path).ok()?).into_owned();
    text.lines().find_map(|line| line.strip_prefix("Subject: live-"))?.trim().parse().ok()
}
