//! What is still queued for domains on their way out: a domain stays in the tables until its last recipient
//! has his mail.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

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
    fn mail_under_way_is_found_by_its_mailbox() {
        let listing = r#"{"recipients": [{"address": "You+tag@Out.example"}, {"address": "b@out.example"}]}"#;
        let expected = ["b@out.example", "you@out.example"].map(String::from).into();
        assert_eq!(recipients(listing), Ok(expected));
    }

    #[test]
    fn what_cannot_be_read_is_not_nothing() {
        assert!(count("{\"recipients\": [", &BTreeSet::new()).is_err());
    }
}
