use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::DeletionPolicy;
use super::address::{
    ADDRESS_LOWER_CASE_MESSAGE, CELL_FORM, CELL_FORM_MESSAGE, DOMAIN_FORM, DOMAIN_FORM_MESSAGE,
    LOCAL_PART_FORM, LOWER_CASE, LOWER_CASE_MESSAGE, NAMESPACES_FORM, NAMESPACES_FORM_MESSAGE, NO_TAG,
    NO_TAG_MESSAGE, OWN_ADDRESS_FORM, OWN_ADDRESS_FORM_MESSAGE, TARGET_FORM, TARGET_FORM_MESSAGE,
};
use super::conditions::unseen;

/// A mail domain to be served: its mail is accepted by Postfix, and once that is proved, its MX
/// record is published.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[kube(
    group = "vmail.dev",
    version = "v1alpha1",
    kind = "MailDomain",
    namespaced,
    doc = "A domain to be served: Postfix accepts its mail, and once that is proved, its MX record is published.",
    status = "MailDomainStatus",
    shortname = "md",
    category = "mail",
    printcolumn(name = "Domain", type_ = "string", json_path = ".spec.domain"),
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
    printcolumn(name = "MX", type_ = "string", json_path = ".status.mx.hosts[0]"),
    printcolumn(name = "Class", type_ = "string", json_path = ".spec.class", priority = 1),
    printcolumn(name = "Cell", type_ = "string", json_path = ".spec.cell", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("self.roleAddresses.all(local, size(local) + size(self.domain) < 254)", "a role address with the domain may have 254 characters: shorten it in spec.roleAddresses"))]
pub struct MailDomainSpec {
    /// The domain: lower case, at least two labels, international names as A-labels (xn--…).
    #[schemars(length(min = 3, max = 239))]
    #[x_kube(
        validation = (LOWER_CASE, LOWER_CASE_MESSAGE),
        validation = (DOMAIN_FORM, DOMAIN_FORM_MESSAGE),
        validation = ("self == oldSelf", "spec.domain is immutable: create a MailDomain for the new domain, then delete this one"),
    )]
    pub domain: String,

    /// What the domain's addresses may be: `Mailbox` for Mailboxes and MailAliases, `Alias` for MailAliases alone. It is
    /// Postfix's address class: virtual mailbox domain, or virtual alias domain.
    #[serde(default)]
    #[x_kube(validation = ("self == oldSelf", "spec.class is immutable: delete the MailDomain, and create it with the other class; what is served meanwhile goes on"))]
    pub class: DomainClass,

    /// The Postfix cell that serves the domain.
    #[serde(default = "default_cell")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(
        validation = (CELL_FORM, CELL_FORM_MESSAGE),
        validation = ("self == oldSelf", "spec.cell is immutable: mail on disk does not move with it; delete the MailDomain, wait until it is withdrawn, and create it in the other cell"),
    )]
    pub cell: String,

    /// Where mail for role addresses goes, unless a Mailbox or MailAlias provides `postmaster@`.
    /// Default: the postmaster of the installation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 254))]
    #[x_kube(validation = (TARGET_FORM, TARGET_FORM_MESSAGE))]
    pub postmaster: Option<String>,

    /// Local parts that are made aliases to where `postmaster@` ends (RFC 2142, RFC 5321 4.5.1).
    /// A Mailbox or MailAlias of the same address wins.
    #[serde(default = "default_role_addresses")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 64)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = (LOCAL_PART_FORM, "a role address is the part before the @, in lower case: write abuse, not abuse@example.org"),
    )]
    pub role_addresses: Vec<String>,

    /// Where mail for every other address of the domain goes: the address of a Mailbox or MailAlias, in
    /// this domain or another that is served here. Addresses that exist keep their mail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 254))]
    #[x_kube(
        validation = (LOWER_CASE, ADDRESS_LOWER_CASE_MESSAGE),
        validation = (NO_TAG, NO_TAG_MESSAGE),
        validation = (OWN_ADDRESS_FORM, OWN_ADDRESS_FORM_MESSAGE),
    )]
    pub catch_all: Option<String>,

    /// What is published in DNS.
    #[serde(default)]
    pub dns: DnsSpec,

    /// Whose Mailboxes and MailAliases may join the domain.
    #[serde(default)]
    #[x_kube(
        validation = ("self.from == 'Names' ? size(self.names) > 0 : size(self.names) == 0", "names belongs to from: Names: list at least one namespace there, and none with Same or All"),
        validation = (NAMESPACES_FORM, NAMESPACES_FORM_MESSAGE),
    )]
    pub allowed_namespaces: AllowedNamespaces,

    /// Whether taking the domain away waits until no resolver can still hold the MX (`WaitForTTL`), or stops accepting
    /// mail as soon as the MX is out, so that senders that still hold it are refused (`Immediate`).
    #[serde(default)]
    pub withdrawal: Withdrawal,

    /// What becomes of mail that the domain leaves behind once it is withdrawn: it stays (`Retain`), is moved below
    /// `.archive/` on the volume (`Archive`), or below `.trash/` and is erased some days later (`Delete`). It is about what
    /// belongs to no Mailbox: the Maildir of a Mailbox follows the policy of the Mailbox.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

