//! What becomes of mail on disk: nobody gets a predecessor's mail, and what nobody has any more goes where its last owner
//! said.
//!
//! A revision says whose each Maildir is; the ledger on the volume remembers it, and is written before the revision goes
//! live. Where the ledger names another namespace, what lies there is archived first: the mailbox is left out of the
//! tables, and answered 450, until nobody can deliver there, its queue is empty and the Maildir is moved. What a revision
//! no longer has gets what is queued for it ([`leaving`]), and is moved after a time, if the revision is mounted and nobody
//! claims it. Each step on disk may be the last one before a crash: the ledger forgets something only after it was moved,
//! and takes up a new owner only after the mail of the old one was.

mod desk;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use desk::Desk;

use super::ledger::{Ledger, Left};
use super::mounted::{self, Revision};
use super::{AgentOptions, leaving, queue};
use crate::custody::{CUSTODY_FILE, Custody, Place};
use crate::revision::{DomainState, Kept};

/// What the volume may take for one answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a mailbox that is held back is looked at again.
const AGAIN: Duration = Duration::from_secs(3);
/// How often it is looked whether mail is queued for mailboxes that are gone; while it is, every [`AGAIN`].
const SELDOM: Duration = Duration::from_secs(30);
/// A long queue takes long to list: one part in so many of the time is spent on that.
const SPARE: u32 = 20;
/// What Postfix may take to list its queue.
const LISTING: Duration = Duration::from_secs(30);

/// See the module.
pub struct Custodian {
    desk: Arc<Mutex<Desk>>,
    config: PathBuf,
    hold: Duration,
    retention: Duration,
    /// Since when something is seen without an owner. Not kept over a restart: the time begins again.
    left: BTreeMap<Left, Instant>,
    held: BTreeSet<Place>,
    leaving: BTreeSet<Place>,
    next_look: Instant,
    next_admission: Instant,
    next_tidying: Instant,
    kept: Kept,
}

impl Custodian {
    /// Knows nothing yet; the volume is opened when it is needed.
    pub fn new(options: &AgentOptions, config: PathBuf) -> Self {
        Self {
            desk: Arc::new(Mutex::new(Desk::new(&options.vmail_dir))),
            config,
            // What is missing may be on its way, for as long as the agent settles.
            hold: Duration::from_secs(options.deletion_hold_seconds.max(options.settle_seconds)),
            retention: Duration::from_secs(options.trash_seconds),
            left: BTreeMap::new(),
            held: BTreeSet::new(),
            leaving: BTreeSet::new(),
            next_look: Instant::now(),
            next_admission: Instant::now(),
            next_tidying: Instant::now() + Duration::from_secs(options.deletion_hold_seconds),
            kept: Kept::default(),
        }
    }

    /// The mailboxes that the last admitted revision was left without.
    pub fn held(&self) -> &BTreeSet<Place> {
        &self.held
    }

    /// The mailboxes that the tables do not have, and that get what is queued for them all the same.
    pub fn leaving(&self) -> &BTreeSet<Place> {
        &self.leaving
    }

    /// Whether it is time to try again to let them in.
    pub fn wants_to_admit(&self) -> bool {
        !self.held.is_empty() && Instant::now() >= self.next_admission
    }

    /// What is reported.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// What of a mounted revision may go live now, once its owners are noted. `live` is what Postfix serves, `known` what
    /// it served last.
    pub async fn admit(
        &mut self,
        next: Revision,
        live: Option<&Revision>,
        known: Option<&Revision>,
    ) -> Revision {
        let next = self.let_in(next, live, known).await;
        let gone = live.map(|live| leaving::gone(live, &next)).unwrap_or_default();
        if !gone.is_empty() {
            // Mail that is on its way in at this moment is not in the queue yet.
            self.next_look = Instant::now() + AGAIN;
        }
        self.leaving.extend(gone);
        self.leaving = leaving::beside(std::mem::take(&mut self.leaving), &next);
        next
    }

