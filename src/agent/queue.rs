//! What is in the queue: how much and since when, and for domains on their way out, which stay in the tables until their
//! last recipient has his mail.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use super::command::{self, CommandError, postfix_command};

/// One line of `postqueue -j` (postqueue(1)), as far as it matters here.
#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    recipients: Vec<Recipient>,
}

#[derive(Deserialize)]
struct Recipient {
    address: String,
}

/// Counts the queued recipients of each of these domains. A domain without any is there with 0: absent means
/// not known.
pub fn count(listing: &str, domains: &BTreeSet<String>) -> Result<BTreeMap<String, u64>, String> {
    let mut counts: BTreeMap<String, u64> = domains.iter().map(|domain| (domain.clone(), 0)).collect();
    for line in listing.lines().filter(|line| !line.trim().is_empty()) {
        let message: Message =
            serde_json::from_str(line).map_err(|error| format!("postqueue -j wrote `{line}`: {error}"))?;
        for recipient in message.recipients {
            let domain = recipient.address.rsplit('@').next().unwrap_or_default().to_ascii_lowercase();
            if let Some(count) = counts.get_mut(&domain) {
                *count += 1;
            }
        }
    }
    Ok(counts)
}

/// Domains whose queued recipients are counted, since they leave only when there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// Of this cell.
    pub here: BTreeSet<String>,
    /// Of other cells. What is queued for them here goes on to these.
    pub elsewhere: BTreeSet<String>,
}

/// Since when nothing has been queued here for domains of other cells.
#[derive(Debug, Default)]
pub struct Emptied(BTreeMap<String, Instant>);

impl Emptied {
    /// What may be told of the counts of one look: that the queue has nothing for a domain of another cell only when this
    /// has been so for `time`. What left this queue a moment ago may be in that of the other cell, which has to have
    /// counted it.
    pub fn told(
        &mut self,
        watched: &Watched,
        mut counts: BTreeMap<String, u64>,
        now: Instant,
        time: Duration,
    ) -> BTreeMap<String, u64> {
        self.0.retain(|domain, _| watched.elsewhere.contains(domain) && counts.get(domain) == Some(&0));
        for domain in &watched.elsewhere {
            let empty = counts.get(domain) == Some(&0);
            if empty && now - *self.0.entry(domain.clone()).or_insert(now) < time {
                counts.remove(domain);
            }
        }
        counts
    }
}

/// Every address that has mail in the queue, in lower case and without the part after a `+`, which goes to the same
/// mailbox (`recipient_delimiter`).
pub fn recipients(listing: &str) -> Result<BTreeSet<String>, String> {
    let mut recipients = BTreeSet::new();
    for line in listing.lines().filter(|line| !line.trim().is_empty()) {
        let message: Message =
            serde_json::from_str(line).map_err(|error| format!("postqueue -j wrote `{line}`: {error}"))?;
        for recipient in message.recipients {
            let address = recipient.address.to_ascii_lowercase();
            let (local, domain) = address.rsplit_once('@').unwrap_or((&address, ""));
            let local = local.split('+').next().unwrap_or_default();
            recipients.insert(format!("{local}@{domain}"));
        }
    }
    Ok(recipients)
}

/// Asks Postfix for its queue.
pub async fn list(config: &Path, limit: Duration) -> Result<String, CommandError> {
    let mut postqueue = postfix_command("postqueue", config);
    postqueue.arg("-j");
    Ok(command::succeed(postqueue, "postqueue", limit).await?.stdout)
}

/// How many messages each queue has, and when the oldest of them came in, as Unix time.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// Queue to number of messages.
    pub messages: BTreeMap<&'static str, u64>,
    /// Absent while there is none.
    pub oldest: Option<u64>,
}

/// Looks at the names of the queue files below Postfix's `queue_directory`: no file is opened, so that a long queue may be
/// looked at often.
///
/// # Errors
/// When a directory cannot be read.
pub fn look(directory: &Path) -> std::io::Result<Queue> {
    let mut found = Queue::default();
    for name in ["incoming", "active", "deferred", "hold"] {
        let mut count = 0;
        let mut directories = vec![(directory.join(name), 0)];
        while let Some((path, depth)) = directories.pop() {
            for entry in std::fs::read_dir(path)? {
                let entry = entry?;
                let name = entry.file_name();
                // `hash_queue_names`: directories of one character, one below the other.
                if name.len() == 1 && depth < 4 {
                    directories.push((entry.path(), depth + 1));
                } else if let Some(time) = name.to_str().and_then(arrival) {
                    count += 1;
                    found.oldest = Some(found.oldest.map_or(time, |oldest| oldest.min(time)));
                }
            }
        }
        found.messages.insert(name, count);
    }
    Ok(found)
}

