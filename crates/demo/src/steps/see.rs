//! Step 6: what there is to see.

use anyhow::{Context, Result, ensure};
use beeway_testbed::curl;

use super::{LANES, lanes_taken};
use crate::screen::{Screen, thousands};
use crate::shop::Shop;

/// How often it is looked whether all is counted: a request that nothing follows is after a second.
const LOOKS: u32 = 40;

/// Every request was counted once, and single ones are told of. The kernel handed over the `lost`
/// ones, and no agent lived to see what came of them.
pub fn see(shop: &mut Shop, screen: &Screen, lost: u64) -> Result<()> {
    screen.heading("6  Every request is counted once, in Istio's terms");
    let lanes = shop.agent.lanes()?;
    let is_counted = |metrics: &str, lane: &str| {
        let lost = if lane == "detour" { lost } else { 0 };
        (lanes.get(lane).saturating_sub(lost)..=lanes.get(lane)).contains(&counted(metrics, lane))
    };
    let mut metrics = String::new();
    for look in 0.. {
        metrics = curl(&shop.node, &["-sS", crate::agent::METRICS])?.success()?.stdout;
        let differs = LANES.iter().find(|(lane, _)| !is_counted(&metrics, lane));
        let Some((lane, _)) = differs else { break };
        ensure!(
            look < LOOKS,
            "istio_requests_total has {} requests of the lane {lane}, the kernel {} \
             (lost with the agent: {lost})",
            counted(&metrics, lane),
            lanes.get(lane)
        );
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let sum: u64 = LANES.iter().map(|(lane, _)| counted(&metrics, lane)).sum();
    screen.ok(&format!(
        "the sum of istio_requests_total is {}, also over the killed agent: {}",
        thousands(sum),
        lanes_taken(&lanes)
    ));
    shop.connect("intruder", "reviews")?.get("reviews", "/reviews/0", &[])?;
    let told = shop.agent.tell(&["flows", "--last", "1", "--status", "403"])?;
    let line = told.lines().last().context("`beeway flows` tells of no request that got 403")?;
    screen.ok("`beeway flows --status 403` tells who asked, what, and what came of it:");
    screen.line(&format!("     {line}"));
    Ok(())
}

/// The sum of `istio_requests_total` of a lane, in Prometheus' text.
fn counted(metrics: &str, lane: &str) -> u64 {
    let lane = format!("lane=\"{lane}\"");
    let samples = metrics.lines().filter(|line| line.starts_with("istio_requests_total{"));
    let values = samples.filter(|line| line.contains(&lane)).filter_map(|line| {
        let (_, value) = line.rsplit_once(' ')?;
        value.parse::<u64>().ok()
    });
    values.sum()
}
