//! Nodes and pods.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Once};

use anyhow::{Context, Result, ensure};

use crate::cgroup::{self, Cgroup};
use crate::command::Command;
use crate::netns::Netns;
use crate::sweep::sweep;

/// The most pods a node can have: the addresses of a /24 less network, bridge and broadcast.
const MAX_PODS: u32 = 253;

/// One simulated Kubernetes node: a network namespace with a bridge, and two child cgroups.
///
/// The subnets (10.244.0.0/24 and fd00:be::/64) are the same for every node: each is alone in
/// its namespace. What a node made is removed when the node and the last of its pods are dropped.
#[derive(Debug, Clone)]
pub struct Node {
    shared: Arc<Shared>,
}

// Fields drop in this order: processes die with their cgroup before their namespace goes.
#[derive(Debug)]
struct Shared {
    name: String,
    mesh: Cgroup,
    plain: Cgroup,
    cgroup: Cgroup,
    netns: Netns,
    pods: AtomicU32,
    taken: Mutex<BTreeSet<IpAddr>>,
}

/// How a pod differs from the usual.
#[derive(Debug, Clone)]
pub struct PodOptions {
    /// MTU of both ends of the veth pair.
    pub mtu: u32,
    /// Whether processes of the pod run in the mesh's cgroup unless told otherwise.
    pub mesh: bool,
    /// Addresses in the subnets of the node, instead of the next ones; one that another pod has
    /// is an error. Give them to all pods of a node or to none.
    pub addresses: Option<(Ipv4Addr, Ipv6Addr)>,
}

impl Default for PodOptions {
    fn default() -> Self {
        Self { mtu: 1500, mesh: true, addresses: None }
    }
}

/// A pod: a network namespace of its own, wired to the bridge of its node.
#[derive(Debug)]
pub struct Pod {
    netns: Netns,
    node: Node,
    label: String,
    index: u32,
    addresses: (Ipv4Addr, Ipv6Addr),
    mesh: bool,
}

/// Where commands can be run and sockets opened: a node or a pod.
pub trait Place {
    /// The network namespace.
    fn netns(&self) -> &Netns;

    /// A command to run here, in the place's usual cgroup: the mesh for a pod, outside the mesh
    /// for a node and for a pod made with [`PodOptions::mesh`] off.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command;

    /// The IPv4 address.
    fn ip4(&self) -> Ipv4Addr;

    /// The IPv6 address.
    fn ip6(&self) -> Ipv6Addr;

    /// The IPv4 address with a port.
    fn addr4(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.ip4()), port)
    }

    /// The IPv6 address with a port.
    fn addr6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V6(self.ip6()), port)
    }

    /// `http://<ip4>:<port><path>`.
    fn url(&self, port: u16, path: &str) -> String {
        format!("http://{}{path}", self.addr4(port))
    }

    /// Runs `work` on a new thread inside the network namespace (see [`Netns::run`]).
    fn run_in<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.netns().run(work)
    }
}

