//! Configurations one after the other: what has not changed since the last one is not parsed again.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::directory::{self, Stamp};
use crate::item::{self, Item};
use crate::objects::Collector;
use crate::{Loaded, Options, document, mesh};

/// Reads configurations. Each is what [`load`](crate::load) would make of the same files; but the
/// objects of a document with the same text in the same file as last time are kept, because to
/// parse them is what takes long.
#[derive(Debug, Default)]
pub struct Loader {
    options: Options,
    /// Policies are looked at for what is odd about them.
    pub(crate) thorough: bool,
    /// In order.
    files: Vec<File>,
    /// Of files whose text cannot have changed while theirs is the same.
    stamps: HashMap<PathBuf, Stamp>,
}

#[derive(Debug)]
struct File {
    name: Arc<Path>,
    text: String,
    documents: Vec<Document>,
}

#[derive(Debug)]
struct Document {
    /// Lines of the file before it.
    before: usize,
    text: Arc<str>,
    items: Arc<[Item]>,
}

impl Loader {
    /// A loader that has read nothing yet.
    pub fn new(options: Options) -> Self {
        Self { options, ..Self::default() }
    }

    /// Reads a configuration from the texts of its files.
    pub fn load(&mut self, texts: Vec<(PathBuf, String)>) -> Loaded {
        self.stamps.clear();
        let texts = texts.into_iter().map(|(path, text)| (path, Some(text)));
        self.take_in(texts.collect());
        self.mesh()
    }

    /// Reads the files that [`read_dir`](crate::read_dir) would, but for those that are the same as
    /// last time; `None`: all are. (`again`: read it all the same.)
    pub fn load_dir(&mut self, dir: &Path, again: bool) -> io::Result<Option<Loaded>> {
        let now = SystemTime::now();
        let mut stamps = HashMap::new();
        let mut texts = Vec::new();
        for (path, stamp) in directory::list(dir)? {
            let trusted = self.stamps.get(&path) == Some(&stamp);
            let text = if trusted { None } else { Some(directory::read(&path)?) };
            if stamp.is_settled(now) {
                stamps.insert(path.clone(), stamp);
            }
            texts.push((path, text));
        }
        let changed = self.take_in(texts);
        self.stamps = stamps;
        Ok((changed || again).then(|| self.mesh()))
    }

    /// Takes in the texts of all files, `None` for one that is the same as last time, and tells
    /// whether anything has changed.
    fn take_in(&mut self, texts: Vec<(PathBuf, Option<String>)>) -> bool {
        let before = std::mem::take(&mut self.files);
        let mut changed = before.len() != texts.len();
        let mut before: HashMap<Arc<Path>, File> =
            before.into_iter().map(|file| (file.name.clone(), file)).collect();
        for (path, text) in texts {
            let file = match (before.remove(&*path), text) {
                (Some(same), None) => same,
                (Some(same), Some(text)) if same.text == text => same,
                (other, text) => {
                    changed = true;
                    let text = text.expect("a file that is trusted is known");
                    File::read(&path, text, other)
                }
            };
            self.files.push(file);
        }
        changed
    }

    /// What the files make.
    fn mesh(&self) -> Loaded {
        let mut collector = Collector::default();
        for file in &self.files {
            for document in &file.documents {
                collector.document(&file.name, document.before, &document.items);
            }
        }
        let (objects, problems) = collector.finish();
        mesh(&objects, &self.options, self.thorough, problems)
    }
}

impl File {
    fn read(path: &Path, text: String, before: Option<File>) -> Self {
        let kept = before.into_iter().flat_map(|file| file.documents).map(|d| (d.text, d.items));
        let kept: HashMap<Arc<str>, Arc<[Item]>> = kept.collect();
        let documents = document::cut(&text).into_iter().map(|(before, piece)| {
            let (text, items) = match kept.get_key_value(piece) {
                Some((text, items)) => (text.clone(), items.clone()),
                None => (piece.into(), item::read(piece).into()),
            };
            Document { before, text, items }
        });
        let documents = documents.collect();
        Self { name: path.into(), text, documents }
    }
}
