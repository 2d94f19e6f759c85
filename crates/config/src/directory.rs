//! The only place that reads files.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Every `*.yaml` and `*.yml` file below a directory, in order of path. Names that begin with a
/// dot are skipped, which also passes over the `..data` links of a mounted ConfigMap.
pub fn read_dir(dir: &Path) -> io::Result<Vec<(PathBuf, String)>> {
    let files = list(dir)?.into_iter();
    files.map(|(path, _)| read(&path).map(|text| (path, text))).collect()
}

/// The same files, unread.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<(PathBuf, Stamp)>> {
    let mut files = Vec::new();
    collect(dir, MAX_DEPTH, &mut files)?;
    Ok(files)
}

pub(crate) fn read(path: &Path) -> io::Result<String> {
    let bytes = fs::read(path).map_err(|error| naming(path, &error))?;
    // What is not UTF-8 becomes a problem of that one document, not of the directory.
    Ok(String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// Whether it is a file itself, and not a link to one.
pub(crate) fn is_plain(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file())
}

/// What says that a file is still the same: which one it is, its size, and when it was changed last
/// by the kernel's clock (the time of change, which no program can set).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    file: (u64, u64, u64),
    changed: (i64, i64),
}

/// The clock that stamps are taken from moves in steps of up to 10 ms: a file may be changed again
/// within the same one.
const STEP: Duration = Duration::from_millis(100);

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        let file = (metadata.dev(), metadata.ino(), metadata.size());
        Self { file, changed: (metadata.ctime(), metadata.ctime_nsec()) }
    }

    /// Whether a later change is sure to give another stamp.
    pub(crate) fn is_settled(&self, now: SystemTime) -> bool {
        let (seconds, nanoseconds) = self.changed;
        let since_epoch = u64::try_from(seconds).ok().zip(u32::try_from(nanoseconds).ok());
        let changed = since_epoch.map(|(s, n)| UNIX_EPOCH + Duration::new(s, n));
        changed.is_some_and(|at| now.duration_since(at).is_ok_and(|age| age > STEP))
    }
}

/// Links may form a ring.
const MAX_DEPTH: usize = 16;

/// Those of a directory in order of their names: that is the order of paths.
fn collect(dir: &Path, depth: usize, files: &mut Vec<(PathBuf, Stamp)>) -> io::Result<()> {
    let entries = fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let entries = entries.map_err(|error| naming(dir, &error))?;
    let mut named: Vec<_> = entries.iter().map(|entry| (entry.file_name(), entry)).collect();
    named.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    for (name, entry) in named {
        let path = entry.path();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&path, depth - 1, files)?;
            continue;
        }
        // Follows links: the files of a mounted ConfigMap are some.
        let metadata = fs::metadata(&path).map_err(|error| naming(&path, &error))?;
        let yaml = path.extension().is_some_and(|ext| ext == "yaml" || ext == "yml");
        if metadata.is_dir() && depth > 0 {
            collect(&path, depth - 1, files)?;
        } else if metadata.is_file() && yaml {
            files.push((path, Stamp::of(&metadata)));
        }
    }
    Ok(())
}

fn naming(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_trusted_when_its_time_is_over() {
        let stamp = Stamp { file: (1, 2, 3), changed: (1000, 0) };
        let at = |ms: u64| UNIX_EPOCH + Duration::from_millis(ms);
        assert!(!stamp.is_settled(at(1_000_050)));
        assert!(stamp.is_settled(at(1_000_200)));
        assert!(!stamp.is_settled(at(999_000)), "a clock that was set back says nothing");
    }
}
