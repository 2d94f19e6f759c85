//! Long bodies by detour: what is held back, what arrives, and how it ends.

mod bed;

use std::time::Duration;

use anyhow::Result;
use bed::{Bed, JASON, Shape, WEB};
use beeway_testbed::{pattern, upload};

const MIB: u64 = 1 << 20;

/// Uploads by detour, and returns what the client saw.
fn upload_by_detour(bed: &Bed, bytes: u64, arguments: &[&str]) -> Result<serde_json::Value> {
    let upload = upload(&bed.client, &format!("http://{WEB}/sum"), bytes)?
        .args(["-H", "Host: web", "-H", "end-user: jason"])
        .args(arguments);
    let output = upload.spawn()?.output(Duration::from_secs(120))?.success()?;
    Ok(output.json().pop().unwrap_or_default())
}

#[test]
fn an_upload_arrives() -> Result<()> {
    let bed = Bed::new("upload", Shape { servers_in_mesh: false }, JASON)?;
    for arguments in [&[][..], &["--chunked"], &["--write-size", "1000"], &["--expect"]] {
        let report = upload_by_detour(&bed, 64 * MIB, arguments)?;
        assert_eq!(report["reply"]["sha256"], pattern::sha256(64 * MIB), "{arguments:?} {report}");
        assert_eq!(report["served_by"], "v2");
    }
    assert_eq!(bed.counter("connections_held")?, 4);
    assert_eq!(bed.status()?["proxy"]["aborted"], 0);
    Ok(())
}
