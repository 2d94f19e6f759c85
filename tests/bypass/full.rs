//! More callers than the kernel's record of homes has room for: who does not fit is nobody.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use beeway_testbed::{Place, Process};
use serde_json::json;

use crate::bed::{Bed, LIMIT, wait_until};
use crate::kit::{ALL, Client, SHORTCUT, WEB, apply};

const KNOWN: &str = "0f6a2d11-8f2d-4f2e-9a57-1d0f4b4a3c21";
const LATE: &str = "6e1b6f0e-30f7-4a2f-8f4e-0a4c8ff4e2bb";
/// Of a workload that is nowhere to be seen.
const ABSENT: &str = "10.244.0.203";

/// A pod that is known by its UID, labelled with its name.
fn pod(name: &str, uid: &str, address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\n\
         metadata: {{name: {name}, namespace: default, uid: {uid}, labels: {{app: {name}}}}}\n\
         spec: {{nodeName: node-1, containers: []}}\n\
         status: {{phase: Running, podIPs: [{{ip: {address}}}]}}\n---\n"
    )
}

/// Only these may call: not `late`.
const POLICY: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
     metadata: {name: web, namespace: default}\n\
     spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress], \
     ingress: [{from: [{podSelector: {matchExpressions: \
     [{key: app, operator: In, values: [client, known, absent]}]}}]}]}\n";

struct Scene {
    bed: Bed,
    filler: Process,
}

impl Scene {
    fn new() -> Result<Scene> {
        let bed = Bed::new("full", SHORTCUT, ALL)?;
        let pods = pod("known", KNOWN, "10.244.0.201") + &pod("late", LATE, "10.244.0.202");
        bed.write("pods.yaml", &(pods + &pod("absent", "none", ABSENT)))?;
        apply(&bed, "policy.yaml", POLICY)?;
        let map = bed.state.path().join("bpf/maps/homes");
        let command = bed.node.command("/usr/bin/python3").plain();
        let command = command.args(["-c", include_str!("fill.py")]).arg(map);
        Ok(Scene { filler: command.spawn()?, bed })
    }

    fn cgroup(&self, path: &str) -> Result<PathBuf> {
        let directory = self.bed.node.mesh().path().join(path);
        std::fs::create_dir_all(&directory)?;
        Ok(directory)
    }

    fn refused(&self) -> Result<u64> {
        self.bed.status()?["homes"]["refused"].as_u64().context("no count")
    }

    /// A process of `late`, in the namespace of `client`, for whose home there is no room.
    fn crowd_out(&mut self) -> Result<Client> {
        for round in 0..20 {
            self.filler.write_line("fill")?;
            self.filler.next_line(LIMIT)?;
            let cgroup = self.cgroup(&format!("kubepods{round}/pod{LATE}"))?;
            let client = Client::start_in(&self.bed.client, &cgroup)?;
            let end = Instant::now() + Duration::from_secs(1);
            while Instant::now() < end {
                if self.refused()? > 0 {
                    return Ok(client);
                }
            }
            // all were looked at between the two, and what nobody is in was removed
        }
        anyhow::bail!("there is always room")
    }
}

#[test]
fn who_does_not_fit_is_nobody() -> Result<()> {
    let mut scene = Scene::new()?;
    let mut known = Client::start_in(&scene.bed.node, &scene.cgroup(&format!("pod{KNOWN}"))?)?;
    let mut client = Client::start(&scene.bed.client)?;
    let stranger = scene.bed.node.pod("stranger")?;
    stranger.netns().ip(&format!("addr add {ABSENT}/32 dev lo\n"))?;
    let mut forger = Client::start(&stranger)?;
    let forge = json!({"connect": WEB, "source": ABSENT});
    wait_until("known is at home", || Ok(known.connect(WEB)? == "connected"))?;
    assert_eq!(client.connect(WEB)?, "connected", "by its namespace");
    assert_eq!(forger.order(forge.clone())?, "connected", "by its address");
    let mut late = scene.crowd_out()?;
    // in the namespace of one who may call
    assert_eq!(late.connect(WEB)?, "ECONNREFUSED");
    assert_eq!(forger.order(forge.clone())?, "ECONNREFUSED");
    assert_eq!(client.connect(WEB)?, "ECONNREFUSED", "he could be the one who did not fit");
    assert_eq!(known.connect(WEB)?, "connected");
    let error = scene.bed.status()?["homes"]["error"].to_string();
    ensure!(error.contains("the map homes holds"), "{error}");
    // all are looked at, and there is room again
    apply(&scene.bed, "policy.yaml", &POLICY.replace("absent]", "absent, other]"))?;
    wait_until("there is room", || Ok(scene.refused()? == 0))?;
    assert_eq!(client.connect(WEB)?, "connected");
    assert_eq!(late.connect(WEB)?, "ECONNREFUSED", "known for who it is");
    assert_eq!(forger.order(forge)?, "connected");
    Ok(())
}
