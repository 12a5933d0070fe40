//! The part of a pass that holds back what would leave service unasked, see [`crate::directory::brake`].
//!
//! What was served is known from the last pass, and at the start from the records and the tables that stand there. While
//! something is held, a ConfigMap tells what, and with it an Event, a log line and a metric. Whoever confirms it puts its
//! digest into an annotation of the ConfigMap, so that nothing is confirmed but what was there to be read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::api::address::Address;
use crate::directory::{Directory, Rules, brake};
use crate::events::News;
use crate::records::Phase;
use crate::revision::content_hash;

use super::Reconciler;
use crate::operator::objects::{CONFIRM_ANNOTATION, brake_config_map, brake_name, is_standing};
use crate::operator::standing;

/// Names that the ConfigMap tells; it has room for 1 MiB.
const LISTED: usize = 1000;

/// What the brake holds, and what it needs to know.
#[derive(Default)]
pub struct HeldBack {
    /// What is served, where addresses are held.
    served: Option<Arc<Directory>>,
    domains: BTreeSet<String>,
    addresses: BTreeSet<Address>,
}

impl HeldBack {
    fn names(&self) -> impl Iterator<Item = String> {
        self.domains.iter().cloned().chain(self.addresses.iter().map(Address::to_string))
    }

    fn is_empty(&self) -> bool {
        self.domains.is_empty() && self.addresses.is_empty()
    }

    /// Names just what is held.
    fn digest(&self) -> String {
        content_hash(self.names().collect::<Vec<_>>().join("\n"))[..16].to_owned()
    }
}

impl Reconciler {
    /// Whether something is held: then whatever else goes unasked is held too.
    fn brake_is_on(&self) -> bool {
        !self.held_back.is_empty() || self.index.tables.contains_key(&brake_name(&self.config.name))
    }

    /// Decides which records the brake holds.
    pub(super) fn hold_domains(&mut self) {
        let on = self.brake_is_on();
        if !on && !self.index.changes.records && !self.index.changes.other {
            return;
        }
        let confirmed = self.index.confirmed.get(&brake_name(&self.config.name));
        if !self.held_back.is_empty() && confirmed == Some(&self.held_back.digest()) {
            info!(
                domains = self.held_back.domains.len(),
                addresses = self.held_back.addresses.len(),
                "confirmed: what the brake held leaves service"
            );
            self.index.asked.domains.append(&mut self.held_back.domains);
            self.index.asked.addresses.append(&mut self.held_back.addresses);
            self.index.changes.other = true;
        }
        let records = self.records();
        let rules = Rules { config: &self.config, namespace: &self.namespace, records: &records };
        let brake::Found { missing, dropped } = brake::domains(&self.index.objects, rules, &self.index.asked);
        let live = records.values().filter(|record| record.phase == Phase::Serving).count();
        let holds = on || brake::brakes(missing.len(), live, &self.config.brake);
        self.held_back.domains = if holds { missing } else { BTreeSet::new() };
        for (domain, stored) in &mut self.index.records {
            let held = self.held_back.domains.contains(domain);
            self.index.changes.records |= stored.record.held != held;
            stored.record.held = held;
        }
        self.index.asked.addresses.extend(dropped);
    }

    /// Whether addresses are held.
    pub(super) fn puts_back(&self) -> bool {
        self.held_back.served.is_some()
    }

    /// What is served while nothing changes: what the rules say, or that with the addresses that the brake holds.
    pub(super) fn put_back(&self) -> Arc<Directory> {
        self.held_back.served.as_ref().unwrap_or(&self.directory).clone()
    }

