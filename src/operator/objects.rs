//! The Kubernetes objects that the operator writes: their names, labels and content.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::core::ObjectMeta;

use crate::records::Record;
use crate::revision::{INDEX_FILE, Index};

use super::index::Stored;

/// Server-side apply knows us by this name.
pub const FIELD_MANAGER: &str = "vmail-operator";
/// On a Postfix pod: makes its kubelet refresh mounted ConfigMaps at once.
pub const POKE_ANNOTATION: &str = "vmail.dev/revision";
/// On a domain record: the DNS server will not come back, go on without it.
pub const ABANDON_DNS_ANNOTATION: &str = "vmail.dev/abandon-dns";
/// The key of a record's ConfigMap.
pub const RECORD_KEY: &str = "record.yaml";

const RECORD_PREFIX: &str = "vmail-domain.";
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// A label of our own: by `app.kubernetes.io/instance` Argo CD (before 3.0) knows what belongs to an Application, and
/// would prune the records of one that is named like the installation.
const INSTALLATION: &str = "vmail.dev/installation";

/// Selects every ConfigMap that this installation wrote.
pub fn selector(installation: &str) -> String {
    format!("{MANAGED_BY}={FIELD_MANAGER},{INSTALLATION}={installation}")
}

fn labels(installation: &str) -> BTreeMap<String, String> {
    [(MANAGED_BY, FIELD_MANAGER), (INSTALLATION, installation)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// The name of a domain's record. At most 252 of 253 characters, since a domain has at most 239.
pub fn record_name(domain: &str) -> String {
    format!("{RECORD_PREFIX}{domain}")
}

/// The domain of a record's name.
pub fn record_domain(name: &str) -> Option<&str> {
    name.strip_prefix(RECORD_PREFIX)
}

/// The ConfigMap of a record. With a resource version it replaces exactly that version.
pub fn record_config_map(
    installation: &str,
    record: &Record,
    resource_version: Option<&str>,
    abandon_dns: bool,
) -> Result<ConfigMap, serde_yaml::Error> {
    let annotations =
        abandon_dns.then(|| BTreeMap::from([(ABANDON_DNS_ANNOTATION.to_owned(), "true".to_owned())]));
    Ok(ConfigMap {
        metadata: ObjectMeta {
            name: Some(record_name(&record.domain)),
            labels: Some(labels(installation)),
            annotations,
            resource_version: resource_version.map(str::to_owned),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(RECORD_KEY.to_owned(), serde_yaml::to_string(record)?)])),
        ..ConfigMap::default()
    })
}

/// Reads a record back.
pub fn read_record(map: &ConfigMap) -> Result<Stored, String> {
    let data = map.data.as_ref().and_then(|data| data.get(RECORD_KEY));
    let text = data.ok_or_else(|| format!("it has no key `{RECORD_KEY}`"))?;
    let record: Record = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
    let name = map.metadata.name.as_deref().unwrap_or_default();
    if record_domain(name) != Some(&record.domain) {
        return Err(format!("it is about {}, which its name does not say", record.domain));
    }
    let annotations = map.metadata.annotations.as_ref();
    Ok(Stored {
        record,
        resource_version: map.metadata.resource_version.clone().unwrap_or_default(),
        abandon_dns: annotations
            .and_then(|all| all.get(ABANDON_DNS_ANNOTATION))
            .is_some_and(|value| value == "true"),
    })
}

/// The ConfigMaps of one revision of one cell, in the order in which they are to be written: the index
/// last, so that what it lists is there before it.
pub fn revision_config_maps(
    installation: &str,
    cell: &str,
    index: &Index,
    files: &BTreeMap<String, String>,
) -> Result<[ConfigMap; 2], serde_json::Error> {
    let (main, tables): (BTreeMap<_, _>, BTreeMap<_, _>) =
        files.clone().into_iter().partition(|(name, _)| name.ends_with(".cf"));
    let mut first = main;
    first.insert(INDEX_FILE.to_owned(), serde_json::to_string_pretty(index)?);
    let map = |suffix: &str, data| ConfigMap {
        metadata: ObjectMeta {
            name: Some(format!("{installation}-{cell}-{suffix}")),
            labels: Some(labels(installation)),
            ..ObjectMeta::default()
        },
        data: Some(data),
        ..ConfigMap::default()
    };
    Ok([map("tables", tables), map("index", first)])
}
