//! What the agent of a cell reports, and what follows from it.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::api::address::Address;
use crate::api::conditions::Reason;
use crate::directory::{Directory, ObjectId};
use crate::postfix::tables::domain_hash;
use crate::revision::{DomainState, Report, Storage};
use crate::status::Programmed;

use super::super::metrics::CellState;
use super::{Cell, SOON};

impl Cell {
    /// Takes in what the agent said, or why it said nothing. Gives the time since a revision was written that is live now.
    pub fn hear(&mut self, report: Result<Report, String>) -> Option<Duration> {
        match report {
            Ok(report) => {
                self.report = Some(report);
                self.answers = Some(Ok(()));
                self.find_live();
            }
            Err(why) => self.answers = Some(Err(why)),
        }
        self.state().current.then(|| self.awaited.take()).flatten().map(|written| written.elapsed())
    }

    /// What the gauges say.
    pub fn state(&self) -> CellState {
        let report = self.heard();
        let wanted = self.wanted();
        let rejected = report.and_then(|report| report.rejected.as_ref());
        let all = report.map_or(0, |report| report.domains.len());
        let proved =
            report.map_or(0, |report| report.domains.values().filter(|proof| proof.accepted).count());
        CellState {
            up: report.is_some(),
            current: wanted.is_some() && report.and_then(|report| report.revision.as_deref()) == wanted,
            rejected: rejected.is_some_and(|rejected| Some(rejected.revision.as_str()) == wanted),
            domains: (proved, all - proved),
        }
    }

    pub(super) fn find_live(&mut self) {
        let Some(next) = self.live().map(|at| at + 1) else { return };
        let later = self.written.range(next..).flat_map(|later| &later.addresses);
        let pending: BTreeSet<Address> = later.chain(self.since_written.addresses.keys()).cloned().collect();
        match &self.pending {
            Some(before) => self.look.addresses.extend(before.difference(&pending).cloned()),
            None => self.look.all = true,
        }
        self.pending = Some(pending);
    }

    /// Where the live revision stands among those that were written.
    fn live(&self) -> Option<usize> {
        let revision = self.report.as_ref()?.revision.as_ref()?;
        self.written.iter().rposition(|written| written.revision == *revision)
    }

    /// Since when the agent does not have what is wanted, where that is so.
    pub fn behind_since(&self) -> Option<Instant> {
        let next = self.live().map_or(0, |at| at + 1);
        self.written.get(next).map(|next| next.since).or(self.changed_at)
    }

    /// From when on it is told that something is on its way.
    pub(super) fn late_at(&self) -> Option<Instant> {
        Some(self.behind_since()? + SOON)
    }

    /// Whether nothing hinders the agent, and it is not late.
    pub fn comes_soon(&self, now: Instant) -> bool {
        self.late_at().is_some_and(|late| now < late)
            && matches!(self.on_its_way(), Programmed::AsBefore(Reason::Pending, _))
    }

    /// Whether the live revision has an address as the directory wants it.
    fn is_live(&self, address: &Address) -> bool {
        self.pending.as_ref().is_some_and(|pending| !pending.contains(address))
    }

    /// What its agent says that statuses of single mailboxes follow from: addresses whose mail it holds back, and the state
    /// of the volume.
    pub fn held_back(&self) -> Option<(BTreeSet<String>, Storage)> {
        let report = self.heard().filter(|report| !report.kept.held_back.is_empty())?;
        Some((report.kept.held_back.iter().cloned().collect(), report.storage.clone()))
    }

    /// What the agent said last, be it that it does not answer now.
    pub fn report(&self) -> Option<&Report> {
        self.report.as_ref()
    }

    /// The report, while the agent answers.
    pub fn heard(&self) -> Option<&Report> {
        self.report.as_ref().filter(|_| self.answers == Some(Ok(())))
    }

    /// Whether Postfix proved that it accepts the domain: the ground on which an MX is published.
    pub fn programmed(&self, domain: &str, directory: &Directory) -> Programmed {
        let Some(report) = self.heard() else { return self.on_its_way() };
        let Some(proof) = report.domains.get(domain) else { return self.on_its_way() };
        let wanted = domain_hash(directory, domain);
        if Some(&proof.hash) != wanted.as_ref() || report.revision.is_none() {
            return self.on_its_way();
        }
        if !proof.accepted {
            let message = format!("Postfix does not accept mail for {domain}: {}", proof.message);
            return Programmed::No(Reason::ProofFailed, message);
        }
        if !report.storage.writable {
            return self.not_writable(report);
        }
        Programmed::Yes
    }

    fn not_writable(&self, report: &Report) -> Programmed {
        let message =
            format!("mail cannot be written to the volume of cell {}: {}", self.name, report.storage.message);
        Programmed::No(Reason::StorageNotWritable, message)
    }

    /// Whether the live tables have a mailbox as the directory wants it.
    pub fn has_mailbox(&self, address: &Address, id: &ObjectId, directory: &Directory) -> Programmed {
        if let Some(report) = self.heard()
            && report.kept.held_back.contains(&address.to_string())
        {
            if !report.storage.writable {
                return self.not_writable(report);
            }
            let message = format!(
                "mail for {address} is answered 450 until the mail volume has its owner noted, what another namespace left there is archived, and nothing is queued for it; the agent's log says what is in the way"
            );
            return Programmed::No(Reason::Pending, message);
        }
        match self.is_live(address) && directory.mailboxes.get(address) == Some(id) {
            true => self.programmed(address.domain(), directory),
            false => self.on_its_way(),
        }
    }

    /// Whether the live tables have an alias as `directory` wants it.
    pub fn has_alias(&self, address: &Address, directory: &Directory) -> Programmed {
        match directory.aliases.contains_key(address) {
            true if self.is_live(address) => self.programmed(address.domain(), directory),
            true => self.on_its_way(),
            false => {
                Programmed::No(Reason::TargetNotFound, format!("no target of {address} can take its mail"))
            }
        }
    }

    /// What is said of something that the live revision does not have.
    pub fn on_its_way(&self) -> Programmed {
        match &self.answers {
            None => return Programmed::NotAsked,
            Some(Err(why)) => return Programmed::AsBefore(Reason::AgentUnreachable, why.clone()),
            Some(Ok(())) => {}
        }
        let wanted = self.wanted().unwrap_or_default();
        let rejected = self.report.as_ref().and_then(|report| report.rejected.as_ref());
        match rejected.filter(|rejected| rejected.revision == wanted) {
            Some(rejected) => Programmed::AsBefore(Reason::RevisionRejected, rejected.in_words()),
            None => {
                Programmed::AsBefore(Reason::Pending, "the new tables are on their way to Postfix".to_owned())
            }
        }
    }

    /// Recipients queued for a draining domain; `None` while that is not known.
    pub fn queued(&self, domain: &str, directory: &Directory) -> Option<u64> {
        let report = self.heard()?;
        directory.domains.get(domain).filter(|served| served.state == DomainState::Draining)?;
        let draining = domain_hash(directory, domain)?;
        report.domains.get(domain).filter(|proof| proof.hash == draining)?;
        report.queued.get(domain).copied()
    }

    /// Whether the running Postfix no longer has the domain.
    pub fn left(&self, domain: &str) -> bool {
        let written = self.wanted().is_some_and(|revision| self.answered(revision));
        written
            && !self.written_domains.contains(domain)
            && self.heard().is_some_and(|report| !report.domains.contains_key(domain))
    }
}
