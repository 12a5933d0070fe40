//! vmail-operator: Postfix virtual mail domains on Kubernetes, published in DNS once proved.
//!
//! Data flows one way: watch → index → directory → tables → ConfigMaps → agent → proof → DNS → status.
//! [`directory`], [`postfix`], [`records`], [`dns::plan`], [`status`] and [`events`] are pure; effects live in
//! [`operator`], [`agent`] and [`dns::powerdns`].

pub mod agent;
pub mod api;
pub mod command;
pub mod config;
pub mod custody;
pub mod directory;
pub mod dns;
pub mod events;
pub mod http;
pub mod import;
pub mod manifests;
pub mod metrics;
pub mod operator;
mod pair;
pub mod postfix;
pub mod records;
pub mod revision;
pub mod status;
