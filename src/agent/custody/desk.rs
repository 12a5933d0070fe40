//! What custody does on disk: the volume, and the ledger on it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

use super::super::ledger::{Ledger, Left};
use super::super::volume::{Destination, Volume};
use crate::api::DeletionPolicy;
use crate::custody::{Custody, Place};

/// What is spent on erasing at a time.
const BUDGET: Duration = Duration::from_millis(500);

/// What was done with mail.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub archived: u64,
    pub trashed: u64,
    pub held: BTreeSet<Place>,
    pub trouble: String,
}

/// The volume and the ledger on it.
pub(super) struct Desk {
    pub path: PathBuf,
    pub open: Option<(Volume, Ledger)>,
}

impl Desk {
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), open: None }
    }

    pub fn opened(&mut self) -> Result<(&Volume, &mut Ledger), String> {
        if self.open.is_none() {
            let named = |error: std::io::Error| format!("{}: {error}", self.path.display());
            let volume = Volume::open(&self.path).map_err(named)?;
            volume.sweep().map_err(named)?;
            let ledger = match volume.ledger().map_err(named)? {
                Some(text) => Ledger::read(&text).map_err(|error| {
                    format!("the ledger .vmail/ledger.json on the mail volume cannot be read: {error}; mend it, or move it away to begin a new one")
                })?,
                None => Ledger::default(),
            };
            self.open = Some((volume, ledger));
        }
        self.open.as_mut().map(|(volume, ledger)| (&*volume, ledger)).ok_or_else(String::new)
    }

    pub fn changed_hands(&mut self, custody: &Custody) -> Result<BTreeSet<Place>, String> {
        let (_, ledger) = self.opened()?;
        let changed = custody.mailboxes.iter().filter(|(place, owner)| ledger.changes_hands(place, owner));
        Ok(changed.map(|(place, _)| place.clone()).collect())
    }

    /// The Maildirs whose last owner does not have them any more.
    pub fn others(&mut self, custody: &Custody) -> Result<BTreeSet<Place>, String> {
        let (_, ledger) = self.opened()?;
        let still = |place: &Place, namespace: &str| {
            custody.mailboxes.get(place).is_some_and(|owner| owner.namespace == namespace)
        };
        let others = ledger.mailboxes.iter().filter(|(place, owner)| !still(place, &owner.namespace));
        Ok(others.map(|(place, _)| place.clone()).collect())
    }

    /// Archives what the new owners must not get, and notes them. Who waits keeps the owner of before.
    pub fn take_over(
        &mut self,
        custody: &Custody,
        waiting: &BTreeSet<Place>,
        now: Timestamp,
    ) -> Result<Done, String> {
        let (volume, ledger) = self.opened()?;
        let mut done = Done { held: waiting.clone(), ..Done::default() };
        let mut noted = custody.clone();
        for (domain, _) in custody.domains.iter().filter(|(d, owner)| ledger.domain_changes_hands(d, owner)) {
            if let Err(message) = archive_unowned(volume, ledger, domain, now, &mut done.archived) {
                done.trouble = message;
                noted.domains.remove(domain);
                done.held.extend(custody.mailboxes.keys().filter(|place| place.domain == *domain).cloned());
            }
        }
        for (place, owner) in &custody.mailboxes {
            if done.held.contains(place) || !ledger.changes_hands(place, owner) {
                continue;
            }
            match volume.move_maildir(place, Destination::Archive, now) {
                Ok(moved) => {
                    if moved {
                        tracing::info!("archived {place}: it belongs to namespace {} now", owner.namespace);
                        done.archived += 1;
                    }
                }
                Err(error) => {
                    done.trouble = format!("{place} cannot be archived: {error}");
                    done.held.insert(place.clone());
                }
            }
        }
        noted.mailboxes.retain(|place, _| !done.held.contains(place));
        let before = ledger.clone();
        ledger.note(&noted);
        if *ledger != before {
            volume
                .write_ledger(&ledger.text())
                .map_err(|error| format!("the ledger cannot be written: {error}"))?;
        }
        Ok(done)
    }

    pub fn left(
        &mut self,
        custody: &Custody,
        draining: &BTreeSet<String>,
    ) -> Result<(BTreeSet<Left>, bool), String> {
        let (volume, ledger) = self.opened()?;
        let left = ledger.left(custody, |domain| draining.contains(domain)).into_keys().collect();
        Ok((left, volume.is_confirmed()))
    }

    /// What the ledger remembers without need: nobody has it, it was to stay, and nothing is there.
    pub fn retained_nothing(
        &mut self,
        custody: &Custody,
        draining: &BTreeSet<String>,
    ) -> Result<Vec<Left>, String> {
        let (volume, ledger) = self.opened()?;
        let retained = ledger.retained(custody, |domain| draining.contains(domain));
        Ok(retained.into_iter().filter(|left| is_missing(volume, left)).collect())
    }

    /// Forgets what is still not there.
    pub fn forget_nothing(&mut self, empty: &[Left]) -> Result<(), String> {
        let (volume, ledger) = self.opened()?;
        let mut forgotten = 0;
        for left in empty.iter().filter(|left| is_missing(volume, left)) {
            ledger.forget(left);
            forgotten += 1;
        }
        if forgotten == 0 {
            return Ok(());
        }
        tracing::info!(forgotten, "the ledger forgets what has neither an owner nor mail");
        volume.write_ledger(&ledger.text()).map_err(|error| format!("the ledger cannot be written: {error}"))
    }

    pub fn take_back_confirmation(&mut self) -> Result<(), String> {
        let (volume, _) = self.opened()?;
        volume.take_back_confirmation().map_err(|error| error.to_string())
    }

    /// Does with what is left as its last owner said.
    pub fn follow(
        &mut self,
        due: &BTreeSet<Left>,
        custody: &Custody,
        now: Timestamp,
    ) -> Result<Done, String> {
        let (volume, ledger) = self.opened()?;
        let policies = ledger.left(custody, |_| false);
        let mut done = Done::default();
        for (what, policy) in policies.iter().filter(|(what, _)| due.contains(what)) {
            let destination = match policy {
                DeletionPolicy::Retain => continue,
                DeletionPolicy::Archive => Destination::Archive,
                DeletionPolicy::Delete => Destination::Trash,
            };
            let moved = match what {
                Left::Mailbox(place) => volume.move_maildir(place, destination, now).map(u64::from),
                Left::Domain(domain) => move_rest(volume, ledger, custody, domain, destination, now),
            };
            let moved = moved.map_err(|error| format!("{what} cannot be moved: {error}"))?;
            if moved > 0 {
                let to = destination.directory();
                tracing::info!(%policy, "moved {what} to {to}: nobody has it any more");
            }
            match destination {
                Destination::Archive => done.archived += moved,
                Destination::Trash => done.trashed += moved,
            }
            ledger.forget(what);
        }
        if !due.is_empty() {
            volume
                .write_ledger(&ledger.text())
                .map_err(|error| format!("the ledger cannot be written: {error}"))?;
        }
        Ok(done)
    }

    /// The number of files that were erased, and of moves that are in the trash.
    pub fn erase(&mut self, retention: Duration, now: Timestamp) -> Result<(u64, u64), String> {
        let (volume, _) = self.opened()?;
        let failed = |error| format!("the trash cannot be erased: {error}");
        let before = volume.in_trash().map_err(failed)?;
        let (files, _) = volume.erase(retention, now, BUDGET).map_err(failed)?;
        let after = volume.in_trash().map_err(failed)?;
        if after < before {
            tracing::info!(
                moves = before - after,
                left = after,
                "erased mail whose time in the trash was over"
            );
        }
        Ok((files, after as u64))
    }
}

