//! What is stored in the end, to be compared with that of another run.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams};
use serde_json::json;
use vmail_operator::custody::CUSTODY_FILE;
use vmail_operator::postfix::shards;
use vmail_operator::revision::INDEX_FILE;

use super::{KINDS, World, ZONES};

/// What is stored in the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// By object, ConfigMap key or DNS name.
    pub stored: BTreeMap<String, String>,
    /// Whether each object is ready, at its present generation.
    pub ready: BTreeMap<String, bool>,
    /// Zones with an MX.
    pub published: Vec<String>,
}

impl State {
    /// Whether there are just these objects, and all are ready.
    pub fn all_ready(&self, count: usize) -> bool {
        self.ready.len() == count && self.ready.values().all(|ready| *ready)
    }

    /// What differs in another state, for a message.
    pub fn differences(&self, other: &State) -> String {
        let keys: std::collections::BTreeSet<_> = self.stored.keys().chain(other.stored.keys()).collect();
        let differing = keys.into_iter().filter(|key| self.stored.get(*key) != other.stored.get(*key));
        let shown =
            differing.map(|key| format!("{key}: {:?} -> {:?}", self.stored.get(key), other.stored.get(key)));
        shown.collect::<Vec<_>>().join("; ")
    }

    /// The phase in a domain's record.
    pub fn phase(&self, domain: &str) -> Option<&str> {
        let record = self.stored.get(&format!("vmail-domain.{domain}/record.yaml"))?;
        record.split("phase:").nth(1)?.split("name: ").nth(1)?.split_whitespace().next()
    }
}

/// The value of a ConfigMap without the names and UIDs that each run has of its own, and hashes of them.
fn without_names(key: &str, value: &str, namespace: &str) -> String {
    let lines = value.lines();
    let lines: Vec<String> = match key {
        CUSTODY_FILE => lines
            .map(|line| {
                let fields = line.split(' ').take(3);
                let fields = fields.map(|field| if field == namespace { "mail" } else { field });
                fields.collect::<Vec<_>>().join(" ")
            })
            .collect(),
        INDEX_FILE => lines
            .filter(|line| !["\"revision\"", "\"custody\"", "\"shard-"].iter().any(|own| line.contains(own)))
            .map(str::to_owned)
            .collect(),
        _ => lines
            .filter(|line| !line.trim_start().starts_with("instance: "))
            .map(|line| line.replace(&format!("namespace: {namespace}"), "namespace: mail"))
            .collect(),
    };
    lines.join("\n")
}

/// Times, and what is made of them.
fn without_times(text: &str) -> String {
    let words = text.split_inclusive([' ', '\n', ';', '"']);
    words
        .map(|word| {
            let is_time = word.starts_with("at=")
                || word.starts_with("instance=")
                || (word.len() > 18 && word.contains('T') && word.contains(':') && word.starts_with("20"));
            if is_time { "TIME ".to_owned() } else { word.to_owned() }
        })
        .collect()
}

impl World<'_> {
    /// Everything that is stored, without what differs from run to run.
    pub async fn state(&self) -> State {
        let mut state = State::default();
        for (kind, plural) in KINDS {
            for object in self.kind(kind, plural).list(&ListParams::default()).await.expect("a list") {
                let name = format!("{kind} {}", object.metadata.name.clone().unwrap_or_default());
                let status = &object.data["status"];
                let current = status["observedGeneration"] == json!(object.metadata.generation);
                let conditions = status["conditions"].as_array().into_iter().flatten();
                let ready = conditions.clone().any(|c| c["type"] == "Ready" && c["status"] == "True");
                let said: Vec<String> =
                    conditions.map(|c| format!("{} {} {}", c["type"], c["status"], c["reason"])).collect();
                state.ready.insert(name.clone(), ready && current);
                state.stored.insert(name, format!("{said:?} {} {}", status["mx"], status["path"]));
            }
        }
        let maps: Api<ConfigMap> = self.namespaced();
        for map in maps.list(&ListParams::default()).await.expect("a list") {
            let name = map.metadata.name.unwrap_or_default();
            if name == "kube-root-ca.crt" {
                continue;
            }
            for (key, value) in map.data.unwrap_or_default() {
                let value = without_names(&key, &value, &self.namespace);
                state.stored.insert(format!("{name}/{key}"), without_times(&value));
            }
            for (_, bytes) in map.binary_data.unwrap_or_default() {
                let (_, tables) = shards::unpack(&bytes.0).expect("a shard");
                for (key, value) in tables {
                    let value = without_names(&key, &value, &self.namespace);
                    state.stored.insert(format!("{name}/{key}"), value);
                }
            }
        }
        for zone in ZONES {
            for (name, kind) in [(zone.to_owned(), "MX"), (format!("_vmail-owner.{zone}"), "TXT")] {
                let found = self.parts.pdns.get(zone, &name, kind).await;
                state.stored.insert(format!("{kind} {name}"), without_times(&format!("{found:?}")));
                if kind == "MX" && found.is_some() {
                    state.published.push(zone.to_owned());
                }
            }
        }
        state
    }
}
