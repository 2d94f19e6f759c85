//! The only place that reads files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Every `*.yaml` and `*.yml` file below a directory, in order of path. Names that begin with a
/// dot are skipped, which also passes over the `..data` links of a mounted ConfigMap.
pub fn read_dir(dir: &Path) -> io::Result<Vec<(PathBuf, String)>> {
    let mut files = Vec::new();
    collect(dir, MAX_DEPTH, &mut files)?;
    files.sort();
    files
        .into_iter()
        .map(|path| {
            let bytes = fs::read(&path).map_err(|error| naming(&path, &error))?;
            // What is not UTF-8 becomes a problem of that one document, not of the directory.
            Ok((path, String::from_utf8_lossy(&bytes).into_owned()))
        })
        .collect()
}

/// Links may form a ring.
const MAX_DEPTH: usize = 16;

fn collect(dir: &Path, depth: usize, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir).map_err(|error| naming(dir, &error))? {
        let path = entry.map_err(|error| naming(dir, &error))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') {
            continue;
        }
        // Follows links: the files of a mounted ConfigMap are some.
        let metadata = fs::metadata(&path).map_err(|error| naming(&path, &error))?;
        let yaml = path.extension().is_some_and(|ext| ext == "yaml" || ext == "yml");
        if metadata.is_dir() && depth > 0 {
            collect(&path, depth - 1, files)?;
        } else if metadata.is_file() && yaml {
            files.push(path);
        }
    }
    Ok(())
}

fn naming(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
