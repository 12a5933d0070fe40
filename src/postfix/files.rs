//! Directory → every file of a revision.

use std::collections::{BTreeMap, BTreeSet};

use super::main_cf::{MainCf, MainCfError, main_cf, master_cf};
use super::tables::tables;
use super::transport::{elsewhere, transport_maps};
use crate::api::address::Address;
use crate::config::Config;
use crate::directory::Directory;
use crate::revision::ELSEWHERE_FILE;

/// The files of one cell by name: `main.cf`, `master.cf`, the lookup tables and the lists of domains.
///
/// `recorded`, `vanished` and `wanted` as in [`tables`].
///
/// # Errors
/// When a parameter of the configuration is not allowed.
pub fn revision_files(
    directory: &Directory,
    cell: &str,
    hostname: &str,
    config: &Config,
    recorded: impl Fn(&str) -> bool,
    vanished: &BTreeSet<Address>,
    wanted: impl Fn(&Address) -> bool,
) -> Result<BTreeMap<String, String>, MainCfError> {
    let main = main_cf(&MainCf {
        hostname: hostname.to_owned(),
        message_size_limit: config.postfix.message_size_limit,
        parameters: config.postfix.parameters.clone(),
    })?;
    let mut files = tables(directory, cell, hostname, recorded, vanished, wanted);
    let proxy_protocol = config.cells.get(cell).is_some_and(|cell| cell.proxy_protocol);
    let routes = transport_maps(directory, cell, hostname, |other| config.smtp_service(other));
    files.insert("transport_maps".to_owned(), routes);
    files.insert(ELSEWHERE_FILE.to_owned(), elsewhere(directory, cell));
    files.insert("main.cf".to_owned(), main);
    files.insert("master.cf".to_owned(), master_cf(proxy_protocol));
    Ok(files)
}
