//! Watches: each kind is one stream of events into one channel.

use std::fmt::Debug;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Config, Event};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::Sender;
use tracing::warn;

use crate::api::{MailAlias, MailDomain, Mailbox};

use super::guarded::Guarded;
use super::index::Seen;
use super::objects;

/// Starts every watch. `pods` names the pod of each cell. A watch never ends while the receiver lives.
pub fn start<M: From<Seen> + Send + 'static>(
    client: &Client,
    namespace: &str,
    installation: &str,
    pods: impl IntoIterator<Item = (String, String)>,
    to: &Sender<M>,
) {
    let every = Config::default();
    forward(guarded::<MailDomain>(client, every.clone()), "maildomains", Seen::Domain, to);
    forward(guarded::<Mailbox>(client, every.clone()), "mailboxes", Seen::Mailbox, to);
    forward(guarded::<MailAlias>(client, every), "mailaliases", Seen::Alias, to);
    let ours = Config::default().labels(&objects::selector(installation));
    let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    forward(watcher::watcher(config_maps, ours), "configmaps", Seen::ConfigMap, to);
    for (cell, pod) in pods {
        let one = Config::default().fields(&format!("metadata.name={pod}"));
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        forward(
            watcher::watcher(pods, one),
            "pods",
            move |event| Seen::Pod(cell.clone(), Box::new(event)),
            to,
        );
    }
}

/// One object that cannot be decoded must not stop the others.
fn guarded<K>(
    client: &Client,
    config: Config,
) -> impl Stream<Item = watcher::Result<Event<Guarded<K>>>> + Send + use<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    watcher::watcher(Api::<Guarded<K>>::all(client.clone()), config)
}

fn forward<K, M>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
    resource: &'static str,
    seen: impl Fn(Event<K>) -> Seen + Send + 'static,
    to: &Sender<M>,
) where
    K: Send + 'static,
    M: From<Seen> + Send + 'static,
{
    let to = to.clone();
    tokio::spawn(async move {
        let mut events = std::pin::pin!(events.default_backoff());
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    if to.send(seen(event).into()).await.is_err() {
                        return;
                    }
                }
                Err(error) => warn!(resource, %error, "the watch failed and is tried again"),
            }
        }
    });
}
