//! An API server, a cell, and the operator whenever it is started.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;
use tokio::time::sleep;

use crate::apiserver::ApiServer;
use crate::cell::Cell;
use crate::objects;
use crate::operator::{Counts, Operator};
use crate::pod;

/// For anything that is waited for.
pub const PATIENCE: Duration = Duration::from_secs(1800);
/// Nothing was written for so long: nothing will be.
const QUIET: Duration = Duration::from_secs(2);

/// The ConfigMaps of the tables by name: version, and bytes in it.
pub type Tables = BTreeMap<String, (String, usize)>;

pub struct World {
    pub server: ApiServer,
    pub cell: Cell,
    dir: tempfile::TempDir,
    /// Mailbox n is in domain n modulo this.
    pub domains: usize,
    /// Mailboxes there are.
    pub mailboxes: usize,
}

impl World {
    /// With these domains, and nobody in them.
    pub async fn start(domains: usize) -> Self {
        let server = ApiServer::start().await;
        server.install_crds().await;
        let cell = Cell::start(&server.client).await;
        let dir = tempfile::tempdir().expect("a directory");
        let config = json!({
            "name": "vmail",
            "postmaster": "postmaster@elsewhere.example",
            "cells": { "default": {
                "hostname": "mail.us.test", "pod": "vmail-postfix-default-0", "agentPort": cell.agent_port,
            } },
            // No domain is published here.
            "dns": { "powerdns": { "url": "http://127.0.0.1:9", "apiKeyFile": dir.path().join("key") } },
        });
        std::fs::write(dir.path().join("config.yaml"), config.to_string()).expect("writes");
        std::fs::write(dir.path().join("token"), pod::TOKEN).expect("writes");
        objects::create_domains(&server.client, domains).await;
        Self { server, cell, dir, domains, mailboxes: 0 }
    }

    /// So many mailboxes more, or fewer.
    pub async fn have(&mut self, mailboxes: usize) {
        let Range { start, end } = self.mailboxes..mailboxes;
        objects::create_mailboxes(&self.server.client, start..end, self.domains).await;
        objects::delete_mailboxes(&self.server.client, end..start, self.domains).await;
        self.mailboxes = mailboxes;
    }

    /// A new process, once the lease of the one before is gone.
    pub async fn operator(&self) -> Operator {
        let leases: Api<Lease> = Api::namespaced(self.server.client.clone(), "mail");
        // There may be none.
        let _ = leases.delete("vmail", &DeleteParams::default()).await;
        Operator::start(&self.server, self.dir.path())
    }

    /// Waits until every mailbox is ready and nothing was written for a while; since when no status was.
    pub async fn converged(&self, operator: &Operator) -> (Instant, Counts) {
        let began = Instant::now();
        let (mut last, mut told, mut quiet) = (Counts::default(), began, began);
        loop {
            let counts = operator.counts().await;
            let ready = counts.ready == self.mailboxes;
            if ready && counts == last && quiet.elapsed() >= QUIET {
                return (told, counts);
            }
            if counts != last {
                quiet = Instant::now();
            }
            // Events come after the statuses that they tell of.
            let telling = (counts.ready, counts.statuses) != (last.ready, last.statuses);
            if telling {
                told = quiet;
            }
            last = counts;
            assert!(
                began.elapsed() < PATIENCE,
                "{} of {} mailboxes are ready:\n{}",
                counts.ready,
                self.mailboxes,
                operator.log()
            );
            // Each question costs the operator a little, too.
            sleep(if ready && !telling { QUIET } else { QUIET / 8 }).await;
        }
    }

    pub async fn tables(&self) -> Tables {
        let maps: Api<ConfigMap> = Api::namespaced(self.server.client.clone(), "mail");
        let ours = ListParams::default().labels("app.kubernetes.io/managed-by=vmail-operator");
        let all = maps.list(&ours).await.expect("a list").into_iter();
        let tables = all.filter_map(|map| {
            let name = map.metadata.name.filter(|name| name.starts_with("vmail-default-"))?;
            let text: usize = map.data.iter().flatten().map(|(_, text)| text.len()).sum();
            let bytes: usize = map.binary_data.iter().flatten().map(|(_, bytes)| bytes.0.len()).sum();
            Some((name, (map.metadata.resource_version?, text + bytes)))
        });
        tables.collect()
    }

    /// How many ConfigMaps differ from those `before`, and their bytes.
    pub async fn written(&self, before: &Tables) -> (usize, usize) {
        let after = self.tables().await;
        let changed = after.iter().filter(|(name, map)| before.get(*name) != Some(map));
        changed.fold((0, 0), |(count, bytes), (_, (_, size))| (count + 1, bytes + size))
    }
}
