//! How files look from outside: cheap to take at a poll, different when a file may have changed.
//!
//! Not a proof of sameness: two writes within one tick of the file system's clock can look alike.
//! So a signature that is *fresh* when it is taken asks for one more read later.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A change younger than this may be followed by one that looks the same. File systems stamp with
/// the kernel's coarse clock (up to 10 ms), network ones with whole seconds.
const FRESH_S: i64 = 3;

/// What stat(2) says of a list of paths, symbolic links followed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Signature {
    stamps: Vec<Option<FileStamp>>,
    fresh: Freshness,
}

#[derive(Debug, PartialEq, Eq)]
struct FileStamp {
    device: u64,
    inode: u64,
    size_bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Compares equal always: it is about the time of looking, not about the files.
#[derive(Debug, Clone, Copy)]
enum Freshness {
    Fresh,
    Settled,
}

impl PartialEq for Freshness {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Freshness {}

impl Signature {
    /// Looks at `files` and `directories`. What is not there looks like nothing.
    pub(super) fn take(files: &[PathBuf], directories: &[PathBuf]) -> Self {
        let now_s = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
        let stamps: Vec<_> = files.iter().chain(directories).map(|path| stamp(path)).collect();
        // By the change time, which nobody can set. One in the future (a file server's clock) says
        // nothing, or the files would be read at every poll.
        let recent = now_s - FRESH_S..=now_s + FRESH_S;
        let is_fresh = stamps.iter().flatten().any(|stamp| recent.contains(&stamp.changed.0));
        let fresh = if is_fresh { Freshness::Fresh } else { Freshness::Settled };
        Self { stamps, fresh }
    }

    /// Whether something changed so recently that a later change may look the same.
    pub(super) fn is_fresh(&self) -> bool {
        matches!(self.fresh, Freshness::Fresh)
    }
}

fn stamp(path: &Path) -> Option<FileStamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(FileStamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        size_bytes: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_of_the_same_size_and_time_looks_different() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("egret.yaml");
        std::fs::write(&file, "a: 1").unwrap();
        let files = [file.clone()];
        let before = Signature::take(&files, &[]);
        assert_eq!(before, Signature::take(&files, &[]));
        let time = std::fs::metadata(&file).unwrap().modified().unwrap();

        let new = directory.path().join("new");
        std::fs::write(&new, "a: 2").unwrap();
        std::fs::File::options().write(true).open(&new).unwrap().set_modified(time).unwrap();
        std::fs::rename(&new, &file).unwrap();
        assert_ne!(before, Signature::take(&files, &[]));
    }

    #[test]
    fn a_missing_file_looks_like_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let files = [directory.path().join("egret.yaml")];
        let absent = Signature::take(&files, &[]);
        assert!(!absent.is_fresh());
        std::fs::write(&files[0], "").unwrap();
        let present = Signature::take(&files, &[]);
        assert_ne!(absent, present);
        assert!(present.is_fresh());
    }
}
