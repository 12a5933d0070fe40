//! The half of a pass that is about DNS: which tasks are due, and what each MailDomain is told about them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio::time::Instant;
use tracing::warn;

use crate::api::MailDomainSpec;
use crate::api::conditions::Reason;
use crate::config::Right;
use crate::directory::{Directory, Refusal, Rules, unmanaged};
use crate::records::{self, DnsTask, Phase, Published, Record, Rights, Serving};
use crate::status::{Programmed, Publication};

use super::Reconciler;
use crate::operator::publish::Found;

impl Reconciler {
    /// What is to be done in DNS for a domain now, and the host that serves it.
    fn dns_task(&self, record: &Record, directory: &Directory) -> Option<(DnsTask, String)> {
        let cell = self.cells.get(&record.spec.cell);
        let serving = cell.map(|cell| Serving {
            hostname: cell.hostname(),
            programmed: cell.programmed(&record.domain, directory) == Programmed::Yes,
            rights: self.rights(record),
        });
        let hostname = cell.map_or("", |cell| cell.hostname()).to_owned();
        let queued = self.queued(record, directory);
        let may_leave = records::may_leave(record, queued, self.drain_limits(), Timestamp::now());
        Some((records::dns_task(record, serving, may_leave)?, hostname))
    }

    fn rights(&self, record: &Record) -> Rights {
        let Record { namespace, domain, .. } = record;
        let rules = Rules { config: &self.config, namespace: &self.namespace, records: &BTreeMap::new() };
        Rights {
            adopt: rules.grants(namespace, domain, Right::Adopt),
            unmanaged: rules.grants(namespace, domain, Right::Unmanaged),
        }
    }

    pub(super) async fn start_dns_tasks(&mut self, directory: &Directory) {
        let now = Instant::now();
        for domain in self.index.records.keys().cloned().collect::<Vec<_>>() {
            let Some(stored) = self.index.records.get(&domain).cloned() else { continue };
            if stored.unknown.is_some() {
                continue;
            }
            let Some((task, hostname)) = self.dns_task(&stored.record, directory) else {
                match stored.record.phase {
                    Phase::Serving => self.desk.forget_withdrawal(&domain),
                    _ => self.desk.forget(&domain),
                }
                continue;
            };
            if let (Some(Ok(Found::Published { zone, mx, lag_seconds, .. })), DnsTask::Publish { .. }) =
                (self.desk.last(&domain, &task), &task)
            {
                let confirmed = stored.record.confirmed(mx, zone, *lag_seconds, self.publisher.instance());
                self.remember(&domain, confirmed).await;
            }
            let claimed = directory.domains.get(&domain).is_some_and(|served| served.claim.is_some());
            // Its record says otherwise only because it could not be written.
            if matches!(task, DnsTask::Publish { .. }) && !claimed {
                continue;
            }
            // A last look at a withdrawn domain has its own time.
            let early = matches!(stored.record.phase, Phase::Withdrawn { check } if Timestamp::now() < check);
            if early || !self.desk.take(&domain, &task, now) {
                continue;
            }
            // What is about to be written is remembered first.
            let intended = match &task {
                DnsTask::Publish { mx, .. } => {
                    self.remember(&domain, self.index.records[&domain].record.intending(mx)).await
                }
                DnsTask::Withdraw => true,
            };
            match self.index.records.get(&domain) {
                Some(stored) if intended => {
                    self.publisher.start(&stored.record, task, &hostname, &self.to_self)
                }
                _ => self.desk.put_back(&domain, now),
            }
        }
    }

    /// Stores a record if it differs; whether it is stored then.
    async fn remember(&mut self, domain: &str, record: Record) -> bool {
        let Some(stored) = self.index.records.get(domain) else { return false };
        if stored.record == record {
            return true;
        }
        if self.record_pauses.holds(&record.domain, Instant::now()) {
            return false;
        }
        match self.writer.record(&record, Some(stored)).await {
            Ok(map) => {
                self.index.apply_config_map(map);
                self.record_pauses.over(&record.domain);
                true
            }
            Err(error) => {
                warn!("{error}");
                self.record_pauses.failed(record.domain, Instant::now());
                false
            }
        }
    }

    /// What each MailDomain is told about DNS.
    pub(super) fn publications(&self, directory: &Directory) -> BTreeMap<String, Publication> {
        let served = directory.domains.iter().filter(|(_, served)| served.claim.is_some());
        served.map(|(domain, served)| (domain.clone(), self.publication(domain, &served.spec))).collect()
    }

    fn publication(&self, domain: &str, declared: &MailDomainSpec) -> Publication {
        let pending = |message: &str| Publication::No(Refusal::new(Reason::Pending, message));
        let Some(stored) = self.index.records.get(domain) else {
            return pending("the domain record is not written yet");
        };
        let record = &stored.record;
        let rights = self.rights(record);
        if let Some(unknown) = &stored.unknown {
            let message = format!(
                "the domain record was written by a newer version ({unknown}): its MX stays as it is until the operator is upgraded again"
            );
            let hostname = self.cells.get(&record.spec.cell).map_or("", |cell| cell.hostname());
            let wanted = records::wanted(declared, hostname);
            let stands = |published: &Published| published.confirmed && published.mx == wanted;
            return match record.published.as_ref().is_some_and(stands) {
                true => Publication::Yes(message),
                false => pending(&message),
            };
        }
        if !record.spec.dns.managed {
            return match (rights.unmanaged, &record.published) {
                (false, _) => Publication::No(unmanaged(&record.namespace, domain)),
                (true, None) => Publication::Elsewhere,
                (true, Some(_)) => match self.desk.last(domain, &DnsTask::Withdraw) {
                    Some(Err(refusal)) => Publication::No(refusal.clone()),
                    // There may be none any more: the zone is somewhere else, or comes back and is looked at again.
                    Some(Ok(Found::Absent(absent))) if absent.zone_away => Publication::Elsewhere,
                    _ => pending("the MX that was published here is being taken out"),
                },
            };
        }
        let Some(cell) = self.cells.get(&record.spec.cell) else { return pending("") };
        match self.desk.last(domain, &records::publish(record, cell.hostname(), rights)) {
            Some(Ok(Found::Published { warning, .. })) => {
                return Publication::Yes(warning.clone().unwrap_or_default());
            }
            Some(Err(refusal)) => return Publication::No(self.about_adopting(record, rights, refusal)),
            Some(Ok(Found::Absent(_))) | None => {}
        }
        let wanted = records::wanted(&record.spec, cell.hostname());
        match &record.published {
            // Read back before this process started; checked again soon.
            Some(published) if published.confirmed && published.mx == wanted => {
                Publication::Yes(String::new())
            }
            _ => pending("the MX is published once Postfix has proved that it accepts the domain"),
        }
    }

    /// Adds to a conflict why `spec.dns.adopt` does not help.
    fn about_adopting(&self, record: &Record, rights: Rights, refusal: &Refusal) -> Refusal {
        let in_the_way = matches!(refusal.reason, Reason::RecordConflict | Reason::WildcardShadowed);
        if !in_the_way || !record.spec.dns.adopt || rights.adopt {
            return refusal.clone();
        }
        let message = format!(
            "{}; spec.dns.adopt does nothing, because namespace {} does not have the right `adopt` on {} in the chart's value tenancy.rules",
            refusal.message, record.namespace, record.domain
        );
        Refusal::new(refusal.reason, message)
    }
}
