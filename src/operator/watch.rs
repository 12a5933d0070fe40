//! Watches: each kind is one stream of events into one channel.
//!
//! What a later list leaves out is asked for by name before it counts as gone: an API server whose cache lags, or is
//! restored, may answer with an older list, and an MX must not be withdrawn for that. What a later list adds is asked for
//! as well before it counts as there: an older list has what was deleted since.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::core::NamespaceResourceScope;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::api::{MailAlias, MailDomain, Mailbox};
use crate::directory::ObjectId;

use super::guarded::Guarded;
use super::metrics::Metrics;
use super::objects;
use super::seen::Seen;

/// The API server ends a watch after so many seconds, and five later one that fell silent is given up and begun anew.
const WATCH_SECONDS: u32 = 45;
/// Questions for single objects that are under way at the same time: a thousand may have been deleted at once.
const GETS_AT_ONCE: usize = 16;
const GET_TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Starts every watch. `pods` names the pod of each cell. A watch never ends while the receiver lives.
pub fn start<M: From<Seen> + Send + 'static>(
    client: &Client,
    namespace: &str,
    installation: &str,
    pods: impl IntoIterator<Item = (String, String)>,
    metrics: &Metrics,
    to: &Sender<M>,
) {
    // One object that cannot be decoded must not stop the others.
    let domains = Watch::<Guarded<MailDomain>>::everywhere(client, "maildomains", metrics);
    domains.start(Config::default(), Seen::domain, to);
    let mailboxes = Watch::<Guarded<Mailbox>>::everywhere(client, "mailboxes", metrics);
    mailboxes.start(Config::default(), Seen::mailbox, to);
    let aliases = Watch::<Guarded<MailAlias>>::everywhere(client, "mailaliases", metrics);
    aliases.start(Config::default(), Seen::alias, to);
    let ours = Config::default().labels(&objects::selector(installation));
    Watch::<ConfigMap>::within(client, namespace, "configmaps", metrics).start(ours, Seen::ConfigMap, to);
    for (cell, pod) in pods {
        let one = Config::default().fields(&format!("metadata.name={pod}"));
        let seen = move |event| Seen::Pod(cell.clone(), Box::new(event));
        Watch::<Pod>::within(client, namespace, "pods", metrics).start(one, seen, to);
    }
}

/// Something with an id. One that is kept elsewhere too shares its text.
trait Identified {
    fn id(&self) -> ObjectId;
}

impl<K> Identified for Guarded<K> {
    fn id(&self) -> ObjectId {
        self.id.clone()
    }
}

impl Identified for ConfigMap {
    fn id(&self) -> ObjectId {
        ObjectId::of(&self.metadata)
    }
}

impl Identified for Pod {
    fn id(&self) -> ObjectId {
        ObjectId::of(&self.metadata)
    }
}

struct Watch<K> {
    client: Client,
    api: Api<K>,
    resource: &'static str,
    metrics: Metrics,
    /// What is there, as far as was seen; nothing before the first list.
    known: Option<BTreeSet<ObjectId>>,
    /// What the list under way has named, and what of it was not known.
    listed: BTreeSet<ObjectId>,
    added: BTreeSet<ObjectId>,
}

