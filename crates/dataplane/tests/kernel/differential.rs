//! The eBPF program, the interpreter and the reference router on random configurations.
//!
//! `make test` tries the same [`MESHES`] seeds each time, `make fuzz` (`BEEWAY_FUZZ=1`) new ones
//! until it is stopped. `BEEWAY_SEED=n` tries one seed again.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use beeway_model::Mesh;

use crate::case::Case;
use crate::generate::{Scene, Shape};
use crate::judge::{Judged, Trial};
use crate::node::Node;
use crate::reduce::Reduction;
use beeway_model::testing::Dice;

const MESHES: u64 = 400;
const CASES: usize = 250;

/// Set by Ctrl-C: what was loaded is taken away before the process ends.
static STOP: AtomicBool = AtomicBool::new(false);

/// How many cases there were and what became of them.
#[derive(Debug, Default, Clone)]
struct Counts {
    /// By the shape of the mesh, and whether it is within limits.
    cases: BTreeMap<(Shape, bool), [usize; 2]>,
    /// Why cases within limits were left to userspace.
    detours: BTreeMap<&'static str, usize>,
}

/// A disagreement, described.
struct Found(String);

impl Counts {
    fn count(&mut self, shape: Shape, within: bool, judged: Judged) {
        let [all, here] = self.cases.entry((shape, within)).or_default();
        *all += 1;
        match judged {
            Judged::Here => *here += 1,
            Judged::Detour(reason) if within => *self.detours.entry(reason).or_default() += 1,
            Judged::Detour(_) => {}
        }
    }

    fn add(&mut self, other: &Counts) {
        for (key, [all, here]) in &other.cases {
            let sum = self.cases.entry(*key).or_default();
            *sum = [sum[0] + all, sum[1] + here];
        }
        for (reason, count) in &other.detours {
            *self.detours.entry(reason).or_default() += count;
        }
    }

    /// Cases and those of them that were decided in the kernel.
    fn sum(&self, wanted: impl Fn(bool) -> bool) -> [usize; 2] {
        let held = self.cases.iter().filter(|((_, within), _)| wanted(*within));
        held.fold([0, 0], |sum, (_, [all, here])| [sum[0] + all, sum[1] + here])
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |[all, here]: [usize; 2]| 100.0 * here as f64 / all.max(1) as f64;
        writeln!(f, "{:>8} {:14} {:>8} decided", "shape", "", "cases")?;
        for ((shape, within), counts) in &self.cases {
            let limits = if *within { "within limits" } else { "beyond limits" };
            writeln!(
                f,
                "{:>8} {limits:14} {:8} {:5.1} %",
                format!("{shape:?}"),
                counts[0],
                share(*counts)
            )?;
        }
        let within = self.sum(|within| within);
        writeln!(f, "{:>8} {:14} {:8} {:5.1} %", "all", "within limits", within[0], share(within))?;
        for (reason, count) in &self.detours {
            let share = 100.0 * *count as f64 / within[0].max(1) as f64;
            writeln!(f, "    left to userspace as {reason:12} {count:8} {share:5.2} %")?;
        }
        Ok(())
    }
}

/// Puts requests to all three, on the configuration of one seed.
fn try_seed(node: &Node, seed: u64) -> Result<Counts, Found> {
    let mut dice = Dice(seed);
    let scene = Scene::new(&mut dice);
    let trial = Trial::new(node, scene.mesh.clone());
    let within = trial.is_within_limits();
    let mut counts = Counts::default();
    for _ in 0..CASES {
        let case = scene.case(&mut dice);
        match trial.judge(&case) {
            Ok(judged) => counts.count(scene.shape, within, judged),
            Err(what) => return Err(Found(report(node, seed, what, scene.mesh, case))),
        }
    }
    Ok(counts)
}

fn report(node: &Node, seed: u64, what: &'static str, mesh: Mesh, case: Case) -> String {
    let (mesh, case) = Reduction { node, what, mesh, case }.run();
    let described = Trial::new(node, mesh).describe(&case);
    format!(
        "{what}, with seed {seed}; this is what is left of it:\n{described}\n\
        Again: BEEWAY_SEED={seed} make fuzz. When it is mended, \
        crates/dataplane/tests/kernel/regressions.rs is the place for it."
    )
}

/// Tells the seed when the compiler or the program gives up on it.
struct Telling(u64);

impl Drop for Telling {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("this was seed {}", self.0);
        }
    }
}

/// Tries seeds from `next` on until `end`, or until something is found or stopped.
fn work(next: &AtomicU64, end: u64, results: &Sender<Result<Counts, Found>>) {
    let node = Node::start();
    while !STOP.load(Ordering::Relaxed) {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return;
        }
        let _telling = Telling(seed);
        let result = try_seed(&node, seed);
        let done = result.is_err();
        if results.send(result).is_err() || done {
            return;
        }
    }
}

/// All seeds of a range, side by side. Ends at the first disagreement.
fn try_seeds(seeds: std::ops::Range<u64>, progress: bool) -> Counts {
    let begin = Instant::now();
    let next = AtomicU64::new(seeds.start);
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get().min(8)) as u64;
    let mut total = Counts::default();
    std::thread::scope(|scope| {
        let (send, receive) = channel();
        for _ in 0..workers.min(seeds.end - seeds.start) {
            let (send, next) = (send.clone(), &next);
            scope.spawn(move || work(next, seeds.end, &send));
        }
        drop(send);
        let mut shown = begin;
        loop {
            match receive.recv_timeout(Duration::from_secs(1)) {
                Ok(Ok(counts)) => total.add(&counts),
                Ok(Err(Found(text))) => {
                    next.store(seeds.end, Ordering::Relaxed);
                    panic!("{text}");
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if progress && shown.elapsed() >= Duration::from_secs(5) {
                shown = Instant::now();
                let [all, here] = total.sum(|within| within);
                let cases = total.sum(|_| true)[0];
                let share = 100.0 * here as f64 / all.max(1) as f64;
                let seconds = begin.elapsed().as_secs();
                println!("{cases:10} cases, {share:.1} % decided in the kernel, {seconds} s");
            }
        }
    });
    println!("{total}{:.1} s", begin.elapsed().as_secs_f64());
    total
}

extern "C" fn stop(_: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}

#[test]
fn the_kernel_the_interpreter_and_the_router_agree() {
    if let Ok(seed) = std::env::var("BEEWAY_SEED") {
        let seed: u64 = seed.parse().expect("BEEWAY_SEED is a number");
        try_seeds(seed..seed + 1, false);
    } else if std::env::var_os("BEEWAY_FUZZ").is_some() {
        // SAFETY: the handler only stores to an atomic, which a signal handler may.
        unsafe {
            libc::signal(libc::SIGINT, stop as *const () as libc::sighandler_t);
            libc::signal(libc::SIGTERM, stop as *const () as libc::sighandler_t);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis();
        let first = now as u64;
        println!("seeds from {first}; Ctrl-C stops");
        try_seeds(first..u64::MAX, true);
    } else {
        let counts = try_seeds(0..MESHES, false);
        let [all, here] = counts.sum(|within| within);
        assert!(counts.sum(|_| true)[0] >= 100_000);
        assert!(here * 100 > all * 94, "{here} of {all} decided\n{counts}");
    }
}
