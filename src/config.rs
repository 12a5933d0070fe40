//! What the administrator decides: the chart's values, as one YAML file.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::api::address::{Address, is_domain};

/// The configuration of `vmail-operator run`, rendered by the chart. Unknown fields are refused, so that a
/// misspelt one is not silently a default.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Prefix of the names of everything that belongs to this installation: the Helm release's full name.
    pub name: String,
    /// Where mail for role addresses goes that nobody else wants.
    pub postmaster: String,
    /// The Postfix cells by name.
    pub cells: BTreeMap<String, CellConfig>,
    /// Who may claim which domain.
    #[serde(default)]
    pub tenancy: Tenancy,
    /// How MX records are published.
    pub dns: DnsConfig,
    /// What Postfix is told.
    #[serde(default)]
    pub postfix: PostfixConfig,
    /// Seconds for which an address that vanished is answered 450 and not 550.
    #[serde(default = "default_vanished_seconds")]
    pub vanished_seconds: u32,
    /// When so much leaves service unasked that the administrator has to confirm it.
    #[serde(default)]
    pub brake: BrakeConfig,
}

/// How much may leave service although nothing was deleted.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BrakeConfig {
    /// Percent of the domains, or of a cell's addresses, that are live; 100 for no brake.
    pub share: u8,
    /// Fewer than this go without a question.
    pub minimum: usize,
}

impl Default for BrakeConfig {
    fn default() -> Self {
        Self { share: 20, minimum: 10 }
    }
}

/// One Postfix StatefulSet.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CellConfig {
    /// The name that Postfix announces and that MX records point to.
    pub hostname: String,
    /// The pod's name.
    pub pod: String,
    /// The port of the agent's endpoint on the pod.
    #[serde(default = "default_agent_port")]
    pub agent_port: u16,
    /// Whether the Service's load balancer says by PROXY protocol who the client is.
    #[serde(default)]
    pub proxy_protocol: bool,
}

/// Who may claim which domain. Default deny: without a rule, only the release's namespace may claim a domain.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tenancy {
    /// Each rule that fits permits what it says.
    #[serde(default)]
    pub rules: Vec<TenancyRule>,
    /// How much one namespace may declare. The first that names the namespace counts.
    #[serde(default)]
    pub quotas: Vec<Quota>,
}

/// How much each of some namespaces may declare; what is absent is not limited.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Quota {
    /// Names of namespaces; `*` for every one.
    pub namespaces: Vec<String>,
    /// MailDomains.
    #[serde(default)]
    pub domains: Option<usize>,
    /// Mailboxes.
    #[serde(default)]
    pub mailboxes: Option<usize>,
    /// Targets of all MailAliases together.
    #[serde(default)]
    pub alias_targets: Option<usize>,
}

/// Namespaces that may claim domains.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TenancyRule {
    /// Names of namespaces; `*` for every one.
    pub namespaces: Vec<String>,
    /// `example.org` for the domain alone, `*.example.org` for all below it, `*` for every domain.
    pub domains: Vec<String>,
    /// What else they may do with these domains.
    #[serde(default)]
    pub rights: Vec<Right>,
}

/// What a tenancy rule can permit besides claiming a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Right {
    /// To replace an MX that is not ours (`spec.dns.adopt`).
    Adopt,
    /// To have the domain served without its MX being published here (`spec.dns.managed: false`): nothing then shows
    /// that the domain is theirs.
    Unmanaged,
}

/// How MX records are published.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DnsConfig {
    /// The provider.
    pub powerdns: PowerDnsConfig,
    /// Stands in the ownership records. Default: the host name of the cell `default`.
    #[serde(default)]
    pub owner_id: Option<String>,
    /// Name server that is asked whether the MX host has an address. Default: the pod's own.
    #[serde(default)]
    pub resolver: Option<SocketAddr>,
    /// Seconds added to the time that a withdrawn MX may live in caches.
    #[serde(default = "default_drain_margin")]
    pub drain_margin_seconds: u32,
    /// Seconds between checks of a published MX.
    #[serde(default = "default_check_interval")]
    pub check_interval_seconds: u32,
    /// Seconds after the end of a drain for which a domain still waits for its queued mail.
    #[serde(default = "default_queue_deadline")]
    pub queue_deadline_seconds: u32,
}

/// The PowerDNS HTTP API.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PowerDnsConfig {
    /// Base URL.
    pub url: String,
    /// The server's id in the API.
    #[serde(default = "default_server_id")]
    pub server_id: String,
    /// File with the API key, mounted from a Secret and read at each use.
    pub api_key_file: PathBuf,
}

/// What Postfix is told.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PostfixConfig {
    /// Largest message in bytes.
    #[serde(default = "default_message_size_limit")]
    pub message_size_limit: u64,
    /// Further parameters, from the allow-list of [`crate::postfix::main_cf`].
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
}

impl Default for PostfixConfig {
    fn default() -> Self {
        Self { message_size_limit: default_message_size_limit(), parameters: BTreeMap::new() }
    }
}

fn default_vanished_seconds() -> u32 {
    300
}
fn default_agent_port() -> u16 {
    8025
}
fn default_drain_margin() -> u32 {
    60
}
fn default_check_interval() -> u32 {
    600
}
fn default_queue_deadline() -> u32 {
    5 * 24 * 3600
}
fn default_server_id() -> String {
    "localhost".to_owned()
}
fn default_message_size_limit() -> u64 {
    50 * 1024 * 1024
}

/// Why a configuration is not used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not what it must be.
    #[error("the configuration {path} is not valid: {message}; mend the chart's values")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

