//! Looks at cgroups and the network namespaces of their processes.
//!
//! A cgroup is a workload's when its path says so, or one around it is. Else it is when all its
//! processes are in one network namespace that is; it stays so until it is empty, so that a process
//! which enters another namespace stays who it is. A network namespace is the workload's whose
//! address it has, unless it is the agent's own.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use beeway_dataplane::cgroup;
use beeway_dataplane::homes::{Home, NamespaceFile, look_into};
use beeway_model::Workload;

use super::index::{Index, is_named};

/// Who is at home where.
pub(super) type Residents = HashMap<Home, Arc<Workload>>;

/// One look around.
pub(super) struct Survey<'a> {
    pub index: &'a Index,
    /// Who was at home where before.
    pub before: &'a Residents,
    /// The agent's own namespace, whose addresses say nothing.
    pub own: NamespaceFile,
    /// The cgroup of the mesh.
    pub top: &'a Path,
    /// Namespaces that were looked into.
    namespaces: HashMap<NamespaceFile, Option<Arc<Workload>>>,
    /// What was found.
    pub found: Residents,
    /// The last thing that went wrong, other than that something has gone meanwhile.
    pub failed: Option<io::Error>,
}

impl<'a> Survey<'a> {
    pub fn new(index: &'a Index, before: &'a Residents, own: NamespaceFile, top: &'a Path) -> Self {
        let (namespaces, found) = (HashMap::new(), Residents::new());
        Survey { index, before, own, top, namespaces, found, failed: None }
    }

    /// Looks at a cgroup and at all below it. `inside`: one around it is a workload's.
    pub fn walk(&mut self, directory: &Path, inside: bool) {
        let inside = self.visit(directory, inside, None, false);
        let Ok(entries) = fs::read_dir(directory) else { return };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.walk(&entry.path(), inside);
            }
        }
    }

    /// Looks at one cgroup, in which something has happened to a process (`None`: to any), which
    /// may have `entered` it. Whether the cgroups in it are a workload's too.
    pub fn visit(
        &mut self,
        directory: &Path,
        inside: bool,
        pid: Option<u32>,
        entered: bool,
    ) -> bool {
        let Ok(number) = cgroup::number(directory) else { return inside };
        let path = directory.strip_prefix(self.top).unwrap_or(Path::new(""));
        let named = self.index.by_path(path).cloned();
        if let Some(workload) = &named {
            self.found.insert(Home::Cgroup(number), workload.clone());
        }
        let inside = inside || named.is_some();
        let free = !inside && directory != self.top;
        let all = if pid.is_none() || free { processes(directory) } else { Vec::new() };
        let pids = match &pid {
            Some(pid) if !free => std::slice::from_ref(pid),
            _ => &all[..],
        };
        let here: Vec<_> = pids.iter().filter_map(|pid| self.at(*pid)).collect();
        if !free {
            return inside;
        }
        let first = entered && all.len() == 1;
        let kept = self.before.get(&Home::Cgroup(number)).filter(|_| !first && !all.is_empty());
        let kept = kept.filter(|before| !is_named(before, path));
        let kept = kept.and_then(|before| self.index.again(before)).cloned();
        let Some(workload) = kept.or_else(|| unanimous(&here)) else { return false };
        self.found.insert(Home::Cgroup(number), workload);
        true
    }

    /// Whether a cgroup around this one is a workload's.
    pub fn is_inside(&self, directory: &Path) -> bool {
        let around = directory.ancestors().skip(1).take_while(|around| *around != self.top);
        around.into_iter().any(|around| {
            let path = around.strip_prefix(self.top).unwrap_or(Path::new(""));
            let known = |number| self.before.contains_key(&Home::Cgroup(number));
            self.index.by_path(path).is_some() || cgroup::number(around).is_ok_and(known)
        })
    }

    /// Whose network namespace a process is in; `None`: it has ended.
    fn at(&mut self, pid: u32) -> Option<Option<Arc<Workload>>> {
        let file = match NamespaceFile::of_process(pid) {
            Ok(file) => file,
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {
                return None;
            }
            // one that may not be looked at may be anybody
            Err(error) => {
                self.failed = Some(error);
                return Some(None);
            }
        };
        if file == self.own {
            return Some(None);
        }
        if let Some(known) = self.namespaces.get(&file) {
            return Some(known.clone());
        }
        let workload = self.look(pid).unwrap_or_else(|error| {
            // it has ended
            if fs::exists(format!("/proc/{pid}")).unwrap_or(true) {
                self.failed = Some(error);
            }
            None
        });
        self.namespaces.insert(file, workload.clone());
        Some(workload)
    }

    fn look(&mut self, pid: u32) -> io::Result<Option<Arc<Workload>>> {
        let before = |cookie| {
            let before: Option<&Arc<Workload>> = self.before.get(&Home::Namespace(cookie));
            // one whose addresses are not what they were is looked at again
            let now = before.and_then(|before| self.index.again(before))?;
            before.is_some_and(|before| before.addresses == now.addresses).then(|| now.clone())
        };
        let (cookie, addresses) = look_into(pid, |cookie| before(cookie).is_some())?;
        let workload = before(cookie).or_else(|| self.owner(cookie, &addresses));
        if let Some(workload) = &workload {
            self.found.insert(Home::Namespace(cookie), workload.clone());
        }
        Ok(workload)
    }

    /// The workload that has one of these addresses. Of several, the one that is at home nowhere
    /// else: a process may give its namespace more addresses.
    fn owner(&self, cookie: u64, addresses: &[IpAddr]) -> Option<Arc<Workload>> {
        let owners = addresses.iter().filter_map(|address| self.index.by_address(*address));
        let mut owners: Vec<&Arc<Workload>> = owners.collect();
        owners.sort_by_key(|owner| Arc::as_ptr(owner));
        owners.dedup_by(|a, b| Arc::ptr_eq(a, b));
        if let Some(before) = self.before.get(&Home::Namespace(cookie)) {
            let now = self.index.again(before);
            if let Some(owner) = owners.iter().find(|o| now.is_some_and(|n| Arc::ptr_eq(o, n))) {
                return Some((*owner).clone());
            }
        }
        if owners.len() > 1 {
            let away = |owner: &Workload| {
                let same = |other: &Workload| {
                    (&other.namespace, &other.name) == (&owner.namespace, &owner.name)
                };
                let namespace = |home: &Home| matches!(home, Home::Namespace(_));
                self.before.iter().any(|(home, other)| namespace(home) && same(other))
            };
            owners.retain(|owner| !away(owner));
        }
        match owners[..] {
            [owner] => Some(owner.clone()),
            _ => None,
        }
    }
}

/// The one whom all are.
fn unanimous(here: &[Option<Arc<Workload>>]) -> Option<Arc<Workload>> {
    let first = here.first()?.as_ref()?;
    let same = |other: &Option<Arc<Workload>>| {
        other.as_ref().is_some_and(|other| Arc::ptr_eq(first, other))
    };
    here.iter().all(same).then(|| first.clone())
}

/// The processes of a cgroup, as far as this process sees them.
fn processes(directory: &Path) -> Vec<u32> {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != 0).collect()
}
