//! The half of a pass that is about tables: each cell's ConfigMaps, and the kubelet that mounts them.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::iter;
use k8s_openapi::api::core::v1::ConfigMap;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::directory::Directory;

use super::{Reconciler, WRITES_AT_ONCE};
use crate::operator::objects::{changed_config_maps, revision_names, shard_config_maps, table_config_maps};

impl Reconciler {
    /// Brings the ConfigMaps of a cell to what the directory wants, and its kubelet to look at them.
    pub(super) async fn write_tables(&mut self, name: &str, directory: &Arc<Directory>) {
        let now = Instant::now();
        let records = &self.index.records;
        let recorded = |domain: &str| records.get(domain).is_some_and(|stored| stored.record.in_tables());
        let Some(cell) = self.cells.get_mut(name) else { return };
        let mut shards = shard_config_maps(&self.config.name, name);
        let sharded = shards.any(|map| self.index.tables.contains_key(&map));
        let rendered = match cell.render(directory, &recorded, &self.config, sharded, now) {
            Ok(rendered) => rendered,
            Err(message) => {
                if self.complaint != message {
                    error!("the configuration of Postfix cannot be rendered: {message}");
                    self.complaint = message;
                }
                return;
            }
        };
        let maps = match changed_config_maps(&self.config.name, name, &rendered.packed, &self.index.tables) {
            Ok(maps) => maps,
            Err(error) => {
                error!("the tables cannot be written as JSON: {error}");
                return;
            }
        };
        if maps.is_empty() {
            let names = revision_names(&self.config.name, name, &rendered.packed);
            cell.stands(rendered, None);
            if cell.settled() && !self.table_pauses.holds(&name.to_owned(), now) {
                self.remove_leftovers(name, &names).await;
            }
        } else if cell.may_write(now).is_ok() && !self.table_pauses.holds(&name.to_owned(), now) {
            let revision = rendered.packed.index.revision.clone();
            if self.write_maps(name, &maps).await {
                info!(cell = name, revision, "tables written");
                self.table_pauses.over(&name.to_owned());
                if let Some(cell) = self.cells.get_mut(name) {
                    cell.stands(rendered, Some(now));
                }
            }
        }
        let Some(cell) = self.cells.get_mut(name) else { return };
        if self.index.pods.contains_key(name)
            && let Some(value) = cell.poke_due(Instant::now())
        {
            let pod = cell.pod().to_owned();
            // The next poke comes by itself.
            match self.writer.poke(&pod, &value).await {
                Err(error) if !error.is_not_found() => warn!(what = error.what(), "{error}"),
                Ok(()) | Err(_) => {}
            }
        }
    }

    /// Writes ConfigMaps side by side, and the last one, the index, when all others are there; whether all are.
    #[tracing::instrument(target = "timing", level = "debug", skip_all, name = "write", fields(cell, maps = maps.len()))]
    async fn write_maps(&mut self, cell: &str, maps: &[ConfigMap]) -> bool {
        let Some((last, first)) = maps.split_last() else { return true };
        for some in [first, std::slice::from_ref(last)] {
            let writes = some.iter().map(|map| self.writer.config_map("tables", map));
            let results: Vec<_> = iter(writes).buffer_unordered(WRITES_AT_ONCE).collect().await;
            let mut all = true;
            for result in results {
                match result {
                    Ok(map) => drop(self.index.apply_config_map(map)),
                    Err(error) => {
                        warn!(what = error.what(), "{error}");
                        all = false;
                    }
                }
            }
            if !all {
                self.table_pauses.failed(cell.to_owned(), Instant::now());
                return false;
            }
        }
        true
    }

    /// Removes ConfigMaps that held the tables before they grew or shrank, once the agent has read the present ones.
    async fn remove_leftovers(&mut self, cell: &str, used: &BTreeSet<String>) {
        let left: Vec<String> = table_config_maps(&self.config.name, cell)
            .filter(|name| self.index.tables.contains_key(name) && !used.contains(name))
            .collect();
        for name in left {
            match self.writer.remove_config_map("tables", &name).await {
                Ok(()) => drop(self.index.tables.remove(&name)),
                Err(error) => {
                    warn!(what = error.what(), "{error}");
                    self.table_pauses.failed(cell.to_owned(), Instant::now());
                    return;
                }
            }
        }
    }
}
