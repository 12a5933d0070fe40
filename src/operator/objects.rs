//! The Kubernetes objects that the operator writes: their names, labels and content.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::core::ObjectMeta;

use crate::postfix::shards::{self, Packed, SHARDS};
use crate::records::{Phase, Record};
use crate::revision::{INDEX_FILE, content_hash};

use super::index::Stored;

/// Server-side apply knows us by this name.
pub const FIELD_MANAGER: &str = "vmail-operator";
/// On a Postfix pod: makes its kubelet refresh mounted ConfigMaps at once.
pub const POKE_ANNOTATION: &str = "vmail.dev/revision";
/// On a domain record: the DNS server will not come back, go on without it.
pub const ABANDON_DNS_ANNOTATION: &str = "vmail.dev/abandon-dns";
/// On a domain record: the domain is to be taken out of service, whoever declares it.
pub const WITHDRAW_ANNOTATION: &str = "vmail.dev/withdraw";
/// On the ConfigMap that tells what the brake holds: this, and nothing else, may go.
pub const CONFIRM_ANNOTATION: &str = "vmail.dev/confirm";
/// The key of a record's ConfigMap.
pub const RECORD_KEY: &str = "record.yaml";

/// Where the tables are while one ConfigMap holds them.
const TABLES: &str = "tables";
/// Where the index of a revision is, and what always travels as it is.
const INDEX: &str = "index";
/// What such an annotation has to say.
pub const TRUE: &str = "true";
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
    let orders = [(ABANDON_DNS_ANNOTATION, abandon_dns), (WITHDRAW_ANNOTATION, record.withdraw)];
    let annotations: BTreeMap<String, String> = orders
        .into_iter()
        .filter(|(_, given)| *given)
        .map(|(key, _)| (key.to_owned(), TRUE.to_owned()))
        .collect();
    Ok(ConfigMap {
        metadata: ObjectMeta {
            name: Some(record_name(&record.domain)),
            labels: Some(labels(installation)),
            annotations: (!annotations.is_empty()).then_some(annotations),
            resource_version: resource_version.map(str::to_owned),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(RECORD_KEY.to_owned(), serde_yaml::to_string(record)?)])),
        ..ConfigMap::default()
    })
}

/// Reads a record back. One that a newer version wrote is read as far as it is understood, if that tells whose the
/// domain is and what it is served as.
pub fn read_record(map: &ConfigMap) -> Result<Stored, String> {
    let data = map.data.as_ref().and_then(|data| data.get(RECORD_KEY));
    let text = data.ok_or_else(|| format!("it has no key `{RECORD_KEY}`"))?;
    let (mut record, unknown) = understand(text)?;
    let name = map.metadata.name.as_deref().unwrap_or_default();
    if record_domain(name) != Some(&record.domain) {
        return Err(format!("it is about {}, which its name does not say", record.domain));
    }
    let annotations = map.metadata.annotations.as_ref();
    let ordered = |key: &str| annotations.and_then(|all| all.get(key)).is_some_and(|value| value == TRUE);
    record.withdraw = ordered(WITHDRAW_ANNOTATION);
    Ok(Stored {
        record,
        resource_version: map.metadata.resource_version.clone().unwrap_or_default(),
        abandon_dns: ordered(ABANDON_DNS_ANNOTATION),
        unknown,
    })
}

/// A record, and what of it is not understood. Unknown fields of `spec` do not count: the MailDomain has them.
fn understand(text: &str) -> Result<(Record, Option<String>), String> {
    match serde_yaml::from_str::<Record>(text) {
        Ok(record) => {
            let fields: Vec<&str> = record.unknown_fields().collect();
            let unknown = (!fields.is_empty()).then(|| format!("unknown fields: {}", fields.join(", ")));
            Ok((record, unknown))
        }
        Err(error) => {
            let refused = |_| error.to_string();
            let mut value: serde_yaml::Value = serde_yaml::from_str(text).map_err(refused)?;
            let fields = value.as_mapping_mut().filter(|fields| fields.contains_key("phase"));
            let phase = serde_yaml::to_value(Phase::Serving).map_err(refused)?;
            fields.ok_or_else(|| error.to_string())?.insert("phase".into(), phase);
            let record = serde_yaml::from_value(value).map_err(refused)?;
            Ok((record, Some(error.to_string())))
        }
    }
}

/// The ConfigMaps of one revision of one cell, in the order in which they are to be written: the index
/// last, so that what it lists is there before it.
pub fn revision_config_maps(
    installation: &str,
    cell: &str,
    packed: &Packed,
) -> Result<Vec<ConfigMap>, serde_json::Error> {
    changed_config_maps(installation, cell, packed, &BTreeMap::new())
}

