//! Which of the kernel's and the proxy's sums have been given names, and to which totals. What was
//! counted keeps the names of its time, although addresses change hands; and totals go on where they
//! were when the agent starts again, however it ended: sums that were not given names yet are still
//! there, and those that were are known from the file.

use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use beeway_dataplane::Dataplane;
use beeway_dataplane::traffic::{TrafficKey, TrafficKind, TrafficSum};
use beeway_telemetry::graph::Tick;
use beeway_telemetry::totals::{SavedTotals, Series, Tally, Totals};
use beeway_telemetry::{Names, Party, ServiceName, Verdict};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::tallies::{Kind, Tallies};

/// What has been given names.
pub(super) struct Ledger {
    path: PathBuf,
    origin: Origin,
    kernel: FxHashMap<TrafficKey, TrafficSum>,
    proxy: FxHashMap<usize, Tally>,
    /// When the kernel's sums changed last.
    touched: FxHashMap<TrafficKey, Instant>,
    changed: bool,
}

/// How long there must have been no traffic of a kind before it makes room for others.
const SPARE: Duration = Duration::from_secs(600);

/// Whose sums these are: others begin at zero.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Origin {
    boot: String,
    maps: u32,
    tallies: u64,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    origin: Origin,
    kernel: Vec<(TrafficKey, TrafficSum)>,
    proxy: Vec<(usize, Tally)>,
    totals: SavedTotals,
}

impl Ledger {
    /// Goes on where an agent before left off. `path` is the file; what cannot be read begins anew.
    pub fn open(path: &Path, dataplane: &Dataplane, tallies: &Tallies) -> Result<(Ledger, Totals)> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .context("read the boot's id")?;
        let maps = dataplane.traffic_maps()?;
        let origin = Origin { boot, maps, tallies: tallies.id() };
        let fresh = Ledger {
            path: path.to_owned(),
            origin,
            kernel: FxHashMap::default(),
            proxy: FxHashMap::default(),
            touched: FxHashMap::default(),
            changed: false,
        };
        let Ok(text) = std::fs::read(path) else { return Ok((fresh, Totals::default())) };
        match serde_json::from_slice::<Saved>(&text) {
            Ok(saved) if saved.origin == fresh.origin => {
                let kernel = saved.kernel.into_iter().collect();
                let proxy = saved.proxy.into_iter().collect();
                Ok((Ledger { kernel, proxy, ..fresh }, saved.totals.into()))
            }
            Ok(_) => Ok((fresh, Totals::default())),
            Err(error) => {
                tracing::warn!(%error, file = %path.display(), "traffic is counted anew");
                Ok((fresh, Totals::default()))
            }
        }
    }

    /// What has come since the last time, by name.
    pub fn collect(
        &mut self,
        dataplane: &Dataplane,
        tallies: &Tallies,
        names: &Names,
        tick: &mut Tick,
    ) -> Result<()> {
        for (key, sum) in dataplane.traffic()? {
            // one that has made room begins at zero again
            let before = self.kernel.get(&key).filter(|before| before.count <= sum.count);
            if before == Some(&sum) {
                continue;
            }
            self.touched.insert(key, Instant::now());
            let grown = tally(&sum).since(&before.map(tally).unwrap_or_default());
            self.kernel.insert(key, sum);
            self.changed = true;
            if let Some(series) = series_of_kernel(&key, names) {
                tick.series.push((Arc::new(series), grown));
            }
        }
        for (slot, kind, sum) in tallies.read() {
            let before = self.proxy.get(&slot);
            if before == Some(&sum) {
                continue;
            }
            let grown = sum.since(before.unwrap_or(&Tally::default()));
            self.proxy.insert(slot, sum);
            self.changed = true;
            tick.series.push((Arc::new(series_of_proxy(&kind, names)), grown));
        }
        Ok(())
    }

    /// Where there is little room left, forgets what has not come for long. A request that is counted in
    /// just that moment is not.
    pub fn make_room(&mut self, dataplane: &Dataplane) {
        if self.kernel.len() * 2 < dataplane.traffic_limits().0 {
            return;
        }
        let touched = &self.touched;
        let spare = |key: &TrafficKey| touched.get(key).is_none_or(|at| at.elapsed() > SPARE);
        // the first look of an agent touches nothing that has not changed
        let old: Vec<TrafficKey> = self.kernel.keys().filter(|key| spare(key)).copied().collect();
        for key in old {
            dataplane.forget_traffic(&key);
            self.kernel.remove(&key);
            self.touched.remove(&key);
            self.changed = true;
        }
    }

    /// Writes it down, with the totals that it has led to, if there is anything new.
    pub fn save(&mut self, totals: &Totals) -> Result<()> {
        if !self.changed {
            return Ok(());
        }
        let saved = Saved {
            origin: self.origin.clone(),
            kernel: self.kernel.iter().map(|(key, sum)| (*key, sum.clone())).collect(),
            proxy: self.proxy.iter().map(|(slot, tally)| (*slot, tally.clone())).collect(),
            totals: totals.into(),
        };
        let text = serde_json::to_vec(&saved).context("write down what was counted")?;
        let draft = self.path.with_extension("draft");
        let what = || format!("write {}", self.path.display());
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)
            .with_context(what)?;
        std::io::Write::write_all(&mut file, &text).with_context(what)?;
        std::fs::rename(&draft, &self.path).with_context(what)?;
        self.changed = false;
        Ok(())
    }
}

