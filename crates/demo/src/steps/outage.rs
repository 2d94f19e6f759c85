//! Step 5: the agent is killed under load, and another takes over.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use beeway_testbed::{Load, LoadReport, Process, RawClient};
use serde_json::json;

use crate::screen::{Screen, human, thousands};
use crate::shop::Shop;

/// How long the load runs.
const LOAD: Duration = Duration::from_secs(4);

/// Until the agent is killed, and from the next one's start to the end.
const CALM: Duration = Duration::from_millis(600);

/// From the death of the agent to the start of the next one.
const AWAY: Duration = Duration::from_millis(900);

/// Between two requests of a prober. A closed loop would nearly always have a request under way in
/// the few milliseconds in which the agent dies; people do not.
const PAUSE: Duration = Duration::from_millis(25);

/// How long a prober waits for an answer: shorter than [`AWAY`], so that one whose request died
/// with the agent still sees what the kernel answers while there is none.
const PATIENCE_MS: u64 = 600;

/// Connections whose requests need the detour.
const PROBERS: usize = 8;

/// When the agent was killed, and when the next one was ready.
struct Gap {
    killed: Instant,
    ready: Instant,
    start: Duration,
}

/// One request that needs the detour: when it was sent and answered, and how.
struct Probe {
    sent: Instant,
    answered: Instant,
    status: Option<u16>,
}

/// The whole step; how many detoured requests were lost, because they were under way when the agent
/// died.
pub fn outage(shop: &mut Shop, screen: &Screen) -> Result<u64> {
    screen.heading("5  kill -9 of the agent under load");
    let took = shop.route("bookinfo")?;
    screen.doing(&format!("everyone back to v1, in force after {}", human(took)));
    let native = start_load(shop, "details")?;
    let shortcut = start_load(shop, "reviews")?;
    let (gap, probes) = kill_and_probe(shop, screen)?;
    screen.doing("waiting for the load to end");
    tell_load(screen, "native", &finish(native)?)?;
    tell_load(screen, "shortcut", &finish(shortcut)?)?;
    tell_probes(screen, &gap, &probes)
}

fn start_load(shop: &Shop, service: &str) -> Result<Process> {
    let url = format!("http://{}/{service}/0", shop.service(service)?);
    let load = Load { duration: LOAD, ..Load::new(url, 0).connections(2) };
    load.command(shop.pod("load")?)?.spawn()
}

fn finish(load: Process) -> Result<LoadReport> {
    LoadReport::parse(&load.output(LOAD + Duration::from_secs(20))?.success()?.stdout)
}

/// Kills and restarts the agent, while jason asks again and again.
fn kill_and_probe(shop: &mut Shop, screen: &Screen) -> Result<(Gap, Vec<Probe>)> {
    let to = shop.service("reviews")?;
    let (agent, node, pod) = shop.agent_and_pod("load")?;
    let mut clients = Vec::new();
    for _ in 0..PROBERS {
        clients.push(RawClient::connect(pod, to)?);
    }
    let over = AtomicBool::new(false);
    let connect = || RawClient::connect(pod, to);
    std::thread::scope(|scope| {
        let probers: Vec<_> =
            clients.into_iter().map(|c| scope.spawn(|| probe(c, connect, &over))).collect();
        let gap = (|| -> Result<Gap> {
            std::thread::sleep(CALM);
            ensure!(agent.is_running(), "the agent has ended by itself");
            let killed = Instant::now();
            agent.kill9();
            let dying = human(killed.elapsed());
            screen.doing(&format!("the agent is dead after {dying}; the traffic goes on"));
            std::thread::sleep(AWAY);
            let start = agent.start(node)?;
            let ready = Instant::now();
            screen.doing("the next agent has taken over");
            std::thread::sleep(CALM);
            Ok(Gap { killed, ready, start })
        })();
        over.store(true, Ordering::Relaxed);
        let mut probes = Vec::new();
        for prober in probers {
            probes.extend(prober.join().expect("a prober does not panic")?);
        }
        Ok((gap?, probes))
    })
}

/// Asks as jason until it is over. A connection that breaks is replaced.
fn probe(
    mut client: RawClient,
    connect: impl Fn() -> Result<RawClient>,
    over: &AtomicBool,
) -> Result<Vec<Probe>> {
    let request = "GET /reviews/0 HTTP/1.1\r\nHost: reviews\r\nend-user: jason\r\n\r\n";
    let mut probes = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let sent = Instant::now();
        client.step(&json!({ "send": request }))?;
        let answer = client.step(&json!({ "recv_response": true, "timeout_ms": PATIENCE_MS }))?;
        let status = answer["status"].as_u64().map(|status| status as u16);
        probes.push(Probe { sent, answered: Instant::now(), status });
        if status.is_none() {
            client = connect()?;
        }
        std::thread::sleep(PAUSE);
    }
    Ok(probes)
}

fn tell_load(screen: &Screen, lane: &str, report: &LoadReport) -> Result<()> {
    let served = report.status.get("200").copied().unwrap_or(0);
    ensure!(
        report.errors == 0 && served == report.requests && served > 0,
        "{lane} requests were lost: {} errors, {:?}, {}",
        report.errors,
        report.status,
        report.messages.join("; ")
    );
    screen.ok(&format!("{lane}: {} requests, none lost", thousands(served)));
    Ok(())
}

fn tell_probes(screen: &Screen, gap: &Gap, probes: &[Probe]) -> Result<u64> {
    let mut statuses: BTreeMap<u16, u64> = BTreeMap::new();
    let mut cut = 0;
    for probe in probes {
        match probe.status {
            Some(status) => *statuses.entry(status).or_default() += 1,
            None => {
                let under_way = probe.sent <= gap.ready && probe.answered >= gap.killed;
                ensure!(under_way, "a detoured request got no answer while an agent was there");
                cut += 1;
            }
        }
    }
    let (good, without) = (statuses.remove(&200).unwrap_or(0), statuses.remove(&503).unwrap_or(0));
    ensure!(statuses.is_empty(), "detoured requests should get 200 or 503: {statuses:?}");
    ensure!(without > 0, "no detoured request got 503 while there was no agent");
    let after = |wanted: u16, since: Instant| {
        let later = probes.iter().filter(|p| p.sent >= since && p.status == Some(wanted));
        later.map(|p| p.answered - since).min()
    };
    let again = after(200, gap.killed).context("detours do not work again")?;
    screen.ok(&format!(
        "detours: {} × 200; {} × 503 while there was no agent; {cut} lost, under way when it died",
        thousands(good),
        thousands(without)
    ));
    screen.ok(&format!(
        "the next agent, started {} later, was ready in {} and took over the kernel programs; \
         detours were away for {}",
        human(AWAY),
        human(gap.start),
        human(again)
    ));
    Ok(cut)
}
