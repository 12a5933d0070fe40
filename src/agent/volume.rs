//! The volume with the Maildirs, as far as the agent itself changes it: the ledger, the archive and the trash.
//!
//! Whoever delivers may write below the volume, and so might plant a symlink anywhere. Nothing here follows one: each
//! directory is opened by one name in the directory above, and must be a directory. What belongs to the agent belongs
//! to root, and the sticky bit of the volume's root keeps it where it is.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::custody::Place;

/// The agent's own directories. No domain begins with a dot.
const OWN: &str = ".vmail";
const LEDGER: &str = "ledger.json";
/// Present once the administrator confirmed that so much shall go.
const CONFIRMED: &str = "confirmed";

const DIRECTORY: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// More than a ledger may have.
const LARGEST_LEDGER: u64 = 512 * 1024 * 1024;

/// Where something is moved to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To be kept until somebody takes it away by hand.
    Archive,
    /// To be erased after some days.
    Trash,
}

impl Destination {
    /// The directory, below the volume.
    pub fn directory(self) -> &'static str {
        match self {
            Self::Archive => ".archive",
            Self::Trash => ".trash",
        }
    }
}

/// The volume, open.
#[derive(Debug)]
pub struct Volume {
    root: OwnedFd,
    own: OwnedFd,
}

