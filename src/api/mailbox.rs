use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::DeletionPolicy;
use super::address::{
    ADDRESS_LOWER_CASE_MESSAGE, LOWER_CASE, NO_TAG, NO_TAG_MESSAGE, OWN_ADDRESS_FORM,
    OWN_ADDRESS_FORM_MESSAGE,
};
use super::conditions::unseen;

/// A mailbox: mail for its address is kept in a Maildir of its own.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[kube(
    group = "vmail.dev",
    version = "v1alpha1",
    kind = "Mailbox",
    plural = "mailboxes",
    namespaced,
    doc = "A mailbox: mail for its address is kept in a Maildir of its own.",
    status = "MailboxStatus",
    shortname = "mbx",
    category = "mail",
    printcolumn(name = "Address", type_ = "string", json_path = ".spec.address"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(name = "Path", type_ = "string", json_path = ".status.path", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct MailboxSpec {
    /// The address, `local@domain` in lower case. Mail for `local+tag@domain` belongs to it too.
    #[schemars(length(min = 3, max = 254))]
    #[x_kube(
        validation = (LOWER_CASE, ADDRESS_LOWER_CASE_MESSAGE),
        validation = (NO_TAG, NO_TAG_MESSAGE),
        validation = (OWN_ADDRESS_FORM, OWN_ADDRESS_FORM_MESSAGE),
        validation = ("self == oldSelf", "spec.address is immutable: create a Mailbox for the new address, then delete this one"),
    )]
    pub address: String,

    /// What becomes of the Maildir once the Mailbox is gone: it stays (`Retain`), is moved below `.archive/` on the volume
    /// (`Archive`), or below `.trash/` and is erased some days later (`Delete`).
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// What was found out about a Mailbox.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("default" = unseen()))]
pub struct MailboxStatus {
    /// The generation of `spec` that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`, `Programmed`, the summary `Ready`, and `Stalled` where only the user can help.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The Maildir, below `/var/vmail/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The MailDomain that the address belongs to, `namespace/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain_ref: Option<String>,
}