    async fn let_in(
        &mut self,
        next: Revision,
        live: Option<&Revision>,
        known: Option<&Revision>,
    ) -> Revision {
        self.next_admission = Instant::now() + AGAIN;
        let Some(custody) = read(&next) else { return self.hold_back(next, BTreeSet::new()) };
        let served = live.map(served).unwrap_or_default();
        let held = match self.take_over(&custody, served, live.is_some()).await {
            Ok(held) => held,
            Err(message) => {
                self.trouble(format!("who owns which mailbox cannot be noted: {message}"));
                let known = known.map(served_for).unwrap_or_default();
                let strange = |place: &&Place| {
                    known.get(*place).is_none_or(|namespace| {
                        namespace.as_ref().is_some_and(|known| *known != custody.mailboxes[*place].namespace)
                    })
                };
                custody.mailboxes.keys().filter(strange).cloned().collect()
            }
        };
        self.hold_back(next, held)
    }

    /// What of the saved revision may go live: it changes nothing, and gets nobody's mailbox that has a newer owner.
    pub async fn admit_saved(&mut self, saved: Revision) -> Revision {
        let Some(custody) = read(&saved) else { return saved };
        let changed = self.ask(move |desk| desk.changed_hands(&custody)).await.unwrap_or_default();
        self.hold_back(saved, changed)
    }

    async fn take_over(
        &mut self,
        custody: &Custody,
        served: BTreeSet<Place>,
        running: bool,
    ) -> Result<BTreeSet<Place>, String> {
        let asked = custody.clone();
        let changed = self.ask(move |desk| desk.changed_hands(&asked)).await?;
        // Only once nobody can deliver there any more, and nothing is left to be delivered.
        let mut held = BTreeSet::new();
        if !changed.is_empty() {
            let queued = if running { self.queued().await } else { None };
            let free = |place: &&Place| {
                !served.contains(*place)
                    && !self.leaving.contains(*place)
                    && queued.as_ref().is_some_and(|queued| !queued.contains(&place.address()))
            };
            held = changed.iter().filter(|place| !free(place)).cloned().collect();
        }
        let (asked, waiting) = (custody.clone(), held.clone());
        let taken = self.ask(move |desk| desk.take_over(&asked, &waiting, Timestamp::now())).await?;
        self.kept.archived += taken.archived;
        if !taken.trouble.is_empty() {
            self.trouble(taken.trouble);
        }
        held.extend(taken.held);
        Ok(held)
    }

    fn hold_back(&mut self, revision: Revision, held: BTreeSet<Place>) -> Revision {
        if held != self.held {
            for place in held.difference(&self.held) {
                tracing::warn!(
                    mailbox = place.address(),
                    "held back: until its owner is noted, what lies at {place} of another namespace is archived, and its queue is empty"
                );
            }
            for place in self.held.difference(&held) {
                tracing::info!(mailbox = place.address(), "no longer held back");
            }
        }
        self.kept.held_back = held.iter().map(Place::address).collect();
        self.held = held;
        if self.held.is_empty() { revision } else { without(revision, &self.kept.held_back) }
    }

    /// Moves what has had no owner for long enough, and erases what has been in the trash for long enough. `mounted` is
    /// where the live revision was mounted; nothing follows from a saved one.
    pub async fn tend(&mut self, live: &Revision, mounted: Option<&Path>) {
        let mut trouble = String::new();
        let custody = read(live);
        if let Err(message) = self.look_for_leaving(live, custody.as_ref()).await {
            trouble = message;
        }
        match (custody, mounted) {
            (Some(custody), Some(directory)) => {
                if let Err(message) = self.follow_policies(live, custody, directory).await {
                    trouble = message;
                }
            }
            _ => self.left.clear(),
        }
        let retention = self.retention;
        match self.ask(move |desk| desk.erase(retention, Timestamp::now())).await {
            Ok((erased, in_trash)) => {
                self.kept.erased += erased;
                self.kept.in_trash = in_trash;
            }
            Err(message) if trouble.is_empty() => trouble = message,
            Err(_) => {}
        }
        if self.held.is_empty() || !trouble.is_empty() {
            self.trouble(trouble);
        }
    }

