//! Loads the kernel programs, or takes over those that an earlier agent left running.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use libbpf_rs::{
    Link, MapCore, MapFlags, MapHandle, MapType, Object, ObjectBuilder, OpenObject, libbpf_sys,
};

use crate::abi;
use crate::divert::Diverter;
use crate::error::{Context, Error, Result};
use crate::pins::Pins;
use crate::probe;
use crate::traffic;

/// Where to attach and where to keep state.
#[derive(Debug, Clone)]
pub struct Options {
    /// cgroup v2 directory whose processes are in the mesh.
    pub cgroup: PathBuf,
    /// Directory for pins and the lock, e.g. `/run/beeway`.
    pub state: PathBuf,
    /// Whether both ends on this host may skip TCP.
    pub shortcut: bool,
    /// How much is told of traffic.
    pub telling: traffic::Telling,
    /// Whether an agent still serves detours that hands over to this one.
    pub beside: bool,
}

/// Keeps other agents away from a state directory for as long as it lives.
#[derive(Debug)]
pub struct StateLock(File);

impl StateLock {
    /// [`Error::Locked`] while another agent has it.
    pub fn take(state: &Path) -> Result<StateLock> {
        std::fs::create_dir_all(state).context(|| format!("create {}", state.display()))?;
        let path = state.join("agent.lock");
        let file = File::create(&path).context(|| format!("create {}", path.display()))?;
        file.try_lock().map_err(|_| Error::Locked(state.to_path_buf()))?;
        Ok(StateLock(file))
    }
}

impl Drop for StateLock {
    fn drop(&mut self) {
        // children may hold the file open
        let _ = self.0.unlock();
    }
}

/// Whether the tables in the kernel are of this version, or there are none.
pub fn can_adopt(state: &Path) -> bool {
    let pins = Pins::of(state);
    !pins.mounted() || pinned_abi(&pins).is_none_or(|abi| abi == abi_version())
}

/// What the agent needs of the loaded object. Pins hold programs and links in the kernel, so the
/// object itself is gone.
pub(crate) struct Loaded {
    maps: HashMap<String, MapHandle>,
    /// Programs that userspace runs itself.
    pub(crate) query_queue: OwnedFd,
    pub(crate) decide: OwnedFd,
    pub(crate) ask_token: OwnedFd,
    pub(crate) find_buckets: OwnedFd,
    pub(crate) diverter: Diverter,
    /// The program that looks at all connections.
    pub(crate) sweep: Link,
    /// The one that looks at those that are judged where they come in.
    pub(crate) sweep_visits: Link,
    /// The program that looks at the buses.
    pub(crate) measure_buses: Link,
    /// Programs on the agent's own cgroup, which go away with it.
    _own: Vec<Link>,
    /// Whether an earlier agent's maps were taken over.
    pub(crate) adopted: bool,
}

impl Loaded {
    /// One of our maps, which is there because the build linked it.
    pub(crate) fn map(&self, name: &str) -> &MapHandle {
        self.maps.get(name).unwrap_or_else(|| panic!("the object has no map {name}"))
    }

    fn of(object: &Object, own: Vec<Link>, adopted: bool) -> Result<Loaded> {
        let mut maps = HashMap::new();
        for map in object.maps() {
            let name = map.name().to_string_lossy().into_owned();
            let handle = MapHandle::try_from(&map).context(|| format!("keep the map {name}"))?;
            maps.insert(name, handle);
        }
        let keep = |name: &str| {
            program(object, name)
                .as_fd()
                .try_clone_to_owned()
                .context(|| format!("keep the program {name}"))
        };
        let (query_queue, decide) = (keep("query_queue")?, keep("decide")?);
        let (ask_token, find_buckets) = (keep("ask_token")?, keep("find_buckets")?);
        let diverter = Diverter::new(keep("query_connection")?, keep("find_descriptor")?);
        let sweep = program(object, "sweep")
            .attach_iter(map(object, "conns").as_fd())
            .context(|| "attach the program that looks at connections".into())?;
        let sweep_visits = program(object, "sweep_visits")
            .attach_iter(map(object, "inlets").as_fd())
            .context(|| "attach the program that looks at who comes in".into())?;
        let measure_buses = program(object, "measure_buses")
            .attach_iter(map(object, "buses").as_fd())
            .context(|| "attach the program that looks at buses".into())?;
        Ok(Loaded {
            maps,
            query_queue,
            decide,
            ask_token,
            find_buckets,
            diverter,
            sweep,
            sweep_visits,
            measure_buses,
            _own: own,
            adopted,
        })
    }
}

