//! What is to be said of an object, where that differs from what stands there.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::api::address::Address;
use crate::api::conditions::{READY, Reason, Statement, update};
use crate::api::{MailAliasStatus, MailDomainStatus, MailboxStatus, MxStatus};
use crate::directory::{Directory, ObjectId, Objects, Refusal, Verdict};
use crate::events::{self, News};
use crate::postfix::tables::maildir;
use crate::status::{self, Programmed, Publication};

use super::cells::Cell;
use super::compact_status::CompactStatus;
use super::index::{Index, Kind};
use super::seen::Known;

/// A status with the object it belongs to.
#[derive(Clone, Debug)]
pub enum Target {
    /// That of a MailDomain.
    Domain(ObjectId, MailDomainStatus),
    /// That of a Mailbox.
    Mailbox(ObjectId, MailboxStatus),
    /// That of a MailAlias.
    Alias(ObjectId, MailAliasStatus),
}

impl Target {
    /// The object.
    pub fn key(&self) -> (Kind, &ObjectId) {
        match self {
            Self::Domain(id, _) => (Kind::Domain, id),
            Self::Mailbox(id, _) => (Kind::Mailbox, id),
            Self::Alias(id, _) => (Kind::Alias, id),
        }
    }
}

/// An object with a status.
pub type Key = (Kind, ObjectId);

/// What statuses follow from.
pub struct View<'a> {
    /// Who is served, and the verdicts.
    pub directory: &'a Directory,
    /// The cells by name.
    pub cells: &'a BTreeMap<String, Cell>,
    /// Whether each domain is programmed.
    pub domains: &'a BTreeMap<String, Programmed>,
    /// What is said of the MX of each domain.
    pub publications: &'a BTreeMap<String, Publication>,
    /// When a condition changes that does.
    pub now: Timestamp,
    /// The cells whose agents will most likely have what they lack in a moment, [`Cell::comes_soon`].
    pub soon: &'a BTreeSet<&'a str>,
}

