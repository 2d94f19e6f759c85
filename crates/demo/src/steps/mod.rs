//! What the demo shows, step by step.

mod latency;
mod outage;
mod routes;
mod see;

use anyhow::Result;

use crate::agent::Lanes;
use crate::check_stop;
use crate::screen::{Screen, human, thousands};
use crate::shop::Shop;

/// What the lanes are, for the closing table.
const LANES: [(&str, &str); 5] = [
    ("native", "plain TCP to the endpoint, judged in passing"),
    ("shortcut", "both ends on this host: straight into the peer's socket, without TCP"),
    ("detour", "not where the connection leads: by way of the node's proxy"),
    ("answered", "denied, or nobody there to serve it: the kernel answered itself"),
    ("refused", "not understood: the connection was cut"),
];

/// The last words.
const WHERE_TO_LOOK: [&str; 6] = [
    "   Where to look on a node of yours: `beeway doctor`, then `beeway run --config DIR --dashboard`, and",
    "     beeway top, beeway flows --follow      live: services, latency, lanes; who called whom, and why",
    "     beeway dashboard                       the address of a page with the graph of services",
    "     http://127.0.0.1:15020/metrics         Istio's metrics and Beeway's; deploy/grafana/beeway.json,",
    "                                            deploy/prometheus/alerts.yaml",
    "     beeway explain, beeway status          one request's way; the configuration. And README.md",
];

/// All steps, then the table.
pub fn all(shop: &mut Shop, screen: &Screen) -> Result<()> {
    let opened = shop.agent.lanes()?;
    for step in [routes::everyone, routes::jason, routes::canary, routes::intruder] {
        check_stop()?;
        step(shop, screen)?;
    }
    check_stop()?;
    let lost = outage::outage(shop, screen)?;
    check_stop()?;
    see::see(shop, screen, lost)?;
    let (lanes, served) = (shop.agent.lanes()?.since(&opened), shop.served()?);
    check_stop()?;
    let table = latency::latency(shop, screen)?;
    screen.heading("In short");
    tell_requests(screen, &lanes, &served);
    for line in table {
        screen.line(&line);
    }
    screen.line("");
    for line in WHERE_TO_LOOK {
        screen.line(line);
    }
    screen.line(&format!("   The demo took {}.", human(screen.elapsed())));
    Ok(())
}

fn tell_requests(screen: &Screen, lanes: &Lanes, served: &[(&str, u64)]) {
    screen.line(&format!("   {:<16}{:>10}", "steps 1 to 6", "requests"));
    for (lane, what) in LANES {
        let requests = lanes.get(lane);
        if requests > 0 || lane != "refused" {
            screen.line(&format!("   {lane:<16}{:>10}   {what}", thousands(requests)));
        }
    }
    screen.line("");
    for (server, requests) in served {
        screen.line(&format!("   {server:<16}{:>10}", thousands(*requests)));
    }
    screen.line("");
}

/// `3 shortcut, 1 native`: the lanes that were taken.
fn lanes_taken(lanes: &Lanes) -> String {
    let taken = LANES.iter().filter(|(lane, _)| lanes.get(lane) > 0);
    let words: Vec<String> =
        taken.map(|(lane, _)| format!("{} {lane}", thousands(lanes.get(lane)))).collect();
    words.join(", ")
}
