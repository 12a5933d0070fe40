//! The metrics of the agent.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::queue::Queue;
use crate::metrics::{Labels, described, exposition, number};
use crate::revision::Report;

described! {
    INFO "vmail_agent_info" "gauge" ["version", "cell"] "1, with the version of the agent, and the cell once a revision is live."
    LIVE "vmail_agent_live" "gauge" [] "Whether a revision is live; until then port 25 is closed."
    REJECTED "vmail_agent_rejected" "gauge" [] "Whether the newest revision was refused."
    INSTALLS "vmail_agent_installs_total" "counter" [] "Revisions that went live."
    REJECTIONS "vmail_agent_rejections_total" "counter" [] "Revisions that were refused."
    RELOADS "vmail_agent_reloads_total" "counter" [] "Reloads of Postfix."
    DOMAINS "vmail_agent_domains" "gauge" ["proved"] "Domains of the live revision by the outcome of their last proof."
    PROOFS "vmail_agent_proofs_total" "counter" ["result"] "Questions about a domain over SMTP: `proved`, `failed`, or `not_now` (Postfix could not tell)."
    STORAGE_WRITABLE "vmail_agent_storage_writable" "gauge" [] "Whether mail can be written as the delivering user."
    VOLUME_USED "vmail_agent_volume_used_percent" "gauge" ["volume", "of"] "How full the volume `vmail` (Maildirs) or `spool` (queue) is, as df(1) reckons; of `bytes` or `inodes`."
    QUEUE "vmail_agent_queue_messages" "gauge" ["queue"] "Messages in Postfix's queues `incoming`, `active`, `deferred` and `hold`."
    QUEUE_OLDEST "vmail_agent_queue_oldest_timestamp_seconds" "gauge" [] "When the oldest message in the queues came in, as Unix time; 0 while they are empty."
    DRAINING "vmail_agent_draining_recipients" "gauge" [] "Queued recipients of domains on their way out."
    HELD_BACK "vmail_agent_held_back" "gauge" [] "Mailboxes that are answered 450 until a predecessor's mail is archived."
    LEFT_WAITING "vmail_agent_left_waiting" "gauge" [] "Maildirs without an owner that wait to be archived or put into the trash."
    LEFT_BRAKE "vmail_agent_left_brake" "gauge" [] "Whether too much mail would be moved at once, so that nothing is."
    LEFT_TROUBLE "vmail_agent_left_trouble" "gauge" [] "Whether moving or erasing mail failed the last time; the log says why."
    ARCHIVED "vmail_agent_archived_total" "counter" [] "Maildirs, and what else domains left behind, that were moved to the archive."
    TRASHED "vmail_agent_trashed_total" "counter" [] "The same, moved to the trash."
    IN_TRASH "vmail_agent_in_trash" "gauge" [] "Moves to the trash that are not erased yet."
    ERASED_FILES "vmail_agent_erased_files_total" "counter" [] "Files that were erased from the trash."
    DELIVERIES "vmail_agent_deliveries_total" "counter" ["transport", "status"] "Attempts to deliver to one recipient, by Postfix's log: transport `virtual` (a Maildir), `smtp` (another server), `error` and others; status `sent`, `deferred` or `bounced`."
    TLS_OFFERED "vmail_agent_tls_offered" "gauge" [] "Whether port 25 offers STARTTLS."
    TLS_REJECTED "vmail_agent_tls_rejected" "gauge" [] "Whether a certificate is mounted, or was, that is not the one offered; the log says why."
    TLS_EXPIRY "vmail_agent_tls_expiry_timestamp_seconds" "gauge" [] "When the offered certificate expires, as Unix time; 0 without one."
}

/// All counts of this process. Clones are the same.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    /// Held while the gauges of the report are set and read.
    together: Mutex<()>,
    info: Family<Labels, Gauge>,
    live: Gauge,
    rejected: Gauge,
    installs: Counter,
    rejections: Counter,
    reloads: Counter,
    domains: Family<Labels, Gauge>,
    proofs: Family<Labels, Counter>,
    storage_writable: Gauge,
    volume_used: Family<Labels, Gauge>,
    queue: Family<Labels, Gauge>,
    queue_oldest: Gauge,
    draining: Gauge,
    held_back: Gauge,
    left_waiting: Gauge,
    left_brake: Gauge,
    left_trouble: Gauge,
    archived: Counter,
    trashed: Counter,
    in_trash: Gauge,
    erased_files: Counter,
    deliveries: Family<Labels, Counter>,
    tls_offered: Gauge,
    tls_rejected: Gauge,
    tls_expiry: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let r = &mut registry;
        Self(Arc::new(Inner {
            info: INFO.register(r, Family::default()),
            live: LIVE.register(r, Gauge::default()),
            rejected: REJECTED.register(r, Gauge::default()),
            installs: INSTALLS.register(r, Counter::default()),
            rejections: REJECTIONS.register(r, Counter::default()),
            reloads: RELOADS.register(r, Counter::default()),
            domains: DOMAINS.register(r, Family::default()),
            proofs: PROOFS.register(r, Family::default()),
            storage_writable: STORAGE_WRITABLE.register(r, Gauge::default()),
            volume_used: VOLUME_USED.register(r, Family::default()),
            queue: QUEUE.register(r, Family::default()),
            queue_oldest: QUEUE_OLDEST.register(r, Gauge::default()),
            draining: DRAINING.register(r, Gauge::default()),
            held_back: HELD_BACK.register(r, Gauge::default()),
            left_waiting: LEFT_WAITING.register(r, Gauge::default()),
            left_brake: LEFT_BRAKE.register(r, Gauge::default()),
            left_trouble: LEFT_TROUBLE.register(r, Gauge::default()),
            archived: ARCHIVED.register(r, Counter::default()),
            trashed: TRASHED.register(r, Counter::default()),
            in_trash: IN_TRASH.register(r, Gauge::default()),
            erased_files: ERASED_FILES.register(r, Counter::default()),
            deliveries: DELIVERIES.register(r, Family::default()),
            tls_offered: TLS_OFFERED.register(r, Gauge::default()),
            tls_rejected: TLS_REJECTED.register(r, Gauge::default()),
            tls_expiry: TLS_EXPIRY.register(r, Gauge::default()),
            together: Mutex::default(),
            registry,
        }))
    }
}

