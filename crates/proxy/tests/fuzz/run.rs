//! One seed after the other, several side by side.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

use crate::memory;

/// What threads of the proxy have panicked with: tokio keeps it to itself.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Bytes that may be held at once, by all seeds that are tried side by side.
const MEMORY: usize = 512 << 20;

/// Most of the time seeds wait, for time limits of rules and for house-keeping.
const SIDE_BY_SIDE: u64 = 6;

/// What happened how often.
#[derive(Debug, Default, Clone)]
pub struct Counts(pub BTreeMap<&'static str, usize>);

impl Counts {
    pub fn add(&mut self, what: &'static str, n: usize) {
        *self.0.entry(what).or_default() += n;
    }

    pub fn of(&self, what: &str) -> usize {
        self.0.get(what).copied().unwrap_or_default()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(what, n)| writeln!(f, "{n:10} {what}"))
    }
}

/// Tries one seed: what happened, or what went wrong.
pub type Try = fn(u64) -> Pin<Box<dyn Future<Output = Result<Counts, String>>>>;

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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let result = tokio::task::LocalSet::new().block_on(&runtime, of(seed));
    if let Some(panic) = PANICS.lock().unwrap_or_else(|e| e.into_inner()).pop() {
        return Err(panic);
    }
    if memory::held() > MEMORY {
        return Err(format!("{} MiB are held", memory::held() >> 20));
    }
    result
}

/// All seeds of a range. Ends at the first that something is wrong with.
fn try_seeds(name: &str, seeds: std::ops::Range<u64>, of: Try) -> Counts {
    watch_panics();
    let (begin, next) = (Instant::now(), AtomicU64::new(seeds.start));
    let (mut total, mut shown) = (Counts::default(), begin);
    std::thread::scope(|scope| {
        let (send, receive) = channel();
        for _ in 0..SIDE_BY_SIDE.min(seeds.end - seeds.start) {
            let (send, next) = (send.clone(), &next);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || send.send((seed, try_seed(seed, of))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        loop {
            match receive.recv_timeout(Duration::from_secs(1)) {
                Ok((_, Ok(counts))) => {
                    total.add("seeds", 1);
                    counts.0.iter().for_each(|(what, n)| total.add(what, *n));
                }
                Ok((seed, Err(what))) => {
                    next.store(seeds.end, Ordering::Relaxed);
                    panic!("{what}\nAgain: BEEWAY_SEED={seed} make fuzz FUZZ={name}");
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if shown.elapsed() >= Duration::from_secs(10) {
                shown = Instant::now();
                let (seconds, peak) = (begin.elapsed().as_secs(), memory::peak() >> 20);
                let (seeds, requests) = (total.of("seeds"), total.of("requests"));
                println!("{seeds:8} seeds, {requests} requests, {seconds} s, {peak} MiB at most");
            }
        }
    });
    println!("{total}{:.1} s", begin.elapsed().as_secs_f64());
    total
}

/// The first seeds, or as the environment says (see the crate).
/// `None` when it is not the usual part. `name`: of the test, for whoever tries it again.
pub fn run(name: &str, few: u64, of: Try) -> Option<Counts> {
    if let Ok(seed) = std::env::var("BEEWAY_SEED") {
        let seed: u64 = seed.parse().expect("BEEWAY_SEED is a number");
        try_seeds(name, seed..seed + 1, of);
        return None;
    }
    if std::env::var_os("BEEWAY_FUZZ").is_some() {
        let first = fastrand::u64(..1 << 40) << 20;
        println!("seeds from {first}");
        try_seeds(name, first..u64::MAX, of);
        return None;
    }
    // the same each time: a run of all tests is not where new finds are made
    Some(try_seeds(name, 0..few, of))
}
