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
    files: HashMap<PathBuf, File>,
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
        let mut before = std::mem::take(&mut self.files);
        let mut files = Vec::new();
        for (path, text) in texts {
            let file = match before.remove(&path) {
                Some(same) if same.text == text => same,
                other => File::read(&path, text, other.map(|file| file.documents)),
            };
            files.push((path, file));
        }
        let mut collector = Collector::default();
        for (_, file) in &files {
            for document in &file.documents {
                collector.document(&file.name, document.before, &document.items);
            }
        }
        let (objects, problems) = collector.finish();
        self.files = files.into_iter().collect();
        mesh(&objects, &self.options, self.thorough, problems)
    }

    /// Reads the files that [`read_dir`](crate::read_dir) would, but for those that are the same as
    /// last time; `None`: all are. (`again`: read it all the same.)
    pub fn load_dir(&mut self, dir: &Path, again: bool) -> io::Result<Option<Loaded>> {
        let now = SystemTime::now();
        let listed = directory::list(dir)?;
        let mut changed = again || listed.len() != self.files.len();
        let mut stamps = HashMap::new();
        let mut texts = Vec::new();
        for (path, stamp) in listed {
            let known = self.files.get(&path);
            let trusted = self.stamps.get(&path) == Some(&stamp);
            let text = match known.filter(|_| trusted) {
                Some(file) => file.text.clone(),
                None => directory::read(&path)?,
            };
            changed |= known.is_none_or(|file| file.text != text);
            if stamp.is_settled(now) {
                stamps.insert(path.clone(), stamp);
            }
            texts.push((path, text));
        }
        let loaded = changed.then(|| self.load(texts));
        self.stamps = stamps;
        Ok(loaded)
    }
}

impl File {
    fn read(path: &Path, text: String, before: Option<Vec<Document>>) -> Self {
        let kept = before.into_iter().flatten().map(|d| (d.text, d.items));
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
