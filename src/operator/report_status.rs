//! Writing statuses: what is to be said of each object, written where it differs from what stands there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::api::conditions::{READY, Reason, Statement, update};
use crate::api::{
    MailAlias, MailAliasStatus, MailDomain, MailDomainStatus, Mailbox, MailboxStatus, MxStatus,
};
use crate::directory::{Directory, ObjectId, Refusal, Verdict};
use crate::events::{self, News};
use crate::postfix::tables::maildir;
use crate::revision::Rejected;
use crate::status::{self, Programmed, Publication};

use super::cells::Cell;
use super::index::{Index, Known, version};
use super::pauses::Pauses;
use super::reconcile::{Message, WRITES_AT_ONCE};
use super::record_events::EventRecorder;
use super::write::{WriteError, Writer};

/// A status that was written, or not.
#[derive(Debug)]
pub struct Written {
    target: Target,
    /// The resource version of what was written.
    result: Result<u64, WriteError>,
}

/// A status with the object it belongs to.
#[derive(Clone, Debug)]
enum Target {
    Domain(ObjectId, MailDomainStatus),
    Mailbox(ObjectId, MailboxStatus),
    Alias(ObjectId, MailAliasStatus),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Domain,
    Mailbox,
    Alias,
}

impl Target {
    fn key(&self) -> (Kind, &ObjectId) {
        match self {
            Self::Domain(id, _) => (Kind::Domain, id),
            Self::Mailbox(id, _) => (Kind::Mailbox, id),
            Self::Alias(id, _) => (Kind::Alias, id),
        }
    }
}

/// Writes statuses, one at a time for each object and a bounded number at once. What a written status changed is
/// told in Events.
pub struct StatusWriter {
    writer: Writer,
    at_once: Arc<Semaphore>,
    to: mpsc::Sender<Message>,
    under_way: BTreeSet<(Kind, ObjectId)>,
    pauses: Pauses<(Kind, ObjectId)>,
    events: EventRecorder,
}

impl StatusWriter {
    /// A writer whose results go to `to`.
    pub fn new(writer: Writer, to: mpsc::Sender<Message>) -> Self {
        let events = EventRecorder::start(writer.clone());
        let at_once = Arc::new(Semaphore::new(WRITES_AT_ONCE));
        Self { writer, at_once, to, under_way: BTreeSet::new(), pauses: Pauses::default(), events }
    }

    /// Where Events go.
    pub fn events(&self) -> &EventRecorder {
        &self.events
    }

