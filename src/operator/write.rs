//! Every write to the API server: the lease is checked first, and each has a timeout.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::timeout;

use crate::directory::ObjectId;
use crate::records::Record;

use super::index::Stored;
use super::lease::{Held, WRITE_TIMEOUT};
use super::metrics::Metrics;
use super::objects::{self, FIELD_MANAGER, POKE_ANNOTATION};

/// Why a write did not happen, or is not known to have happened.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Another operator may be writing.
    #[error("{what}: not written, because the lease is not held")]
    NotHeld {
        /// What was to be written.
        what: String,
    },
    /// No answer.
    #[error("{what}: the API server did not answer within {} s", WRITE_TIMEOUT.as_secs())]
    Timeout {
        /// What was to be written.
        what: String,
    },
    /// A refusal.
    #[error("{what}: {}", sentence(source))]
    Api {
        /// What was to be written.
        what: String,
        /// The API server's answer.
        source: Box<kube::Error>,
    },
    /// The content cannot be put into its form.
    #[error("{what}: {message}")]
    Content {
        /// What was to be written.
        what: String,
        /// Why.
        message: String,
    },
}

/// What the API server said, without the structure around it.
fn sentence(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

impl WriteError {
    /// What was to be written.
    pub fn what(&self) -> &str {
        match self {
            Self::NotHeld { what }
            | Self::Timeout { what }
            | Self::Api { what, .. }
            | Self::Content { what, .. } => what,
        }
    }

    /// The object is not there (any more).
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Api { source, .. } if matches!(&**source, kube::Error::Api(status) if status.is_not_found()))
    }
}

/// Writes what this installation owns.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    namespace: String,
    installation: String,
    held: Held,
    pub(super) metrics: Metrics,
}

impl Writer {
    /// A writer for one installation, allowed to write while the lease is held.
    pub fn new(client: Client, namespace: &str, installation: &str, held: Held) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
            installation: installation.to_owned(),
            held,
            metrics: Metrics::default(),
        }
    }

    /// As before, with each write counted here.
    pub fn counted_by(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }

    /// Creates a record: the claim to a domain, which fails when somebody else made it first.
    /// With `stored`, replaces exactly that version.
    pub async fn record(&self, record: &Record, stored: Option<&Stored>) -> Result<ConfigMap, WriteError> {
        let what = format!("record of domain {}", record.domain);
        let version = stored.map(|stored| stored.resource_version.as_str());
        let abandon_dns = stored.is_some_and(|stored| stored.abandon_dns);
        let map = objects::record_config_map(&self.installation, record, version, abandon_dns)
            .map_err(|error| WriteError::Content { what: what.clone(), message: error.to_string() })?;
        let (api, params) = (self.config_maps(), PostParams::default());
        match version {
            None => self.write("record", what, api.create(&params, &map)).await,
            Some(_) => {
                self.write("record", what, api.replace(&objects::record_name(&record.domain), &params, &map))
                    .await
            }
        }
    }

    /// Removes exactly this version of a record.
    pub async fn remove_record(&self, stored: &Stored) -> Result<(), WriteError> {
        let domain = &stored.record.domain;
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                resource_version: Some(stored.resource_version.clone()),
                uid: None,
            }),
            ..DeleteParams::default()
        };
        let api = self.config_maps();
        let result = self
            .write(
                "record",
                format!("record of domain {domain}"),
                api.delete(&objects::record_name(domain), &params),
            )
            .await;
        match result {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }

    /// Writes a ConfigMap of the tables of a cell, or what `sort` says.
    pub async fn config_map(&self, sort: &'static str, map: &ConfigMap) -> Result<ConfigMap, WriteError> {
        let name = map.metadata.name.as_deref().unwrap_or_default();
        let (api, params) = (self.config_maps(), PatchParams::apply(FIELD_MANAGER).force());
        // Serialized by its type, it names its kind and version.
        self.write(sort, format!("ConfigMap {name}"), api.patch(name, &params, &Patch::Apply(map))).await
    }

    /// Removes such a ConfigMap.
    pub async fn remove_config_map(&self, sort: &'static str, name: &str) -> Result<(), WriteError> {
        let (api, params) = (self.config_maps(), DeleteParams::default());
        match self.write(sort, format!("ConfigMap {name}"), api.delete(name, &params)).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }

    /// A ConfigMap of this installation's, for Events about it.
    pub fn reference(&self, config_map: &str) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("ConfigMap".to_owned()),
            namespace: Some(self.namespace.clone()),
            name: Some(config_map.to_owned()),
            ..ObjectReference::default()
        }
    }

    /// Makes the kubelet of a pod refresh mounted ConfigMaps now. The same value twice does nothing.
    #[tracing::instrument(target = "timing", level = "debug", skip_all, fields(pod))]
    pub async fn poke(&self, pod: &str, value: &str) -> Result<(), WriteError> {
        let patch = Patch::Merge(json!({ "metadata": { "annotations": { POKE_ANNOTATION: value } } }));
        let params = PatchParams::default();
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let poked = pods.patch_metadata(pod, &params, &patch);
        self.write("annotation", format!("annotation of pod {pod}"), poked).await.map(drop)
    }

    /// Writes a status; answers with the object as it then is.
    pub async fn status<K>(&self, id: &ObjectId, status: impl Serialize) -> Result<K, WriteError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let patch = json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            "status": status,
        });
        let api: Api<K> = Api::namespaced(self.client.clone(), id.namespace());
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let what = format!("status of {} {id}", K::kind(&()));
        self.write("status", what, api.patch_status(id.name(), &params, &Patch::Apply(patch))).await
    }

    /// Writes an Event.
    pub async fn event(&self, event: &Event) -> Result<(), WriteError> {
        let object = event.regarding.clone().unwrap_or_default();
        let (kind, name) = (object.kind.unwrap_or_default(), object.name.unwrap_or_default());
        let namespace = object.namespace.unwrap_or_default();
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let what = format!("event about {kind} {namespace}/{name}");
        self.write("event", what, api.create(&PostParams::default(), event)).await.map(drop)
    }

    /// The namespace of the installation.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Tells this installation from others, where all of them write: `namespace/name`.
    pub fn instance(&self) -> String {
        format!("{}/{}", self.namespace, self.installation)
    }

    fn config_maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn write<T>(
        &self,
        sort: &'static str,
        what: String,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, WriteError> {
        if !self.held.now() {
            self.metrics.api_write(sort, "not_held");
            return Err(WriteError::NotHeld { what });
        }
        let result = within(WRITE_TIMEOUT, request).await;
        self.metrics.api_write(
            sort,
            match result {
                Ok(_) => "ok",
                Err(None) => "timeout",
                Err(Some(_)) => "refused",
            },
        );
        result.map_err(|source| match source {
            None => WriteError::Timeout { what },
            Some(source) => WriteError::Api { what, source: Box::new(source) },
        })
    }
}

async fn within<T, E>(limit: Duration, request: impl Future<Output = Result<T, E>>) -> Result<T, Option<E>> {
    match timeout(limit, request).await {
        Ok(result) => result.map_err(Some),
        Err(_) => Err(None),
    }
}