/// Programs that hang on the cgroup, by name.
const CGROUP_PROGRAMS: [&str; 11] = [
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
    "on_socket",
    "packet_out",
    "packet_in",
];

/// Programs that hang on the cgroup that the agent itself runs in.
const OWN_PROGRAMS: [&str; 3] = ["upstream_connect4", "upstream_connect6", "on_upstream"];

/// Programs that hang on a map of sockets: program, map.
const SOCKET_PROGRAMS: [(&str, &str, u32); 3] = [
    ("on_send", "sockets", libbpf_sys::BPF_SK_MSG_VERDICT),
    ("on_receive", "sockets", libbpf_sys::BPF_SK_SKB_STREAM_VERDICT),
    ("on_inject", "injectors", libbpf_sys::BPF_SK_MSG_VERDICT),
];

/// Loads and attaches. Nothing is left behind when it fails, unless an earlier agent's programs
/// were there: those stay.
pub(crate) fn load(options: &Options) -> Result<Loaded> {
    let pins = Pins::of(&options.state);
    let mut adopted = pins.mounted() && pins.map("settings").exists();
    if adopted && pinned_abi(&pins) != Some(abi_version()) {
        tracing::warn!("the kernel holds tables of another version; starting afresh");
        pins.remove()?;
        adopted = false;
    }
    pins.mount()?;
    let result = load_pinned(options, &pins, adopted);
    match result.and_then(|(object, own)| Loaded::of(&object, own, adopted)) {
        Ok(loaded) => Ok(loaded),
        Err(error) => {
            if !adopted {
                let _ = pins.remove();
            }
            Err(error)
        }
    }
}

fn load_pinned(options: &Options, pins: &Pins, adopted: bool) -> Result<(Object, Vec<Link>)> {
    let template = new_generation_map()?;
    let mut open = open_object()?;
    for mut map in open.maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        // .rodata and the like belong to the programs
        if name.contains('.') {
            continue;
        }
        match name.as_str() {
            "generations" => map
                .set_inner_map_fd(template.as_fd())
                .context(|| "set the shape of a generation".into())?,
            "traffic" => map
                .set_max_entries(traffic::series_limit(possible_cpus()))
                .context(|| "size the sums of traffic".into())?,
            "scratches" => map
                .set_max_entries(possible_cpus() * SCRATCH_PER_CPU)
                .context(|| "size the scratch space".into())?,
            _ => {}
        }
        if adopted {
            map.reuse_pinned_map(pins.map(&name))
                .context(|| format!("take over the map {name}"))?;
        }
    }
    let mut object = open
        .load()
        .context(|| "load the kernel programs (`beeway doctor` tells what is missing)".into())?;
    if !adopted {
        for mut map in object.maps_mut() {
            let name = map.name().to_string_lossy().into_owned();
            if !name.contains('.') {
                map.pin(pins.map(&name)).context(|| format!("pin the map {name}"))?;
            }
        }
    }
    if !adopted {
        let sums = MapHandle::try_from(&map(&object, "traffic"));
        traffic::make_rest(&sums.context(|| "keep the map traffic".into())?)?;
    }
    let settings = MapHandle::try_from(&map(&object, "settings"))
        .context(|| "keep the map settings".into())?;
    let mut values = read_settings(&settings)?;
    values.abi = abi_version();
    if !options.beside {
        // no proxy until its sockets are there
        (values.buses, values.first_bus) = (0, 0);
    }
    values.shortcut = u32::from(options.shortcut);
    let positions = probe::counts_own_bytes();
    if !positions {
        tracing::warn!(
            "bytes that the network brings twice may be read twice: see `beeway doctor`"
        );
    }
    values.positions = u32::from(positions);
    (values.telemetry, values.records) = options.telling.settings();
    write_settings(&settings, &values)?;
    attach_to_sockets(&object)?;
    attach_to_cgroup(&object, &options.cgroup, pins)?;
    let own = attach_to_own(&object);
    // the proxy must be able to say which connections are its own
    values.inlets = u32::from(!own.is_empty());
    write_settings(&settings, &values)?;
    Ok((object, own))
}

