//! Steps 1 to 4: where requests go.

use anyhow::{Result, ensure};
use beeway_testbed::{RawClient, Response};

use super::lanes_taken;
use crate::screen::{Screen, human, thousands};
use crate::shop::Shop;

/// Pages that step 1 asks for.
const PAGES: u64 = 100;

/// Requests that step 3 sends. The share of v3 has a standard deviation of 13.4 requests.
const CANARY: u64 = 2_000;

/// Of [`CANARY`], within 4.5 standard deviations of a tenth.
const TENTH: std::ops::RangeInclusive<u64> = 140..=260;

/// Requests of the intruder.
const DENIED: u64 = 2_000;

fn page(client: &mut RawClient, headers: &[&str]) -> Result<Response> {
    let page = client.get("productpage", "/productpage", headers)?;
    ensure!(page.status == 200, "a page came with status {}: {}", page.status, page.body);
    Ok(page)
}

/// The servers that had a part in a page, in the order of being asked.
fn parts(page: &Response) -> Vec<&str> {
    page.body.lines().filter_map(|line| line.split(' ').next()).collect()
}

/// Everybody sees v1, and no request takes a proxy.
pub fn everyone(shop: &mut Shop, screen: &Screen) -> Result<()> {
    screen.heading("1  Everyone gets reviews v1");
    let before = shop.agent.lanes()?;
    let mut client = shop.connect("load", "productpage")?;
    for _ in 0..PAGES {
        let page = page(&mut client, &[])?;
        let wanted = ["productpage-v1", "details-v1", "reviews-v1"];
        ensure!(parts(&page) == wanted, "a page was made by {:?}", parts(&page));
    }
    screen.ok(&format!("{PAGES} of {PAGES} pages came with details v1 and reviews v1"));
    let lanes = shop.agent.lanes()?.since(&before);
    ensure!(
        lanes.get("shortcut") == 2 * PAGES && lanes.get("native") == PAGES,
        "{} pages should be {} requests by the shortcut and {PAGES} native: {lanes:?}",
        PAGES,
        2 * PAGES
    );
    screen.ok(&format!("no proxy on the way; the kernel counts {}", lanes_taken(&lanes)));
    Ok(())
}

/// One user sees v2, request by request on one connection.
pub fn jason(shop: &mut Shop, screen: &Screen) -> Result<()> {
    screen.heading("2  `end-user: jason` gets v2, on the same keep-alive connection");
    let before = shop.agent.lanes()?;
    let mut client = shop.connect("load", "reviews")?;
    let mut seen = Vec::new();
    for turn in 0..10 {
        let (headers, wanted): (&[&str], _) = match turn % 2 {
            0 => (&[], "reviews-v1"),
            _ => (&["end-user: jason"], "reviews-v2"),
        };
        let answer = client.get("reviews", "/reviews/0", headers)?;
        let server = answer.served_by().unwrap_or("nobody");
        ensure!(server == wanted, "{headers:?} was served by {server}, not by {wanted}");
        seen.push(server.trim_start_matches("reviews-").to_owned());
    }
    let peer = client.peername()?;
    ensure!(peer == shop.service("reviews")?, "the client sees {peer} at the other end");
    screen.ok(&format!("one connection to {peer}: {}", seen.join(" ")));
    let mut client = shop.connect("load", "productpage")?;
    let page = page(&mut client, &["end-user: jason"])?;
    let wanted = ["productpage-v1", "details-v1", "reviews-v2", "ratings-v1"];
    ensure!(parts(&page) == wanted, "jason's page was made by {:?}", parts(&page));
    screen.ok(&format!("jason's page: {}", parts(&page).join(", ")));
    let lanes = shop.agent.lanes()?.since(&before);
    ensure!(lanes.get("detour") > 0, "no request took the detour: {lanes:?}");
    screen.ok(&format!("the kernel counts {}", lanes_taken(&lanes)));
    Ok(())
}

/// A tenth of the requests goes to v3.
pub fn canary(shop: &mut Shop, screen: &Screen) -> Result<()> {
    screen.heading("3  A tenth of the requests shifts to v3");
    let took = shop.route("bookinfo-canary")?;
    screen.ok(&format!("in force {} after the file was saved", human(took)));
    let report = shop.load("load", "reviews", CANARY, 8)?;
    let count = |server: &str| report.served_by.get(server).copied().unwrap_or(0);
    let (v1, v3) = (count("reviews-v1"), count("reviews-v3"));
    ensure!(
        v1 + v3 == CANARY && TENTH.contains(&v3),
        "of {CANARY} requests {v1} went to v1 and {v3} to v3, not nine tenths and one"
    );
    let share = |n: u64| 100.0 * n as f64 / CANARY as f64;
    screen.ok(&format!(
        "{} requests on 8 connections: {} to v1 ({:.1} %), {} to v3 ({:.1} %)",
        thousands(CANARY),
        thousands(v1),
        share(v1),
        thousands(v3),
        share(v3)
    ));
    Ok(())
}

/// One caller is turned away by the kernel.
pub fn intruder(shop: &mut Shop, screen: &Screen) -> Result<()> {
    screen.heading("4  One caller is denied");
    let reviews = |shop: &Shop| -> Result<u64> {
        let served = shop.served()?;
        Ok(served.iter().filter(|(name, _)| name.starts_with("reviews")).map(|(_, n)| n).sum())
    };
    let (lanes, served) = (shop.agent.lanes()?, reviews(shop)?);
    let report = shop.load("intruder", "reviews", DENIED, 1)?;
    ensure!(
        report.status.get("403") == Some(&DENIED),
        "the intruder should get nothing but 403: {:?}",
        report.status
    );
    let lanes = shop.agent.lanes()?.since(&lanes);
    ensure!(lanes.get("answered") == DENIED, "the kernel should have answered: {lanes:?}");
    ensure!(reviews(shop)? == served, "a server of reviews has seen a request of the intruder");
    screen.ok(&format!(
        "`intruder` gets 403: {} of {} requests, answered by the kernel in {} µs (median)",
        thousands(DENIED),
        thousands(DENIED),
        report.p50_us
    ));
    let mut client = shop.connect("load", "reviews")?;
    let answer = client.get("reviews", "/reviews/0", &[])?;
    ensure!(answer.status == 200, "`load` should still be served: {}", answer.status);
    screen.ok("no server saw any of them; `load` asks the same and gets 200");
    Ok(())
}
