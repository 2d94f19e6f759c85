//! Configurations one after the other: what has not changed since the last one is not parsed again.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::directory::{self, Stamp};
use crate::item::{self, Identity, Item, Place};
use crate::objects::{Collector, Objects};
use crate::problem::Problem;
use crate::{Kept, Loaded, Options, document, mesh};

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
    /// How many of these objects there are.
    count: usize,
    /// How many objects have nothing that others could have too.
    nameless: usize,
    /// What the documents made; `None`: they are to be collected anew.
    objects: Option<Objects>,
    /// Documents that have gone and come since then.
    gone: Vec<Document>,
    come: Vec<Document>,
    /// What became of the objects.
    kept: Kept,
    /// Of files whose text cannot have changed while theirs is the same.
    stamps: HashMap<PathBuf, Stamp>,
}

#[derive(Debug)]
struct File {
    name: Arc<Path>,
    text: String,
    documents: Vec<Document>,
    /// What is wrong with documents alone.
    problems: Vec<Problem>,
}

#[derive(Debug, Clone)]
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

    /// What [`Loader::load_dir`] does, where no other files than these are another than the last
    /// time.
    pub fn load_changed(
        &mut self,
        dir: &Path,
        paths: &BTreeSet<PathBuf>,
    ) -> io::Result<Option<Loaded>> {
        let mut texts = Vec::new();
        for path in paths {
            let at = self.files.iter().position(|file| file.name.as_os_str() == path.as_os_str());
            match at.filter(|_| directory::is_plain(path)).zip(directory::read(path).ok()) {
                Some(known) => texts.push(known),
                None => return self.load_dir(dir, false),
            }
        }
        let mut changed = false;
        for (at, text) in texts {
            self.stamps.remove(&*self.files[at].name);
            if self.files[at].text != text {
                changed = true;
                let file = File::read(&self.files[at].name, text, Some(&self.files[at]));
                let before = std::mem::replace(&mut self.files[at], file);
                self.exchange(Some(before), Some(at));
            }
        }
        Ok(changed.then(|| self.mesh()))
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
                    self.files.push(File::read(&path, text, other.as_ref()));
                    self.exchange(other, Some(self.files.len() - 1));
                    continue;
                }
            };
            self.files.push(file);
        }
        before.into_values().for_each(|file| self.exchange(Some(file), None));
        changed
    }

    /// What the files make.
    fn mesh(&mut self) -> Loaded {
        let (objects, problems) = self.collect();
        let objects = self.objects.insert(objects);
        let loaded = mesh(objects, &mut self.kept, &self.options, self.thorough, problems);
        if !self.all_differ() {
            self.objects = None;
        }
        loaded
    }

    /// Nothing depends on which of several objects comes first.
    fn all_differ(&self) -> bool {
        self.count == self.known.len() && self.nameless == 0
    }

    /// The objects of all files, and what is wrong with them.
    fn collect(&mut self) -> (Objects, Vec<Problem>) {
        let (gone, come) = (std::mem::take(&mut self.gone), std::mem::take(&mut self.come));
        let few = gone.len() + come.len() < self.files.len().max(FEW);
        if let Some(mut objects) = self.objects.take().filter(|_| few && self.all_differ()) {
            let items = |documents| <[Document]>::iter(documents).flat_map(Document::items);
            if objects.exchange(items(&gone), items(&come)) {
                let problems = self.files.iter().flat_map(|file| &file.problems);
                return (objects, problems.cloned().collect());
            }
        }
        let mut collector = Collector::new(self.count == self.known.len());
        for document in self.files.iter().flat_map(|file| &file.documents) {
            collector.document(&document.items, &document.places);
        }
        collector.finish()
    }

    /// Notes which documents go and come where a file (`now`: its index) is another.
    fn exchange(&mut self, before: Option<File>, now: Option<usize>) {
        let now = now.map(|at| &self.files[at]);
        let documents = |file: &'_ File| -> FxHashSet<*const Place> {
            file.documents.iter().map(|document| document.places.as_ptr()).collect()
        };
        let (then, still) = (before.as_ref().map(documents), now.map(documents));
        let come = now.into_iter().flat_map(|file| &file.documents);
        let come = come.filter(|document| !contains(then.as_ref(), document));
        let come: Vec<Document> = come.cloned().collect();
        let gone = before.into_iter().flat_map(|file| file.documents);
        for document in gone.filter(|document| !contains(still.as_ref(), document)) {
            self.leave(&document);
            self.gone.push(document);
        }
        come.iter().for_each(|document| self.enter(document));
        self.come.extend(come);
    }

    /// Counts the objects of a document.
    fn enter(&mut self, document: &Document) {
        for item in &*document.items {
            let Some(identity) = &item.identity else {
                self.nameless += usize::from(item.typed.is_some());
                continue;
            };
            self.count += 1;
            *self.known.entry(identity.clone()).or_default() += 1;
        }
    }

    /// Counts them no more.
    fn leave(&mut self, document: &Document) {
        for item in &*document.items {
            let Some(identity) = &item.identity else {
                self.nameless -= usize::from(item.typed.is_some());
                continue;
            };
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

/// Fewer documents than this, or than there are files, are exchanged one by one.
const FEW: usize = 100;

fn contains(places: Option<&FxHashSet<*const Place>>, document: &Document) -> bool {
    places.is_some_and(|places| places.contains(&document.places.as_ptr()))
}

impl Document {
    fn items(&self) -> impl Iterator<Item = (&Item, &Place)> {
        self.items.iter().zip(&*self.places)
    }
}

impl File {
    /// Takes over from the file before what stands in it still.
    fn read(path: &Path, text: String, before: Option<&File>) -> Self {
        let name: Arc<Path> = path.into();
        let kept = before.into_iter().flat_map(|file| &file.documents);
        let kept: FxHashMap<&str, &Document> = kept.map(|d| (&*d.text, d)).collect();
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
        let documents: Vec<_> = documents.collect();
        let items = documents.iter().flat_map(Document::items);
        let problems = items.flat_map(|(item, place)| item.problems.iter().map(|p| place.found(p)));
        let problems = problems.collect();
        Self { name, text, documents, problems }
    }
}
