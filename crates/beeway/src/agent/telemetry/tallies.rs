//! What the proxy counts, in a file that is memory: whatever becomes of the agent, nothing that was
//! counted is lost, and the next one goes on. Two agents may count in it at once, during a take-over.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use anyhow::{Context, Result};
use beeway_proxy::Flags;
use beeway_telemetry::Verdict;
use beeway_telemetry::totals::{BOUNDED, Tally, bounded};
use rustc_hash::FxHashMap;

/// What is in the file; another layout begins a new one.
const MAGIC: u64 = u64::from_le_bytes(*b"beewayT1");

/// Kinds of requests that there is room for.
const SLOTS: usize = 4096;

/// Slots for what there is no room for: one for each verdict and hundred of the status.
const REST: usize = Verdict::ALL.len() * 6;

/// Sums of a slot.
const SUMS: usize = 4 + 3 * BOUNDED;

/// Bytes that name a kind.
const NAME: usize = 64;

/// What is counted together, by addresses.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    pub source: IpAddr,
    pub service: SocketAddr,
    pub endpoint: Option<IpAddr>,
    pub status: u16,
    /// `grpc-status`, of a call of gRPC.
    pub grpc: Option<Option<u32>>,
    pub flags: Flags,
    pub verdict: Verdict,
}

/// States of a slot.
const FREE: u32 = 0;
const CLAIMED: u32 = 1;
const NAMED: u32 = 2;

#[repr(C)]
struct Slot {
    state: AtomicU32,
    pad: u32,
    /// Written once, before `state` becomes [`NAMED`].
    name: [AtomicU64; NAME / 8],
    sums: [AtomicU64; SUMS],
}

#[repr(C)]
struct Layout {
    magic: AtomicU64,
    /// Tells one file from another.
    id: AtomicU64,
    slots: [Slot; SLOTS],
}

/// The file.
pub(super) struct Tallies {
    layout: NonNull<Layout>,
    _file: File,
}

// SAFETY: all that is behind the pointer is atomic, and stays mapped until the last use.
unsafe impl Send for Tallies {}
// SAFETY: as above.
unsafe impl Sync for Tallies {}

thread_local! {
    /// Slots that this thread has found; there is one file in a process.
    static FOUND: RefCell<FxHashMap<Kind, usize>> = RefCell::default();
}

