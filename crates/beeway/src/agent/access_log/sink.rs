//! A file that lines are appended to, and that others may move away.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use beeway_model::telemetry::LogFile;

/// At most so often it is told that a file cannot be written.
const WARN: Duration = Duration::from_secs(60);

/// Where lines go.
pub(super) struct Sink {
    place: Place,
    out: Option<Box<dyn Write + Send>>,
    /// Device and inode of the file.
    id: (u64, u64),
    /// Lines that are not written yet.
    waiting: String,
    lines: u64,
    /// A part of a line was written, and not its end.
    torn: bool,
    warned: Option<Instant>,
}

enum Place {
    Output,
    Error,
    /// A file that the agent was told of, or one that the configuration names, where links are not
    /// followed.
    File(PathBuf, bool),
}

impl Place {
    fn of(file: &LogFile, told: Option<&Path>) -> Place {
        match (file, told) {
            (LogFile::Standard, Some(path)) if path != Path::new("-") => {
                Place::File(path.to_owned(), false)
            }
            (LogFile::Standard, _) => Place::Output,
            (LogFile::Error, _) => Place::Error,
            (LogFile::Path(path), _) => Place::File(path.into(), true),
        }
    }

    fn open(&self) -> io::Result<(Box<dyn Write + Send>, (u64, u64))> {
        match self {
            Place::Output => Ok((Box::new(io::stdout()), (0, 0))),
            Place::Error => Ok((Box::new(io::stderr()), (0, 0))),
            Place::File(path, named) => {
                if let (true, Some(parent)) = (named, path.parent()) {
                    DirBuilder::new().recursive(true).mode(0o750).create(parent)?;
                }
                let file = append(path, *named)?;
                let id = id(&file.metadata()?);
                Ok((Box::new(file), id))
            }
        }
    }
}

/// Not to be given away to others: paths may hold secrets.
fn append(path: &Path, named: bool) -> io::Result<File> {
    let flags = if named { libc::O_NOFOLLOW } else { 0 };
    OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(flags).open(path)
}

fn id(of: &Metadata) -> (u64, u64) {
    (of.dev(), of.ino())
}

impl Sink {
    /// `told` is the file that the agent was told to write its log to.
    pub(super) fn open(file: &LogFile, told: Option<&Path>) -> io::Result<Sink> {
        let mut sink = Sink::closed(file, told);
        let (out, id) = sink.place.open()?;
        (sink.out, sink.id) = (Some(out), id);
        Ok(sink)
    }

    /// One that cannot be opened yet.
    pub(super) fn closed(file: &LogFile, told: Option<&Path>) -> Sink {
        Sink {
            place: Place::of(file, told),
            out: None,
            id: (0, 0),
            waiting: String::new(),
            lines: 0,
            torn: false,
            warned: None,
        }
    }

    /// Adds a line, of which `write` appends what is before its end.
    pub(super) fn line(&mut self, write: impl FnOnce(&mut String)) {
        write(&mut self.waiting);
        self.waiting.push('\n');
        self.lines += 1;
    }

    /// Writes what there is. Lines that were written, and lines that were not.
    pub(super) fn flush(&mut self) -> (u64, u64) {
        let lines = std::mem::take(&mut self.lines);
        if lines == 0 {
            return (0, 0);
        }
        if std::mem::take(&mut self.torn) {
            self.waiting.insert(0, '\n');
        }
        let written = match &mut self.out {
            Some(out) => out.write_all(self.waiting.as_bytes()).and_then(|()| out.flush()),
            None => Err(io::Error::from(io::ErrorKind::NotFound)),
        };
        self.waiting.clear();
        match written {
            Ok(()) => (lines, 0),
            Err(error) => {
                self.torn = self.out.is_some();
                self.warn(&error);
                (0, lines)
            }
        }
    }

    /// Opens the file anew if it is not the one any more that is there by its name, or if that was
    /// asked for.
    pub(super) fn check(&mut self, told: bool) {
        let Place::File(path, _) = &self.place else { return };
        let same = || std::fs::metadata(path).is_ok_and(|there| id(&there) == self.id);
        if self.out.is_some() && !told && same() {
            return;
        }
        match self.place.open() {
            Ok((out, id)) => {
                if self.id != id {
                    self.torn = false;
                }
                (self.out, self.id) = (Some(out), id);
            }
            // what is open is better than nothing
            Err(error) => self.warn(&error),
        }
    }

    fn warn(&mut self, error: &io::Error) {
        if self.warned.is_none_or(|then| then.elapsed() >= WARN) {
            self.warned = Some(Instant::now());
            let file = match &self.place {
                Place::Output => "the standard output".to_owned(),
                Place::Error => "the standard error output".to_owned(),
                Place::File(path, _) => path.display().to_string(),
            };
            tracing::error!(file, %error, "the access log cannot be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_moved_is_made_anew() -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir()?;
        let (path, moved) = (dir.path().join("a.log"), dir.path().join("a.log.1"));
        let mut sink = Sink::open(&LogFile::Standard, Some(&path))?;
        sink.line(|out| out.push_str("one"));
        assert_eq!(sink.flush(), (1, 0));
        std::fs::rename(&path, &moved)?;
        sink.line(|out| out.push_str("two"));
        assert_eq!(sink.flush(), (1, 0));
        sink.check(false);
        sink.line(|out| out.push_str("three"));
        assert_eq!(sink.flush(), (1, 0));
        assert_eq!(std::fs::read_to_string(&moved)?, "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(&path)?, "three\n");
        assert_eq!(std::fs::metadata(&path)?.permissions().mode() & 0o777, 0o640);
        Ok(())
    }

    #[test]
    fn lines_that_there_is_no_room_for_are_counted() -> io::Result<()> {
        let mut sink = Sink::open(&LogFile::Standard, Some(Path::new("/dev/full")))?;
        for _ in 0..3 {
            sink.line(|out| out.push('x'));
        }
        assert_eq!(sink.flush(), (0, 3));
        let mut sink = Sink::closed(&LogFile::Standard, Some(Path::new("/no/such/place")));
        sink.line(|out| out.push('x'));
        assert_eq!(sink.flush(), (0, 1));
        Ok(())
    }

    #[test]
    fn a_file_of_the_configuration_is_no_link() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        std::os::unix::fs::symlink(&target, &link)?;
        let named = |path: &Path| LogFile::Path(path.display().to_string());
        assert!(Sink::open(&named(&link), None).is_err() && !target.exists());
        // folders are made
        let deep = dir.path().join("a/b.log");
        assert!(Sink::open(&named(&deep), None).is_ok() && deep.exists());
        Ok(())
    }
}