impl Volume {
    /// Opens the volume, and makes the agent's own directory there.
    ///
    /// # Errors
    /// When it cannot be written, or something stands in the place of that directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        let root = File::open(path)?;
        let metadata = root.metadata()?;
        if !metadata.is_dir() {
            return Err(io::Error::other(format!("{} is no directory", path.display())));
        }
        // What is root's in a directory that the delivering user may write to, he must not rename.
        if metadata.mode() & 0o1000 == 0 {
            root.set_permissions(std::fs::Permissions::from_mode(metadata.mode() & 0o7777 | 0o1000))?;
        }
        let root = OwnedFd::from(root);
        let own = own_directory(&root, OWN)?;
        Ok(Self { root, own })
    }

    /// The text of the ledger; none where there was none yet.
    pub fn ledger(&self) -> io::Result<Option<String>> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = match openat(&self.own, LEDGER, flags, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(None),
            opened => File::from(opened?),
        };
        let mut text = String::new();
        file.take(LARGEST_LEDGER).read_to_string(&mut text)?;
        Ok(Some(text))
    }

    /// Writes the ledger, so that after a crash at any moment it or the one before is there.
    pub fn write_ledger(&self, text: &str) -> io::Result<()> {
        let next = "ledger.next";
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        step()?;
        let mut file = File::from(openat(&self.own, next, flags, Mode::from_bits_truncate(0o600))?);
        step()?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        step()?;
        renameat(&self.own, next, &self.own, LEDGER)?;
        step()?;
        sync(&self.own)
    }

    /// Whether the administrator confirmed what is held back.
    pub fn is_confirmed(&self) -> bool {
        exists(&self.own, OsStr::new(CONFIRMED)).unwrap_or(false)
    }

    /// A confirmation is good for one time.
    pub fn take_back_confirmation(&self) -> io::Result<()> {
        step()?;
        found(unlinkat(&self.own, CONFIRMED, UnlinkatFlags::NoRemoveDir)).map(drop)
    }

    /// The names in the directory of a domain; none when it has none.
    pub fn names(&self, domain: &str) -> io::Result<Vec<OsString>> {
        Ok(match child(&self.root, OsStr::new(domain))? {
            Some(directory) => names(&directory)?,
            None => Vec::new(),
        })
    }

    /// Whether anything has this name in the directory of a domain.
    pub fn holds(&self, domain: &str, name: &OsStr) -> io::Result<bool> {
        match child(&self.root, OsStr::new(domain))? {
            Some(directory) => exists(&directory, name),
            None => Ok(false),
        }
    }

    /// Moves what has this name in the directory of a domain, whatever it is; says whether there was anything.
    ///
    /// It is at `destination/time/domain/name` from then on, as it was, owners included.
    pub fn move_away(
        &self,
        domain: &str,
        name: &OsStr,
        destination: Destination,
        now: Timestamp,
    ) -> io::Result<bool> {
        let Some(from) = child(&self.root, OsStr::new(domain))? else { return Ok(false) };
        if !exists(&from, name)? {
            return Ok(false);
        }
        let all = own_directory(&self.root, destination.directory())?;
        for second in 0..3600 {
            let at = own_directory(&all, &stamp(now + Duration::from_secs(second)))?;
            let to = own_directory(&at, domain)?;
            // A rename would replace an empty directory.
            if exists(&to, name)? {
                continue;
            }
            step()?;
            renameat(&from, name, &to, name)?;
            step()?;
            sync(&to)?;
            sync(&at)?;
            sync(&all)?;
            sync(&from)?;
            return Ok(true);
        }
        Err(io::Error::other(format!("{}/{domain} holds too much of one hour", destination.directory())))
    }

    /// As [`Volume::move_away`], for a Maildir.
    pub fn move_maildir(&self, place: &Place, destination: Destination, now: Timestamp) -> io::Result<bool> {
        self.move_away(&place.domain, OsStr::new(&place.local), destination, now)
    }

    /// Removes the directory of a domain, if it is empty.
    pub fn remove_domain(&self, domain: &str) -> io::Result<()> {
        step()?;
        match unlinkat(&self.root, domain, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT | Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOTDIR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Erases what has been in the trash for as long as `retention`, for about as long as `budget`. Gives the number of
    /// files that were erased, and whether nothing is left to erase now.
    pub fn erase(&self, retention: Duration, now: Timestamp, budget: Duration) -> io::Result<(u64, bool)> {
        let trash = own_directory(&self.root, Destination::Trash.directory())?;
        let deadline = Instant::now() + budget;
        let mut erased = 0;
        for name in names(&trash)? {
            let Some(since) = name.to_str().and_then(|name| name.parse::<Timestamp>().ok()) else { continue };
            if since.checked_add(retention).is_ok_and(|end| end > now) {
                continue;
            }
            let Some(top) = child(&trash, &name)? else { continue };
            if !empty(&top, deadline, &mut erased)? {
                return Ok((erased, false));
            }
            step()?;
            found(unlinkat(&trash, name.as_os_str(), UnlinkatFlags::RemoveDir))?;
            sync(&trash)?;
        }
        Ok((erased, true))
    }

    /// How much is in the trash: moves that are not erased yet.
    pub fn in_trash(&self) -> io::Result<usize> {
        Ok(names(&own_directory(&self.root, Destination::Trash.directory())?)?.len())
    }

    /// Removes what a crash between making a place and moving something there has left empty.
    pub fn sweep(&self) -> io::Result<()> {
        for destination in [Destination::Archive, Destination::Trash] {
            let all = own_directory(&self.root, destination.directory())?;
            for time in names(&all)? {
                let Some(at) = child(&all, &time)? else { continue };
                for domain in names(&at)? {
                    // What is not empty stays.
                    let _ = unlinkat(&at, domain.as_os_str(), UnlinkatFlags::RemoveDir);
                }
                let _ = unlinkat(&all, time.as_os_str(), UnlinkatFlags::RemoveDir);
            }
        }
        Ok(())
    }
}

/// In this form, names are sorted by time, and say so to whoever looks for something.
fn stamp(time: Timestamp) -> String {
    time.strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// Empties a directory without going down: a directory in a directory is moved up beside it, so that no depth that
/// somebody made costs more than three open files. Says whether it is empty.
fn empty(top: &OwnedFd, deadline: Instant, erased: &mut u64) -> io::Result<bool> {
    loop {
        let children = names(top)?;
        if children.is_empty() {
            return Ok(true);
        }
        for name in children {
            if unlink_file(top, &name)? {
                *erased += 1;
                continue;
            }
            let Some(directory) = child(top, &name)? else { continue };
            for inner in names(&directory)? {
                if unlink_file(&directory, &inner)? {
                    *erased += 1;
                } else {
                    step()?;
                    renameat(&directory, inner.as_os_str(), top, free_name(top)?.as_str())?;
                }
                // After something was done, so that each call comes further.
                if Instant::now() >= deadline {
                    return Ok(false);
                }
            }
            step()?;
            found(unlinkat(top, name.as_os_str(), UnlinkatFlags::RemoveDir))?;
        }
    }
}

/// A name that nothing in the directory has.
fn free_name(directory: &OwnedFd) -> io::Result<String> {
    loop {
        let name = format!(".up-{:016x}", rand::random::<u64>());
        if !exists(directory, OsStr::new(&name))? {
            return Ok(name);
        }
    }
}

fn exists(directory: &OwnedFd, name: &OsStr) -> io::Result<bool> {
    match openat(directory, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()) {
        Ok(_) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Removes what is not a directory; says whether it was something else.
fn unlink_file(directory: &OwnedFd, name: &OsStr) -> io::Result<bool> {
    step()?;
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(true),
        Err(Errno::EISDIR | Errno::EPERM) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A directory by its name in another; none where nothing has the name.
fn child(parent: &OwnedFd, name: &OsStr) -> io::Result<Option<OwnedFd>> {
    match openat(parent, name, DIRECTORY | OFlag::O_RDONLY, Mode::empty()) {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => {
            let message = format!("{} is not a directory of its own: {error}", name.to_string_lossy());
            Err(io::Error::new(io::Error::from(error).kind(), message))
        }
    }
}

/// A directory of the agent's own, made where there is none. What somebody else put there is not used.
fn own_directory(parent: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let directory = match child(parent, OsStr::new(name))? {
        Some(directory) => directory,
        None => {
            step()?;
            mkdirat(parent, name, Mode::from_bits_truncate(0o700))?;
            sync(parent)?;
            child(parent, OsStr::new(name))?.ok_or(io::ErrorKind::NotFound)?
        }
    };
    let metadata = File::from(directory.try_clone()?).metadata()?;
    if metadata.uid() != nix::unistd::geteuid().as_raw() {
        let message = format!(
            "{name} on the mail volume belongs to user {}, who made it in the agent's place; move it away",
            metadata.uid()
        );
        return Err(io::Error::other(message));
    }
    // kubelet may have given it to the volume's group (fsGroup).
    if metadata.mode() & 0o077 != 0 {
        nix::sys::stat::fchmod(&directory, Mode::from_bits_truncate(0o700))?;
    }
    Ok(directory)
}

fn names(directory: &OwnedFd) -> io::Result<Vec<OsString>> {
    // A directory that is read has a place in it, so each reading opens it anew.
    let opened = openat(directory, ".", DIRECTORY | OFlag::O_RDONLY, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::from_fd(opened)?.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// What is gone already is as good.
fn found(result: nix::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn sync(directory: impl AsFd) -> io::Result<()> {
    Ok(nix::unistd::fsync(directory)?)
}

/// Before each change on disk: where a test lets the agent die.
#[cfg(not(test))]
fn step() -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub use faults::step;

/// A plug to pull: nothing happens on disk after a number of steps.
#[cfg(test)]
pub mod faults {
    use std::cell::Cell;
    use std::io;

    thread_local! {
        static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
        static TAKEN: Cell<u64> = const { Cell::new(0) };
    }

    /// Lets that many more steps happen in this thread; all of them, if `None`.
    pub fn allow(steps: Option<u64>) {
        LEFT.set(steps);
        TAKEN.set(0);
    }

    /// How many happened since.
    pub fn taken() -> u64 {
        TAKEN.get()
    }

    /// See [`super::step`].
    pub fn step() -> io::Result<()> {
        match LEFT.get() {
            Some(0) => Err(io::Error::other("the plug is pulled")),
            left => {
                LEFT.set(left.map(|left| left - 1));
                TAKEN.set(TAKEN.get() + 1);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn volume() -> (tempfile::TempDir, Volume) {
        let directory = tempfile::tempdir().unwrap();
        let volume = Volume::open(directory.path()).unwrap();
        (directory, volume)
    }

    fn place(text: &str) -> Place {
        Place::try_from(text.to_owned()).unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    #[test]
    fn what_is_moved_is_whole_and_never_over_another() {
        let (directory, volume) = volume();
        for text in ["one", "two"] {
            fs::create_dir_all(directory.path().join("a.b/you/new")).unwrap();
            fs::write(directory.path().join("a.b/you/new/1"), text).unwrap();
            assert!(volume.move_maildir(&place("a.b/you"), Destination::Archive, at(0)).unwrap());
        }
        assert!(!volume.move_maildir(&place("a.b/you"), Destination::Archive, at(0)).unwrap());
        let read = |time: &str| {
            fs::read_to_string(directory.path().join(".archive").join(time).join("a.b/you/new/1")).unwrap()
        };
        assert_eq!((read("20231114T221320Z"), read("20231114T221321Z")), ("one".into(), "two".into()));
    }

    #[test]
    fn no_symlink_leads_out_of_the_volume() {
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir_all(outside.path().join("you/new")).unwrap();
        fs::write(outside.path().join("you/new/1"), "not yours").unwrap();
        let (directory, volume) = volume();
        // In place of a domain.
        symlink(outside.path(), directory.path().join("a.b")).unwrap();
        assert!(volume.move_maildir(&place("a.b/you"), Destination::Trash, at(0)).is_err());
        // In place of a Maildir, and within one: the link itself goes.
        fs::create_dir_all(directory.path().join("c.d/me")).unwrap();
        symlink(outside.path(), directory.path().join("c.d/you")).unwrap();
        symlink(outside.path(), directory.path().join("c.d/me/new")).unwrap();
        for local in ["c.d/you", "c.d/me"] {
            assert!(volume.move_maildir(&place(local), Destination::Trash, at(0)).unwrap());
        }
        assert_eq!(volume.erase(Duration::ZERO, at(10), PATIENCE).unwrap(), (2, true));
        assert_eq!(fs::read_to_string(outside.path().join("you/new/1")).unwrap(), "not yours");
        // In place of what is the agent's own.
        fs::remove_dir(directory.path().join(".trash")).unwrap();
        symlink(outside.path(), directory.path().join(".trash")).unwrap();
        assert!(volume.erase(Duration::ZERO, at(10), PATIENCE).is_err());
        fs::remove_dir(directory.path().join(".vmail")).unwrap();
        symlink(outside.path(), directory.path().join(".vmail")).unwrap();
        assert!(Volume::open(directory.path()).is_err());
    }

    #[test]
    fn what_is_the_agents_own_is_for_nobody_else() {
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().join(".vmail");
        fs::create_dir(&own).unwrap();
        fs::set_permissions(&own, fs::Permissions::from_mode(0o2770)).unwrap();
        Volume::open(directory.path()).unwrap();
        assert_eq!(fs::metadata(&own).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(directory.path()).unwrap().mode() & 0o1000, 0o1000);
        // To give it away takes root.
        if std::os::unix::fs::chown(&own, Some(2000), None).is_ok() {
            let error = Volume::open(directory.path()).unwrap_err().to_string();
            assert!(error.contains("move it away"), "{error}");
        }
    }

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn erasing_waits_for_its_time_and_then_leaves_nothing() {
        let (directory, volume) = volume();
        let mut deep = directory.path().join("a.b/you");
        for _ in 0..300 {
            deep = deep.join("d");
        }
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("1"), "x").unwrap();
        fs::write(directory.path().join("a.b/you/2"), "x").unwrap();
        volume.move_maildir(&place("a.b/you"), Destination::Trash, at(0)).unwrap();
        let week = Duration::from_secs(7 * 86400);
        assert_eq!(volume.erase(week, at(7 * 86400 - 1), PATIENCE).unwrap(), (0, true));
        assert_eq!(volume.in_trash().unwrap(), 1);
        let (mut erased, mut done) = (0, false);
        while !done {
            let (more, end) = volume.erase(week, at(7 * 86400), Duration::from_millis(1)).unwrap();
            (erased, done) = (erased + more, end);
        }
        assert_eq!(erased, 2);
        assert_eq!(volume.in_trash().unwrap(), 0);
    }

    #[test]
    fn the_ledger_is_read_as_it_was_written() {
        let (_directory, volume) = volume();
        assert_eq!(volume.ledger().unwrap(), None);
        volume.write_ledger("one").unwrap();
        volume.write_ledger("two").unwrap();
        assert_eq!(volume.ledger().unwrap().as_deref(), Some("two"));
    }
}
