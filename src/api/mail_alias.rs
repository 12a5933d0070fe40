use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::address::{
    ADDRESS_LOWER_CASE_MESSAGE, EACH_TARGET_FORM, LOWER_CASE, NO_TAG, NO_TAG_MESSAGE, OWN_ADDRESS_FORM,
    OWN_ADDRESS_FORM_MESSAGE, TARGET_FORM_MESSAGE,
};
use super::conditions::unseen;

/// An alias: mail for its address goes to other addresses, here or elsewhere.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[kube(
    group = "vmail.dev",
    version = "v1alpha1",
    kind = "MailAlias",
    plural = "mailaliases",
    namespaced,
    doc = "An alias: mail for its address goes to other addresses, here or elsewhere.",
    status = "MailAliasStatus",
    shortname = "ma",
    category = "mail",
    printcolumn(name = "Address", type_ = "string", json_path = ".spec.address"),
    printcolumn(name = "Targets", type_ = "string", json_path = ".spec.targets"),
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
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct MailAliasSpec {
    /// The address that is rewritten, `local@domain` in lower case.
    #[schemars(length(min = 3, max = 254))]
    #[x_kube(
        validation = (LOWER_CASE, ADDRESS_LOWER_CASE_MESSAGE),
        validation = (NO_TAG, NO_TAG_MESSAGE),
        validation = (OWN_ADDRESS_FORM, OWN_ADDRESS_FORM_MESSAGE),
        validation = ("self == oldSelf", "spec.address is immutable: create a MailAlias for the new address, then delete this one"),
    )]
    pub address: String,

    /// Where its mail goes. To keep a copy in the mailbox of the same address, list that address too.
    #[schemars(length(min = 1, max = 100), inner(length(min = 3, max = 254)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = (EACH_TARGET_FORM, TARGET_FORM_MESSAGE),
    )]
    pub targets: Vec<String>,
}

/// What was found out about a MailAlias.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("default" = unseen()))]
pub struct MailAliasStatus {
    /// The generation of `spec` that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`, `ResolvedRefs`, `Programmed`, the summary `Ready`, and `Stalled` where only the
    /// user can help.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The MailDomain that the address belongs to, `namespace/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain_ref: Option<String>,
}
