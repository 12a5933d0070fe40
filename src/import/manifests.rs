//! What is to be declared, as YAML.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::translate::New;
use crate::api::DomainClass;
use crate::api::address::Address;
use crate::revision::content_hash;

/// The longest name of an object (Kubernetes, Object Names: DNS subdomain).
const NAME_MAX: usize = 253;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest<S> {
    api_version: &'static str,
    kind: &'static str,
    metadata: Metadata,
    spec: S,
}

#[derive(Serialize)]
struct Metadata {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
}

/// As the types of the API have it, without what is the default.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Domain<'a> {
    domain: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<DomainClass>,
    #[serde(skip_serializing_if = "Option::is_none")]
    catch_all: Option<String>,
}

#[derive(Serialize)]
struct Mailbox {
    address: String,
}

#[derive(Serialize)]
struct Alias {
    address: String,
    targets: Vec<String>,
}

/// The manifests, a file for each domain, by file name.
///
/// # Errors
/// When something cannot be written as YAML, which does not happen.
pub fn files(new: &New, namespace: Option<&str>) -> Result<BTreeMap<String, String>, String> {
    let mut files = BTreeMap::new();
    let mut names = Names::default();
    for (name, domain) in &new.domains {
        let mut text = String::new();
        let spec = Domain {
            domain: name,
            class: Some(domain.class).filter(|class| *class != DomainClass::default()),
            catch_all: domain.catch_all.as_ref().map(Address::to_string),
        };
        write(&mut text, "MailDomain", name.clone(), namespace, spec)?;
        for address in new.mailboxes.iter().filter(|address| address.domain() == name) {
            let spec = Mailbox { address: address.to_string() };
            write(&mut text, "Mailbox", names.of("Mailbox", address), namespace, spec)?;
        }
        for (address, targets) in new.aliases.iter().filter(|(address, _)| address.domain() == name) {
            let targets = targets.iter().map(Address::to_string).collect();
            let spec = Alias { address: address.to_string(), targets };
            write(&mut text, "MailAlias", names.of("MailAlias", address), namespace, spec)?;
        }
        files.insert(format!("{name}.yaml"), text);
    }
    Ok(files)
}

fn write<S: Serialize>(
    to: &mut String,
    kind: &'static str,
    name: String,
    namespace: Option<&str>,
    spec: S,
) -> Result<(), String> {
    let metadata = Metadata { name, namespace: namespace.map(str::to_owned) };
    let manifest = Manifest { api_version: "vmail.dev/v1alpha1", kind, metadata, spec };
    to.push_str("---\n");
    to.push_str(&serde_yaml::to_string(&manifest).map_err(|error| error.to_string())?);
    Ok(())
}

/// Names made of addresses, each once for a kind.
#[derive(Default)]
struct Names(BTreeSet<(&'static str, String)>);

impl Names {
    /// `first.last@example.org` becomes `first-last.example.org`; what is too long or taken gets a hash.
    fn of(&mut self, kind: &'static str, address: &Address) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let local: String = address.local().chars().map(plain).collect();
        let mut name = format!("{local}.{}", address.domain());
        if name.len() > NAME_MAX || self.0.contains(&(kind, name.clone())) {
            name = format!("{local}-{}", &content_hash(address.to_string())[..16]);
        }
        self.0.insert((kind, name.clone()));
        name
    }
}
