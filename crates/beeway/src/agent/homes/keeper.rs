//! The kernel's record of homes, and what it is made of.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use beeway_dataplane::homes::{Home, NamespaceFile, Stir, StirKind};
use beeway_dataplane::{Dataplane, cgroup};
use beeway_model::{Mesh, Workload, is_made_up};

use super::index::Index;
use super::survey::{Residents, Survey};
use super::{PERIOD, RunArgs};
use crate::status::{HomesStatus, Resident};

/// All cgroups are looked at this long after one was removed: the namespaces of its processes may
/// have gone with them.
const AFTER_REMOVAL: Duration = Duration::from_secs(1);
/// A cgroup that was made can be opened a moment after the kernel has said so.
const TRIES: u32 = 5;

/// Everything that is known of homes. What it writes to the kernel it writes when it is called.
pub(super) struct Keeper {
    dataplane: Arc<Dataplane>,
    node: Option<String>,
    top: PathBuf,
    tree: File,
    own: NamespaceFile,
    index: Index,
    residents: Residents,
    /// What the kernel has of them.
    written: HashMap<Home, IpAddr>,
    housed: HashSet<IpAddr>,
    /// Who is at home, or who cannot be here, has changed since the kernel was told what is housed.
    moved: bool,
    paused: bool,
    /// Whether who is in no known cgroup is nobody; not known of the time before this agent.
    closed: Option<bool>,
    /// When all cgroups are looked at again.
    due: Instant,
    status: HomesStatus,
}

impl Keeper {
    pub fn new(args: &RunArgs, dataplane: Arc<Dataplane>) -> Result<Keeper> {
        let top = args.cgroup.canonicalize().context("find the cgroup of the mesh")?;
        dataplane.homes().keep_rest().context("keep room in the map homes")?;
        Ok(Keeper {
            dataplane,
            node: args.node.clone(),
            tree: File::open(&top).context("open the cgroup of the mesh")?,
            top,
            own: NamespaceFile::own().context("look at the agent's network namespace")?,
            index: Index::default(),
            residents: Residents::new(),
            written: HashMap::new(),
            moved: true,
            housed: HashSet::new(),
            closed: None,
            paused: false,
            due: Instant::now(),
            status: HomesStatus { told: true, ..HomesStatus::default() },
        })
    }

    /// The cgroup of the mesh.
    pub fn top(&self) -> &Path {
        &self.top
    }

    /// The kernel does not tell what happens.
    pub fn blind(&mut self) {
        self.status.told = false;
    }

    /// Another agent writes, or does not any more.
    pub fn pause(&mut self, pause: bool) {
        if std::mem::replace(&mut self.paused, pause) && !pause {
            self.survey();
        }
    }

    /// The configuration is another.
    pub fn configure(&mut self, mesh: &Mesh) {
        self.index = Index::of(mesh, self.node.as_deref());
        self.moved = true;
        self.survey();
    }

    /// This has happened to cgroups; so much went unheard since the start.
    pub fn hear(&mut self, stirs: &[Stir], lost: u32) {
        if lost != self.status.lost {
            self.status.lost = lost;
            self.due = Instant::now();
        }
        if self.paused {
            return;
        }
        let removed = |stir: &&Stir| stir.kind == StirKind::Removed;
        if stirs.iter().any(|stir| removed(&stir)) {
            self.due = self.due.min(Instant::now() + AFTER_REMOVAL);
        }
        for stir in stirs.iter().filter(removed) {
            self.leave(Home::Cgroup(stir.cgroup));
        }
        for stir in stirs.iter().filter(|stir| !removed(stir)) {
            self.look(stir);
            let age = stir.age().as_secs_f64() * 1000.0;
            self.status.slowest_ms = self.status.slowest_ms.max(age);
        }
        self.status.stirs += stirs.len() as u64;
        self.house();
        if self.status.refused > 0 {
            self.close_rest(true);
        }
        if Instant::now() >= self.due {
            self.survey();
        }
    }

    /// Looks at the cgroup of which something was heard.
    fn look(&mut self, stir: &Stir) {
        let mut found = cgroup::directory(&self.tree, stir.cgroup);
        for _ in 1..TRIES {
            if found.is_ok() || stir.kind != StirKind::Made {
                break;
            }
            std::thread::sleep(Duration::from_micros(200));
            found = cgroup::directory(&self.tree, stir.cgroup);
        }
        let directory = match found {
            Ok(directory) => directory,
            // it has gone
            Err(error) if matches!(error.raw_os_error(), Some(libc::ESTALE | libc::ENOENT)) => {
                return;
            }
            Err(error) => {
                self.due = Instant::now();
                return self.complain(format!("find a cgroup by its number: {error}"));
            }
        };
        let mut survey = Survey::new(&self.index, &self.residents, self.own, &self.top);
        let inside = survey.is_inside(&directory);
        let entered = stir.kind == StirKind::Entered;
        survey.visit(&directory, inside, stir.pid, entered);
        let (found, failed) = (survey.found, survey.failed);
        self.failed(failed);
        for (home, workload) in found {
            self.settle(home, workload);
        }
    }

