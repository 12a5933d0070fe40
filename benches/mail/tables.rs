//! What is served: domains with a hundred mailboxes each, as the operator lays them out and kubelet mounts them.

use std::collections::BTreeMap;
use std::path::Path;

use vmail_operator::custody::CUSTODY_FILE;
use vmail_operator::postfix::shards::{Packed, pack};
use vmail_operator::revision::INDEX_FILE;

use crate::revision::{Wanted, mount_files};

/// Mailboxes in each domain.
pub const IN_EACH: usize = 100;

pub struct Tables {
    pub wanted: Wanted,
    packed: Packed,
    more: usize,
}

pub fn domain(number: usize) -> String {
    format!("d{number:04}.example")
}

impl Tables {
    /// `m0` to `m99` in each of so many domains.
    pub fn new(domains: usize) -> Self {
        let mut wanted = Wanted::empty().custody("");
        for domain in (0..domains).map(domain) {
            wanted = wanted
                .bare_domain(&domain)
                .alias(&format!("postmaster@{domain}"), &format!("m0@{domain}"))
                .line(CUSTODY_FILE, &format!("{domain} mail Retain"));
            for number in 0..IN_EACH {
                wanted = with_mailbox(wanted, &format!("m{number}@{domain}"));
            }
        }
        let packed = pack("default", wanted.files.clone(), false, None).expect("it fits");
        Self { wanted, packed, more: 0 }
    }

    /// With one mailbox more.
    pub fn grow(&mut self) {
        self.more += 1;
        let address = format!("more{}@{}", self.more, domain(0));
        self.wanted =
            with_mailbox(std::mem::replace(&mut self.wanted, Wanted { files: BTreeMap::new() }), &address);
        let files = self.wanted.files.clone();
        self.packed =
            pack("default", files, !self.packed.shards.is_empty(), Some(&self.packed)).expect("it fits");
    }

    pub fn revision(&self) -> &str {
        &self.packed.index.revision
    }

    /// Brings all of it into `directory`, as kubelet does.
    pub fn mount(&self, directory: &Path) {
        let Packed { index, files, shards, .. } = &self.packed;
        let files = files.iter().map(|(name, text)| (name.clone(), text.clone().into_bytes()));
        let shards = shards.iter().map(|(name, shard)| (name.clone(), shard.bytes.clone()));
        let index = (INDEX_FILE.to_owned(), serde_json::to_vec(index).expect("an index"));
        mount_files(directory, &files.chain(shards).chain([index]).collect());
    }
}

fn with_mailbox(wanted: Wanted, address: &str) -> Wanted {
    wanted.mailbox(address).line(CUSTODY_FILE, &format!("{address} mail Retain 1b9d6bcd"))
}
