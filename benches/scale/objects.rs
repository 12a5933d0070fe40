//! Many objects, quickly.

use std::fmt::Debug;
use std::ops::Range;

use futures::{StreamExt, stream};
use kube::api::PostParams;
use kube::{Api, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;
use vmail_operator::api::{DeletionPolicy, MailDomain, Mailbox, MailboxSpec};

/// Creations that are under way at the same time.
const AT_ONCE: usize = 64;

fn domain(number: usize) -> String {
    format!("domain-{number:04}.example")
}

/// The name of a mailbox's object, one of `domains`.
pub fn name(number: usize, domains: usize) -> String {
    format!("first.last-{number:07}.{}", domain(number % domains))
}

/// Creates the domains; each is served, and nobody publishes it here.
pub async fn create_domains(client: &Client, numbers: Range<usize>) {
    let objects = numbers.map(|number| {
        let domain = domain(number);
        let text = format!("{{domain: {domain}, dns: {{managed: false}}}}");
        MailDomain::new(&domain, serde_yaml::from_str(&text).expect("a spec"))
    });
    create(client, objects).await;
}

/// Creates mailboxes, the n-th in the domain n modulo `domains`.
pub async fn create_mailboxes(client: &Client, numbers: Range<usize>, domains: usize) {
    let objects = numbers.map(|number| {
        let address = format!("first.last-{number:07}@{}", domain(number % domains));
        let spec = MailboxSpec { address, deletion_policy: DeletionPolicy::default() };
        Mailbox::new(&name(number, domains), spec)
    });
    create(client, objects).await;
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
