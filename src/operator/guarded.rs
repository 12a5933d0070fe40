//! Objects that this version may not be able to decode: after a roll-back, a field may hold what a newer version wrote.
//! One such object must neither stop the others nor count as gone.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, Time};
use kube::Resource;
use kube::core::ObjectMeta;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::directory::ObjectId;

/// An object as far as it could be decoded.
#[derive(Clone, Debug)]
pub struct Guarded<K> {
    /// Which.
    pub id: ObjectId,
    metadata: ObjectMeta,
    /// The object, or what stands in its place.
    pub object: Result<K, Undecodable>,
}

/// An object that this version cannot decode.
#[derive(Clone, Debug)]
pub struct Undecodable {
    /// What is wrong.
    pub error: String,
    /// Its `spec`, as it came.
    pub spec: Value,
}

impl Undecodable {
    /// A field of the `spec` that is a text.
    pub fn text(&self, field: &str) -> Option<&str> {
        self.spec.get(field)?.as_str()
    }

    /// A field of the `spec` that is a list of texts.
    pub fn texts(&self, field: &str) -> Option<Vec<String>> {
        self.spec.get(field)?.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
    }
}

impl<K> Guarded<K> {
    /// An object that was decoded.
    #[cfg(test)]
    pub fn decoded(object: K) -> Self
    where
        K: Resource,
    {
        Self { id: ObjectId::of(object.meta()), metadata: object.meta().clone(), object: Ok(object) }
    }

    /// The metadata, decoded or not.
    pub fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

/// What is read of an object. Of its metadata that is little: what tools annotate, and which fields belong to whom, is
/// the larger part.
#[derive(Deserialize)]
struct Parts {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    spec: Value,
    #[serde(default)]
    status: Value,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    namespace: Option<String>,
    name: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    managed_fields: Vec<Change>,
}

/// When somebody changed something.
#[derive(Deserialize)]
struct Change {
    subresource: Option<String>,
    time: Option<Time>,
}

impl From<Metadata> for ObjectMeta {
    fn from(metadata: Metadata) -> Self {
        let changes = metadata.managed_fields.into_iter().map(|Change { subresource, time }| {
            ManagedFieldsEntry { subresource, time, ..ManagedFieldsEntry::default() }
        });
        Self {
            namespace: metadata.namespace,
            name: metadata.name,
            uid: metadata.uid,
            resource_version: metadata.resource_version,
            generation: metadata.generation,
            creation_timestamp: metadata.creation_timestamp,
            deletion_timestamp: metadata.deletion_timestamp,
            managed_fields: Some(changes.collect()),
            ..Self::default()
        }
    }
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Guarded<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Parts { metadata, spec, status } = Parts::deserialize(deserializer)?;
        let mut value = json!({ "metadata": {}, "spec": spec, "status": status });
        let object = K::deserialize(&value).or_else(|error| {
            // A status is output: what another version wrote there says nothing about the object.
            if let Some(fields) = value.as_object_mut() {
                fields.remove("status");
            }
            K::deserialize(&value).map_err(|_| error)
        });
        let object = object.map_err(|error| Undecodable {
            error: error.to_string(),
            spec: value.get_mut("spec").map(Value::take).unwrap_or_default(),
        });
        let metadata = metadata.into();
        Ok(Self { id: ObjectId::of(&metadata), metadata, object })
    }
}

impl<K: Resource> Resource for Guarded<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dt: &K::DynamicType) -> Cow<'_, str> {
        K::kind(dt)
    }
    fn group(dt: &K::DynamicType) -> Cow<'_, str> {
        K::group(dt)
    }
    fn version(dt: &K::DynamicType) -> Cow<'_, str> {
        K::version(dt)
    }
    fn plural(dt: &K::DynamicType) -> Cow<'_, str> {
        K::plural(dt)
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::MailDomain;

    fn read(spec: Value, status: Value) -> Guarded<MailDomain> {
        let object = json!({ "metadata": { "namespace": "a", "name": "x" }, "spec": spec, "status": status });
        serde_json::from_value(object).expect("guarded")
    }

    #[test]
    fn what_can_be_decoded_is() {
        let guarded = read(json!({ "domain": "example.org" }), Value::Null);
        assert_eq!(guarded.metadata().name.as_deref(), Some("x"));
        assert_eq!(guarded.object.expect("decoded").spec.domain, "example.org");
    }

    #[test]
    fn a_strange_status_is_no_strange_object() {
        let guarded = read(json!({ "domain": "example.org" }), json!({ "conditions": 5 }));
        assert_eq!(guarded.object.expect("decoded").status, None);
    }

    #[test]
    fn what_cannot_be_decoded_is_there_all_the_same() {
        let guarded =
            read(json!({ "domain": "example.org", "class": "Later", "names": ["a", "b"] }), Value::Null);
        let undecodable = guarded.object.expect_err("not decoded");
        assert!(undecodable.error.contains("Later"), "{}", undecodable.error);
        assert_eq!(undecodable.text("domain"), Some("example.org"));
        assert_eq!(undecodable.texts("names"), Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!((undecodable.text("names"), undecodable.texts("domain")), (None, None));
    }
}