fn tally(sum: &TrafficSum) -> Tally {
    Tally {
        requests: sum.count,
        closed: sum.closed,
        request_bytes: sum.request_bytes,
        response_bytes: sum.response_bytes,
        duration: sum.duration,
        durations: sum.durations,
        request_sizes: sum.request_sizes,
        response_sizes: sum.response_sizes,
    }
}

/// `None`: connections whose requests the proxy counts.
fn series_of_kernel(key: &TrafficKey, names: &Names) -> Option<Series> {
    let connection = key.kind == TrafficKind::Connection;
    if connection && key.lane() == "detour" && names.is_http(key.service) {
        return None;
    }
    let verdict = verdict(key.lane(), key.reason(), key.status, connection);
    Some(Series {
        inbound: key.kind == TrafficKind::Visit,
        source: names.party(key.source),
        service: service_of_kind(key.kind, key.service, names),
        destination: key.endpoint.map_or_else(Party::unknown, |ip| names.party(ip)),
        protocol: if connection { "tcp" } else { "http" }.into(),
        code: key.status,
        grpc_status: None,
        flags: flags(key.reason()).into(),
        lane: key.lane().into(),
        verdict,
    })
}

/// What was asked for: where it came in, that is only known by the endpoint.
pub(super) fn service_of_kind(
    kind: TrafficKind,
    address: SocketAddr,
    names: &Names,
) -> Arc<ServiceName> {
    match kind {
        TrafficKind::Visit => names.entered(address),
        TrafficKind::Request | TrafficKind::Connection => names.service(address),
    }
}

fn series_of_proxy(kind: &Kind, names: &Names) -> Series {
    Series {
        inbound: false,
        source: names.party(kind.source),
        service: names.service(kind.service),
        destination: kind.endpoint.map_or_else(Party::unknown, |ip| names.party(ip)),
        protocol: if kind.grpc.is_some() { "grpc" } else { "http" }.into(),
        code: kind.status,
        grpc_status: kind.grpc.flatten(),
        flags: kind.flags.to_string(),
        lane: "detour".into(),
        verdict: kind.verdict,
    }
}

/// What became of a request or connection that the kernel decided about.
pub(super) fn verdict(lane: &str, reason: &str, status: u16, connection: bool) -> Verdict {
    match (lane, reason) {
        ("native" | "shortcut" | "detour", _) if status > 0 || connection => Verdict::Forwarded,
        ("answered" | "refused", "denied") => Verdict::Denied,
        ("answered", "rate_limited") => Verdict::Limited,
        ("answered", "route" | "none") => Verdict::Answered,
        _ => Verdict::Failed,
    }
}

/// Envoy's response flags for what the kernel decided.
pub(super) fn flags(reason: &str) -> &'static str {
    match reason {
        "no_route" => "NR",
        "no_endpoint" => "UH",
        "backend_missing" | "no_service" => "NC",
        "no_proxy" => "UF",
        "rate_limited" => "RL",
        "syntax" | "bad_chunk" => "DPE",
        _ => "-",
    }
}