impl Tallies {
    /// Opens the file, or makes it.
    pub fn open(path: &Path) -> Result<Tallies> {
        let what = || format!("open {}", path.display());
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path).with_context(what)?;
        let size = size_of::<Layout>();
        if file.metadata().with_context(what)?.len() != size as u64 {
            // zeros are a file in which nothing was counted
            file.set_len(0).and_then(|()| file.set_len(size as u64)).with_context(what)?;
        }
        let layout = map(&file, size).with_context(what)?;
        let tallies = Tallies { layout, _file: file };
        let layout = tallies.layout();
        if layout.magic.load(Ordering::Acquire) != MAGIC {
            layout.id.store(fastrand::u64(1..), Ordering::Relaxed);
            layout.magic.store(MAGIC, Ordering::Release);
        }
        Ok(tallies)
    }

    /// Tells this file from others.
    pub fn id(&self) -> u64 {
        self.layout().id.load(Ordering::Relaxed)
    }

    fn layout(&self) -> &Layout {
        // SAFETY: mapped for as long as `self` lives, of this size, aligned to a page; any bytes are
        // valid, and others who write do so by atomics too.
        unsafe { self.layout.as_ref() }
    }

    /// Counts a request that took so many nanoseconds.
    pub fn count(&self, kind: Kind, nanoseconds: u64, received: u64, sent: u64) {
        let at = FOUND.with_borrow_mut(|found| match found.get(&kind) {
            Some(at) => *at,
            None => {
                let at = self.find(&kind);
                found.insert(kind, at);
                at
            }
        });
        let sums = &self.layout().slots[at].sums;
        for (sum, more) in sums.iter().zip([1, received, sent, nanoseconds]) {
            sum.fetch_add(more, Ordering::Relaxed);
        }
        let buckets = [nanoseconds as f64 / 1e6, received as f64, sent as f64].map(bounded);
        for (part, bucket) in buckets.into_iter().enumerate() {
            sums[4 + part * BOUNDED + bucket].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The slot of a kind, a new one if there is none.
    fn find(&self, kind: &Kind) -> usize {
        let name = encode(kind);
        let slots = &self.layout().slots;
        for (at, slot) in slots.iter().enumerate().skip(REST) {
            let claimed =
                slot.state.compare_exchange(FREE, CLAIMED, Ordering::AcqRel, Ordering::Acquire);
            match claimed {
                Ok(_) => {
                    for (word, value) in slot.name.iter().zip(&name) {
                        word.store(*value, Ordering::Relaxed);
                    }
                    slot.state.store(NAMED, Ordering::Release);
                    return at;
                }
                Err(NAMED) if read(slot) == name => return at,
                // one that another thread claims just now may be the same: then there are two
                Err(_) => {}
            }
        }
        let verdict = Verdict::ALL.iter().position(|verdict| *verdict == kind.verdict);
        verdict.unwrap_or(0) * 6 + usize::from(kind.status / 100).min(5)
    }

    /// All kinds and their sums, by the number of their slot.
    pub fn read(&self) -> impl Iterator<Item = (usize, Kind, Tally)> + '_ {
        self.layout().slots.iter().enumerate().filter_map(|(at, slot)| {
            let tally = tally(&slot.sums);
            if tally.requests == 0 {
                return None;
            }
            let kind = if at < REST {
                rest(at)
            } else if slot.state.load(Ordering::Acquire) == NAMED {
                decode(&read(slot))
            } else {
                return None;
            };
            Some((at, kind, tally))
        })
    }

    /// How many kinds have a slot, and how many can.
    pub fn used(&self) -> (usize, usize) {
        let taken = |slot: &&Slot| slot.state.load(Ordering::Relaxed) != FREE;
        (self.layout().slots.iter().filter(taken).count(), SLOTS - REST)
    }
}

impl Drop for Tallies {
    fn drop(&mut self) {
        // SAFETY: mapped by us with this size, and nothing borrows from it any more.
        unsafe { libc::munmap(self.layout.as_ptr().cast(), size_of::<Layout>()) };
    }
}

fn map(file: &File, size: usize) -> std::io::Result<NonNull<Layout>> {
    use std::os::fd::AsRawFd;
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    // SAFETY: the kernel chooses the place; the file is open and as long as is asked for.
    let place =
        unsafe { libc::mmap(std::ptr::null_mut(), size, protection, flags, file.as_raw_fd(), 0) };
    if place == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    NonNull::new(place.cast()).ok_or_else(|| std::io::Error::other("mapped at 0"))
}

fn read(slot: &Slot) -> [u64; NAME / 8] {
    std::array::from_fn(|word| slot.name[word].load(Ordering::Relaxed))
}

fn tally(sums: &[AtomicU64; SUMS]) -> Tally {
    let sum = |at: usize| sums[at].load(Ordering::Relaxed);
    let buckets = |part: usize| std::array::from_fn(|at| sum(4 + part * BOUNDED + at));
    Tally {
        requests: sum(0),
        closed: 0,
        request_bytes: sum(1),
        response_bytes: sum(2),
        duration: sum(3),
        durations: buckets(0),
        request_sizes: buckets(1),
        response_sizes: buckets(2),
    }
}

fn bits(ip: IpAddr) -> [u64; 2] {
    let bits = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
    .to_bits();
    [(bits >> 64) as u64, bits as u64]
}

