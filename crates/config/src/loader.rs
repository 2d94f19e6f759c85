//! Configurations one after the other: what has not changed since the last one is not parsed again.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustc_hash::FxHashMap;

use crate::directory::{self, Stamp};
use crate::item::{self, Identity, Item, Place};
use crate::objects::Collector;
use crate::services::Kept;
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
    /// All objects by what no two should have in common, and how many have it.
    known: FxHashMap<Arc<Identity>, usize>,
    /// How many objects there are.
    count: usize,
    /// What services became.
    services: Kept,
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
    /// Where each of them is.
    places: Arc<[Place]>,
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
                    other.iter().for_each(|file| self.leave(file));
                    let file = File::read(&path, text, other);
                    self.enter(&file);
                    file
                }
            };
            self.files.push(file);
        }
        before.values().for_each(|file| self.leave(file));
        changed
    }

    /// What the files make.
    fn mesh(&mut self) -> Loaded {
        let mut collector = Collector::new(self.count == self.known.len());
        for document in self.files.iter().flat_map(|file| &file.documents) {
            collector.document(&document.items, &document.places);
        }
        let (objects, problems) = collector.finish();
        mesh(&objects, &mut self.services, &self.options, self.thorough, problems)
    }

    /// Counts the objects of a file.
    fn enter(&mut self, file: &File) {
        for identity in file.identities() {
            self.count += 1;
            *self.known.entry(identity.clone()).or_default() += 1;
        }
    }

    /// Counts them no more.
    fn leave(&mut self, file: &File) {
        for identity in file.identities() {
            self.count -= 1;
            if let Some(count) = self.known.get_mut(identity) {
                *count -= 1;
                if *count == 0 {
                    self.known.remove(identity);
                }
            }
        }
    }
}

impl File {
    fn read(path: &Path, text: String, before: Option<File>) -> Self {
        let name: Arc<Path> = path.into();
        let kept = before.into_iter().flat_map(|file| file.documents);
        let kept: HashMap<Arc<str>, Document> = kept.map(|d| (d.text.clone(), d)).collect();
        let documents = document::cut(&text).into_iter().map(|(before, piece)| {
            let kept = kept.get(piece);
            let (text, items) = match kept {
                Some(kept) => (kept.text.clone(), kept.items.clone()),
                None => (piece.into(), item::read(piece).into()),
            };
            let places = match kept.filter(|kept| kept.before == before) {
                Some(kept) => kept.places.clone(),
                None => items.iter().map(|item| item.place.within(&name, before)).collect(),
            };
            Document { before, text, items, places }
        });
        let documents = documents.collect();
        Self { name, text, documents }
    }

    fn identities(&self) -> impl Iterator<Item = &Arc<Identity>> {
        let items = self.documents.iter().flat_map(|document| document.items.iter());
        items.filter_map(|item| item.identity.as_ref())
    }
}