    /// Tells on the pod of a cell what its agent refuses, where that is something else than `before`.
    pub fn tell_of_revision(&self, cell: &Cell, before: Option<&Rejected>) {
        let Some(report) = cell.report() else { return };
        let Some(news) = events::revision(before, report.rejected.as_ref()) else { return };
        if report.rejected.is_some() {
            warn!(pod = cell.pod(), "{}", news.note);
        }
        let pod = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(self.writer.namespace().to_owned()),
            name: Some(cell.pod().to_owned()),
            uid: Some(report.pod_uid.clone()),
            ..ObjectReference::default()
        };
        self.events.record(&pod, vec![news]);
    }

    /// Starts to write every status that says something else than what is to be said.
    pub fn report(
        &mut self,
        index: &Index,
        directory: &Directory,
        cells: &BTreeMap<String, Cell>,
        publications: &BTreeMap<String, Publication>,
    ) {
        let now = Timestamp::now();
        let unserved = || Programmed::AsBefore(Reason::Pending, "the domain is not served".to_owned());
        let cell_of =
            |domain: &str| directory.domains.get(domain).and_then(|served| cells.get(&served.spec.cell));

        let mut counts = BTreeMap::new();
        let mut count = |kind: &'static str, said: &[Statement]| {
            if let Some(ready) = said.iter().find(|statement| statement.kind == READY) {
                *counts.entry((kind, ready.reason.as_str())).or_default() += 1;
            }
        };
        let pending = Publication::No(Refusal { reason: Reason::Pending, message: String::new() });
        for (id, verdict) in &directory.domain_verdicts {
            let (Some(known), Some(object)) = (index.domains.get(id), index.objects.domains.get(id)) else {
                continue;
            };
            let domain = object.spec.as_ref().map_or("", |spec| spec.domain.as_str());
            let programmed = cell_of(domain).map_or_else(unserved, |cell| cell.programmed(domain, directory));
            let publication = publications.get(domain).unwrap_or(&pending);
            let said = status::domain(&known.status.conditions, verdict, &programmed, publication);
            count("MailDomain", &said);
            let mx = verdict.accepted.as_ref().ok().and_then(|()| mx_status(index, domain));
            let other = known.status.mx != mx;
            if let Some(conditions) = renewed(&known.status.conditions, now, known.generation, &said, other) {
                let news = events::domain(&known.status.conditions, &conditions);
                let status = MailDomainStatus { observed_generation: Some(known.generation), conditions, mx };
                self.write(Target::Domain(id.clone(), status), news);
            }
        }
        for (id, verdict) in &directory.mailbox_verdicts {
            let (Some(known), Some(object)) = (index.mailboxes.get(id), index.objects.mailboxes.get(id))
            else {
                continue;
            };
            let address = object.spec.as_ref().ok();
            let programmed = address
                .and_then(|address| Some(cell_of(address.domain())?.has_mailbox(address, id, directory)));
            let said =
                status::mailbox(&known.status.conditions, verdict, &programmed.unwrap_or_else(unserved));
            count("Mailbox", &said);
            let path = address.filter(|_| verdict.accepted.is_ok()).map(maildir);
            let domain_ref = domain_ref(verdict);
            let other = known.status.path != path || known.status.domain_ref != domain_ref;
            if let Some(conditions) = renewed(&known.status.conditions, now, known.generation, &said, other) {
                let news = events::address(&known.status.conditions, &conditions);
                let status = MailboxStatus {
                    observed_generation: Some(known.generation),
                    conditions,
                    path,
                    domain_ref,
                };
                self.write(Target::Mailbox(id.clone(), status), news);
            }
        }
        for (id, verdict) in &directory.alias_verdicts {
            let (Some(known), Some(object)) = (index.aliases.get(id), index.objects.aliases.get(id)) else {
                continue;
            };
            let address = object.spec.as_ref().ok().map(|spec| &spec.address);
            let programmed =
                address.and_then(|address| Some(cell_of(address.domain())?.has_alias(address, directory)));
            let said = status::alias(&known.status.conditions, verdict, &programmed.unwrap_or_else(unserved));
            count("MailAlias", &said);
            let domain_ref = domain_ref(verdict);
            let other = known.status.domain_ref != domain_ref;
            if let Some(conditions) = renewed(&known.status.conditions, now, known.generation, &said, other) {
                let news = events::address(&known.status.conditions, &conditions);
                let status =
                    MailAliasStatus { observed_generation: Some(known.generation), conditions, domain_ref };
                self.write(Target::Alias(id.clone(), status), news);
            }
        }
        self.writer.metrics.objects(&counts);
    }

    fn write(&mut self, target: Target, news: Vec<News>) {
        let (kind, id) = target.key();
        let key = (kind, id.clone());
        if self.pauses.holds(&key, Instant::now()) || !self.under_way.insert(key) {
            return;
        }
        let (writer, at_once, to) = (self.writer.clone(), self.at_once.clone(), self.to.clone());
        let events = self.events.clone();
        tokio::spawn(async move {
            // The semaphore is never closed.
            let _permit = at_once.acquire().await;
            let result = match &target {
                Target::Domain(id, status) => writer.status::<MailDomain>(id, status).await.map(of),
                Target::Mailbox(id, status) => writer.status::<Mailbox>(id, status).await.map(of),
                Target::Alias(id, status) => writer.status::<MailAlias>(id, status).await.map(of),
            };
            let result = result.map(|(object, version)| {
                events.record(&object, news);
                version
            });
            // Nobody listens any more when the process ends.
            let _ = to.send(Written { target, result }.into()).await;
        });
    }

    /// Takes in how a write ended: what was written is known before the watch says so.
    pub fn note(&mut self, written: Written, index: &mut Index) {
        let (kind, id) = written.target.key();
        let key = (kind, id.clone());
        self.under_way.remove(&key);
        match written.result {
            Ok(version) => {
                self.pauses.over(&key);
                match written.target {
                    Target::Domain(id, status) => note(index.domains.get_mut(&id), status, version),
                    Target::Mailbox(id, status) => note(index.mailboxes.get_mut(&id), status, version),
                    Target::Alias(id, status) => note(index.aliases.get_mut(&id), status, version),
                }
            }
            Err(error) if error.is_not_found() => {
                debug!("{error}: it was deleted meanwhile");
                self.pauses.over(&key);
            }
            Err(error) => {
                warn!(?kind, object = %id, "{error}");
                self.pauses.failed(key, Instant::now());
            }
        }
    }

    /// When a status that could not be written is to be tried again.
    pub fn next_look(&self, now: Instant) -> Option<Instant> {
        self.pauses.next_look(now)
    }
}

fn of<K: Resource<DynamicType = ()>>(object: K) -> (ObjectReference, u64) {
    (object.object_ref(&()), version(object.meta()))
}

fn note<T>(known: Option<&mut Known<T>>, status: T, version: u64) {
    if let Some(known) = known.filter(|known| known.version <= version) {
        known.status = status;
        known.version = version;
    }
}

/// The new conditions, where these or something beside them changed.
fn renewed(
    old: &[Condition],
    now: Timestamp,
    generation: i64,
    said: &[Statement],
    something_else: bool,
) -> Option<Vec<Condition>> {
    update(old, now, generation, said).or_else(|| something_else.then(|| old.to_vec()))
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
