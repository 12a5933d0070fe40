//! How close each cell is to its limits, said before they are hit: room in the tables, and the volumes.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{info, warn};

use crate::directory::Fill;
use crate::revision::Report;

/// From so many percent on there is a warning.
const WARN: u64 = 80;
/// It is taken back when they are so many less.
const BACK: u64 = 5;

/// Which limits were warned of.
#[derive(Default)]
pub struct Limits {
    warned: BTreeSet<String>,
}

impl Limits {
    /// Takes in what the directory takes, and what the agents report by cell; warns once of each limit that comes near.
    pub fn look<'a>(&mut self, fills: &[Fill], reports: impl Iterator<Item = (&'a str, &'a Report)>) {
        let mut all = Vec::new();
        for fill in fills {
            let Fill { cell, kind, room, .. } = fill;
            let message = format!(
                "the tables of cell {cell} are nearly full of {kind} ({room} bytes of text are the limit); give new domains another cell"
            );
            all.push((message, percent(fill)));
        }
        for (cell, report) in reports {
            for (volume, fill) in &report.volumes {
                for (of, percent) in [("bytes", fill.bytes_percent), ("inodes", fill.inodes_percent)] {
                    let message = format!(
                        "most {of} of volume {volume} of cell {cell} are used; enlarge the claim, or give new domains another cell"
                    );
                    all.push((message, percent));
                }
            }
        }
        let from = |message: &str| if self.warned.contains(message) { WARN - BACK } else { WARN };
        let near: BTreeMap<String, u64> =
            all.into_iter().filter(|(message, percent)| *percent >= from(message)).collect();
        for (message, percent) in near.iter().filter(|(message, _)| !self.warned.contains(*message)) {
            warn!("{percent} %: {message}");
        }
        for message in self.warned.iter().filter(|message| !near.contains_key(*message)) {
            info!("no longer so: {message}");
        }
        self.warned = near.into_keys().collect();
    }
}

fn percent(fill: &Fill) -> u64 {
    (fill.taken as u64 * 100) / (fill.room as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision::VolumeFill;

    #[test]
    fn a_limit_is_told_from_80_percent_on_and_taken_back() {
        let fill = |taken| Fill { cell: "default".to_owned(), kind: "mailboxes", taken, room: 100 };
        let report = |bytes_percent| Report {
            volumes: BTreeMap::from([("vmail".to_owned(), VolumeFill { bytes_percent, inodes_percent: 3 })]),
            ..Report::default()
        };
        let mut limits = Limits::default();
        for (taken, bytes, expected) in
            [(79, 79, 0), (80, 79, 1), (99, 80, 2), (75, 75, 2), (74, 100, 1), (1, 1, 0)]
        {
            limits.look(&[fill(taken)], [("default", &report(bytes))].into_iter());
            assert_eq!(limits.warned.len(), expected, "{taken} {bytes}: {:?}", limits.warned);
        }
    }
}