impl Node {
    /// Makes a node. The label becomes part of the names of its namespace and cgroups.
    pub fn new(label: &str) -> Result<Self> {
        static SWEPT: Once = Once::new();
        static SEQUENCE: AtomicU32 = AtomicU32::new(0);
        SWEPT.call_once(|| {
            if let Err(error) = sweep() {
                eprintln!("testbed: sweep: {error:#}");
            }
        });
        check_label(label)?;
        let sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed);
        let name = format!("bw{}-{sequence}-{label}", std::process::id());
        let netns = Netns::create(&name)?;
        let parent = cgroup::mount()?.join(&name);
        let cgroup = Cgroup::create(parent.clone())?;
        let mesh = Cgroup::create(parent.join("mesh"))?;
        let plain = Cgroup::create(parent.join("plain"))?;
        for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            netns.sysctl(key, "1")?;
        }
        // Snooping would hold back neighbour discovery; without STP a port forwards at once.
        netns.ip(&format!(
            "link set lo up\n\
             link add br0 type bridge mcast_snooping 0 stp_state 0 forward_delay 0\n\
             addr add {}/24 dev br0\n\
             addr add {}/64 dev br0 nodad\n\
             link set br0 up\n",
            address4(0),
            address6(0)
        ))?;
        let taken = Mutex::new([address4(0).into(), address6(0).into()].into());
        Ok(Self {
            shared: Arc::new(Shared {
                name,
                netns,
                cgroup,
                mesh,
                plain,
                pods: AtomicU32::new(0),
                taken,
            }),
        })
    }

    /// The unique name: of the network namespace, and of the parent cgroup.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The cgroup of the mesh: what the agent attaches to.
    pub fn mesh(&self) -> &Cgroup {
        &self.shared.mesh
    }

    /// The cgroup outside the mesh.
    pub fn plain(&self) -> &Cgroup {
        &self.shared.plain
    }

    /// The parent of [`Node::mesh`] and [`Node::plain`].
    pub fn cgroup(&self) -> &Cgroup {
        &self.shared.cgroup
    }

    /// Makes a pod whose processes run in the mesh.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        self.pod_with(name, PodOptions::default())
    }

    /// Makes a pod whose processes run outside the mesh.
    pub fn plain_pod(&self, name: &str) -> Result<Pod> {
        self.pod_with(name, PodOptions { mesh: false, ..PodOptions::default() })
    }

    /// Makes a pod. Addresses are never used twice, so a restarted pod has new ones.
    pub fn pod_with(&self, name: &str, options: PodOptions) -> Result<Pod> {
        check_label(name)?;
        let index = self.shared.pods.fetch_add(1, Ordering::Relaxed) + 1;
        ensure!(index <= MAX_PODS, "a node has room for {MAX_PODS} pods");
        let addresses = options.addresses.unwrap_or((address4(index), address6(index)));
        self.take(addresses).with_context(|| format!("addresses of pod {name}"))?;
        let netns = Netns::create(&format!("{}-{name}", self.shared.name))?;
        let (pod, mtu) = (netns.name(), options.mtu);
        self.shared
            .netns
            .ip(&format!(
                "link add veth{index} mtu {mtu} master br0 up type veth \
                 peer name eth0 mtu {mtu} netns {pod}\n"
            ))
            .with_context(|| format!("wire pod {name}"))?;
        netns.ip(&format!(
            "link set lo up\n\
             addr add {}/24 dev eth0\n\
             addr add {}/64 dev eth0 nodad\n\
             link set eth0 up\n\
             route add default via {}\n\
             route add ::/0 via {}\n",
            addresses.0,
            addresses.1,
            address4(0),
            address6(0)
        ))?;
        let (node, label) = (self.clone(), name.to_owned());
        Ok(Pod { netns, node, label, index, addresses, mesh: options.mesh })
    }

    /// Makes sure that the addresses belong to the node's subnets and to no other pod.
    fn take(&self, (ip4, ip6): (Ipv4Addr, Ipv6Addr)) -> Result<()> {
        ensure!(ip4.octets()[..3] == address4(0).octets()[..3], "{ip4} is not in 10.244.0.0/24");
        ensure!(ip6.segments()[..4] == address6(0).segments()[..4], "{ip6} is not in fd00:be::/64");
        let mut taken = self.shared.taken.lock().expect("no panic while locked");
        for address in [IpAddr::V4(ip4), IpAddr::V6(ip6)] {
            ensure!(taken.insert(address), "{address} belongs to another pod");
        }
        Ok(())
    }
}

impl Place for Node {
    fn netns(&self) -> &Netns {
        &self.shared.netns
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        command(program, &self.shared.netns, &self.shared, false)
    }

    fn ip4(&self) -> Ipv4Addr {
        address4(0)
    }

    fn ip6(&self) -> Ipv6Addr {
        address6(0)
    }
}

impl Pod {
    /// The name that the pod was given.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The node it runs on.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The name of its end of the veth pair in the namespace of the node.
    pub fn veth(&self) -> String {
        format!("veth{}", self.index)
    }

    /// The path of the network namespace.
    pub fn path(&self) -> PathBuf {
        self.netns.path()
    }

    /// The cgroup that its processes run in unless told otherwise.
    pub fn cgroup(&self) -> &Path {
        if self.mesh { self.node.mesh().path() } else { self.node.plain().path() }
    }
}

impl Place for Pod {
    fn netns(&self) -> &Netns {
        &self.netns
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        command(program, &self.netns, &self.node.shared, self.mesh)
    }

    fn ip4(&self) -> Ipv4Addr {
        self.addresses.0
    }

    fn ip6(&self) -> Ipv6Addr {
        self.addresses.1
    }
}

fn command(
    program: impl AsRef<std::ffi::OsStr>,
    netns: &Netns,
    shared: &Shared,
    mesh: bool,
) -> Command {
    let command = Command::new(
        program.as_ref(),
        netns,
        shared.mesh.path().to_owned(),
        shared.plain.path().to_owned(),
    );
    if mesh { command.mesh() } else { command.plain() }
}

/// The address of the bridge (0) or of a pod.
fn address4(index: u32) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 0, index as u8 + 1)
}

fn address6(index: u32) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0xbe, 0, 0, 0, 0, 0, index as u16 + 1)
}

fn check_label(label: &str) -> Result<()> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    ensure!(
        !label.is_empty() && label.len() <= 64 && label.bytes().all(fine),
        "{label:?}: a name is 1 to 64 letters, digits, - and _"
    );
    Ok(())
}
