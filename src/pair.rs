//! Two words in one text that clones share.

use std::cmp::Ordering;
use std::sync::Arc;

/// Two words, ordered by the first, then by the second.
///
/// They are kept as first, `\0`, second: the `\0` comes before every character of a word, so that the order of the texts
/// is the one wanted.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Pair(Arc<str>);

impl Pair {
    /// These two words. There is no `\0` in the first.
    pub(crate) fn new(first: &str, second: &str) -> Self {
        Self([first, "\0", second].concat().into())
    }

    /// Both words.
    pub(crate) fn parts(&self) -> (&str, &str) {
        // Nothing else makes one.
        self.0.split_once('\0').unwrap_or_default()
    }
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        // Most are compared with themselves.
        if Arc::ptr_eq(&self.0, &other.0) { Ordering::Equal } else { self.0.cmp(&other.0) }
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
