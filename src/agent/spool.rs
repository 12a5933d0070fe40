//! The spool volume: held by one agent at a time, with the directories that Postfix wants. It may be new, or kubelet may
//! have given it to a group.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown};
use std::path::Path;

use nix::unistd::{Group, User};

use super::install::Layout;

/// Below `queue_directory`, as in Postfix's own list of files: owner, group and mode matter, since the
/// programs that hand in mail run with the group `postdrop`.
const DIRECTORIES: [(&str, Owner, u32); 14] = [
    ("active", Owner::Postfix, 0o700),
    ("bounce", Owner::Postfix, 0o700),
    ("corrupt", Owner::Postfix, 0o700),
    ("defer", Owner::Postfix, 0o700),
    ("deferred", Owner::Postfix, 0o700),
    ("flush", Owner::Postfix, 0o700),
    ("hold", Owner::Postfix, 0o700),
    ("incoming", Owner::Postfix, 0o700),
    ("private", Owner::Postfix, 0o700),
    ("maildrop", Owner::Drop, 0o730),
    ("public", Owner::Drop, 0o710),
    ("pid", Owner::Root, 0o755),
    ("saved", Owner::Postfix, 0o700),
    ("trace", Owner::Postfix, 0o700),
];

#[derive(Clone, Copy)]
enum Owner {
    Root,
    Postfix,
    Drop,
}

/// Keeps every other agent off the volume, until it is dropped or its process ends in whatever way.
#[derive(Debug)]
pub struct Claim {
    _lock: File,
}

/// Claims the volume, or gives `None` while another agent works on it: that of a pod that was deleted by force and has not
/// ended, or one that a node goes on running which nobody reaches.
///
/// Two Postfix on one queue lose mail. master(8) has a lock of its own, but by then the queue was put in order by
/// postsuper(1), which must not run beside a Postfix.
///
/// # Errors
/// When the file cannot be made, or the file system knows no flock(2).
pub fn claim(spool: &Path) -> io::Result<Option<Claim>> {
    let path = spool.join("agent.lock");
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let lock = File::options().create(true).truncate(false).write(true).open(&path).map_err(named)?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(Claim { _lock: lock })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(named(error)),
    }
}

/// Makes the queue and data directories, with the owners and modes that Postfix wants. A long queue is not walked, unless
/// its directory has another owner: then the volume was copied or restored, and so have the messages and the directories
/// between, which postsuper(1) cannot open, so that Postfix would not start.
pub fn prepare(layout: &Layout) -> io::Result<()> {
    let missing = |what: &str| io::Error::other(format!("there is no {what} in this image"));
    let user = User::from_name("postfix")?.ok_or_else(|| missing("user postfix"))?;
    let drop = Group::from_name("postdrop")?.ok_or_else(|| missing("group postdrop"))?;
    let (postfix, group, drop) = (user.uid.as_raw(), user.gid.as_raw(), drop.gid.as_raw());
    settle(&layout.queue, 0, 0, 0o755)?;
    for (name, owner, mode) in DIRECTORIES {
        let (uid, gid) = match owner {
            Owner::Root => (0, 0),
            Owner::Postfix => (postfix, 0),
            Owner::Drop => (postfix, drop),
        };
        settle(&layout.queue.join(name), uid, gid, mode)?;
    }
    settle(&layout.data, postfix, group, 0o700)
}

fn settle(path: &Path, uid: u32, gid: u32, mode: u32) -> io::Result<()> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    fs::create_dir_all(path).map_err(named)?;
    let found = fs::metadata(path).map_err(named)?;
    if uid != 0 && found.uid() != uid {
        // Before the directory itself, so that one that is not done is begun anew.
        hand_over(path, uid).map_err(named)?;
    }
    if (found.uid(), found.gid()) != (uid, gid) {
        chown(path, Some(uid), Some(gid)).map_err(named)?;
    }
    if found.mode() & 0o7777 != mode {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(named)?;
    }
    Ok(())
}

/// Gives this user all that lies below.
fn hand_over(directory: &Path, uid: u32) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let (kind, path) = entry.and_then(|entry| Ok((entry.file_type()?, entry.path())))?;
        if kind.is_dir() {
            hand_over(&path, uid)?;
        }
        lchown(&path, Some(uid), None)?;
    }
    Ok(())
}
