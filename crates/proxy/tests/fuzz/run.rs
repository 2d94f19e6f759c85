//! One seed after the other.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::memory;

/// Set by Ctrl-C.
static STOP: AtomicBool = AtomicBool::new(false);
/// What threads of the proxy have panicked with: tokio keeps it to itself.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Bytes that may be held at once, by all seeds that are tried side by side.
const MEMORY: usize = 512 << 20;

/// What happened how often.
#[derive(Debug, Default, Clone)]
pub struct Counts(pub BTreeMap<&'static str, usize>);

impl Counts {
    pub fn count(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    pub fn add(&mut self, what: &'static str, n: usize) {
        *self.0.entry(what).or_default() += n;
    }

    pub fn of(&self, what: &str) -> usize {
        self.0.get(what).copied().unwrap_or_default()
    }

    pub fn merge(&mut self, other: &Counts) {
        for (what, n) in &other.0 {
            self.add(what, *n);
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, n) in &self.0 {
            writeln!(f, "{n:10} {what}")?;
        }
        Ok(())
    }
}

/// Tries one seed: what happened, or what went wrong.
pub type Try = fn(u64) -> Result<Counts, String>;

/// Takes down every panic of a thread of the proxy.
fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let thread = std::thread::current();
            if thread.name().is_some_and(|name| name.starts_with("detour")) {
                let trace = std::backtrace::Backtrace::force_capture();
                let text = format!("the proxy panicked: {panic}\n{trace}");
                PANICS.lock().unwrap_or_else(|e| e.into_inner()).push(text);
            } else {
                before(panic);
            }
        }));
    });
}

fn try_seed(seed: u64, of: Try) -> Result<Counts, String> {
    let result = of(seed);
    if let Some(panic) = PANICS.lock().unwrap_or_else(|e| e.into_inner()).pop() {
        return Err(panic);
    }
    if memory::held() > MEMORY {
        return Err(format!("{} MiB are held", memory::held() >> 20));
    }
    result
}

fn work(next: &AtomicU64, end: u64, results: &Sender<Result<Counts, String>>, of: Try) {
    while !STOP.load(Ordering::Relaxed) {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return;
        }
        let result = try_seed(seed, of).map_err(|what| {
            format!("with seed {seed}: {what}\nAgain: BEEWAY_SEED={seed} and the name of this test")
        });
        let done = result.is_err();
        if results.send(result).is_err() || done {
            return;
        }
    }
}

/// All seeds of a range, side by side. Ends at the first that something is wrong with.
fn try_seeds(seeds: std::ops::Range<u64>, progress: bool, of: Try) -> Counts {
    watch_panics();
    let begin = Instant::now();
    let next = AtomicU64::new(seeds.start);
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get().min(8)) as u64;
    let mut total = Counts::default();
    std::thread::scope(|scope| {
        let (send, receive) = channel();
        for _ in 0..workers.min(seeds.end - seeds.start) {
            let (send, next) = (send.clone(), &next);
            scope.spawn(move || work(next, seeds.end, &send, of));
        }
        drop(send);
        let mut shown = begin;
        loop {
            match receive.recv_timeout(Duration::from_secs(1)) {
                Ok(Ok(counts)) => {
                    total.count("seeds");
                    total.merge(&counts);
                }
                Ok(Err(text)) => {
                    next.store(seeds.end, Ordering::Relaxed);
                    panic!("{text}");
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if progress && shown.elapsed() >= Duration::from_secs(5) {
                shown = Instant::now();
                let (seeds, seconds) = (total.of("seeds"), begin.elapsed().as_secs());
                let (held, peak) = (memory::held() >> 10, memory::peak() >> 10);
                println!("{seeds:10} seeds, {seconds} s, {held} KiB held, {peak} KiB at most");
            }
        }
    });
    println!("{total}{:.1} s", begin.elapsed().as_secs_f64());
    total
}

extern "C" fn stop(_: nix::libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}

/// As many seeds as the environment says, by default `few` that are always the same; `None`
/// unless it is those.
pub fn run(few: u64, of: Try) -> Option<Counts> {
    if let Ok(seed) = std::env::var("BEEWAY_SEED") {
        let seed: u64 = seed.parse().expect("BEEWAY_SEED is a number");
        try_seeds(seed..seed + 1, false, of);
        return None;
    }
    if std::env::var_os("BEEWAY_FUZZ").is_none() {
        return Some(try_seeds(0..few, false, of));
    }
    let action = SigAction::new(SigHandler::Handler(stop), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler only stores to an atomic, which a signal handler may.
        unsafe { sigaction(signal, &action) }.expect("a handler");
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis();
    let first = now as u64;
    println!("seeds from {first}; Ctrl-C stops");
    try_seeds(first..u64::MAX, true, of);
    None
}
