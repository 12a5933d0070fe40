//! Recording Kubernetes Events: beside the work, never in its way.
//!
//! Events wait in a bounded queue, and one at a time is written, so many a second at most. What finds the queue
//! full, or fails, is counted and forgotten: a status says all of it again. kube's own `Recorder` does not serve
//! here. It keeps every Event of the last six minutes in memory, and tells a repeated one with its first message.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::core::ObjectMeta;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tracing::debug;

use crate::events::News;

use super::metrics::Metrics;
use super::write::Writer;

/// Events that wait, of about 1 KiB each.
const QUEUE: usize = 1024;
/// The shortest time between two: ten thousand objects that go wrong at once must not keep the API server from
/// its work.
const PACE: Duration = Duration::from_millis(20);
/// Names us as what reports, in every Event.
const CONTROLLER: &str = "vmail.dev/operator";

/// Where Events go.
#[derive(Clone)]
pub struct EventRecorder {
    queue: mpsc::Sender<Event>,
    instance: String,
    metrics: Metrics,
}

impl EventRecorder {
    /// A recorder whose Events are written for as long as it, or a clone of it, lives.
    pub fn start(writer: Writer) -> Self {
        let (queue, events) = mpsc::channel(QUEUE);
        let recorder = Self { queue, instance: writer.instance(), metrics: writer.metrics.clone() };
        tokio::spawn(write(writer, events));
        recorder
    }

    /// Records what changed about an object, if there is room.
    pub fn record(&self, object: &ObjectReference, news: Vec<News>) {
        for news in news {
            if self.queue.try_send(event(object, news, &self.instance)).is_err() {
                self.metrics.event("dropped");
            }
        }
    }
}

async fn write(writer: Writer, mut events: mpsc::Receiver<Event>) {
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while let Some(event) = events.recv().await {
        pace.tick().await;
        let result = match writer.event(&event).await {
            Ok(()) => "recorded",
            Err(error) => {
                debug!("{error}");
                "dropped"
            }
        };
        writer.metrics.event(result);
    }
}

fn event(object: &ObjectReference, news: News, instance: &str) -> Event {
    Event {
        metadata: ObjectMeta {
            generate_name: Some(name_prefix(object.name.as_deref().unwrap_or_default())),
            namespace: object.namespace.clone(),
            ..ObjectMeta::default()
        },
        type_: Some(news.type_.to_owned()),
        action: Some(news.action),
        reason: Some(news.reason),
        note: Some(news.note),
        regarding: Some(object.clone()),
        event_time: Some(MicroTime(Timestamp::now())),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(instance.to_owned()),
        ..Event::default()
    }
}

/// The name of an Event begins with that of its object; the API server adds what makes it unique. It takes a
/// prefix of 58 characters, and none that ends with a dot.
fn name_prefix(object: &str) -> String {
    let start: String = object.chars().take(57).collect();
    format!("{}-", start.trim_end_matches(['.', '-']))
}

#[cfg(test)]
mod tests {
    use kube::{Client, Config};

    use super::*;
    use crate::operator::lease;

    #[test]
    fn a_name_begins_with_its_objects() {
        assert_eq!(name_prefix("example.org"), "example.org-");
        assert_eq!(name_prefix(&"a".repeat(253)).len(), 58);
        assert_eq!(name_prefix(&format!("{}.org", "a".repeat(56))), format!("{}-", "a".repeat(56)));
    }

    #[tokio::test]
    async fn more_than_the_queue_holds_is_dropped_at_once_and_counted() {
        // Nothing listens there, and the lease is never held.
        let nowhere = Config::new("http://127.0.0.1:1".parse().expect("a URL"));
        let client = Client::try_from(nowhere).expect("a client");
        let held = lease::compete(client.clone(), "mail", "vmail", "test".to_owned(), || ());
        let recorder = EventRecorder::start(Writer::new(client, "mail", "vmail", held));
        let news = || News {
            type_: "Warning",
            action: "Accepted".to_owned(),
            reason: "AddressConflict".to_owned(),
            note: "taken".to_owned(),
        };
        for _ in 0..10_000 {
            recorder.record(&ObjectReference::default(), vec![news()]);
        }
        let expected = format!("vmail_events_total{{result=\"dropped\"}} {}\n", 10_000 - QUEUE);
        let text = recorder.metrics.text();
        assert!(text.contains(&expected) && !text.contains("recorded\"}"), "{text}");
    }
}