fn default_cell() -> String {
    "default".to_owned()
}

fn default_role_addresses() -> Vec<String> {
    ["postmaster", "abuse", "root"].map(str::to_owned).to_vec()
}

/// What is published in DNS for a domain.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DnsSpec {
    /// Whether the MX is published here. With `false`, somebody else writes it; the administrator's tenancy rules must
    /// give the right `unmanaged`.
    #[serde(default = "default_managed")]
    pub managed: bool,

    /// Whether an MX that stands there already, and is not ours, is replaced. The administrator's tenancy rules must
    /// give the right `adopt`.
    #[serde(default)]
    pub adopt: bool,

    /// The zone to write to. Default: the closest enclosing zone that PowerDNS has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 239))]
    #[x_kube(validation = (LOWER_CASE, LOWER_CASE_MESSAGE), validation = (DOMAIN_FORM, DOMAIN_FORM_MESSAGE))]
    pub zone: Option<String>,

    /// Time to live of the MX record in seconds. A domain that is taken away drains for as long.
    #[serde(default = "default_ttl")]
    #[schemars(range(min = 60, max = 604_800))]
    pub ttl: i32,

    /// The MX records. Must contain the host name of the domain's cell. Default: that host name alone,
    /// with preference 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["host".into()]))]
    pub mx: Vec<MxHost>,
}

impl Default for DnsSpec {
    fn default() -> Self {
        Self { managed: default_managed(), adopt: false, zone: None, ttl: default_ttl(), mx: Vec::new() }
    }
}

fn default_managed() -> bool {
    true
}

fn default_ttl() -> i32 {
    3600
}

/// One MX record.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct MxHost {
    /// The host name, without a trailing dot.
    #[schemars(length(min = 3, max = 253))]
    #[x_kube(validation = (LOWER_CASE, LOWER_CASE_MESSAGE), validation = (DOMAIN_FORM, DOMAIN_FORM_MESSAGE))]
    pub host: String,
    /// Senders try the lowest first (RFC 5321 5.1).
    #[schemars(range(min = 0, max = 65_535))]
    pub preference: i32,
}

/// Whose Mailboxes and MailAliases may join a domain.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AllowedNamespaces {
    /// The MailDomain's own namespace (`Same`), every namespace (`All`), or its own and those in `names` (`Names`).
    #[serde(default)]
    pub from: NamespacesFrom,
    /// Namespaces that may join, besides the MailDomain's own; for `from: Names`.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)), extend("x-kubernetes-list-type" = "set"))]
    pub names: Vec<String>,
}

/// See [`AllowedNamespaces`].
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NamespacesFrom {
    /// The MailDomain's own namespace.
    #[default]
    Same,
    /// Every namespace.
    All,
    /// The MailDomain's own namespace and those listed.
    Names,
}

/// What the addresses of a domain may be (Postfix ADDRESS_CLASS_README).
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DomainClass {
    /// Mailboxes and aliases: a virtual mailbox domain.
    #[default]
    Mailbox,
    /// Aliases alone: a virtual alias domain.
    Alias,
}

/// Whether taking a domain away waits until no resolver can still hold its MX.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Withdrawal {
    /// Accept mail until the time to live of the withdrawn MX has passed everywhere.
    #[default]
    WaitForTTL,
    /// Stop accepting as soon as the MX is out. Senders that still hold it are refused.
    Immediate,
}

/// What was found out about a MailDomain.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("default" = unseen()))]
pub struct MailDomainStatus {
    /// The generation of `spec` that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`, `Programmed`, `ResolvedRefs`, `Published`, the summary `Ready`, and `Stalled` where
    /// only the user can help.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The MX records as published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mx: Option<MxStatus>,
}

/// The MX records as published, read back from the name server.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct MxStatus {
    /// The zone that holds them.
    pub zone: String,
    /// The host names, lowest preference first.
    pub hosts: Vec<String>,
    /// Time to live in seconds.
    pub ttl: i32,
}
