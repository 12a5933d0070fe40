//! The agent's loop: keeps Postfix on the newest revision that holds what it promises.

mod switch;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::closing::Closing;
use super::custody::Custodian;
use super::install::{self, Layout, Listen, Refusal};
use super::metrics::Metrics;
use super::mounted::{self, ReadError, Revision};
use super::postfix::Postfix;
use super::proof::{self, Asked, Judgement, Relay};
use super::queue::Watched;
use super::report::Pulse;
use super::saved::Saved;
use super::tls::Tls;
use super::{AgentError, AgentOptions, check, missing, spool, tables};
use crate::postfix::main_cf::PROBE_LISTENER;
use crate::revision::{DomainLine, DomainProof, DomainState, ELSEWHERE_FILE, Index, Rejected, Report};

/// How often the mounted directory is looked at without being told.
const LOOK: Duration = Duration::from_secs(2);
/// How often domains that failed are asked about again.
const RETRY: Duration = Duration::from_secs(3);
/// How often all domains are asked about again.
const REPROVE: Duration = Duration::from_secs(300);
/// How long answers that say "not now" are tried again before they count.
const PATIENCE: Duration = Duration::from_secs(5);
/// What Postfix gets to serve a new configuration.
const READY: Duration = Duration::from_secs(20);
/// When a revision that was refused for a passing reason is tried again.
const AGAIN: Duration = Duration::from_secs(15);
/// What the loop may take for one turn, the check of a long queue included.
const TURN: Duration = Duration::from_secs(900);

/// See the module.
pub struct Keeper {
    layout: Layout,
    revision_dir: PathBuf,
    public: &'static str,
    postfix: Postfix,
    saved: Saved,
    /// The saved revision, until something is live.
    fallback: Option<Revision>,
    /// The last configuration that was proved, here or before a restart.
    proved_config: Option<(String, String)>,
    live: Option<Revision>,
    /// Whether the live revision was mounted, and is not the saved one.
    was_mounted: bool,
    custodian: Custodian,
    unsaved: bool,
    /// The text of the table of [`leaving`], where it is in place.
    leaving: Option<String>,
    /// The text of the index that was dealt with last.
    seen: String,
    /// What was refused, and when it may be tried again.
    refused: Option<(Index, Option<Instant>)>,
    rejected: Option<Rejected>,
    complaint: Option<ReadError>,
    proofs: BTreeMap<String, DomainProof>,
    settle: Settle,
    settle_time: Duration,
    /// Domains that the live revision has although it was mounted without them.
    missing: BTreeSet<String>,
    tls: Tls,
    generation: u64,
    next_retry: Instant,
    next_reprove: Instant,
    report: Arc<watch::Sender<Report>>,
    watched: watch::Sender<Watched>,
    pulse: Pulse,
    metrics: Metrics,
}

/// Whether what is missing gets a temporary answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settle {
    /// From the first revision on, for this long.
    Pending(Duration),
    /// Until then.
    Until(Instant),
    /// No more.
    Over,
}