    /// Finds out which mailboxes that are gone have mail in the queue.
    async fn look_for_leaving(&mut self, live: &Revision, custody: Option<&Custody>) -> Result<(), String> {
        let begun = Instant::now();
        if begun < self.next_look {
            return Ok(());
        }
        self.next_look = begun + AGAIN;
        let asked = custody.cloned().unwrap_or_default();
        let mut leaving = self.ask(move |desk| desk.others(&asked)).await?;
        leaving.extend(self.leaving.iter().cloned());
        leaving = leaving::beside(leaving, live);
        if !leaving.is_empty() {
            let queued = self.queued().await.ok_or("the queue cannot be listed")?;
            leaving.retain(|place| queued.contains(&place.address()));
        }
        if leaving != self.leaving {
            tracing::info!(
                mailboxes = ?leaving.iter().map(Place::address).collect::<Vec<_>>(),
                "gone, and delivered to while mail is queued for them"
            );
            self.leaving = leaving;
        }
        let pause = if self.leaving.is_empty() { SELDOM } else { AGAIN };
        self.next_look = begun + pause.max(begun.elapsed() * SPARE);
        Ok(())
    }

    async fn follow_policies(
        &mut self,
        live: &Revision,
        custody: Custody,
        directory: &Path,
    ) -> Result<(), String> {
        let draining = live.domains.iter().filter(|line| line.state == DomainState::Draining);
        let draining: BTreeSet<String> = draining.map(|line| line.domain.clone()).collect();
        let now = Instant::now();
        if now >= self.next_tidying {
            self.next_tidying = now + self.hold;
            self.tidy(&custody, &draining).await?;
        }
        let asked = custody.clone();
        let (left, confirmed) = self.ask(move |desk| desk.left(&asked, &draining)).await?;
        self.left.retain(|what, _| left.contains(what));
        for what in &left {
            self.left.entry(what.clone()).or_insert(now);
        }
        self.kept.waiting = left.len() as u64;
        let brake = Ledger::brakes(&custody, left.len());
        let message = match brake && !confirmed {
            true => format!(
                "{} Maildirs and domains lost their owner at once, so that none is moved; if that is meant, create the file .vmail/confirmed on the mail volume",
                left.len()
            ),
            false => String::new(),
        };
        if message != self.kept.brake {
            if !message.is_empty() {
                tracing::error!("{message}");
            }
            self.kept.brake = message;
        }
        if !brake && confirmed {
            // Too early or too late: it must not be good for the next time.
            self.ask(Desk::take_back_confirmation).await?;
        }
        let due = self.left.iter().filter(|(_, since)| now.duration_since(**since) >= self.hold);
        let mut due: BTreeSet<Left> = due.map(|(what, _)| what.clone()).collect();
        if due.is_empty() || !self.kept.brake.is_empty() {
            return Ok(());
        }
        // What is mounted now may say otherwise, or be on its way.
        let mounted = mounted::index_text(directory).and_then(|text| mounted::read(directory, &text));
        if mounted.map_or(true, |mounted| mounted.index != live.index) {
            return Ok(());
        }
        let queued = self.queued().await.ok_or("the queue cannot be listed, so that nothing is moved")?;
        let domains: BTreeSet<&str> = queued.iter().filter_map(|address| address.split('@').nth(1)).collect();
        due.retain(|what| match what {
            Left::Mailbox(place) => !queued.contains(&place.address()) && !self.leaving.contains(place),
            Left::Domain(domain) => !domains.contains(domain.as_str()),
        });
        let all = due.len() == left.len();
        let done = self.ask(move |desk| desk.follow(&due, &custody, Timestamp::now())).await?;
        self.kept.archived += done.archived;
        self.kept.trashed += done.trashed;
        if brake && confirmed && all {
            self.ask(Desk::take_back_confirmation).await?;
        }
        Ok(())
    }

