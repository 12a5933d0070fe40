//! The tables of a cell, laid out for ConfigMaps: as they are while they fit into one, else in compressed shards (pure).
//!
//! A line goes to the shard that a hash of its key names, so that a changed mailbox changes one shard, and all lines of
//! an address are in the same one.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use crate::api::address::Address;
use crate::revision::{Index, content_hash};

/// Into how many shards large tables are cut. The pod mounts a ConfigMap for each, there or not.
pub const SHARDS: usize = 64;

/// More text than this does not stay in one ConfigMap: half of what one may hold, 1 MiB (Kubernetes documentation,
/// ConfigMaps).
const GROW: usize = 512 * 1024;
/// With less text than this, tables go back into one ConfigMap. So much less, that they do not go to and fro.
const SHRINK: usize = 128 * 1024;
/// What a shard may have, compressed.
const ROOM: usize = 900 * 1024;
/// Ways of sharing out lines that are tried. Somebody may choose addresses that fall into one shard by one of them, and
/// not by the next.
const SALTS: u8 = 8;
/// More than a shard of the operator's has; what is larger is not read on.
const LARGEST_SHARD: u64 = 256 * 1024 * 1024;

/// The content of a revision as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Lists all of it.
    pub index: Index,
    /// Files that travel as they are: all of them, or `main.cf` and `master.cf` alone.
    pub files: BTreeMap<String, String>,
    /// Shards by name; empty when all files travel as they are.
    pub shards: BTreeMap<String, Shard>,
    /// How the lines are shared out, see [`number`].
    salt: u8,
}

/// One part of the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Compressed.
    pub bytes: Vec<u8>,
    /// The [`content_hash`] of `bytes`.
    pub hash: String,
    /// Bytes of table text in it.
    size: usize,
}

/// Which shards are to be made anew; the others stay as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stale {
    salt: u8,
    numbers: [bool; SHARDS],
}

impl Stale {
    /// Whether the lines of an address are in one of them.
    pub fn has(&self, address: &Address) -> bool {
        self.numbers[number(self.salt, [address.local(), "@", address.domain()])]
    }
}

/// Lays out the files of a revision (name to content). `before` is what it looked like the last time: tables that were
/// in shards stay there until they are small again, and what did not change is not compressed again.
///
/// # Errors
/// When the tables are larger than all shards together.
pub fn pack(
    cell: &str,
    files: BTreeMap<String, String>,
    sharded: bool,
    before: Option<&Packed>,
) -> Result<Packed, String> {
    let size: usize = files.iter().filter(|(name, _)| is_table(name)).map(|(_, text)| text.len()).sum();
    if size <= if sharded { SHRINK } else { GROW } {
        let index = Index::new(cell, &files, BTreeMap::new());
        return Ok(Packed { index, files, shards: BTreeMap::new(), salt: 0 });
    }
    let (tables, files): (BTreeMap<_, _>, BTreeMap<_, _>) =
        files.into_iter().partition(|(name, _)| is_table(name));
    for salt in 0..SALTS {
        let mut hashes = BTreeMap::new();
        let mut shards = BTreeMap::new();
        for (number, shard) in cut(&tables, salt, |_| true).iter().enumerate() {
            let name = name(number);
            let (hash, shard) = make(&name, shard, before)?;
            hashes.insert(name.clone(), hash);
            shards.insert(name, shard);
        }
        if shards.values().all(|shard| shard.bytes.len() <= ROOM) {
            let index = Index::new(cell, &files, hashes);
            return Ok(Packed { index, files, shards, salt });
        }
    }
    Err(format!(
        "the tables of cell {cell} have {size} bytes, which is more than {SHARDS} ConfigMaps can hold"
    ))
}

