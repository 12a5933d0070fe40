//! The same Postfix on the same kinds of volumes, configured by hand; see the script `by-hand`.

use std::fs;

use crate::pod::{Pod, Volumes, wait};
use crate::revision::mount_files;
use crate::tables::Tables;

const START: &str = concat!("sh ", env!("CARGO_MANIFEST_DIR"), "/benches/mail/by-hand");
const MAILBOXES: &str = "run/vmail-operator/postfix/virtual_mailbox_maps";

/// Postfix with these tables, once it takes mail.
pub fn start(tables: &Tables) -> Pod {
    let volumes = Volumes::new();
    mount_files(&volumes.revision(), &tables.wanted.files);
    let pod = Pod::start_under(START, volumes, &[]);
    wait("Postfix, set up by hand", || pod.is_open().then_some(()));
    pod
}

/// What somebody does after a mailbox was added.
pub fn compile(pod: &Pod, tables: &Tables) {
    let source = format!("/proc/{}/root/{MAILBOXES}", pod.process_one());
    fs::write(source, &tables.wanted.files["virtual_mailbox_maps"]).expect("writes");
    let said = pod.postfix(&["postmap", &format!("cdb:/{MAILBOXES}")]);
    assert!(said.is_empty(), "{said}");
}
