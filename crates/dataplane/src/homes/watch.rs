//! What happens to cgroups, heard from the kernel (bpf/watch.bpf.c).

use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use libbpf_rs::{Link, MapCore, MapFlags, MapHandle, Object, ObjectBuilder, RingBufferBuilder};

use crate::error::{Context, Result};
use crate::{abi, cgroup, load};

/// The object as the build left it; libbpf reads ELF structures in place.
#[repr(C, align(16))]
struct Aligned<B: ?Sized>(B);
static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/watch.o")));

const PROGRAMS: [&str; 4] = ["cgroup_made", "cgroup_removed", "cgroup_entered", "executed"];

/// Something that has happened to a cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stir {
    /// The cgroup's number.
    pub cgroup: u64,
    /// What.
    pub kind: StirKind,
    /// Whose doing it is.
    pub pid: Option<u32>,
    /// When, on CLOCK_MONOTONIC.
    pub when: Duration,
}

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StirKind {
    /// It was made.
    Made,
    /// It was removed.
    Removed,
    /// A process has moved there.
    Entered,
    /// A process of it runs another program.
    Executed,
}

impl Stir {
    /// How long ago that was.
    pub fn age(&self) -> Duration {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
        now.map(Duration::from).unwrap_or_default().saturating_sub(self.when)
    }
}

/// Hears what happens to a cgroup and to those below it, until it is dropped.
pub struct Watch {
    ring: libbpf_rs::RingBuffer<'static>,
    receive: Receiver<Stir>,
    top: MapHandle,
    _links: Vec<Link>,
    _object: Object,
}

impl Watch {
    /// Begins to hear of what happens from now on.
    pub fn start(directory: &Path) -> Result<Watch> {
        let object = ObjectBuilder::default()
            .name("watch")
            .and_then(|builder| builder.open_memory(&OBJECT.0))
            .and_then(|open| open.load())
            .context(|| "load the programs that watch cgroups".into())?;
        let keep = |name| {
            MapHandle::try_from(&load::map(&object, name))
                .context(|| format!("keep the map {name}"))
        };
        let top = keep("top")?;
        let mut value = cgroup::number(directory)?.to_ne_bytes().to_vec();
        value.extend([0; 8]);
        top.update(&[0; 4], &value, MapFlags::ANY)
            .context(|| "say which cgroups are watched".into())?;
        let attach = |name| {
            load::program(&object, name).attach().context(|| format!("attach the program {name}"))
        };
        let links = PROGRAMS.into_iter().map(attach).collect::<Result<_>>()?;
        let mut builder = RingBufferBuilder::new();
        let (send, receive) = channel();
        let stirs = keep("stirs")?;
        builder
            .add(&stirs, move |bytes| {
                if let Some(stir) = parse(bytes) {
                    let _ = send.send(stir);
                }
                0
            })
            .context(|| "open the ring buffer of cgroups".into())?;
        let ring = builder.build().context(|| "open the ring buffer of cgroups".into())?;
        Ok(Watch { ring, receive, top, _links: links, _object: object })
    }

    /// Waits up to `timeout` and returns what has happened by then.
    pub fn wait(&self, timeout: Duration) -> Result<Vec<Stir>> {
        match self.ring.poll(timeout) {
            Err(error) if error.kind() != libbpf_rs::ErrorKind::Interrupted => {
                Err(error).context(|| "read the ring buffer of cgroups".into())
            }
            _ => Ok(self.receive.try_iter().collect()),
        }
    }

    /// How much went unheard since the start, because the ring buffer was full.
    pub fn lost(&self) -> u32 {
        let value = self.top.lookup(&[0; 4], MapFlags::ANY).ok().flatten().unwrap_or_default();
        value.get(12..16).map_or(0, |b| u32::from_ne_bytes(b.try_into().expect("4 bytes")))
    }
}

fn parse(bytes: &[u8]) -> Option<Stir> {
    let cgroup = u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?);
    let kind = match abi::stir_kind(u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?)) {
        abi::stir_kind::STIR_MADE => StirKind::Made,
        abi::stir_kind::STIR_REMOVED => StirKind::Removed,
        abi::stir_kind::STIR_ENTERED => StirKind::Entered,
        abi::stir_kind::STIR_EXECUTED => StirKind::Executed,
        _ => return None,
    };
    let pid = u32::from_ne_bytes(bytes.get(12..16)?.try_into().ok()?);
    let when = Duration::from_nanos(u64::from_ne_bytes(bytes.get(16..24)?.try_into().ok()?));
    Some(Stir { cgroup, kind, pid: Some(pid).filter(|pid| *pid != 0), when })
}
