//! The operator: the only Kubernetes client.

pub mod config;