/// The linked object as the build left it; libbpf reads ELF structures in place.
#[repr(C, align(16))]
struct Aligned<B: ?Sized>(B);
static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/beeway.o")));

/// Opens the object without loading it.
pub(crate) fn open_object() -> Result<OpenObject> {
    ObjectBuilder::default()
        .name("beeway")
        .and_then(|builder| builder.open_memory(&OBJECT.0))
        .context(|| "open the kernel programs".into())
}

/// Entries of the `scratches` map per CPU (bpf/include/maps.h).
const SCRATCH_PER_CPU: u32 = 4;

fn possible_cpus() -> u32 {
    libbpf_rs::num_possible_cpus().unwrap_or(256) as u32
}

fn abi_version() -> u32 {
    abi::limits::ABI_VERSION.0
}

/// An empty generation: the shape of what `generations` holds.
pub(crate) fn new_generation_map() -> Result<MapHandle> {
    let options = libbpf_sys::bpf_map_create_opts {
        sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
        map_flags: libbpf_sys::BPF_F_MMAPABLE,
        ..Default::default()
    };
    let size = size_of::<abi::generation>() as u32;
    MapHandle::create(MapType::Array, Some("generation"), 4, size, 1, &options)
        .context(|| format!("create a map of {size} bytes for the tables"))
}

/// The one record of the `settings` map.
pub(crate) fn read_settings(map: &MapHandle) -> Result<abi::settings> {
    let bytes = map
        .lookup(&0u32.to_ne_bytes(), MapFlags::ANY)
        .context(|| "read the settings".into())?
        .unwrap_or_default();
    let word = |at: usize| {
        bytes.get(at..at + 4).map_or(0, |b| u32::from_ne_bytes(b.try_into().expect("4 bytes")))
    };
    let generation = u64::from(word(20)) << 32 | u64::from(word(16));
    let (abi, buses, shortcut, first_bus) = (word(0), word(4), word(8), word(12));
    let proxy = word(24);
    let (former, inlets, positions) = (word(28), word(32), word(36));
    let (telemetry, records) = (word(40), word(44));
    Ok(abi::settings {
        abi,
        buses,
        shortcut,
        first_bus,
        generation,
        proxy,
        former,
        inlets,
        positions,
        telemetry,
        records,
    })
}

pub(crate) fn write_settings(map: &MapHandle, settings: &abi::settings) -> Result<()> {
    let words = [settings.abi, settings.buses, settings.shortcut, settings.first_bus];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    bytes.extend((settings.generation as u32).to_ne_bytes());
    bytes.extend(((settings.generation >> 32) as u32).to_ne_bytes());
    bytes.extend(settings.proxy.to_ne_bytes());
    bytes.extend(settings.former.to_ne_bytes());
    bytes.extend(settings.inlets.to_ne_bytes());
    bytes.extend(settings.positions.to_ne_bytes());
    bytes.extend(settings.telemetry.to_ne_bytes());
    bytes.extend(settings.records.to_ne_bytes());
    map.update(&0u32.to_ne_bytes(), &bytes, MapFlags::ANY).context(|| "write the settings".into())
}