impl Keeper {
    /// Prepares the directories and reads the last good revision; nothing runs yet.
    pub fn new(
        options: &AgentOptions,
        report: Arc<watch::Sender<Report>>,
        watched: watch::Sender<Watched>,
        pulse: Pulse,
        metrics: Metrics,
        public: &'static str,
    ) -> Result<Self, AgentError> {
        let layout = Layout {
            config: options.config_dir.clone(),
            queue: options.spool_dir.join("postfix"),
            data: options.data_dir.clone(),
            vmail: options.vmail_dir.clone(),
        };
        install::clear(&layout).and_then(|()| spool::prepare(&layout)).map_err(AgentError::Prepare)?;
        let tls =
            Tls::new(&options.tls_dir, &layout.config.with_file_name("tls")).map_err(AgentError::Prepare)?;
        let saved = Saved::new(options.spool_dir.join("last-good"));
        let fallback = saved.load();
        match &fallback {
            Ok(revision) => {
                tracing::info!(revision = revision.index.revision, "there is a last good revision")
            }
            Err(error) => tracing::info!("there is no last good revision: {error}"),
        }
        let fallback = fallback.ok();
        let settle_time = Duration::from_secs(options.settle_seconds);
        let settle = match &fallback {
            None if !settle_time.is_zero() => Settle::Pending(settle_time),
            _ => Settle::Over,
        };
        let config = |r: &Revision| (r.file("main.cf").to_owned(), r.file("master.cf").to_owned());
        let now = Instant::now();
        Ok(Self {
            postfix: Postfix::new(&layout.config, metrics.clone()),
            revision_dir: options.revision_dir.clone(),
            public,
            saved,
            proved_config: fallback.as_ref().map(config),
            fallback,
            live: None,
            was_mounted: false,
            custodian: Custodian::new(options, layout.config.clone()),
            unsaved: false,
            leaving: None,
            seen: String::new(),
            refused: None,
            rejected: None,
            complaint: None,
            proofs: BTreeMap::new(),
            settle,
            settle_time,
            missing: BTreeSet::new(),
            tls,
            generation: 0,
            next_retry: now,
            next_reprove: now,
            report,
            watched,
            pulse,
            metrics,
            layout,
        })
    }

