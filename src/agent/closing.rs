//! The last moment of a domain in the tables: nothing more is taken for it, and what was taken last is delivered.
//!
//! The operator lets a domain go when its queue is empty. What comes in after that was counted would be sent where DNS
//! says, or bounce in an alias domain, once the mailboxes are no longer looked for. A session goes by the tables that were
//! there when its client came, so that those of before are waited for, and cut off after a while.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::mounted::{Revision, domain_of, key};
use super::queue;

/// What the last messages get to reach their Maildirs.
const LAST_MESSAGES: Duration = Duration::from_secs(15);
/// Between two looks at the queue.
const PAUSE: Duration = Duration::from_millis(50);
/// What Postfix may take to list its queue.
const LISTING: Duration = Duration::from_secs(5);

const TABLE: &str = "check_recipient_access";

/// A revision of which some domains are about to be delivered no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closing {
    /// The live revision with [`Closing::TABLE`] changed: every recipient of these domains is asked to come again.
    pub revision: Revision,
    domains: BTreeSet<String>,
}

impl Closing {
    /// The table that differs from the live one.
    pub const TABLE: &str = TABLE;

    /// Whether `next` has mailbox domains no more that `live` has.
    pub fn of(live: &Revision, next: &Revision) -> Option<Self> {
        let delivered = |revision: &Revision| -> BTreeSet<String> {
            revision.keys("virtual_mailbox_domains").map(str::to_owned).collect()
        };
        let domains = &delivered(live) - &delivered(next);
        if domains.is_empty() {
            return None;
        }
        let others = |line: &&str| !domains.contains(domain_of(key(line)));
        let mut access: String =
            live.file(TABLE).lines().filter(others).map(|line| format!("{line}\n")).collect();
        for domain in &domains {
            access.push_str(&format!("{domain} 450 4.2.1 this domain is being moved, try again later\n"));
        }
        let mut revision = live.clone();
        revision.files.insert(TABLE.into(), access);
        Some(Self { revision, domains })
    }

    /// Waits until nothing is queued for these domains, or for as long as they get. No session may be there any more that
    /// still takes mail for them.
    pub async fn wait(&self, config: &Path) {
        let deadline = Instant::now() + LAST_MESSAGES;
        // A message that moves from one queue to another is missed by a listing, but not by the next one.
        let mut empty = 0;
        loop {
            let listing = queue::list(config, LISTING).await.map_err(|error| error.to_string());
            let left = listing.and_then(|listing| queue::count(&listing, &self.domains));
            match left {
                Ok(left) if left.values().all(|count| *count == 0) => {
                    empty += 1;
                    if empty == 2 {
                        return;
                    }
                }
                Ok(left) if Instant::now() > deadline => {
                    let left: BTreeMap<_, _> = left.into_iter().filter(|(_, count)| *count > 0).collect();
                    tracing::warn!("domains leave with recipients in the queue: {left:?}");
                    return;
                }
                Err(error) if Instant::now() > deadline => {
                    tracing::warn!(
                        "domains leave, and whether mail is queued for them cannot be told: {error}"
                    );
                    return;
                }
                Ok(_) | Err(_) => {
                    empty = 0;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision::Index;

    fn revision(tables: &[(&str, &str)]) -> Revision {
        let files = tables.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        let index = Index::new("default", &files, BTreeMap::new());
        Revision { index, files, domains: Vec::new(), shards: BTreeMap::new() }
    }

    #[test]
    fn only_what_is_delivered_no_more_is_closed() {
        let live = revision(&[
            ("virtual_mailbox_domains", "a.example OK\nb.example OK\n"),
            (TABLE, "a.example DEFER_IF_REJECT 4.2.1 later\nx@a.example 450 later\nx@b.example 450 later\n"),
        ]);
        let next = revision(&[("virtual_mailbox_domains", "b.example OK\nc.example OK\n")]);
        let closing = Closing::of(&live, &next).expect("a.example goes");
        assert_eq!(
            closing.revision.file(TABLE),
            "x@b.example 450 later\na.example 450 4.2.1 this domain is being moved, try again later\n"
        );
        assert_eq!(Closing::of(&live, &live), None);
        assert_eq!(Closing::of(&revision(&[]), &next), None);
    }
}
