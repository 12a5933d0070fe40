//! Objects in every situation of their lives, with the statuses that the operator writes then: the same pure
//! functions, and the same writer.

use std::fmt::Debug;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use vmail_operator::api::conditions::{Reason, Statement, update};
use vmail_operator::api::{
    MailAlias, MailAliasStatus, MailDomain, MailDomainStatus, Mailbox, MailboxStatus, MxStatus,
};
use vmail_operator::directory::{ObjectId, Refusal, Verdict};
use vmail_operator::operator::lease;
use vmail_operator::operator::write::Writer;
use vmail_operator::status::{self, Programmed, Publication};

/// The operator's writer, holding its lease.
pub async fn writer(client: &Client) -> Writer {
    let held = lease::compete(client.clone(), "default", "vmail", "test".to_owned(), || ());
    held.acquired().await;
    Writer::new(client.clone(), "default", "vmail", held)
}

/// A kind whose statuses are written here.
pub trait Kind:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned
{
    fn spec(name: &str) -> Value;
    fn conditions(&self) -> &[Condition];
    /// What the operator says in a situation.
    fn said(old: &[Condition], now: &Now) -> Vec<Statement>;
    fn status(generation: i64, conditions: Vec<Condition>, ready: bool) -> impl Serialize;
}

/// What the operator knows of an object.
pub struct Now {
    pub accepted: Result<(), Reason>,
    pub resolved_refs: Result<(), Reason>,
    pub programmed: Result<(), Reason>,
    pub published: Result<(), Reason>,
}

impl Now {
    pub fn ready() -> Self {
        Self { accepted: Ok(()), resolved_refs: Ok(()), programmed: Ok(()), published: Ok(()) }
    }

    fn verdict(&self) -> Verdict {
        Verdict {
            accepted: self.accepted.map_err(refusal),
            warning: None,
            resolved_refs: self.resolved_refs.map_err(refusal),
            domain: None,
        }
    }

    fn programmed(&self) -> Programmed {
        match self.programmed {
            Ok(()) => Programmed::Yes,
            Err(reason @ (Reason::Pending | Reason::AgentUnreachable)) => {
                Programmed::AsBefore(reason, "not yet".to_owned())
            }
            Err(reason) => Programmed::No(reason, "Postfix said no".to_owned()),
        }
    }
}

fn refusal(reason: Reason) -> Refusal {
    Refusal { reason, message: format!("because of {}", reason.as_str()) }
}

impl Kind for MailDomain {
    fn spec(name: &str) -> Value {
        json!({ "domain": format!("{name}.example.org") })
    }
    fn conditions(&self) -> &[Condition] {
        self.status.as_ref().map_or(&[], |status| &status.conditions)
    }
    fn said(old: &[Condition], now: &Now) -> Vec<Statement> {
        let publication = match now.published {
            Ok(()) => Publication::Yes(String::new()),
            Err(reason) => Publication::No(refusal(reason)),
        };
        status::domain(old, &now.verdict(), &now.programmed(), &publication)
    }
    fn status(generation: i64, conditions: Vec<Condition>, ready: bool) -> impl Serialize {
        let hosts = vec!["mail.example.test".to_owned()];
        let mx = ready.then(|| MxStatus { zone: "example.org".to_owned(), hosts, ttl: 3600 });
        MailDomainStatus { observed_generation: Some(generation), conditions, mx }
    }
}

impl Kind for Mailbox {
    fn spec(name: &str) -> Value {
        json!({ "address": format!("{name}@example.org") })
    }
    fn conditions(&self) -> &[Condition] {
        self.status.as_ref().map_or(&[], |status| &status.conditions)
    }
    fn said(old: &[Condition], now: &Now) -> Vec<Statement> {
        status::mailbox(old, &now.verdict(), &now.programmed())
    }
    fn status(generation: i64, conditions: Vec<Condition>, ready: bool) -> impl Serialize {
        let path = ready.then(|| "example.org/you/".to_owned());
        MailboxStatus { observed_generation: Some(generation), conditions, path, domain_ref: None }
    }
}

impl Kind for MailAlias {
    fn spec(name: &str) -> Value {
        json!({ "address": format!("{name}@example.org"), "targets": ["you@example.org", "me@example.net"] })
    }
    fn conditions(&self) -> &[Condition] {
        self.status.as_ref().map_or(&[], |status| &status.conditions)
    }
    fn said(old: &[Condition], now: &Now) -> Vec<Statement> {
        status::alias(old, &now.verdict(), &now.programmed())
    }
    fn status(generation: i64, conditions: Vec<Condition>, _ready: bool) -> impl Serialize {
        MailAliasStatus { observed_generation: Some(generation), conditions, domain_ref: None }
    }
}

/// An object that its user has just created.
pub async fn create<K: Kind>(client: &Client, name: &str) -> K {
    let api: Api<K> = Api::namespaced(client.clone(), "default");
    let object = json!({
        "apiVersion": K::api_version(&()), "kind": K::kind(&()),
        "metadata": { "name": name }, "spec": K::spec(name),
    });
    let object = serde_json::from_value(object).expect("an object");
    api.create(&PostParams::default(), &object).await.expect("let in")
}

/// Writes what the operator says of `object` now; the object as it then is.
pub async fn write<K: Kind>(writer: &Writer, object: &K, now: &Now) -> K {
    let (id, generation) = (ObjectId::of(object.meta()), object.meta().generation.expect("a generation"));
    let old = object.conditions();
    let said = K::said(old, now);
    let ready = said.iter().any(|statement| statement.kind == "Ready" && statement.holds());
    let conditions = update(old, Timestamp::now(), generation, &said).unwrap_or_else(|| old.to_vec());
    writer.status(&id, K::status(generation, conditions, ready)).await.expect("written")
}

/// Changes the object as its user would, after the operator has seen it.
pub async fn edit<K: Kind>(client: &Client, name: &str, spec: Value) {
    let api: Api<K> = Api::namespaced(client.clone(), "default");
    let patch = Patch::Merge(json!({ "spec": spec }));
    api.patch(name, &PatchParams::default(), &patch).await.expect("changed");
}

/// Deletes an object that somebody else's finalizer holds.
pub async fn delete_held<K: Kind>(client: &Client, name: &str) {
    let api: Api<K> = Api::namespaced(client.clone(), "default");
    let patch = Patch::Merge(json!({ "metadata": { "finalizers": ["example.org/held"] } }));
    api.patch(name, &PatchParams::default(), &patch).await.expect("held");
    api.delete(name, &DeleteParams::default()).await.expect("deleted");
}