    /// Looks at all cgroups.
    pub fn survey(&mut self) {
        if self.paused {
            return;
        }
        let begun = Instant::now();
        self.adopt();
        self.status.error = None;
        self.status.refused = 0;
        let mut survey = Survey::new(&self.index, &self.residents, self.own, &self.top);
        survey.walk(&self.top, false);
        let (found, failed) = (survey.found, survey.failed);
        self.failed(failed);
        let gone: Vec<Home> =
            self.residents.keys().filter(|home| !found.contains_key(home)).copied().collect();
        gone.into_iter().for_each(|home| self.leave(home));
        for (home, workload) in found {
            self.settle(home, workload);
        }
        self.house();
        self.close_rest(self.status.refused > 0);
        self.due = Instant::now() + PERIOD;
        self.status.surveys += 1;
        self.status.survey_ms = begun.elapsed().as_secs_f64() * 1000.0;
    }

    /// Takes over what is in the kernel from another agent, or another time.
    fn adopt(&mut self) {
        let homes = self.dataplane.homes();
        for (home, address) in homes.list() {
            if self.residents.contains_key(&home) {
                continue;
            }
            let known = self.index.by_address(address).cloned();
            // one that nobody knows any more is removed when nobody is found there
            let unknown = || Arc::new(nobody(address));
            self.residents.insert(home, known.unwrap_or_else(unknown));
            self.written.insert(home, address);
        }
        self.housed.extend(homes.housed());
    }

    fn settle(&mut self, home: Home, workload: Arc<Workload>) {
        let Some(address) = name_of(&workload) else { return };
        if self.written.get(&home) != Some(&address) {
            if let Err(error) = self.dataplane.homes().settle(home, address) {
                self.status.refused += 1;
                return self.complain(error.to_string());
            }
            let (namespace, name) = (&workload.namespace, &workload.name);
            tracing::debug!(?home, %address, "home of {namespace}/{name}");
            self.written.insert(home, address);
        }
        let before = self.residents.insert(home, workload.clone());
        self.moved |= before.is_none_or(|before| before.addresses != workload.addresses);
    }

    fn leave(&mut self, home: Home) {
        if self.residents.remove(&home).is_some() {
            self.written.remove(&home);
            self.moved = true;
            tracing::debug!(?home, "nobody's home");
            if let Err(error) = self.dataplane.homes().leave(home) {
                self.complain(error.to_string());
            }
        }
    }

    /// Addresses of those who are at home, and of those who cannot be here, are nobody else's.
    fn house(&mut self) {
        if !std::mem::take(&mut self.moved) {
            return;
        }
        let at_home = self.residents.values().flat_map(|workload| workload.addresses.clone());
        let wanted: HashSet<IpAddr> = at_home.chain(self.index.elsewhere.iter().copied()).collect();
        let homes = self.dataplane.homes();
        let mut failed = Vec::new();
        for address in self.housed.difference(&wanted) {
            failed.extend(homes.unhouse(*address).err());
        }
        self.housed.retain(|address| wanted.contains(address));
        for address in wanted {
            if self.housed.contains(&address) {
                continue;
            }
            match homes.house(address) {
                Ok(()) => drop(self.housed.insert(address)),
                Err(error) => failed.push(error),
            }
        }
        if let Some(error) = failed.last() {
            self.status.refused += failed.len();
            self.moved = true;
            self.complain(error.to_string());
        }
    }

    /// Somebody did not fit: who is in no known cgroup may be he, whoever he says that he is.
    fn close_rest(&mut self, closed: bool) {
        if self.closed == Some(closed) {
            return;
        }
        match self.dataplane.homes().close_rest(closed) {
            Ok(()) => self.closed = Some(closed),
            Err(error) => self.complain(error.to_string()),
        }
    }

    fn failed(&mut self, failed: Option<std::io::Error>) {
        if let Some(error) = failed {
            self.complain(format!("look into the network namespace of a process: {error}"));
        }
    }

    fn complain(&mut self, error: String) {
        if self.status.error.as_ref() != Some(&error) {
            tracing::error!("who calls is not known for sure: {error}");
        }
        self.status.error = Some(error);
    }

    /// What is known, for people.
    pub fn status(&self) -> HomesStatus {
        let mut workloads: BTreeMap<(&str, &str), Resident> = BTreeMap::new();
        let mut status = self.status.clone();
        for (home, workload) in &self.residents {
            let Some(address) = name_of(workload) else { continue };
            let key = (workload.namespace.as_str(), workload.name.as_str());
            let resident = workloads.entry(key).or_insert_with(|| Resident {
                namespace: workload.namespace.clone(),
                name: workload.name.clone(),
                address,
                cgroups: Vec::new(),
                namespaces: Vec::new(),
            });
            match home {
                Home::Cgroup(number) => resident.cgroups.push(*number),
                Home::Namespace(cookie) => resident.namespaces.push(*cookie),
            }
        }
        status.cgroups = workloads.values().map(|resident| resident.cgroups.len()).sum();
        status.namespaces = workloads.values().map(|resident| resident.namespaces.len()).sum();
        status.housed = self.housed.len();
        status.workloads = workloads.into_values().collect();
        for resident in &mut status.workloads {
            resident.cgroups.sort_unstable();
            resident.namespaces.sort_unstable();
        }
        status
    }
}

/// The address by which the kernel programs know a workload: one of its own, if it has any.
fn name_of(workload: &Workload) -> Option<IpAddr> {
    let own = workload.addresses.iter().find(|address| !is_made_up(**address));
    own.or(workload.addresses.first()).map(IpAddr::to_canonical)
}

/// Who was at home somewhere and is not in the configuration any more.
fn nobody(address: IpAddr) -> Workload {
    Workload {
        namespace: String::new(),
        name: String::new(),
        labels: BTreeMap::new(),
        addresses: vec![address],
        service_account: String::new(),
        node: None,
        uid: None,
        cgroup: None,
    }
}
