//! What users see: the three kinds of group `vmail.dev`, their addresses, conditions and reasons.
//!
//! Every rule that needs one object only stands in the schema (OpenAPI and CEL), so that
//! `kubectl apply` refuses it with a sentence that says what to write instead. Rules across objects
//! are in [`crate::directory`].

// Every printcolumn(…) has a type_: the lint takes them for one attribute.
#![allow(clippy::duplicated_attributes)]

pub mod address;
pub mod conditions;
mod deletion_policy;
mod mail_alias;
mod mail_domain;
mod mailbox;
pub mod reasons;
pub mod reference;

pub use deletion_policy::DeletionPolicy;
pub use mail_alias::{MailAlias, MailAliasSpec, MailAliasStatus};
pub use mail_domain::{
    AllowedNamespaces, DnsSpec, DomainClass, MailDomain, MailDomainSpec, MailDomainStatus, MxHost, MxStatus,
    NamespacesFrom, Withdrawal,
};
pub use mailbox::{Mailbox, MailboxSpec, MailboxStatus};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// The API group of all kinds, and the prefix of labels and annotations.
pub const GROUP: &str = "vmail.dev";

/// The custom resource definitions, in the order of the files in `crds/`.
pub fn crds() -> [CustomResourceDefinition; 3] {
    [MailDomain::crd(), Mailbox::crd(), MailAlias::crd()]
}