/// Archives what lies in the directory of a domain and of which nobody knows whose it is: it was there under another
/// owner of the domain.
fn archive_unowned(
    volume: &Volume,
    ledger: &Ledger,
    domain: &str,
    now: Timestamp,
    archived: &mut u64,
) -> Result<(), String> {
    let named = |error| format!("what {domain} left behind cannot be archived: {error}");
    for name in volume.names(domain).map_err(named)? {
        let place = place(domain, &name);
        if place.is_none_or(|place| !ledger.mailboxes.contains_key(&place)) {
            *archived +=
                u64::from(volume.move_away(domain, &name, Destination::Archive, now).map_err(named)?);
        }
    }
    Ok(())
}

/// Moves what is in the directory of a domain and belongs to no mailbox, and removes the directory if nothing is left.
fn move_rest(
    volume: &Volume,
    ledger: &Ledger,
    custody: &Custody,
    domain: &str,
    destination: Destination,
    now: Timestamp,
) -> std::io::Result<u64> {
    let mut moved = 0;
    for name in volume.names(domain)? {
        if place(domain, &name).is_none_or(|place| !ledger.spares(&place, custody)) {
            moved += u64::from(volume.move_away(domain, &name, destination, now)?);
        }
    }
    volume.remove_domain(domain)?;
    Ok(moved)
}

/// Whether nothing is there; what cannot be looked at may be.
fn is_missing(volume: &Volume, left: &Left) -> bool {
    let holds = match left {
        Left::Mailbox(place) => volume.holds(&place.domain, OsStr::new(&place.local)),
        Left::Domain(domain) => volume.names(domain).map(|names| !names.is_empty()),
    };
    holds.is_ok_and(|holds| !holds)
}

fn place(domain: &str, name: &OsStr) -> Option<Place> {
    Place::try_from(format!("{domain}/{}", name.to_str()?)).ok()
}

#[cfg(test)]
#[path = "desk_test.rs"]
mod desk_test;
