//! The cluster as commands see it that people run: one installation, and one look at what the rules look at.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::watcher::Event;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::timeout;

use crate::api::address::Address;
use crate::api::{MailAlias, MailDomain, Mailbox};
use crate::config::Config;
use crate::directory::{Directory, Objects, Rules, brake};
use crate::records::Record;

use super::guarded::Guarded;
use super::index::Index;
use super::seen::Seen;
use super::{objects, standing};

/// What the API server may take for one answer.
const PATIENCE: Duration = Duration::from_secs(30);
const PAGE: u32 = 500;
/// The chart's labels on the ConfigMap with the operator's configuration.
const CONFIGURATION: &str = "app.kubernetes.io/name=vmail-operator,app.kubernetes.io/component=operator";
const CONFIGURATION_KEY: &str = "config.yaml";

/// An installation, found by its namespace.
pub struct Installation {
    /// The way to its cluster.
    client: Client,
    /// Its namespace.
    pub namespace: String,
    /// The operator's configuration.
    pub config: Config,
}

/// What the rules look at.
pub struct Snapshot {
    /// The operator's configuration.
    pub config: Config,
    /// The namespace of the installation.
    pub namespace: String,
    /// All objects of the three kinds.
    pub objects: Objects,
    /// The domain records by domain.
    pub records: BTreeMap<String, Record>,
    /// What is served of all that.
    pub directory: Directory,
    /// Domains and addresses that the brake keeps in service, see [`brake`].
    pub held: BTreeSet<String>,
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// There is no way to the API server.
    #[error("cannot find out how to reach the cluster: {0}; set KUBECONFIG, or give manifests with -f")]
    Client(String),
    /// A list was refused.
    #[error("cannot list {what}: {message}")]
    List {
        /// The resource.
        what: String,
        /// What the API server said.
        message: String,
    },
    /// A domain record cannot be read.
    #[error("the domain record in ConfigMap {name} cannot be read: {message}")]
    Record {
        /// The ConfigMap.
        name: String,
        /// What is wrong.
        message: String,
    },
    /// A domain record cannot be changed.
    #[error("cannot annotate ConfigMap {name}: {message}")]
    Order {
        /// The ConfigMap.
        name: String,
        /// What the API server said.
        message: String,
    },
    /// The operator is not in that namespace, or twice.
    #[error(
        "namespace {namespace} has {found} configurations of vmail-operator and not one; name the namespace of its release with --release-namespace"
    )]
    Configuration {
        /// The namespace.
        namespace: String,
        /// How many were found.
        found: usize,
    },
    /// The configuration is not what it must be.
    #[error("the configuration in ConfigMap {name}: {message}")]
    Invalid {
        /// The ConfigMap.
        name: String,
        /// What is wrong.
        message: String,
    },
}

impl Installation {
    /// Looks for the installation in `namespace`, by default that of the kubeconfig's context.
    ///
    /// # Errors
    /// When the cluster cannot be reached, does not let this user list what is needed, or has no operator there.
    pub async fn find(namespace: Option<&str>) -> Result<Self, SnapshotError> {
        let inferred =
            kube::Config::infer().await.map_err(|error| SnapshotError::Client(error.to_string()))?;
        let namespace = namespace.unwrap_or(&inferred.default_namespace).to_owned();
        let client = Client::try_from(inferred).map_err(|error| SnapshotError::Client(error.to_string()))?;

        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
        let found = list(&maps, &ListParams::default().labels(CONFIGURATION), "configmaps").await?;
        let (name, config) = match <[ConfigMap; 1]>::try_from(found) {
            Ok([map]) => (map.metadata.name.unwrap_or_default(), map.data.unwrap_or_default()),
            Err(found) => return Err(SnapshotError::Configuration { namespace, found: found.len() }),
        };
        let text = config.get(CONFIGURATION_KEY).map_or("", String::as_str);
        let config = Config::parse(text).map_err(|message| SnapshotError::Invalid { name, message })?;
        Ok(Self { client, namespace, config })
    }

    /// Every ConfigMap that the operator wrote: domain records and tables.
    async fn config_maps(&self) -> Result<Vec<ConfigMap>, SnapshotError> {
        let ours = ListParams::default().labels(&objects::selector(&self.config.name));
        list(&Api::namespaced(self.client.clone(), &self.namespace), &ours, "configmaps").await
    }

    /// The domain records by domain.
    ///
    /// # Errors
    /// When they cannot be listed, or one cannot be read.
    pub async fn records(&self) -> Result<BTreeMap<String, Record>, SnapshotError> {
        let maps = self.config_maps().await?;
        let name = |map: &ConfigMap| map.metadata.name.clone().unwrap_or_default();
        let records = maps.iter().filter(|map| objects::record_domain(&name(map)).is_some()).map(|map| {
            let read = objects::read_record(map);
            read.map(|stored| (stored.record.domain.clone(), stored.record))
                .map_err(|message| SnapshotError::Record { name: name(map), message })
        });
        records.collect()
    }