impl View<'_> {
    fn unserved() -> Programmed {
        Programmed::AsBefore(Reason::Pending, "the domain is not served".to_owned())
    }

    fn cell_of(&self, domain: &str) -> Option<&Cell> {
        self.cells.get(&self.directory.domains.get(domain)?.spec.cell)
    }

    fn programmed_mailbox(&self, id: &ObjectId, index: &Index) -> Option<Programmed> {
        let address = mailbox_address(id, &index.objects)?;
        Some(self.cell_of(address.domain())?.has_mailbox(address, id, self.directory))
    }

    fn programmed_alias(&self, id: &ObjectId, index: &Index) -> Option<Programmed> {
        let address = alias_address(id, &index.objects)?;
        Some(self.cell_of(address.domain())?.has_alias(address, self.directory))
    }

    /// Whether all that is to be said is that an address is on its way, and that will most likely be over in a moment: with
    /// many objects, statuses are most of what is written.
    pub fn comes_soon(&self, (kind, id): &Key, index: &Index) -> bool {
        let (verdicts, address) = match kind {
            Kind::Domain => return false,
            Kind::Mailbox => (&self.directory.mailbox_verdicts, mailbox_address(id, &index.objects)),
            Kind::Alias => (&self.directory.alias_verdicts, alias_address(id, &index.objects)),
        };
        let served = address.and_then(|address| self.directory.domains.get(address.domain()));
        if !served.is_some_and(|served| self.soon.contains(served.spec.cell.as_str())) {
            return false;
        }
        let programmed = match kind {
            Kind::Alias => self.programmed_alias(id, index),
            _ => self.programmed_mailbox(id, index),
        };
        verdicts.get(id).is_some_and(|verdict| verdict.accepted.is_ok())
            && matches!(programmed, Some(Programmed::AsBefore(Reason::Pending, _)))
    }

    /// The status of an object, where it is to be written, and what that changes.
    pub fn differing(&self, (kind, id): &Key, index: &mut Index) -> Option<(Target, Vec<News>)> {
        match kind {
            Kind::Domain => self.domain(id, index),
            Kind::Mailbox => self.mailbox(id, index),
            Kind::Alias => self.alias(id, index),
        }
    }

    /// That of a MailDomain.
    fn domain(&self, id: &ObjectId, index: &mut Index) -> Option<(Target, Vec<News>)> {
        let verdict = self.directory.domain_verdicts.get(id)?;
        let domain = index.objects.domains.get(id)?.spec.as_ref().map_or("", |spec| spec.domain.as_str());
        let programmed = self.domains.get(domain).cloned().unwrap_or_else(Self::unserved);
        let pending = Publication::No(Refusal { reason: Reason::Pending, message: String::new() });
        let publication = self.publications.get(domain).unwrap_or(&pending);
        let mx = verdict.accepted.as_ref().ok().and_then(|()| mx_status(index, domain));
        let known = index.domains.get_mut(id)?;
        let old = known.status.conditions();
        let said = status::domain(&old, verdict, &programmed, publication);
        known.ready = ready(&said);
        let mut status =
            MailDomainStatus { observed_generation: Some(known.generation), conditions: vec![], mx };
        status.conditions = self.renewed(&old, known, &said, &CompactStatus::from(&status))?;
        let news = events::domain(&old, &status.conditions);
        Some((Target::Domain(id.clone(), status), news))
    }

    /// That of a Mailbox.
    fn mailbox(&self, id: &ObjectId, index: &mut Index) -> Option<(Target, Vec<News>)> {
        let verdict = self.directory.mailbox_verdicts.get(id)?;
        let address = mailbox_address(id, &index.objects);
        let programmed = self.programmed_mailbox(id, index);
        let known = index.mailboxes.get_mut(id)?;
        let old = known.status.conditions();
        let said = status::mailbox(&old, verdict, &programmed.unwrap_or_else(Self::unserved));
        known.ready = ready(&said);
        let mut status = MailboxStatus {
            observed_generation: Some(known.generation),
            conditions: vec![],
            path: address.filter(|_| verdict.accepted.is_ok()).map(maildir),
            domain_ref: domain_ref(verdict),
        };
        status.conditions = self.renewed(&old, known, &said, &CompactStatus::from(&status))?;
        let news = events::address(&old, &status.conditions);
        Some((Target::Mailbox(id.clone(), status), news))
    }

    /// That of a MailAlias.
    fn alias(&self, id: &ObjectId, index: &mut Index) -> Option<(Target, Vec<News>)> {
        let verdict = self.directory.alias_verdicts.get(id)?;
        let programmed = self.programmed_alias(id, index);
        let known = index.aliases.get_mut(id)?;
        let old = known.status.conditions();
        let said = status::alias(&old, verdict, &programmed.unwrap_or_else(Self::unserved));
        known.ready = ready(&said);
        let mut status = MailAliasStatus {
            observed_generation: Some(known.generation),
            conditions: vec![],
            domain_ref: domain_ref(verdict),
        };
        status.conditions = self.renewed(&old, known, &said, &CompactStatus::from(&status))?;
        let news = events::address(&old, &status.conditions);
        Some((Target::Alias(id.clone(), status), news))
    }

    /// The new conditions, where these or something beside them changed.
    fn renewed(
        &self,
        old: &[Condition],
        known: &Known,
        said: &[Statement],
        wanted: &CompactStatus,
    ) -> Option<Vec<Condition>> {
        let something_else = !known.status.same_rest(wanted);
        update(old, self.now, known.generation, said).or_else(|| something_else.then(|| old.to_vec()))
    }
}

fn mailbox_address<'a>(id: &ObjectId, objects: &'a Objects) -> Option<&'a Address> {
    objects.mailboxes.get(id)?.spec.as_ref().ok()
}

fn alias_address<'a>(id: &ObjectId, objects: &'a Objects) -> Option<&'a Address> {
    Some(&objects.aliases.get(id)?.spec.as_ref().ok()?.address)
}

fn ready(said: &[Statement]) -> Option<Reason> {
    said.iter().find(|statement| statement.kind == READY).map(|ready| ready.reason)
}

fn domain_ref(verdict: &Verdict) -> Option<String> {
    verdict.domain.as_ref().map(ObjectId::to_string)
}

fn mx_status(index: &Index, domain: &str) -> Option<MxStatus> {
    let published =
        index.records.get(domain)?.record.published.as_ref().filter(|published| published.confirmed)?;
    let hosts = published.mx.records.iter().map(|mx| mx.host.clone()).collect();
    Some(MxStatus { zone: published.zone.clone()?, hosts, ttl: i32::try_from(published.mx.ttl).ok()? })
}