impl Packed {
    /// The shards with the lines of these addresses; none where the tables travel as they are.
    pub fn stale<'a>(&self, changed: impl IntoIterator<Item = &'a Address>) -> Option<Stale> {
        let mut numbers = [false; SHARDS];
        for address in changed {
            numbers[number(self.salt, [address.local(), "@", address.domain()])] = true;
        }
        (!self.shards.is_empty()).then_some(Stale { salt: self.salt, numbers })
    }

    /// As [`pack`], where nothing changed but lines in stale shards, of which `files` has all lines. `None` where all
    /// shards have to be made anew.
    ///
    /// # Errors
    /// When a shard cannot be written.
    pub fn repack(
        &self,
        cell: &str,
        files: BTreeMap<String, String>,
        stale: &Stale,
    ) -> Result<Option<Self>, String> {
        let (tables, files): (BTreeMap<_, _>, BTreeMap<_, _>) =
            files.into_iter().partition(|(name, _)| is_table(name));
        let (mut hashes, mut shards) = (self.index.shards.clone(), self.shards.clone());
        let parts = cut(&tables, self.salt, |number| stale.numbers[number]);
        for (number, shard) in parts.iter().enumerate().filter(|(number, _)| stale.numbers[*number]) {
            let name = name(number);
            let (hash, shard) = make(&name, shard, Some(self))?;
            hashes.insert(name.clone(), hash);
            shards.insert(name, shard);
        }
        let size: usize = shards.values().map(|shard| shard.size).sum();
        let fits = size > SHRINK && shards.values().all(|shard| shard.bytes.len() <= ROOM);
        // With another salt they were too large before, and may not be any more.
        let same = fits && self.salt == 0;
        Ok(same.then(|| Self { index: Index::new(cell, &files, hashes), files, shards, salt: self.salt }))
    }
}

fn is_table(name: &str) -> bool {
    !name.ends_with(".cf")
}

/// A shard with the hash of its text, the same as before where that is the same.
fn make(
    name: &str,
    tables: &BTreeMap<&str, String>,
    before: Option<&Packed>,
) -> Result<(String, Shard), String> {
    let text = serde_json::to_string(tables).map_err(|error| error.to_string())?;
    let hash = content_hash(&text);
    let known = before.filter(|before| before.index.shards.get(name) == Some(&hash));
    if let Some(shard) = known.and_then(|before| before.shards.get(name)) {
        return Ok((hash, shard.clone()));
    }
    let bytes = compress(&text).map_err(|error| error.to_string())?;
    let size = tables.values().map(String::len).sum();
    Ok((hash, Shard { hash: content_hash(&bytes), bytes, size }))
}

/// The name of a shard: its key in its ConfigMap, and its file in the mounted volume.
pub fn name(number: usize) -> String {
    format!("shard-{number:02}")
}

/// The shard of a line, by its key, which may be given in pieces.
fn number<'a>(salt: u8, key: impl IntoIterator<Item = &'a str>) -> usize {
    let mut hash = Sha256::new().chain_update([salt]);
    for piece in key {
        hash.update(piece);
    }
    usize::from(hash.finalize()[0]) % SHARDS
}