/// When a message with this queue id came in, as Unix time. A long id (`enable_long_queue_ids`) begins with the seconds, six
/// digits of base 52 or more, then the microseconds, four digits, then `z` (postconf(5); Postfix, src/global/mail_queue.h).
fn arrival(id: &str) -> Option<u64> {
    const DIGITS: &str = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz";
    let (time, _) = id.rsplit_once('z')?;
    let seconds = time.get(..time.len().checked_sub(4)?).filter(|digits| digits.len() >= 6)?;
    seconds.chars().try_fold(0_u64, |value, digit| {
        value.checked_mul(52)?.checked_add(DIGITS.find(digit)?.try_into().ok()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipients_are_counted_by_domain() {
        let listing = concat!(
            r#"{"queue_name": "deferred", "recipients": [{"address": "a@Out.example", "delay_reason": "x"},"#,
            r#" {"address": "b@out.example"}, {"address": "c@other.example"}]}"#,
            "\n\n",
            r#"{"queue_name": "active", "recipients": [{"address": "\"x@y\"@out.example"}]}"#,
        );
        let domains = ["out.example", "idle.example"].map(String::from).into();
        let counts = count(listing, &domains).unwrap();
        assert_eq!(counts, BTreeMap::from([("idle.example".into(), 0), ("out.example".into(), 3)]));
    }

    #[test]
    fn what_went_to_another_cell_is_waited_for_until_it_was_counted_there() {
        let watched =
            Watched { here: ["here.example".into()].into(), elsewhere: ["there.example".into()].into() };
        let (start, time) = (Instant::now(), Duration::from_secs(10));
        let mut emptied = Emptied::default();
        let mut told = |seconds, there: Option<u64>| {
            let counts = there.map(|there| ("there.example".to_owned(), there));
            let counts = counts.into_iter().chain([("here.example".to_owned(), 0)]).collect();
            let told = emptied.told(&watched, counts, start + Duration::from_secs(seconds), time);
            assert_eq!(told.get("here.example"), Some(&0));
            told.get("there.example").copied()
        };
        assert_eq!([told(0, Some(0)), told(9, Some(0)), told(10, Some(0))], [None, None, Some(0)]);
        assert_eq!([told(20, Some(2)), told(30, Some(0)), told(40, Some(0))], [Some(2), None, Some(0)]);
        // Not counted is not empty.
        assert_eq!([told(50, None), told(60, Some(0))], [None, None]);
    }

    #[test]
    fn mail_under_way_is_found_by_its_mailbox() {
        let listing = r#"{"recipients": [{"address": "You+tag@Out.example"}, {"address": "b@out.example"}]}"#;
        let expected = ["b@out.example", "you@out.example"].map(String::from).into();
        assert_eq!(recipients(listing), Ok(expected));
    }

    #[test]
    fn a_queue_id_tells_when_the_message_came_in() {
        // Postfix logged this one at 2026-11-25T06:29:25Z.
        assert_eq!(arrival("4jZ8sd347Yz1X2Z2"), Some(1_795_588_165));
        for other in ["", "z", "4jZ8sdz1X", "deferred", "ABCDEF0123"] {
            assert_eq!(arrival(other), None, "{other}");
        }
    }

    #[test]
    fn queued_messages_are_counted_in_hashed_directories_too() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["incoming", "active", "deferred/A", "hold"] {
            std::fs::create_dir_all(directory.path().join(name)).unwrap();
        }
        for file in ["deferred/A/4jZ8sd347Yz1X2Z2", "active/4jZ8sf347Yz1X2Z2", "active/other"] {
            std::fs::write(directory.path().join(file), "").unwrap();
        }
        let queue = look(directory.path()).unwrap();
        assert_eq!(queue.oldest, Some(1_795_588_165));
        let expected = [("incoming", 0), ("active", 1), ("deferred", 1), ("hold", 0)];
        assert_eq!(queue.messages, BTreeMap::from(expected));
    }

    #[test]
    fn what_cannot_be_read_is_not_nothing() {
        assert!(count("{\"recipients\": [", &BTreeSet::new()).is_err());
    }
}
