//! Answers that break off, and endpoints that close the connection that detours use.

use std::time::Duration;

use anyhow::Result;
use beeway_testbed::{Place, RawClient, directory, script_server, spawn_ready, wait_connect};

use crate::bed::{Bed, LIMIT, WEB};
use crate::{bed, connect, eventually, other};

/// Replaces v2 by a server that sends what paths spell.
fn with_script(label: &str) -> Result<Bed> {
    let mut bed = bed(label)?;
    bed.servers.truncate(1);
    bed.servers.push(spawn_ready(script_server(&bed.v2, 8080)?)?);
    Ok(bed)
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn an_answer_that_breaks_off_is_a_reset_behind_what_came() -> Result<()> {
    let bed = with_script("cutoff")?;
    let part = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf";
    let mut raw = connect(&bed)?;
    assert_eq!(raw.get("web", "/", &[])?.served_by(), Some("v1"));
    raw.send(&other(&format!("/script/{}.wait300.close", hex(part))))?;
    let (data, end) = raw.recv_until_close()?;
    assert!(data.ends_with("half") && data.starts_with("HTTP/1.1 200"), "{data}");
    assert_eq!(end, "ECONNRESET");
    eventually(&bed, |proxy| proxy["open_streams"] == 0 && proxy["aborted"] == 1)
}

#[test]
fn what_comes_before_a_reset_is_read_late_too() -> Result<()> {
    let bed = with_script("late")?;
    let part = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n";
    let mut raw = connect(&bed)?;
    raw.send(&other(&format!("/script/{}.x60.close", hex(part))))?;
    eventually(&bed, |proxy| proxy["aborted"] == 1)?;
    std::thread::sleep(Duration::from_millis(200));
    let (data, end) = raw.recv_until_close()?;
    assert!(data.ends_with(&"x".repeat(60)), "{data}");
    assert_eq!(end, "ECONNRESET");
    Ok(())
}

#[test]
fn a_client_that_does_not_close_after_the_last_answer_sees_the_end() -> Result<()> {
    let bed = bed("lastone")?;
    let mut raw = connect(&bed)?;
    let request = "GET / HTTP/1.1\r\nHost: web\r\nend-user: jason\r\nConnection: close\r\n\r\n";
    let answer = raw.request(request)?;
    assert_eq!(answer.served_by(), Some("v2"));
    assert_eq!(raw.recv_until_close()?, (String::new(), "eof".into()));
    eventually(&bed, |proxy| proxy["open_streams"] == 0)
}

/// Closes connections that are idle for a second.
const IMPATIENT: &str = r#"daemon off; user root; pid nginx.pid; error_log stderr; events {}
http {
  access_log off; keepalive_timeout 1s; default_type text/plain;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  server {
    listen 0.0.0.0:8080; add_header x-served-by v1 always;
    location / { return 200 "v1\n"; }
  }
}
"#;

/// Replaces v1 by an impatient nginx, whose files are in a directory.
fn with_impatient_nginx(label: &str) -> Result<(Bed, tempfile::TempDir)> {
    let mut bed = bed(label)?;
    bed.servers.remove(0);
    let directory = directory("nginx")?;
    let config = directory.path().join("nginx.conf");
    std::fs::write(&config, IMPATIENT)?;
    let nginx = bed.v1.command("nginx").arg("-p").arg(directory.path()).arg("-c").arg(config);
    bed.servers.push(nginx.args(["-e", "stderr"]).spawn()?);
    wait_connect(&bed.v1, bed.v1.addr4(8080), LIMIT)?;
    Ok((bed, directory))
}

#[test]
fn an_idle_endpoint_that_closes_is_not_noticed_during_a_detour() -> Result<()> {
    let (bed, _directory) = with_impatient_nginx("idle")?;
    let mut raw = connect(&bed)?;
    assert_eq!(raw.get("web", "/", &[])?.served_by(), Some("v1"));
    let answer = raw.get("web", "/delay/2500/slow", &["end-user: jason"])?;
    assert_eq!((answer.status, answer.served_by()), (200, Some("v2")));
    assert_eq!(bed.counter("connections_held")?, 1);
    // and it goes on
    assert_eq!(raw.get("web", "/", &["end-user: jason"])?.served_by(), Some("v2"));
    assert_eq!(raw.get("web", "/", &[])?.served_by(), Some("v1"));
    // until it is idle, so that the next one is native again
    assert_eq!(raw.recv_until_close()?, (String::new(), "eof".into()));
    let mut raw = RawClient::connect(&bed.client, WEB.parse()?)?;
    assert_eq!(raw.get("web", "/", &[])?.served_by(), Some("v1"));
    eventually(&bed, |proxy| proxy["open_streams"] == 0)
}
