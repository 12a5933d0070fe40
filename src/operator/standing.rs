//! What the tables that stand in the cluster serve.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use tracing::warn;

use super::objects::table_config_maps;
use crate::config::Config;
use crate::directory::Directory;
use crate::postfix::{shards, standing};

/// The mailboxes and aliases in the tables of all cells, read from their ConfigMaps by name. A damaged shard says nothing.
pub fn served(config: &Config, maps: &BTreeMap<String, ConfigMap>) -> Directory {
    let mut directory = Directory::default();
    for cell in config.cells.keys() {
        let mut parts = Vec::new();
        for map in table_config_maps(&config.name, cell).filter_map(|name| maps.get(&name)) {
            parts.extend(map.data.clone());
            for bytes in map.binary_data.iter().flatten().map(|(_, bytes)| bytes) {
                match shards::unpack(&bytes.0) {
                    Ok((_, tables)) => parts.push(tables),
                    Err(why) => {
                        warn!(cell, "what was served is not known in full: a shard is damaged: {why}")
                    }
                }
            }
        }
        standing::read(&mut directory, &shards::join(parts));
    }
    directory
}