    /// Keeps Postfix on the newest good revision, until something is wrong beyond repair.
    pub async fn run(&mut self, changed: Arc<Notify>) -> Result<(), AgentError> {
        loop {
            self.pulse.allow(TURN);
            self.certificate().await?;
            self.look().await?;
            self.maintain().await?;
            self.pulse.allow(Duration::from_secs(60));
            tokio::select! {
                how = self.postfix.ended() => return Err(AgentError::PostfixEnded(how)),
                () = changed.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Stops Postfix, and saves what is live.
    pub async fn stop(&mut self, patience: Duration) {
        self.postfix.stop(patience).await;
        self.save();
    }

    /// Reads what is mounted and installs it if it is new; falls back to what was saved while nothing is live.
    async fn look(&mut self) -> Result<(), AgentError> {
        match self.mounted() {
            Ok(None) => {}
            Ok(Some(revision)) => self.consider(revision).await?,
            Err(error) => self.cannot_read(&error),
        }
        if self.live.is_none()
            && let Some(revision) = self.fallback.take()
        {
            tracing::info!(revision = revision.index.revision, "starting from the last good revision");
            let revision = self.custodian.admit_saved(revision).await;
            self.install(revision).await?;
        }
        Ok(())
    }

    /// Makes Postfix offer a certificate that was renewed; one that it does not take goes, and the one before comes back.
    async fn certificate(&mut self) -> Result<(), AgentError> {
        let taken_up = self.tls.take_up();
        if self.report.borrow().tls != self.tls.told() {
            self.publish();
        }
        let Some(live) = self.live.clone().filter(|_| self.tls.is_unproved()) else { return Ok(()) };
        let reloaded = if taken_up { self.reload(&live, Listen::Public).await } else { Ok(()) };
        let proved = match reloaded {
            Ok(()) => self.tls.prove(PROBE_LISTENER).await,
            Err(refusal) => Err(refusal.message),
        };
        if let Err(message) = proved {
            self.tls.give_back(&message).map_err(|error| AgentError::RollBack(error.to_string()))?;
            let done = self.reload(&live, Listen::Public).await;
            done.map_err(|refusal| AgentError::RollBack(refusal.message))?;
        }
        self.publish();
        Ok(())
    }

    /// The mounted revision, unless it was dealt with.
    fn mounted(&mut self) -> Result<Option<Revision>, ReadError> {
        let text = mounted::index_text(&self.revision_dir)?;
        let again = matches!(&self.refused, Some((_, Some(when))) if *when <= Instant::now());
        if text == self.seen && !again {
            return Ok(None);
        }
        let revision = mounted::read(&self.revision_dir, &text)?;
        self.seen = text;
        Ok(Some(revision))
    }

    async fn consider(&mut self, revision: Revision) -> Result<(), AgentError> {
        self.complaint = None;
        let again = |when: &Option<Instant>| when.is_some_and(|when| when <= Instant::now());
        if self.refused.as_ref().is_some_and(|(index, when)| *index == revision.index && !again(when)) {
            return Ok(());
        }
        self.refused = None;
        self.rejected.take_if(|rejected| rejected.revision != revision.index.revision);
        let same = self.live.as_ref().is_some_and(|live| live.index == revision.index);
        let held = self.custodian.held().clone();
        self.was_mounted = true;
        let before = self.missing.clone();
        let revision = self.keep_missing(revision).await?;
        let known = self.live.as_ref().or(self.fallback.as_ref());
        let revision = self.custodian.admit(revision, self.live.as_ref(), known).await;
        if same && held == *self.custodian.held() && before == self.missing {
            self.rejected = None;
            self.publish();
            return Ok(());
        }
        self.install(revision).await
    }

    /// Begins to settle when a revision lacks what nobody said would go, and serves such domains on meanwhile.
    async fn keep_missing(&mut self, next: Revision) -> Result<Revision, AgentError> {
        let Some(known) =
            self.live.as_ref().or(self.fallback.as_ref()).filter(|_| !self.settle_time.is_zero())
        else {
            return Ok(next);
        };
        let mut missing = missing::missing(known, &next);
        if self.settle == Settle::Over {
            // They had their time.
            missing.domains.retain(|domain| !self.missing.contains(domain));
        }
        let kept = missing::keep(next, known, &missing.domains);
        let begins = missing.addresses + missing.back > 0
            || missing.domains.iter().any(|domain| !self.missing.contains(domain));
        if begins {
            tracing::warn!(
                revision = kept.index.revision,
                domains = ?missing.domains,
                addresses = missing.addresses,
                back = missing.back,
                "the new tables lack what nobody withdrew, or may lack mailboxes of a domain that is back: for {} s unknown recipients are asked to come again, and missing domains are served as before",
                self.settle_time.as_secs()
            );
            let was_over = self.settle == Settle::Over;
            self.settle = Settle::Pending(self.settle_time);
            if let Some(live) = self.live.clone() {
                self.settle = Settle::Until(Instant::now() + self.settle_time);
                if was_over {
                    let done = self.reload(&live, Listen::Public).await;
                    done.map_err(|refusal| AgentError::RollBack(refusal.message))?;
                }
            }
        }
        self.missing = missing.domains;
        Ok(kept)
    }

    /// A volume in the middle of an update is the normal case; it is said once.
    fn cannot_read(&mut self, error: &ReadError) {
        self.seen.clear();
        if self.complaint.as_ref() == Some(error) {
            return;
        }
        let message = error.to_string();
        tracing::info!("the mounted revision is not installed: {message}");
        self.complaint = Some(error.clone());
        if let ReadError::Format { revision, .. } | ReadError::Unusable { revision, .. } = error {
            self.rejected = Some(Rejected { revision: revision.clone(), stage: "Format".into(), message });
            self.metrics.rejected();
            self.publish();
        }
    }

    #[tracing::instrument(target = "timing", level = "debug", skip_all, fields(revision = next.index.revision))]
    async fn install(&mut self, next: Revision) -> Result<(), AgentError> {
        let before = self.live.take();
        let started = Instant::now();
        let closing = before.as_ref().and_then(|before| Closing::of(before, &next));
        let from = closing.as_ref().map(|closing| &closing.revision).or(before.as_ref());
        let result = match self.stage(from, &next).await {
            Ok(staged) => match self.close_and_switch(closing, before.as_ref(), &next, &staged).await {
                Ok(()) => Ok(staged.config_changed),
                Err(refusal) => {
                    self.roll_back(before.as_ref()).await?;
                    Err(refusal)
                }
            },
            Err(refusal) => Err(refusal),
        };
        let config_changed = match result {
            Ok(changed) => changed,
            Err(refusal) => {
                self.live = before;
                self.refuse(&next, refusal);
                return Ok(());
            }
        };
        self.proved_config = Some((next.file("main.cf").to_owned(), next.file("master.cf").to_owned()));
        if let Settle::Pending(time) = self.settle {
            self.settle = Settle::Until(Instant::now() + time);
        }
        let before = before.iter().filter(|_| !config_changed).flat_map(|before| &before.domains);
        let known: BTreeMap<_, _> = before.map(|line| (&line.domain, line)).collect();
        let changed = |line: &&DomainLine| known.get(&line.domain) != Some(line);
        let asked = next.domains.iter().filter(changed).cloned().collect();
        let all: BTreeSet<_> = next.domains.iter().map(|line| &line.domain).collect();
        self.proofs.retain(|domain, _| all.contains(domain));
        if config_changed {
            self.next_reprove = Instant::now() + REPROVE;
        }
        let revision = next.index.revision.clone();
        self.rejected.take_if(|rejected| rejected.revision == revision);
        self.live = Some(next);
        self.fallback = None;
        self.unsaved = true;
        self.prove(asked, PATIENCE).await;
        self.metrics.installed();
        tracing::info!(revision, milliseconds = started.elapsed().as_millis() as u64, "live");
        self.publish();
        Ok(())
    }

    async fn stage(&self, before: Option<&Revision>, next: &Revision) -> Result<install::Staged, Refusal> {
        if install::config_differs(before, next) {
            check::check(&self.layout, next, self.own_parameters()).await?;
        }
        install::stage(&self.layout, before, next).await
    }

    fn refuse(&mut self, revision: &Revision, refusal: Refusal) {
        let Refusal { stage, message, passing } = refusal;
        let name = revision.index.revision.clone();
        self.refused = Some((revision.index.clone(), passing.then(|| Instant::now() + AGAIN)));
        let rejected =
            Some(Rejected { revision: name.clone(), stage: stage.into(), message: message.clone() });
        if self.rejected == rejected {
            return;
        }
        tracing::error!(revision = name, stage, "refused: {message}");
        self.rejected = rejected;
        self.metrics.rejected();
        self.publish();
    }

    fn settling(&self) -> bool {
        self.settle != Settle::Over
    }

    /// Asks about these domains until each has an answer that counts, or time is up.
    #[tracing::instrument(target = "timing", level = "debug", skip_all, fields(domains = lines.len()))]
    async fn prove(&mut self, mut lines: Vec<DomainLine>, patience: Duration) {
        let Some(live) = &self.live else { return };
        let deadline = Instant::now() + patience;
        while !lines.is_empty() {
            let asked: Vec<_> = lines
                .iter()
                .map(|line| Asked {
                    line: line.clone(),
                    catch_all: tables::has_catch_all(&live.files, &line.domain),
                })
                .collect();
            let judgements = proof::ask_domains(PROBE_LISTENER, self.settling(), &asked).await;
            for judgement in judgements.values() {
                self.metrics.asked(match judgement {
                    Judgement::Proved => "proved",
                    Judgement::Failed(_) => "failed",
                    Judgement::NotNow(_) => "not_now",
                });
            }
            let last = Instant::now() >= deadline;
            lines.retain(|line| {
                let (accepted, message) = match judgements.get(&line.domain) {
                    Some(Judgement::Proved) => (true, String::new()),
                    Some(Judgement::Failed(message)) => (false, message.clone()),
                    Some(Judgement::NotNow(message)) if last => (false, message.clone()),
                    _ => return !last,
                };
                let certain = accepted || matches!(judgements.get(&line.domain), Some(Judgement::Failed(_)));
                let same = |proof: &DomainProof| proof.hash == line.hash && proof.accepted;
                // Not knowing is no reason to take back what was proved of the same lines.
                if certain || !self.proofs.get(&line.domain).is_some_and(same) {
                    let proof = DomainProof { hash: line.hash.clone(), accepted, message };
                    if !accepted && self.proofs.get(&line.domain) != Some(&proof) {
                        let revision = &live.index.revision;
                        tracing::warn!(domain = line.domain, revision, "not proved: {}", proof.message);
                    }
                    self.proofs.insert(line.domain.clone(), proof);
                }
                false
            });
            if !lines.is_empty() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }

    /// What has its own time: the end of settling, failed domains, all domains, and the saved copy.
    async fn maintain(&mut self) -> Result<(), AgentError> {
        let Some(live) = self.live.clone() else { return Ok(()) };
        let now = Instant::now();
        let mut reprove = now >= self.next_reprove;
        if matches!(self.settle, Settle::Until(end) if end <= now) {
            tracing::info!("settled: what is missing is refused for good from now on");
            self.settle = Settle::Over;
            let done = self.reload(&live, Listen::Public).await;
            done.map_err(|refusal| AgentError::RollBack(refusal.message))?;
            reprove = true;
            if !self.missing.is_empty() {
                // What is still missing goes with what is mounted.
                self.seen.clear();
            }
        }
        if reprove {
            self.next_reprove = now + REPROVE;
            if let Relay::Open(said) = proof::ask_relay(PROBE_LISTENER, self.settling()).await {
                return Err(AgentError::Relays(said));
            }
        }
        if reprove || now >= self.next_retry {
            self.next_retry = now + RETRY;
            let failed = |line: &&DomainLine| !self.proofs.get(&line.domain).is_some_and(|p| p.accepted);
            let lines = live.domains.iter().filter(|line| reprove || failed(line)).cloned().collect();
            self.prove(lines, Duration::ZERO).await;
            self.publish();
        }
        self.custodian.tend(&live, self.was_mounted.then_some(&*self.revision_dir)).await;
        if let Err(refusal) = self.put_leaving().await {
            tracing::warn!("mail for mailboxes that are gone is not delivered: {}", refusal.message);
        }
        if self.report.borrow().kept != *self.custodian.kept() {
            self.publish();
        }
        if self.custodian.wants_to_admit() {
            self.seen.clear();
        }
        self.save();
        Ok(())
    }

    fn save(&mut self) {
        // A revision without the mailboxes that are held back, or with domains that were missing, is not what its index
        // says. And a pod that starts anew while much may be missing has to know what it served.
        let whole = self.custodian.held().is_empty() && self.missing.is_empty() && !self.settling();
        if let Some(live) = self.live.as_ref().filter(|_| self.unsaved && whole) {
            match self.saved.save(live) {
                Ok(()) => self.unsaved = false,
                Err(error) => tracing::warn!("the last good revision cannot be saved on the spool: {error}"),
            }
        }
    }

    fn publish(&self) {
        let watched = |live: &Revision| {
            let here = live.domains.iter().filter(|line| line.state == DomainState::Draining);
            let elsewhere = live.keys(ELSEWHERE_FILE);
            Watched {
                here: here.map(|line| line.domain.clone()).collect(),
                elsewhere: elsewhere.map(str::to_owned).collect(),
            }
        };
        let watched = self.live.as_ref().map(watched).unwrap_or_default();
        self.watched.send_if_modified(|known| {
            let differs = *known != watched;
            *known = watched;
            differs
        });
        self.report.send_if_modified(|report| {
            let before = report.clone();
            report.cell = self.live.as_ref().map(|live| live.index.cell.clone()).unwrap_or_default();
            report.revision = self.live.as_ref().map(|live| live.index.revision.clone());
            report.rejected.clone_from(&self.rejected);
            report.domains.clone_from(&self.proofs);
            report.tls = self.tls.told();
            // With the revision, or the mailboxes that are held back would count as served for a moment.
            report.kept.clone_from(self.custodian.kept());
            *report != before
        });
    }
}
