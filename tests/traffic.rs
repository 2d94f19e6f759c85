//! Real traffic through the real kernel: which lane a request takes, and what the client sees.

mod bed;

use anyhow::Result;
use beeway_testbed::{RawClient, Response, curl};
use bed::{Bed, JASON, Shape, WEB};

const NATIVE: Shape = Shape { servers_in_mesh: false };
const SHORTCUT: Shape = Shape { servers_in_mesh: true };

fn get(raw: &mut RawClient, path: &str, headers: &[&str]) -> Response {
    raw.get("web", path, headers).unwrap_or_else(|error| panic!("GET {path}: {error:#}"))
}

#[test]
fn one_connection_takes_three_lanes() -> Result<()> {
    let bed = Bed::new("lanes", NATIVE, JASON)?;
    let mut raw = RawClient::connect(&bed.client, WEB.parse()?)?;
    for _ in 0..3 {
        assert_eq!(get(&mut raw, "/", &[]).served_by(), Some("v1"));
        assert_eq!(get(&mut raw, "/", &["end-user: jason"]).served_by(), Some("v2"));
        let denied = get(&mut raw, "/forbidden/x", &[]);
        assert_eq!((denied.status, denied.body.as_str()), (403, "RBAC: access denied"));
    }
    assert_eq!(raw.peername()?.to_string(), WEB);
    assert_eq!((bed.lane("native")?, bed.lane("detour")?, bed.lane("answered")?), (3, 3, 3));
    Ok(())
}

#[test]
fn both_ends_on_this_host_take_the_shortcut() -> Result<()> {
    let bed = Bed::new("short", SHORTCUT, JASON)?;
    let mut raw = RawClient::connect(&bed.client, WEB.parse()?)?;
    for _ in 0..5 {
        assert_eq!(get(&mut raw, "/", &[]).served_by(), Some("v1"));
        assert_eq!(get(&mut raw, "/", &["end-user: jason"]).served_by(), Some("v2"));
        assert_eq!(get(&mut raw, "/forbidden", &[]).status, 403);
    }
    assert_eq!((bed.lane("shortcut")?, bed.lane("detour")?, bed.lane("answered")?), (5, 5, 5));
    assert!(bed.counter("shortcut_bytes")? > 500);
    Ok(())
}

#[test]
fn one_curl_session_sees_v1_v2_and_403() -> Result<()> {
    let bed = Bed::new("curl", NATIVE, JASON)?;
    let url = format!("http://{WEB}");
    let (root, forbidden) = (format!("{url}/"), format!("{url}/forbidden"));
    let output = curl(
        &bed.client,
        &[
            "-sS", "-w", "%{http_code} %{num_connects}\n", "-H", "Host: web", &root, "--next",
            "-sS", "-w", "%{http_code} %{num_connects}\n", "-H", "Host: web", "-H",
            "end-user: jason", &root, "--next", "-sS", "-w", "\n%{http_code} %{num_connects}\n",
            "-H", "Host: web", &forbidden,
        ],
    )?
    .success()?;
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(
        lines,
        ["v1 GET /", "200 1", "v2 GET /", "200 0", "RBAC: access denied", "403 0"],
        "one connection serves all three"
    );
    Ok(())
}
