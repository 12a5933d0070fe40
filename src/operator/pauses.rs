//! Pauses after writes that failed: each thing has its own, and it grows. The API server has others to serve, and one
//! write that cannot succeed must hold up no other.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(30);

/// What could not be written: when it may be tried again, and how often it failed in a row.
#[derive(Debug)]
pub struct Pauses<K>(BTreeMap<K, (Instant, u32)>);

impl<K> Default for Pauses<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> Pauses<K> {
    /// Whether it failed, and is not to be tried again yet.
    pub fn holds(&self, key: &K, now: Instant) -> bool {
        self.0.get(key).is_some_and(|(until, _)| now < *until)
    }

    /// Takes in that a write failed.
    pub fn failed(&mut self, key: K, now: Instant) {
        // Nobody wants to write any more what nobody tried again: it is gone, or as it should be.
        self.0.retain(|_, (until, _)| now < *until + LAST);
        let failures = self.0.get(&key).map_or(0, |(_, failures)| *failures);
        let pause = FIRST.saturating_mul(1 << failures.min(16)).min(LAST);
        self.0.insert(key, (now + pause.mul_f64(rand::rng().random_range(0.8..1.2)), failures + 1));
    }

    /// Takes in that it was written, or need not be any more.
    pub fn over(&mut self, key: &K) {
        self.0.remove(key);
    }

    /// When the next pause ends.
    pub fn next_look(&self, now: Instant) -> Option<Instant> {
        self.0.values().map(|(until, _)| *until).filter(|until| *until > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let (mut pauses, mut now) = (Pauses::default(), Instant::now());
        let mut lengths = Vec::new();
        for _ in 0..10 {
            pauses.failed("a", now);
            assert!(pauses.holds(&"a", now) && !pauses.holds(&"b", now), "each has its own");
            let next = pauses.next_look(now).expect("a time");
            assert!(!pauses.holds(&"a", next));
            assert_eq!(pauses.next_look(next), None, "what is over wakes nobody up again and again");
            lengths.push(next - now);
            now = next;
        }
        assert!(lengths[0] < Duration::from_secs(2) && lengths[9] > LAST / 2, "{lengths:?}");
        pauses.over(&"a");
        pauses.failed("a", now);
        assert!(pauses.next_look(now).expect("a time") < now + Duration::from_secs(2), "from the beginning");
    }

    #[test]
    fn what_nobody_tries_again_is_forgotten() {
        let (mut pauses, now) = (Pauses::default(), Instant::now());
        pauses.failed("gone", now);
        pauses.failed("other", now + LAST * 3);
        assert_eq!(pauses.0.len(), 1);
    }
}