    /// Lets the ledger forget what was to stay where it is, and is not there: nobody could get it.
    async fn tidy(&self, custody: &Custody, draining: &BTreeSet<String>) -> Result<(), String> {
        let (asked, draining) = (custody.clone(), draining.clone());
        let empty = self.ask(move |desk| desk.retained_nothing(&asked, &draining)).await?;
        if empty.is_empty() {
            return Ok(());
        }
        // What is delivered yet is its last owner's.
        let Some(queued) = self.queued().await else { return Ok(()) };
        let domains: BTreeSet<String> =
            queued.iter().filter_map(|address| Some(address.split_once('@')?.1.to_owned())).collect();
        let empty: Vec<Left> = empty.into_iter().filter(|left| !domains.contains(left.domain())).collect();
        self.ask(move |desk| desk.forget_nothing(&empty)).await
    }

    /// Addresses with mail in the queue; none while that is not known.
    async fn queued(&self) -> Option<BTreeSet<String>> {
        let listing = queue::list(&self.config, LISTING).await.map_err(|error| error.to_string());
        listing
            .and_then(|listing| queue::recipients(&listing))
            .inspect_err(|error| tracing::warn!("cannot tell for whom mail is queued: {error}"))
            .ok()
    }

    fn trouble(&mut self, message: String) {
        if message != self.kept.trouble && !message.is_empty() {
            tracing::error!("mail on disk: {message}");
        }
        self.kept.trouble = message;
    }

    /// Does something on the volume, which may hang; while it does, there is no other answer.
    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Desk) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let hangs = || format!("the mail volume has not answered for {} s", PATIENCE.as_secs());
        if matches!(self.desk.try_lock(), Err(TryLockError::WouldBlock)) {
            return Err(hangs());
        }
        let desk = self.desk.clone();
        let answer = tokio::task::spawn_blocking(move || {
            let mut desk = desk.lock().unwrap_or_else(PoisonError::into_inner);
            let answer = work(&mut desk);
            if answer.is_err() {
                // What is in memory must not be ahead of the disk.
                desk.open = None;
            }
            answer
        });
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(hangs()),
        }
    }
}

/// What a revision says; nothing where its operator is older, or newer than is understood.
fn read(revision: &Revision) -> Option<Custody> {
    let custody = revision.files.get(CUSTODY_FILE)?.parse();
    custody.inspect_err(|error| tracing::warn!("nothing follows for mail on disk: {error}")).ok()
}

/// The mailboxes in the tables of a revision.
fn served(revision: &Revision) -> BTreeSet<Place> {
    revision.keys("virtual_mailbox_maps").filter_map(Place::of_address).collect()
}

/// The same with their namespaces, where the revision says so.
fn served_for(revision: &Revision) -> BTreeMap<Place, Option<String>> {
    let custody = read(revision);
    let namespace = |place: &Place| Some(custody.as_ref()?.mailboxes.get(place)?.namespace.clone());
    served(revision).into_iter().map(|place| (place.clone(), namespace(&place))).collect()
}

/// The revision without these mailboxes, whose mail is asked to come again.
fn without(mut revision: Revision, addresses: &BTreeSet<String>) -> Revision {
    let others = |text: &str| -> String {
        let held = |line: &&str| !addresses.contains(mounted::key(line));
        text.lines().filter(held).map(|line| format!("{line}\n")).collect()
    };
    let mailboxes = others(revision.file("virtual_mailbox_maps"));
    revision.files.insert("virtual_mailbox_maps".into(), mailboxes);
    let mut access = others(revision.file("check_recipient_access"));
    for address in addresses {
        access.push_str(&format!("{address} 450 4.2.1 this mailbox is being prepared, try again later\n"));
    }
    revision.files.insert("check_recipient_access".into(), access);
    revision
}
