//! Recording Kubernetes Events: beside the work, never in its way.
//!
//! Events wait in a bounded queue, and one at a time is written, so many a second at most. What finds the queue
//! full, or fails, is counted and forgotten: a status says all of it again. kube's own `Recorder` does not serve
//! here. It keeps every Event of the last six minutes in memory, and tells a repeated one with its first message.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    recorded: AtomicU64,
    dropped: AtomicU64,
}

impl EventRecorder {
    /// A recorder whose Events are written for as long as it, or a clone of it, lives.
    pub fn start(writer: Writer) -> Self {
        let (queue, events) = mpsc::channel(QUEUE);
        let counts = Arc::<Counts>::default();
        let recorder = Self { queue, instance: writer.instance(), counts: counts.clone() };
        tokio::spawn(write(writer, events, counts));
        recorder
    }

    /// Records what changed about an object, if there is room.
    pub fn record(&self, object: &ObjectReference, news: Vec<News>) {
        for news in news {
            if self.queue.try_send(event(object, news, &self.instance)).is_err() {
                self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// How many were recorded, and how many were dropped.
    pub fn counts(&self) -> (u64, u64) {
        (self.counts.recorded.load(Ordering::Relaxed), self.counts.dropped.load(Ordering::Relaxed))
    }
}

async fn write(writer: Writer, mut events: mpsc::Receiver<Event>, counts: Arc<Counts>) {
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while let Some(event) = events.recv().await {
        pace.tick().await;
        let count = match writer.event(&event).await {
            Ok(()) => &counts.recorded,
            Err(error) => {
                debug!("{error}");
                &counts.dropped
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

fn event(object: &ObjectReference, news: News, instance: &str) -> Event {
    Event {
        metadata: ObjectMeta {
            // The API server cuts it where it must and adds what makes it unique.
            generate_name: Some(format!("{}.", object.name.as_deref().unwrap_or_default())),
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