    /// Orders that the domain be taken out of service, or takes that order back. The operator does the work. A domain
    /// without a record is not in service.
    ///
    /// # Errors
    /// When the record cannot be changed.
    pub async fn order_withdrawal(&self, domain: &str, withdraw: bool) -> Result<(), SnapshotError> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let name = objects::record_name(domain);
        let order = withdraw.then_some(objects::TRUE);
        let patch = json!({ "metadata": { "annotations": { (objects::WITHDRAW_ANNOTATION): order } } });
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        match timeout(PATIENCE, maps.patch(&name, &params, &patch)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(kube::Error::Api(status))) if status.is_not_found() => Ok(()),
            Ok(Err(error)) => Err(SnapshotError::Order { name, message: said(&error) }),
            Err(_) => Err(SnapshotError::Order { name, message: no_answer() }),
        }
    }
}

impl Snapshot {
    /// Reads everything once. The installation is looked for in `namespace`, by default that of the kubeconfig's context.
    ///
    /// # Errors
    /// When the cluster cannot be reached, does not let this user list what is needed, or has no operator there.
    pub async fn take(namespace: Option<&str>) -> Result<Self, SnapshotError> {
        let installation = Installation::find(namespace).await?;
        let mut index = Index::new(&installation.namespace);
        for map in installation.config_maps().await? {
            index.see(Seen::ConfigMap(Event::InitApply(map)));
        }
        let Installation { client, namespace, config } = installation;
        let every = ListParams::default();
        for domain in list(&guarded::<MailDomain>(&client), &every, "maildomains").await? {
            index.see(Seen::domain(Event::InitApply(domain)));
        }
        for mailbox in list(&guarded::<Mailbox>(&client), &every, "mailboxes").await? {
            index.see(Seen::mailbox(Event::InitApply(mailbox)));
        }
        for alias in list(&guarded::<MailAlias>(&client), &every, "mailaliases").await? {
            index.see(Seen::alias(Event::InitApply(alias)));
        }
        let records = index.records.into_iter().map(|(domain, stored)| (domain, stored.record)).collect();
        let standing = standing::served(&config, index.found.unwrap_or_default());
        let brakes = index.tables.contains_key(&objects::brake_name(&config.name));
        let directory = Directory::default();
        let mut snapshot =
            Self { config, namespace, objects: index.objects, records, directory, held: BTreeSet::new() };
        snapshot.compute(brakes.then_some(standing));
        Ok(snapshot)
    }

    /// Does as the operator does. While the brake is on, whatever else goes unasked is held too; what was asked for is in
    /// the tables no more.
    fn compute(&mut self, standing: Option<Directory>) {
        let (objects, nobody) = (&self.objects, brake::Asked::default());
        let mut records = std::mem::take(&mut self.records);
        if standing.is_some() {
            let rules = Rules { config: &self.config, namespace: &self.namespace, records: &records };
            for domain in brake::domains(objects, rules, &nobody).missing {
                if let Some(record) = records.get_mut(&domain) {
                    record.held = true;
                }
                self.held.insert(domain);
            }
        }
        let rules = Rules { config: &self.config, namespace: &self.namespace, records: &records };
        self.directory = Directory::compute(objects, rules);
        if let Some(standing) = standing {
            let missing = brake::missing_addresses(&standing, &self.directory, objects, &nobody);
            brake::keep(&mut self.directory, &standing, &missing, objects);
            self.held.extend(missing.iter().map(Address::to_string));
        }
        self.records = records;
    }
}

fn no_answer() -> String {
    format!("no answer within {} s", PATIENCE.as_secs())
}

/// What the API server said, without the request.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

fn guarded<K>(client: &Client) -> Api<Guarded<K>>
where
    K: Resource<DynamicType = ()>,
{
    Api::all(client.clone())
}

async fn list<K>(api: &Api<K>, params: &ListParams, what: &str) -> Result<Vec<K>, SnapshotError>
where
    K: Clone + DeserializeOwned + Debug,
{
    let refused = |message: String| SnapshotError::List { what: what.to_owned(), message };
    let mut all = Vec::new();
    let mut params = params.clone().limit(PAGE);
    loop {
        let page = timeout(PATIENCE, api.list(&params))
            .await
            .map_err(|_| refused(no_answer()))?
            .map_err(|error| refused(said(&error)))?;
        all.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(all),
        }
    }
}
