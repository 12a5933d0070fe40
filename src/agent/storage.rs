//! Whether the delivering user can write below `/var/vmail`: acceptance without a place to deliver to
//! proves nothing.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::command;
use crate::revision::{Storage, VolumeFill};

/// The user and group that own every Maildir (`virtual_uid_maps`, `virtual_gid_maps`).
pub const VMAIL: u32 = 2000;

/// Creates, renames and removes what a delivery would, as the calling user: `vmail-operator probe-storage`.
///
/// The names start with a dot, so that they are never a domain's.
pub fn probe(directory: &Path) -> Result<(), String> {
    let step = |what: &str, result: std::io::Result<()>| {
        result.map_err(|error| format!("cannot {what} below {}: {error}", directory.display()))
    };
    let own = directory.join(format!(".probe-{}", std::process::id()));
    let (before, after) = (own.join("tmp"), own.join("new"));
    step("create a directory", fs::DirBuilder::new().mode(0o700).create(&own))?;
    let result = step("write a file", fs::write(&before, [b'x'; 4096]))
        .and_then(|()| step("rename a file", fs::rename(&before, &after)))
        .and_then(|()| step("remove a file", fs::remove_file(&after)));
    let _ = fs::remove_file(&before);
    let _ = fs::remove_file(&after);
    result.and(step("remove a directory", fs::remove_dir(&own)))
}

/// Runs the probe as [`VMAIL`], as Postfix's virtual(8) would deliver. Hanging storage is storage trouble.
pub async fn ask(directory: &Path, patience: Duration) -> Storage {
    let answer = async {
        let program =
            std::env::current_exe().map_err(|error| format!("cannot find my own binary: {error}"))?;
        let mut probe = Command::new(program);
        probe.arg("probe-storage").arg(directory).env_clear().uid(VMAIL).gid(VMAIL);
        probe.stdin(Stdio::null());
        let output = command::run(probe, "the storage probe", patience).await.map_err(|e| e.to_string())?;
        if output.status.success() { Ok(()) } else { Err(output.stderr.trim().to_owned()) }
    };
    match answer.await {
        Ok(()) => Storage { writable: true, message: String::new() },
        Err(message) => Storage { writable: false, message },
    }
}

/// How full the volume with this directory is, or `None` if it cannot be asked within `patience`.
pub async fn fill(directory: &Path, patience: Duration) -> Option<VolumeFill> {
    let owned = directory.to_owned();
    let asked = tokio::task::spawn_blocking(move || nix::sys::statvfs::statvfs(&owned));
    match tokio::time::timeout(patience, asked).await {
        Ok(Ok(Ok(stat))) => Some(VolumeFill {
            bytes_percent: percent(stat.blocks().saturating_sub(stat.blocks_free()), stat.blocks_available()),
            inodes_percent: percent(stat.files().saturating_sub(stat.files_free()), stat.files_available()),
        }),
        Ok(Ok(Err(error))) => {
            tracing::warn!("cannot tell how full {} is: {error}", directory.display());
            None
        }
        Ok(Err(_)) | Err(_) => {
            tracing::warn!("{} does not say how full it is", directory.display());
            None
        }
    }
}

/// As df(1) reckons: reserved blocks are neither used nor available.
fn percent(used: u64, available: u64) -> u64 {
    let (used, whole) = (u128::from(used), u128::from(used) + u128::from(available));
    (used * 100).div_ceil(whole.max(1)).try_into().unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_full_when_nothing_is_available() {
        for (used, available, expected) in
            [(0, 0, 0), (0, 5, 0), (1, 999, 1), (50, 50, 50), (999, 1, 100), (5, 0, 100), (u64::MAX, 1, 100)]
        {
            assert_eq!(percent(used, available), expected, "{used} {available}");
        }
    }

    #[test]
    fn a_directory_is_left_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        probe(directory.path()).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_error_names_the_directory() {
        let error = probe(Path::new("/proc/nowhere")).unwrap_err();
        assert!(error.starts_with("cannot create a directory below /proc/nowhere: "), "{error}");
    }
}
