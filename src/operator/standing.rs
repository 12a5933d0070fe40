//! What the tables that stand in the cluster serve.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use tracing::warn;

use super::objects::table_config_maps;
use crate::config::Config;
use crate::directory::Directory;
use crate::postfix::{shards, standing};

/// The mailboxes and aliases in the tables of all cells, read from their ConfigMaps by name. A damaged shard says nothing.
pub fn served(config: &Config, mut maps: BTreeMap<String, ConfigMap>) -> Directory {
    let mut directory = Directory::default();
    for cell in config.cells.keys() {
        // One after the other: all of them take more room than what they say.
        let found = table_config_maps(&config.name, cell).filter_map(|name| maps.remove(&name));
        standing::read(&mut directory, found.flat_map(|map| parts(cell, map)));
    }
    directory
}

/// The tables in a ConfigMap: as they are, or as shards.
fn parts(cell: &str, map: ConfigMap) -> impl Iterator<Item = BTreeMap<String, String>> {
    let shards = map.binary_data.into_iter().flatten().filter_map(move |(_, bytes)| {
        let damaged = |why| warn!(cell, "what was served is not known in full: a shard is damaged: {why}");
        shards::unpack(&bytes.0).map(|(_, tables)| tables).map_err(damaged).ok()
    });
    map.data.into_iter().chain(shards)
}