/// Names of all programs that are attached somewhere.
pub(crate) fn program_names() -> impl Iterator<Item = &'static str> {
    CGROUP_PROGRAMS.into_iter().chain(SOCKET_PROGRAMS.iter().map(|(name, ..)| *name))
}

fn pinned_abi(pins: &Pins) -> Option<u32> {
    let settings = MapHandle::from_pinned_path(pins.map("settings")).ok()?;
    Some(read_settings(&settings).ok()?.abi)
}

/// A map of our own object, which is there because the build linked it.
pub(crate) fn map<'o>(object: &'o Object, name: &str) -> libbpf_rs::Map<'o> {
    object
        .maps()
        .find(|map| map.name() == name)
        .unwrap_or_else(|| panic!("the object has no map {name}"))
}

/// A program of our own object.
pub(crate) fn program<'o>(object: &'o Object, name: &str) -> libbpf_rs::ProgramMut<'o> {
    object
        .progs_mut()
        .find(|program| program.name() == name)
        .unwrap_or_else(|| panic!("the object has no program {name}"))
}

fn attach_to_sockets(object: &Object) -> Result<()> {
    for (name, map_name, kind) in SOCKET_PROGRAMS {
        let program = program(object, name).as_fd().as_raw_fd();
        let target = map(object, map_name).as_fd().as_raw_fd();
        // SAFETY: both descriptors are open for the call; it takes no pointers.
        let done = unsafe { libbpf_sys::bpf_prog_attach(program, target, kind, 0) };
        if done != 0 {
            return Err(std::io::Error::from_raw_os_error(-done))
                .context(|| format!("attach {name} to the map {map_name}"));
        }
    }
    Ok(())
}

/// Pinned links are updated in place, so that a connection sees the old program or the new one,
/// never none.
fn attach_to_cgroup(object: &Object, cgroup: &Path, pins: &Pins) -> Result<()> {
    refuse_root(cgroup)?;
    let directory =
        File::open(cgroup).context(|| format!("open the cgroup {}", cgroup.display()))?;
    for name in CGROUP_PROGRAMS {
        let program = program(object, name);
        let pin = pins.link(name);
        if pin.exists() {
            Link::open(&pin)
                .and_then(|mut link| link.update_prog(&program))
                .context(|| format!("replace the program {name}"))?;
            continue;
        }
        let mut link = program
            .attach_cgroup(directory.as_raw_fd())
            .context(|| format!("attach {name} to {}", cgroup.display()))?;
        link.pin(&pin).context(|| format!("pin the link {name}"))?;
    }
    Ok(())
}

/// Where the agent is in no cgroup of its own, its connections go by TCP.
fn attach_to_own(object: &Object) -> Vec<Link> {
    let Some(cgroup) = crate::cgroup::own().filter(|own| !crate::cgroup::is_root(own)) else {
        tracing::info!("the agent runs in the root cgroup: its own connections go by TCP");
        return Vec::new();
    };
    let attach = |name: &str| {
        let directory = File::open(&cgroup).context(|| "open it".into())?;
        program(object, name).attach_cgroup(directory.as_raw_fd()).context(|| name.into())
    };
    let links: Result<Vec<Link>> = OWN_PROGRAMS.into_iter().map(attach).collect();
    links.unwrap_or_else(|error| {
        tracing::warn!(%error, cgroup = %cgroup.display(), "cannot attach to the agent's cgroup");
        Vec::new()
    })
}

/// A mistake there cuts the machine off from the network.
fn refuse_root(cgroup: &Path) -> Result<()> {
    if crate::cgroup::is_root(cgroup) {
        return Err(std::io::Error::other(
            "this is the root of the cgroup tree; name a child of it",
        ))
        .context(|| format!("attach to {}", cgroup.display()));
    }
    Ok(())
}