impl Metrics {
    /// The text that Prometheus reads.
    pub fn text(&self, report: &Report) -> String {
        let all = &*self.0;
        let _together = all.together.lock().unwrap_or_else(PoisonError::into_inner);
        all.info.clear();
        let info = vec![("version", report.version.clone()), ("cell", report.cell.clone())];
        all.info.get_or_create(&info).set(1);
        all.live.set(report.revision.is_some().into());
        all.rejected.set(report.rejected.is_some().into());
        let proved = report.domains.values().filter(|proof| proof.accepted).count();
        for (value, count) in [("true", proved), ("false", report.domains.len() - proved)] {
            all.domains.get_or_create(&vec![("proved", value.into())]).set(number(count as u64));
        }
        all.storage_writable.set(report.storage.writable.into());
        all.volume_used.clear();
        for (volume, fill) in &report.volumes {
            for (of, percent) in [("bytes", fill.bytes_percent), ("inodes", fill.inodes_percent)] {
                let labels = vec![("volume", volume.clone()), ("of", of.to_owned())];
                all.volume_used.get_or_create(&labels).set(number(percent));
            }
        }
        let kept = &report.kept;
        all.held_back.set(number(kept.held_back.len() as u64));
        all.left_waiting.set(number(kept.waiting));
        all.left_brake.set((!kept.brake.is_empty()).into());
        all.left_trouble.set((!kept.trouble.is_empty()).into());
        all.in_trash.set(number(kept.in_trash));
        // The custodian counts since the agent started, as a counter does.
        for (counter, count) in
            [(&all.archived, kept.archived), (&all.trashed, kept.trashed), (&all.erased_files, kept.erased)]
        {
            counter.inner().store(count, Ordering::Relaxed);
        }
        all.draining.set(number(report.queued.values().sum::<u64>()));
        all.tls_offered.set(report.tls.not_after.is_some().into());
        all.tls_rejected.set(report.tls.rejected.into());
        all.tls_expiry.set(report.tls.not_after.map_or(0, |time| time.as_second()));
        exposition(&all.registry)
    }

    /// A revision went live.
    pub fn installed(&self) {
        self.0.installs.inc();
    }

    /// A revision was refused.
    pub fn rejected(&self) {
        self.0.rejections.inc();
    }

    /// Postfix was reloaded.
    pub fn reloaded(&self) {
        self.0.reloads.inc();
    }

    /// Postfix was asked about a domain.
    pub fn asked(&self, result: &'static str) {
        self.0.proofs.get_or_create(&vec![("result", result.into())]).inc();
    }

    /// What is in the queue.
    pub fn queue(&self, queue: &Queue) {
        for (name, count) in &queue.messages {
            self.0.queue.get_or_create(&vec![("queue", name.to_string())]).set(number(*count));
        }
        self.0.queue_oldest.set(queue.oldest.map_or(0, number));
    }

    /// Postfix tried to deliver to a recipient.
    pub fn delivered(&self, transport: &str, status: &'static str) {
        let labels = vec![("transport", transport.to_owned()), ("status", status.to_owned())];
        self.0.deliveries.get_or_create(&labels).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::compare;
    use crate::revision::{Kept, VolumeFill};

    #[test]
    fn the_reference_names_what_there_is() {
        let metrics = Metrics::default();
        metrics.asked("failed");
        metrics.queue(&Queue { messages: [("deferred", 3)].into(), oldest: Some(7) });
        metrics.delivered("virtual", "sent");
        let fill = VolumeFill { bytes_percent: 10, inodes_percent: 3 };
        let kept = Kept { erased: 5, brake: "too much".into(), ..Kept::default() };
        let volumes = [("vmail".to_owned(), fill)].into();
        let text = metrics.text(&Report { volumes, kept, ..Report::default() });
        compare(&text, ALL);
        for line in [
            "vmail_agent_volume_used_percent{volume=\"vmail\",of=\"inodes\"} 3\n",
            "vmail_agent_erased_files_total 5\n",
            "vmail_agent_left_brake 1\n",
            "vmail_agent_live 0\n",
            "vmail_agent_queue_messages{queue=\"deferred\"} 3\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