fn encode(kind: &Kind) -> [u64; NAME / 8] {
    let [source_high, source_low] = bits(kind.source);
    let [service_high, service_low] = bits(kind.service.ip());
    let [endpoint_high, endpoint_low] = kind.endpoint.map_or([0; 2], bits);
    let verdict = Verdict::ALL.iter().position(|verdict| *verdict == kind.verdict);
    let first = u64::from(kind.service.port())
        | u64::from(kind.status) << 16
        | (verdict.unwrap_or(0) as u64) << 32
        | u64::from(kind.endpoint.is_some()) << 40
        | u64::from(kind.grpc.is_some()) << 41
        | u64::from(kind.grpc.flatten().is_some()) << 42;
    let second = u64::from(kind.flags.bits()) | u64::from(kind.grpc.flatten().unwrap_or(0)) << 32;
    let addresses =
        [source_high, source_low, service_high, service_low, endpoint_high, endpoint_low];
    let [a, b, c, d, e, f] = addresses;
    [a, b, c, d, e, f, first, second]
}

fn decode(name: &[u64; NAME / 8]) -> Kind {
    let ip = |at: usize| {
        let bits = u128::from(name[at]) << 64 | u128::from(name[at + 1]);
        Ipv6Addr::from_bits(bits).to_canonical()
    };
    let (first, second) = (name[6], name[7]);
    let is = |bit: u32| first >> bit & 1 == 1;
    Kind {
        source: ip(0),
        service: SocketAddr::new(ip(2), first as u16),
        endpoint: is(40).then(|| ip(4)),
        status: (first >> 16) as u16,
        grpc: is(41).then(|| is(42).then_some((second >> 32) as u32)),
        flags: Flags::from_bits(second as u32),
        verdict: Verdict::ALL[usize::from((first >> 32) as u8) % Verdict::ALL.len()],
    }
}

/// What is counted in a slot for what there is no room for.
fn rest(at: usize) -> Kind {
    let nobody = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    Kind {
        source: nobody,
        service: SocketAddr::new(nobody, 0),
        endpoint: None,
        status: (at % 6) as u16 * 100,
        grpc: None,
        flags: Flags::default(),
        verdict: Verdict::ALL[at / 6],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(number: u32) -> Kind {
        Kind {
            source: IpAddr::V4(number.into()),
            service: "10.96.0.1:80".parse().expect("an address"),
            endpoint: number.is_multiple_of(2).then(|| "fd00::1".parse().expect("an address")),
            status: 200,
            grpc: number.is_multiple_of(3).then_some(Some(number)),
            flags: Flags::NO_ROUTE,
            verdict: Verdict::Failed,
        }
    }

    #[test]
    fn a_kind_comes_back_as_it_was() {
        for number in 0..12 {
            assert_eq!(decode(&encode(&kind(number))), kind(number));
        }
    }

    #[test]
    fn what_was_counted_is_there_for_the_next_and_nothing_is_lost_when_it_is_full() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tallies");
        let many = SLOTS as u32 + 100;
        let first = Tallies::open(&path).expect("it can be made");
        let id = first.id();
        for number in 0..many {
            first.count(kind(number), 1_500_000, 10, 20);
        }
        drop(first);
        let next = Tallies::open(&path).expect("it is there");
        assert_eq!(next.id(), id);
        // this thread knows slots already; another process would look
        std::thread::scope(|scope| {
            scope.spawn(|| next.count(kind(1), 500_000, 1, 1));
        });
        let all: Vec<(usize, Kind, Tally)> = next.read().collect();
        assert_eq!(
            all.iter().map(|(_, _, tally)| tally.requests).sum::<u64>(),
            u64::from(many) + 1
        );
        let of_one = all.iter().find(|(_, found, _)| *found == kind(1)).expect("it was counted");
        assert_eq!((of_one.2.requests, of_one.2.request_bytes), (2, 11));
        assert_eq!((of_one.2.durations[2], of_one.2.durations[0]), (1, 1));
        let (used, room) = next.used();
        assert_eq!(used, room);
    }
}
