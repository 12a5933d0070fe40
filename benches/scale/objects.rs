//! Many objects, quickly.

use std::fmt::Debug;
use std::ops::Range;

use futures::{StreamExt, stream};
use kube::api::{DeleteParams, PostParams};
use kube::runtime::wait::{Condition, await_condition};
use kube::{Api, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use vmail_operator::api::{DeletionPolicy, MailDomain, Mailbox, MailboxSpec};

use crate::world::PATIENCE;

/// Requests that are under way at the same time.
const AT_ONCE: usize = 64;

fn domain(number: usize) -> String {
    format!("domain-{number:04}.example")
}

/// The address of a mailbox, in one of so many domains.
pub fn address(number: usize, domains: usize) -> String {
    format!("first.last-{number:07}@{}", domain(number % domains))
}

/// The name of its object.
fn name(number: usize, domains: usize) -> String {
    address(number, domains).replace('@', ".")
}

/// Creates so many domains; each is served, and nobody publishes it here.
pub async fn create_domains(client: &Client, count: usize) {
    let objects = (0..count).map(|number| {
        let domain = domain(number);
        let text = format!("{{domain: {domain}, dns: {{managed: false}}}}");
        MailDomain::new(&domain, serde_yaml::from_str(&text).expect("a spec"))
    });
    create(client, objects).await;
}

/// Creates mailboxes.
pub async fn create_mailboxes(client: &Client, numbers: Range<usize>, domains: usize) {
    let objects = numbers.map(|number| {
        let spec =
            MailboxSpec { address: address(number, domains), deletion_policy: DeletionPolicy::default() };
        Mailbox::new(&name(number, domains), spec)
    });
    create(client, objects).await;
}

/// Deletes mailboxes, each by itself, as `kubectl delete` does.
pub async fn delete_mailboxes(client: &Client, numbers: Range<usize>, domains: usize) {
    let api: Api<Mailbox> = Api::namespaced(client.clone(), "mail");
    let delete = |number| {
        let api = api.clone();
        async move { drop(api.delete(&name(number, domains), &DeleteParams::default()).await.expect("deleted")) }
    };
    stream::iter(numbers).map(delete).buffer_unordered(AT_ONCE).collect::<()>().await;
}

/// Waits until a mailbox is told to be ready.
pub async fn ready(client: &Client, number: usize, domains: usize) {
    let api: Api<Mailbox> = Api::namespaced(client.clone(), "mail");
    let name = name(number, domains);
    let waiting = await_condition(api, &name, is_ready());
    timeout(PATIENCE, waiting).await.expect("in time").expect("watched");
}

fn is_ready() -> impl Condition<Mailbox> {
    |mailbox: Option<&Mailbox>| {
        let conditions = mailbox.and_then(|mailbox| mailbox.status.as_ref()).map(|status| &status.conditions);
        conditions
            .into_iter()
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
    }
}

async fn create<K>(client: &Client, objects: impl Iterator<Item = K>)
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), "mail");
    let params = PostParams::default();
    let create = |object: K| {
        let (api, params) = (api.clone(), params.clone());
        async move { drop(api.create(&params, &object).await.expect("let in")) }
    };
    stream::iter(objects).map(create).buffer_unordered(AT_ONCE).collect::<()>().await;
}
