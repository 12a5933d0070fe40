//! Tables that one ConfigMap cannot hold come in shards.

use std::collections::BTreeMap;
use std::fs;

use vmail_operator::postfix::shards::{Packed, SHARDS, pack};
use vmail_operator::revision::INDEX_FILE;

use crate::pod::{Pod, Volumes, meanwhile, wait};
use crate::revision::{Wanted, mount_files};

/// Everything that is mounted of a revision.
fn mounted(packed: &Packed) -> BTreeMap<String, Vec<u8>> {
    let files = packed.files.iter().map(|(name, text)| (name.clone(), text.clone().into_bytes()));
    let index = serde_json::to_vec(&packed.index).expect("an index");
    let shards = packed.shards.iter().map(|(name, shard)| (name.clone(), shard.bytes.clone()));
    files.chain(shards).chain([(INDEX_FILE.to_owned(), index)]).collect()
}

fn packed(wanted: &Wanted, sharded: bool) -> Packed {
    pack("default", wanted.files.clone(), sharded, None).expect("it fits")
}

/// A domain with so many mailboxes.
fn large(count: usize) -> Wanted {
    let mut wanted = Wanted::one("example.org");
    for number in 0..count {
        let local = format!("somebody-with-a-long-name-{number}");
        wanted = wanted.mailbox(&format!("{local}@example.org"));
    }
    wanted
}

#[test]
fn tables_grow_and_shrink_and_nobody_is_refused() {
    let small = large(10);
    let pod = Pod::serving(&small);
    let large = large(8_000).mailbox("new@example.org");
    let grown = packed(&large, false);
    assert_eq!(grown.shards.len(), SHARDS);
    let mut asked = 0;
    meanwhile(
        || {
            for address in ["you@example.org", "somebody-with-a-long-name-9@example.org"] {
                let reply = pod.rcpt(address);
                assert!(reply.starts_with("250 "), "{address}: {reply}");
                asked += 1;
            }
        },
        || {
            mount_files(&pod.volumes.revision(), &mounted(&grown));
            let report = pod.wait_for_live(&grown.index.revision);
            assert!(report.domains["example.org"].accepted, "{report:?}");
            for address in ["new@example.org", "somebody-with-a-long-name-7999@example.org"] {
                assert!(pod.rcpt(address).starts_with("250 "), "{address}");
            }
            assert!(pod.rcpt("somebody-with-a-long-name-8000@example.org").starts_with("550 5.1.1"));

            // One shard is not there yet: the revision before goes on serving.
            let next = packed(&large.clone().mailbox("later@example.org"), true);
            let mut torn = mounted(&next);
            let changed = |name: &&String| next.shards[*name] != grown.shards[*name];
            let changed = next.shards.keys().find(changed).expect("one of them").clone();
            torn.insert(changed.clone(), grown.shards[&changed].bytes.clone());
            mount_files(&pod.volumes.revision(), &torn);
            let complaint = format!("{changed} has another content");
            wait("the agent's word", || pod.log().contains(&complaint).then_some(()));
            assert_eq!(pod.report().expect("a report").revision, Some(grown.index.revision.clone()));
            mount_files(&pod.volumes.revision(), &mounted(&next));
            pod.wait_for_live(&next.index.revision);
            assert!(pod.rcpt("later@example.org").starts_with("250 "));

            small.mount(&pod.volumes.revision());
            pod.wait_for_revision(&small);
            assert!(pod.rcpt("new@example.org").starts_with("550 5.1.1"));
        },
    );
    assert!(asked > 20, "{asked}");
}

#[test]
fn shards_are_saved_for_the_next_start() {
    let packed = packed(&large(8_000), false);
    let volumes = Volumes::new();
    mount_files(&volumes.revision(), &mounted(&packed));
    let pod = Pod::start(volumes, &[]);
    pod.wait_for_live(&packed.index.revision);
    let (status, volumes) = pod.terminate();
    assert!(status.success(), "{status}");
    fs::remove_dir_all(volumes.revision()).expect("removes");
    fs::create_dir(volumes.revision()).expect("creates");
    let pod = Pod::start(volumes, &[]);
    pod.wait_for_live(&packed.index.revision);
    assert!(pod.rcpt("somebody-with-a-long-name-7999@example.org").starts_with("250 "));
}