    /// Puts back the addresses that the brake holds. `before` is what was served, unless addresses were held then; what
    /// was served, and what is.
    pub(super) fn hold_addresses(&mut self, before: Arc<Directory>) -> (Arc<Directory>, Arc<Directory>) {
        let on = self.brake_is_on();
        let before = self.held_back.served.take().unwrap_or(before);
        let (directory, objects) = (&self.directory, &self.index.objects);
        let mut missing = brake::missing_addresses(&before, directory, objects, &self.index.asked);
        if !missing.is_empty() && !on {
            let cell_of = |address: &Address| {
                directory.domains.get(address.domain()).map_or("", |served| served.spec.cell.as_str())
            };
            let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
            for address in &missing {
                counts.entry(cell_of(address)).or_default().0 += 1;
            }
            let aliases = before.aliases.keys().filter(|address| !before.mailboxes.contains_key(*address));
            for address in before.mailboxes.keys().chain(aliases) {
                if let Some((_, live)) = counts.get_mut(cell_of(address)) {
                    *live += 1;
                }
            }
            let held = |address: &Address| {
                let (going, live) = counts.get(cell_of(address)).copied().unwrap_or_default();
                brake::brakes(going, live, &self.config.brake)
            };
            let held: BTreeSet<Address> = missing.into_iter().filter(held).collect();
            missing = held;
        }
        if !missing.is_empty() {
            let mut served = Directory::clone(directory);
            brake::keep(&mut served, &before, &missing, objects);
            self.held_back.served = Some(Arc::new(served));
        }
        self.held_back.addresses = missing;
        (before, self.put_back())
    }

    /// What was asked for is done; a record may have to be written once more.
    pub(super) fn forget_asked(&mut self, served: &Directory) {
        self.index.asked.addresses.clear();
        let records = &self.index.records;
        self.index.asked.domains.retain(|domain| {
            let serving = records.get(domain).is_some_and(|stored| stored.record.phase == Phase::Serving);
            serving && served.domains.get(domain).is_none_or(|served| served.claim.is_none())
        });
    }

    /// The addresses in the tables that stood there when this process began; once.
    pub(super) fn standing(&mut self) -> Option<Directory> {
        let found = self.index.found.take()?;
        Some(standing::served(&self.config, found))
    }

    /// Tells the administrator what is held, or that nothing is any more.
    pub(super) async fn tell_what_is_held(&mut self) {
        let HeldBack { domains, addresses, .. } = &self.held_back;
        self.writer.metrics.brake(domains.len(), addresses.len());
        let name = brake_name(&self.config.name);
        let result = if self.held_back.is_empty() {
            if !self.index.tables.contains_key(&name) || self.table_pauses.holds(&name, Instant::now()) {
                return;
            }
            info!("nothing is held back any more");
            self.writer.remove_config_map("brake", &name).await.map(|()| {
                self.index.tables.remove(&name);
                self.index.confirmed.remove(&name);
            })
        } else {
            let (map, message) = self.brake_config_map();
            if is_standing(&self.index.tables, &map) || self.table_pauses.holds(&name, Instant::now()) {
                return;
            }
            error!("{message}");
            let news = News {
                type_: "Warning",
                action: "Withdraw".to_owned(),
                reason: "HeldBack".to_owned(),
                note: message,
            };
            let written = self.writer.config_map("brake", &map).await;
            self.statuses.events().record(&self.writer.reference(&name), vec![news]);
            written.map(|map| {
                self.index.apply_config_map(map);
            })
        };
        match result {
            Ok(()) => self.table_pauses.over(&name),
            Err(error) => {
                warn!(what = error.what(), "{error}");
                self.table_pauses.failed(name, Instant::now());
            }
        }
    }

    /// The ConfigMap that tells what is held, and its message.
    fn brake_config_map(&self) -> (ConfigMap, String) {
        let (held, name) = (&self.held_back, brake_name(&self.config.name));
        let confirm = format!(
            "kubectl -n {} annotate configmap {name} --overwrite {CONFIRM_ANNOTATION}={}",
            self.namespace,
            held.digest()
        );
        let message = format!(
            "{} domains and {} addresses would leave service although nothing was deleted, so they are kept as they are; bring their objects or the configuration back, or, if it is meant, confirm it: {confirm}",
            held.domains.len(),
            held.addresses.len()
        );
        let count = held.domains.len() + held.addresses.len();
        let mut names: String = held.names().take(LISTED).map(|name| format!("{name}\n")).collect();
        if count > LISTED {
            names.push_str(&format!("and {} more\n", count - LISTED));
        }
        (brake_config_map(&self.config.name, &message, &confirm, names), message)
    }
}