impl<K> Watch<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Identified
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    fn everywhere(client: &Client, resource: &'static str, metrics: &Metrics) -> Self {
        Self::new(client, Api::all(client.clone()), resource, metrics)
    }

    fn within(client: &Client, namespace: &str, resource: &'static str, metrics: &Metrics) -> Self {
        Self::new(client, Api::namespaced(client.clone(), namespace), resource, metrics)
    }

    fn new(client: &Client, api: Api<K>, resource: &'static str, metrics: &Metrics) -> Self {
        let (known, listed, added) = (None, BTreeSet::new(), BTreeSet::new());
        Self { client: client.clone(), api, resource, metrics: metrics.clone(), known, listed, added }
    }

    fn start<M: From<Seen> + Send + 'static>(
        mut self,
        config: Config,
        seen: impl Fn(Event<K>) -> Seen + Send + 'static,
        to: &Sender<M>,
    ) {
        let to = to.clone();
        tokio::spawn(async move {
            let events = watcher(self.api.clone(), config.timeout(WATCH_SECONDS)).default_backoff();
            let mut events = std::pin::pin!(events);
            while let Some(event) = events.next().await {
                let event = match event {
                    Ok(event) => event,
                    Err(error) => {
                        let resource = self.resource;
                        self.metrics.watch_failed(resource, Instant::now());
                        warn!(resource, %error, "the watch failed and is tried again");
                        continue;
                    }
                };
                // `Init` says only that a list is about to be asked for.
                let works = !matches!(event, Event::Init);
                let events = self.take_in(event).await;
                if works {
                    self.metrics.watch_works(self.resource);
                }
                for event in events {
                    if to.send(seen(event).into()).await.is_err() {
                        return;
                    }
                }
            }
        });
    }

    /// Keeps account of what is there; what is passed on of an event.
    async fn take_in(&mut self, event: Event<K>) -> Vec<Event<K>> {
        match &event {
            Event::Init => {
                self.listed.clear();
                self.added.clear();
            }
            Event::InitApply(object) => {
                let id = object.id();
                let listed = match self.known.as_ref().map(|known| known.get(&id)) {
                    Some(None) => {
                        self.added.insert(id);
                        return Vec::new();
                    }
                    // The same text as before, and not another copy of it.
                    Some(Some(known)) => known.clone(),
                    None => id,
                };
                self.listed.insert(listed);
            }
            Event::InitDone => {
                let mut here = std::mem::take(&mut self.listed);
                let known = self.known.take().unwrap_or_default();
                let left_out: BTreeSet<ObjectId> = known.difference(&here).cloned().collect();
                let added = std::mem::take(&mut self.added);
                let asked: Vec<_> = left_out.iter().chain(&added).map(|id| self.get(id)).collect();
                let found = stream::iter(asked).buffer_unordered(GETS_AT_ONCE).collect::<Vec<_>>().await;
                let found: BTreeMap<ObjectId, K> =
                    found.into_iter().flatten().map(|object| (object.id(), object)).collect();
                let resource = self.resource;
                match left_out.iter().filter(|id| found.contains_key(*id)).count() {
                    0 => {}
                    count => warn!(resource, count, "a list left out objects that are there; they stay"),
                }
                match added.iter().filter(|id| !found.contains_key(*id)).count() {
                    0 => {}
                    count => warn!(resource, count, "a list named objects that are deleted"),
                }
                here.extend(found.keys().cloned());
                self.known = Some(here);
                return found.into_values().map(Event::InitApply).chain([event]).collect();
            }
            Event::Apply(object) => {
                if let Some(known) = &mut self.known {
                    known.insert(object.id());
                }
            }
            Event::Delete(object) => {
                if let Some(known) = &mut self.known {
                    known.remove(&object.id());
                }
            }
        }
        vec![event]
    }

    /// One object, read from the storage and no cache; asked for until there is an answer.
    async fn get(&self, id: &ObjectId) -> Option<K> {
        let api: Api<K> = Api::namespaced(self.client.clone(), id.namespace());
        let mut pause = FIRST_RETRY;
        loop {
            let why = match timeout(GET_TIMEOUT, api.get_opt(id.name())).await {
                Ok(Ok(found)) => {
                    if found.is_none() {
                        info!(resource = self.resource, %id, "deleted, says the API server");
                    }
                    return found;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer within {} s", GET_TIMEOUT.as_secs()),
            };
            self.metrics.watch_failed(self.resource, Instant::now());
            warn!(resource = self.resource, %id, "whether it is there cannot be told, and is asked again: {why}");
            sleep(pause).await;
            pause = (pause * 2).min(LAST_RETRY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lists_that_fail_one_after_the_other_are_one_failure() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let nobody = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let client = Client::try_from(kube::Config::new(nobody.parse().unwrap())).unwrap();
        let metrics = Metrics::default();
        let (to, _from) = tokio::sync::mpsc::channel::<Seen>(64);
        let seen = |event| Seen::Pod("default".to_owned(), Box::new(event));
        Watch::<Pod>::within(&client, "mail", "pods", &metrics).start(Config::default(), seen, &to);

        let failures = async |count: u32| {
            let told = format!("vmail_watch_errors_total{{resource=\"pods\"}} {count}\n");
            let until = async {
                while !metrics.text().contains(&told) {
                    sleep(Duration::from_millis(10)).await;
                }
            };
            timeout(Duration::from_secs(60), until).await.expect(&told);
        };
        failures(1).await;
        let first = Instant::now();
        failures(3).await;
        assert_eq!(metrics.broken_watch(first + Duration::from_secs(91)), Some("pods"));
    }
}
