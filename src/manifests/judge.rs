//! Manifests → what the rules across objects look at.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;

use super::schema::Schema;
use super::{Kind, Manifest, Manifests};
use crate::api::address::Address;
use crate::api::{MailAlias, MailDomain, Mailbox, crds};
use crate::directory::{AliasSpec, Keeping, Object, Objects};

/// The objects, as a cluster would show them to the operator. One that the API server would refuse takes part in no
/// rule: what it would be refused for stands in place of its spec.
pub fn judge(manifests: &Manifests) -> Objects {
    let schemas = crds().map(|crd| (crd.spec.names.kind.clone(), Schema::of(&crd)));
    let schema = |kind: Kind| {
        schemas.iter().find(|(name, _)| name == kind.as_str()).and_then(|(_, schema)| schema.as_ref())
    };
    let mut objects = Objects::default();
    for ((kind, id), manifest) in &manifests.objects {
        let Some(schema) = schema(*kind) else { continue };
        match kind {
            Kind::MailDomain => {
                let object = projected(schema, manifest, |domain: &MailDomain| Ok(domain.spec.clone()));
                objects.domains.insert(id.clone(), object);
            }
            Kind::Mailbox => {
                let object =
                    projected(schema, manifest, |mailbox: &Mailbox| Address::try_from(&mailbox.spec));
                objects.mailboxes.insert(id.clone(), object);
                let policy =
                    manifest.content.pointer("/spec/deletionPolicy").and_then(|value| value.as_str());
                let policy = policy.and_then(|text| text.parse().ok()).unwrap_or_default();
                objects.keeping.insert(id.clone(), Keeping { policy, ..Keeping::default() });
            }
            Kind::MailAlias => {
                let object =
                    projected(schema, manifest, |alias: &MailAlias| AliasSpec::try_from(&alias.spec));
                objects.aliases.insert(id.clone(), object);
            }
        }
    }
    objects
}

fn projected<K: kube::Resource + DeserializeOwned, S>(
    schema: &Schema,
    manifest: &Manifest,
    spec: impl FnOnce(&K) -> Result<S, String>,
) -> Object<S> {
    let stored = schema.judge(&manifest.content).map_err(|said| said.join("; "));
    let read =
        stored.and_then(|stored| serde_json::from_value::<K>(stored).map_err(|error| error.to_string()));
    match read {
        Ok(object) => Object::new(object.meta(), spec(&object)),
        Err(message) => Object::new(&ObjectMeta::default(), Err(message)),
    }
}