/// Shares out the lines of tables that are in `wanted` shards. Each shard has every table, be it empty.
fn cut(
    tables: &BTreeMap<String, String>,
    salt: u8,
    wanted: impl Fn(usize) -> bool,
) -> Vec<BTreeMap<&str, String>> {
    let empty: BTreeMap<&str, String> = tables.keys().map(|name| (name.as_str(), String::new())).collect();
    let mut shards = vec![empty; SHARDS];
    for (name, text) in tables {
        for line in text.lines() {
            let key = line.split(' ').next().unwrap_or_default();
            let number = number(salt, [key]);
            if let Some(text) = shards[number].get_mut(name.as_str()).filter(|_| wanted(number)) {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    shards
}

fn compress(text: &str) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes())?;
    encoder.finish()
}

/// Reads one shard: the hash of its content, and its part of each table.
///
/// # Errors
/// When it is no shard.
pub fn unpack(bytes: &[u8]) -> Result<(String, BTreeMap<String, String>), String> {
    let mut text = String::new();
    let read = GzDecoder::new(bytes).take(LARGEST_SHARD).read_to_string(&mut text);
    read.map_err(|error| error.to_string())?;
    let tables = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    Ok((content_hash(&text), tables))
}

/// Puts the tables of all shards together, each sorted by line.
pub fn join(shards: impl IntoIterator<Item = BTreeMap<String, String>>) -> BTreeMap<String, String> {
    let shards: Vec<_> = shards.into_iter().collect();
    let mut lines: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, text) in shards.iter().flatten() {
        lines.entry(name).or_default().extend(text.lines());
    }
    let whole = lines.into_iter().map(|(name, mut lines)| {
        lines.sort_unstable();
        let mut text = String::with_capacity(lines.iter().map(|line| line.len() + 1).sum());
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
        (name.to_owned(), text)
    });
    whole.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `count` mailboxes with 64 bytes each, and an alias for each.
    fn files(count: usize) -> BTreeMap<String, String> {
        let lines = |what: &str| (0..count).map(|n| format!("u{n:06}@example.org {what:<44}\n")).collect();
        [
            ("main.cf", "myhostname = a\n".to_owned()),
            ("virtual_alias_domains", String::new()),
            ("virtual_alias_maps", lines("x@remote.example")),
            ("virtual_mailbox_maps", lines("example.org/u/")),
        ]
        .map(|(name, text)| (name.to_owned(), text))
        .into()
    }

    fn packed(count: usize, sharded: bool) -> Packed {
        pack("default", files(count), sharded, None).expect("it fits")
    }

    fn joined(packed: &Packed) -> BTreeMap<String, String> {
        let mut files = join(packed.shards.iter().map(|(name, shard)| {
            let (hash, tables) = unpack(&shard.bytes).expect("a shard");
            assert_eq!(packed.index.shards[name], hash);
            tables
        }));
        files.extend(packed.files.clone());
        files
    }

    #[test]
    fn nothing_is_lost_and_nothing_is_added() {
        let packed = packed(10_000, false);
        assert_eq!(packed.shards.len(), SHARDS);
        assert_eq!(packed.files.keys().collect::<Vec<_>>(), ["main.cf"]);
        assert_eq!(joined(&packed), files(10_000));
    }

    proptest! {
        #[test]
        fn any_tables_come_together_again(
            tables in prop::collection::btree_map("[a-c]", prop::collection::btree_set("[a-e]{1,2}@[xy] [a-z/]{1,4}", 0..9), 0..3),
            salt in 0..SALTS,
        ) {
            let text = |lines: std::collections::BTreeSet<String>| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
            let tables: BTreeMap<String, String> = tables.into_iter().map(|(name, lines)| (name, text(lines))).collect();
            let shards = cut(&tables, salt, |_| true);
            let own = |shard: &BTreeMap<&str, String>| shard.iter().map(|(name, text)| ((*name).to_owned(), text.clone())).collect();
            prop_assert_eq!(join(shards.iter().map(own)), tables);
        }
    }

    #[test]
    fn between_the_sizes_the_layout_stays() {
        for (count, sharded, expected) in [
            (100, false, 0),
            (100, true, 0),
            (3000, false, 0),
            (3000, true, 64),
            (9000, false, 64),
            (9000, true, 64),
        ] {
            assert_eq!(packed(count, sharded).shards.len(), expected, "{count} {sharded}");
        }
    }

    #[test]
    fn one_changed_mailbox_changes_one_shard() {
        let before = packed(10_000, false);
        let mut changed = files(10_000);
        for table in ["virtual_mailbox_maps", "virtual_alias_maps"] {
            changed.get_mut(table).expect("there").push_str("v@example.org x\n");
        }
        let after = pack("default", changed, true, Some(&before)).expect("it fits");
        let differs = |name: &&String| before.shards[*name] != after.shards[*name];
        assert_eq!(after.shards.keys().filter(differs).count(), 1);
        assert_ne!(before.index.revision, after.index.revision);
    }

    /// Who chooses his addresses so that one shard overflows has all of them shared out anew.
    #[test]
    fn nobody_can_fill_a_shard() {
        let mut noise = 1u64;
        let mut random = move || {
            noise = noise.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            noise >> 16
        };
        let mut text = String::new();
        while text.len() < 2_000_000 {
            let key = format!("{:x}{:x}{:x}{:x}@example.org", random(), random(), random(), random());
            if Sha256::new().chain_update([0]).chain_update(&key).finalize()[0] % 64 == 7 {
                text.push_str(&format!("{key} {:x}{:x}{:x}{:x}/\n", random(), random(), random(), random()));
            }
        }
        let files = BTreeMap::from([("virtual_mailbox_maps".to_owned(), text)]);
        let packed = pack("default", files, false, None).expect("it fits");
        assert!(packed.shards.values().all(|shard| shard.bytes.len() < ROOM / 10));
    }
}