/// Those of [`revision_config_maps`] that do not stand there with this content.
pub fn changed_config_maps(
    installation: &str,
    cell: &str,
    packed: &Packed,
    present: &Present,
) -> Result<Vec<ConfigMap>, serde_json::Error> {
    let name = |suffix: &str| format!("{installation}-{cell}-{suffix}");
    let (mut first, tables): (BTreeMap<_, _>, BTreeMap<_, _>) =
        packed.files.clone().into_iter().partition(|(name, _)| name.ends_with(".cf"));
    first.insert(INDEX_FILE.to_owned(), serde_json::to_string_pretty(&packed.index)?);
    let map = |suffix: &str| ConfigMap {
        metadata: ObjectMeta {
            name: Some(name(suffix)),
            labels: Some(labels(installation)),
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    };
    // The hash of a shard is known: it need not be copied to be compared.
    let changed = packed.shards.iter().filter(|(suffix, shard)| {
        let stands = present.get(&name(suffix)).and_then(|(_, hashes)| hashes.get(*suffix));
        stands != Some(&shard.hash)
    });
    let mut maps: Vec<ConfigMap> = changed
        .map(|(suffix, shard)| ConfigMap {
            binary_data: Some(BTreeMap::from([(suffix.clone(), ByteString(shard.bytes.clone()))])),
            ..map(suffix)
        })
        .collect();
    let tables = (!tables.is_empty()).then(|| ConfigMap { data: Some(tables), ..map(TABLES) });
    let index = ConfigMap { data: Some(first), ..map(INDEX) };
    maps.extend(tables.into_iter().chain([index]).filter(|map| !is_standing(present, map)));
    Ok(maps)
}

/// ConfigMaps by name: resource version, and a hash of each value.
pub type Present = BTreeMap<String, (u64, BTreeMap<String, String>)>;

/// Whether a ConfigMap stands there with this content. A key that somebody added hurts nobody: the index does not list it.
pub fn is_standing(present: &Present, map: &ConfigMap) -> bool {
    let name = map.metadata.name.as_deref().unwrap_or_default();
    present.get(name).is_some_and(|(_, hashes)| {
        content_hashes(map).iter().all(|(key, hash)| hashes.get(key) == Some(hash))
    })
}

/// The names of the ConfigMaps of one revision.
pub fn revision_names(installation: &str, cell: &str, packed: &Packed) -> BTreeSet<String> {
    let tables = (!packed.files.keys().all(|name| name.ends_with(".cf"))).then_some(TABLES);
    let suffixes = packed.shards.keys().map(String::as_str).chain(tables).chain([INDEX]);
    suffixes.map(|suffix| format!("{installation}-{cell}-{suffix}")).collect()
}

/// The names of the ConfigMaps of a cell's shards.
pub fn shard_config_maps(installation: &str, cell: &str) -> impl Iterator<Item = String> + use<> {
    let prefix = format!("{installation}-{cell}-");
    (0..SHARDS).map(move |number| format!("{prefix}{}", shards::name(number)))
}

/// The names of all ConfigMaps that the tables of a cell can be in: the one for small ones, and those of the shards.
pub fn table_config_maps(installation: &str, cell: &str) -> impl Iterator<Item = String> + use<> {
    [format!("{installation}-{cell}-{TABLES}")].into_iter().chain(shard_config_maps(installation, cell))
}

/// The name of the ConfigMap that tells what the brake holds. No ConfigMap of a cell ends so.
pub fn brake_name(installation: &str) -> String {
    format!("{installation}-brake")
}

/// The ConfigMap that tells what the brake holds: a sentence, how it is confirmed, and the names, one a line.
pub fn brake_config_map(installation: &str, message: &str, confirm: &str, held: String) -> ConfigMap {
    let data = [("message", message.to_owned()), ("confirm", confirm.to_owned()), ("held", held)];
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(brake_name(installation)),
            labels: Some(labels(installation)),
            ..ObjectMeta::default()
        },
        data: Some(data.map(|(key, value)| (key.to_owned(), value)).into()),
        ..ConfigMap::default()
    }
}

/// What the administrator confirmed on a ConfigMap.
pub fn confirmed(map: &ConfigMap) -> Option<String> {
    map.metadata.annotations.as_ref()?.get(CONFIRM_ANNOTATION).cloned()
}

/// A hash of each value that a ConfigMap holds, by key.
pub fn content_hashes(map: &ConfigMap) -> BTreeMap<String, String> {
    let text = map.data.iter().flatten().map(|(key, value)| (key.clone(), content_hash(value)));
    let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), content_hash(&value.0)));
    text.chain(binary).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(data: &[(&str, &str)]) -> ConfigMap {
        let data = data.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let metadata = ObjectMeta { name: Some("vmail-default-tables".to_owned()), ..ObjectMeta::default() };
        ConfigMap { metadata, data: Some(data), ..ConfigMap::default() }
    }

    fn stands(map: &ConfigMap) -> Present {
        [("vmail-default-tables".to_owned(), (1, content_hashes(map)))].into()
    }

    /// It stays when ours are applied, so that whoever wrote them again for it would write for ever.
    #[test]
    fn a_key_of_somebody_else_is_no_reason_to_write() {
        let ours = map(&[("virtual_mailbox_maps", "you@example.org example.org/you/\n")]);
        let mut with_theirs = ours.clone();
        with_theirs.data.get_or_insert_default().insert("notes".to_owned(), "mine".to_owned());
        assert!(is_standing(&stands(&ours), &ours) && is_standing(&stands(&with_theirs), &ours));
        assert!(!is_standing(&stands(&map(&[("virtual_mailbox_maps", "")])), &ours));
        assert!(!is_standing(&stands(&map(&[])), &ours) && !is_standing(&Present::new(), &ours));
    }
}