impl Config {
    /// Reads and checks a file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|message| ConfigError::Invalid { path: path.to_owned(), message })
    }

    /// Parses and checks a text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
        if Address::target(&config.postmaster).is_none() {
            return Err(format!(
                "postmaster: `{}` is not an address such as you@example.org",
                config.postmaster
            ));
        }
        if !config.cells.contains_key("default") {
            return Err("cells: there must be one named `default`".to_owned());
        }
        if config.brake.share > 100 {
            return Err(format!("brake.share: {} is no share in percent", config.brake.share));
        }
        for (name, cell) in &config.cells {
            if !is_domain(&cell.hostname) {
                return Err(format!(
                    "cells.{name}.hostname: `{}` is not a lower-case host name such as mail.example.org",
                    cell.hostname
                ));
            }
        }
        for pattern in config.tenancy.rules.iter().flat_map(|rule| &rule.domains) {
            // All below a top-level domain may be given away, too.
            let example = pattern.strip_prefix("*.").map_or(pattern.clone(), |parent| format!("a.{parent}"));
            if pattern != "*" && !is_domain(&example) {
                return Err(format!(
                    "tenancy.rules: `{pattern}` is neither a domain, nor `*.` and a domain, nor `*`"
                ));
            }
        }
        Ok(config)
    }

    /// The Service by which pods of the same namespace reach a cell's port 25: the chart names it so. The public one may
    /// lead to the listener for PROXY protocol instead.
    pub fn smtp_service(&self, cell: &str) -> String {
        match self.cells.get(cell).is_some_and(|cell| cell.proxy_protocol) {
            true => format!("{}-postfix-{cell}", self.name),
            false => format!("{}-smtp-{cell}", self.name),
        }
    }

    /// What stands in our ownership records.
    pub fn owner_id(&self) -> &str {
        let default = || self.cells.get("default").map_or("", |cell| cell.hostname.as_str());
        self.dns.owner_id.as_deref().unwrap_or_else(default)
    }
}

impl Tenancy {
    /// Whether a rule gives this namespace the domain.
    pub fn permits(&self, namespace: &str, domain: &str) -> bool {
        self.about(namespace, domain).next().is_some()
    }

    /// Whether a rule gives this namespace a right on the domain.
    pub fn grants(&self, namespace: &str, domain: &str, right: Right) -> bool {
        self.about(namespace, domain).any(|rule| rule.rights.contains(&right))
    }

    fn about(&self, namespace: &str, domain: &str) -> impl Iterator<Item = &TenancyRule> {
        let fits = move |pattern: &String| match pattern.strip_prefix("*.") {
            _ if pattern == "*" => true,
            Some(parent) => domain.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.')),
            None => pattern == domain,
        };
        self.rules
            .iter()
            .filter(move |rule| names(&rule.namespaces, namespace) && rule.domains.iter().any(fits))
    }

    /// How much a namespace may declare, if that is limited.
    pub fn quota(&self, namespace: &str) -> Option<&Quota> {
        self.quotas.iter().find(|quota| names(&quota.namespaces, namespace))
    }
}

/// Whether a list of namespaces means this one.
fn names(list: &[String], namespace: &str) -> bool {
    list.iter().any(|name| name == "*" || name == namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "
name: vmail
postmaster: admin@example.org
cells: {default: {hostname: mail.example.org, pod: vmail-postfix-default-0}}
dns: {powerdns: {url: 'http://pdns:8081', apiKeyFile: /etc/pdns/api-key}}
";

    #[test]
    fn the_minimum_is_enough() {
        let config = Config::parse(MINIMAL).expect("valid");
        assert_eq!(config.owner_id(), "mail.example.org");
        assert_eq!(config.dns.drain_margin_seconds, 60);
    }

    #[test]
    fn mistakes_are_named() {
        for (from, to, names) in [
            ("admin@example.org", "admin", "postmaster"),
            ("mail.example.org", "MAIL", "cells.default.hostname"),
            ("{default:", "{other:", "default"),
            ("name: vmail", "nmae: vmail", "nmae"),
            ("name: vmail", "name: vmail\nbrake: {share: 101}", "brake.share"),
        ] {
            let error = Config::parse(&MINIMAL.replace(from, to)).expect_err(to);
            assert!(error.contains(names), "{error}");
        }
    }

    #[test]
    fn tenancy_is_deny_by_default_and_a_star_is_below() {
        let rule = |namespaces: &[&str], domains: &[&str]| TenancyRule {
            namespaces: namespaces.iter().map(|&s| s.to_owned()).collect(),
            domains: domains.iter().map(|&s| s.to_owned()).collect(),
            rights: Vec::new(),
        };
        assert!(!Tenancy::default().permits("a", "example.org"));
        let tenancy =
            Tenancy { rules: vec![rule(&["a"], &["*.example.org", "example.net"])], ..Tenancy::default() };
        assert!(tenancy.permits("a", "x.example.org"));
        assert!(tenancy.permits("a", "x.y.example.org"));
        assert!(!tenancy.permits("a", "example.org"));
        assert!(!tenancy.permits("a", "badexample.org"));
        assert!(!tenancy.permits("b", "x.example.org"));
        assert!(tenancy.permits("a", "example.net"));
        assert!(!tenancy.permits("a", "x.example.net"));
        let open = Tenancy { rules: vec![rule(&["*"], &["*"])], ..Tenancy::default() };
        assert!(open.permits("b", "gmail.com"));
        assert!(!open.grants("b", "gmail.com", Right::Adopt));
        let mut tenancy = tenancy;
        tenancy.rules.push(TenancyRule { rights: vec![Right::Adopt], ..rule(&["a"], &["x.example.org"]) });
        assert!(tenancy.grants("a", "x.example.org", Right::Adopt));
        assert!(!tenancy.grants("a", "y.example.org", Right::Adopt));
        assert!(!tenancy.grants("a", "x.example.org", Right::Unmanaged));
    }
}
