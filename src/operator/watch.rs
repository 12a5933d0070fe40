//! Watches: each kind is one stream of events into one channel.
//!
//! What a later list leaves out is asked for by name before it counts as gone: an API server whose cache lags, or is
//! restored, may answer with an older list, and an MX must not be withdrawn for that.

use std::collections::BTreeSet;
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
use super::index::Seen;
use super::metrics::Metrics;
use super::objects;

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
    domains.start(Config::default(), Seen::Domain, to);
    let mailboxes = Watch::<Guarded<Mailbox>>::everywhere(client, "mailboxes", metrics);
    mailboxes.start(Config::default(), Seen::Mailbox, to);
    let aliases = Watch::<Guarded<MailAlias>>::everywhere(client, "mailaliases", metrics);
    aliases.start(Config::default(), Seen::Alias, to);
    let ours = Config::default().labels(&objects::selector(installation));
    Watch::<ConfigMap>::within(client, namespace, "configmaps", metrics).start(ours, Seen::ConfigMap, to);
    for (cell, pod) in pods {
        let one = Config::default().fields(&format!("metadata.name={pod}"));
        let seen = move |event| Seen::Pod(cell.clone(), Box::new(event));
        Watch::<Pod>::within(client, namespace, "pods", metrics).start(one, seen, to);
    }
}

struct Watch<K> {
    client: Client,
    api: Api<K>,
    resource: &'static str,
    metrics: Metrics,
    /// What is there, as far as was seen, and what the list under way has named.
    known: BTreeSet<ObjectId>,
    listed: BTreeSet<ObjectId>,
}

impl<K> Watch<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
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
        let (known, listed) = (BTreeSet::new(), BTreeSet::new());
        Self { client: client.clone(), api, resource, metrics: metrics.clone(), known, listed }
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
                let left_out = self.note(&event).await;
                // `Init` says only that a list is about to be asked for.
                if !matches!(event, Event::Init) {
                    self.metrics.watch_works(self.resource);
                }
                for object in left_out {
                    if to.send(seen(Event::InitApply(object)).into()).await.is_err() {
                        return;
                    }
                }
                if to.send(seen(event).into()).await.is_err() {
                    return;
                }
            }
        });
    }

    /// Keeps account of what is there; what a list that ends here has left out although it is there.
    async fn note(&mut self, event: &Event<K>) -> Vec<K> {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(object) => {
                self.listed.insert(ObjectId::of(object.meta()));
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                let known = std::mem::replace(&mut self.known, listed);
                let missing = known.into_iter().filter(|id| !self.known.contains(id));
                let asked: Vec<_> = missing.map(|id| self.get(id)).collect();
                let found = stream::iter(asked).buffer_unordered(GETS_AT_ONCE).collect::<Vec<_>>().await;
                let found: Vec<K> = found.into_iter().flatten().collect();
                if !found.is_empty() {
                    let (resource, count) = (self.resource, found.len());
                    warn!(resource, count, "a list left out objects that are there; they stay");
                }
                self.known.extend(found.iter().map(|object| ObjectId::of(object.meta())));
                return found;
            }
            Event::Apply(object) => {
                self.known.insert(ObjectId::of(object.meta()));
            }
            Event::Delete(object) => {
                self.known.remove(&ObjectId::of(object.meta()));
            }
        }
        Vec::new()
    }

    /// One object, read from the storage and no cache; asked for until there is an answer.
    async fn get(&self, id: ObjectId) -> Option<K> {
        let api: Api<K> = Api::namespaced(self.client.clone(), &id.namespace);
        let mut pause = FIRST_RETRY;
        loop {
            let why = match timeout(GET_TIMEOUT, api.get_opt(&id.name)).await {
                Ok(Ok(found)) => {
                    if found.is_none() {
                        info!(resource = self.resource, %id, "deleted while the watch was broken");
                    }
                    return found;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer within {} s", GET_TIMEOUT.as_secs()),
            };
            self.metrics.watch_failed(self.resource, Instant::now());
            warn!(resource = self.resource, %id, "whether it is deleted cannot be told, and is asked again: {why}");
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
