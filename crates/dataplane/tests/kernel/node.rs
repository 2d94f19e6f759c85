//! The programs, loaded into a cgroup of their own in which no process runs.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use beeway_dataplane::cgroup::mount_point;
use beeway_dataplane::tables::{Tables, compile};
use beeway_dataplane::traffic::Buckets;
use beeway_dataplane::{Dataplane, Decision, DecisionQuery, Options, Token, TokenQuery, off};
use beeway_model::{Bucket, Mesh};

/// A loaded data plane, gone without a trace when dropped.
pub struct Node {
    dataplane: Option<Dataplane>,
    cgroup: PathBuf,
    state: PathBuf,
}

impl Node {
    pub fn start() -> Node {
        static SEQUENCE: AtomicU32 = AtomicU32::new(0);
        let number = SEQUENCE.fetch_add(1, Ordering::Relaxed);
        // the test bed's sweep knows whose it is
        let name = format!("bw{}-{number}-kernel", std::process::id());
        let cgroup = mount_point().expect("cgroup v2 is mounted").join(&name);
        std::fs::create_dir(&cgroup).expect("make a cgroup (as root)");
        let state = std::env::temp_dir().join(&name);
        let mut node = Node { dataplane: None, cgroup, state };
        let options = Options {
            cgroup: node.cgroup.clone(),
            state: node.state.clone(),
            shortcut: false,
            beside: false,
            telling: beeway_dataplane::Telling::Some(1000),
        };
        node.dataplane = Some(Dataplane::start(&options).expect("the programs load"));
        node
    }

    /// Compiles a mesh and puts it in force.
    pub fn publish(&self, mesh: &Mesh) -> Tables {
        let number = self.dataplane().generation().unwrap() + 1;
        let tables = compile(mesh, number).expect("the tables fit");
        self.dataplane().publish(&tables).expect("the tables are taken");
        tables
    }

    pub fn decide(&self, query: &DecisionQuery<'_>) -> Decision {
        self.dataplane().decide(query).expect("the program runs")
    }

    pub fn take_token(
        &self,
        bucket: &Bucket,
        endpoint: SocketAddr,
        caller: IpAddr,
        now: Duration,
    ) -> Token {
        let query = TokenQuery { bucket, endpoint, caller, now: Some(now) };
        self.dataplane().take_token(&query).expect("the program runs")
    }

    pub fn find_buckets(&self, nanoseconds: u64, bytes: u64) -> Buckets {
        let duration = Duration::from_nanos(nanoseconds);
        self.dataplane().find_buckets(duration, bytes).expect("the program runs")
    }

    pub fn sweep_buckets(&self, spare: Duration) -> usize {
        self.dataplane().sweep_buckets(spare).expect("the map can be read")
    }

    fn dataplane(&self) -> &Dataplane {
        self.dataplane.as_ref().expect("it was started")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.dataplane.take());
        if let Err(error) = off(&self.state) {
            eprintln!("off: {error}");
        }
        let _ = std::fs::remove_dir_all(&self.state);
        if let Err(error) = std::fs::remove_dir(&self.cgroup) {
            eprintln!("remove {}: {error}", self.cgroup.display());
        }
    }
}
