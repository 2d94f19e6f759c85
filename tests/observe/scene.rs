//! A bed whose agent is started with a test's own arguments and files.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use beeway_testbed::{Place, RawClient, Response};
use serde_json::Value;

use crate::bed::{Bed, LIMIT, Shape, WEB, ready, wait_until};

/// Requests for `/detour` go through the proxy, `/nobody` goes nowhere, `/forbidden` is answered, and
/// all else goes natively.
const RULES: &str = "\
- match: [{uri: {prefix: /forbidden}}]
  directResponse: {status: 403, body: {string: \"RBAC: access denied\"}}
- match: [{uri: {prefix: /nobody}}]
  headers: {request: {set: {x-by: mesh}}}
  route: [{destination: {host: nobody}}]
- match: [{uri: {prefix: /detour/}}]
  rewrite: {uri: /}
  headers: {request: {set: {x-by: mesh}}}
  route: [{destination: {host: web, subset: v1}}]
- route: [{destination: {host: web, subset: v1}}]
";

/// Both lanes that reach a server, as beginnings of paths.
pub const LANES: [(&str, &str); 2] = [("native", ""), ("detour", "/detour")];

/// A running bed.
pub struct Scene {
    pub bed: Bed,
    /// A folder below /var/log of its own.
    pub logs: PathBuf,
}

impl Scene {
    /// With these files of configuration and arguments of the agent. `LOGS` in a file is the folder
    /// for logs.
    pub fn new(label: &str, files: &[(&str, &str)], args: &[&str]) -> Result<Scene> {
        let bed = Bed::new(label, Shape { servers_in_mesh: false }, RULES)?;
        let logs = PathBuf::from(format!("/var/log/beeway-test-{}-{label}", std::process::id()));
        let mut scene = Scene { bed, logs };
        for (name, text) in files {
            scene.write(name, text)?;
        }
        scene.restart(args)?;
        Ok(scene)
    }

    /// Writes a file of the configuration.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        self.bed.write(name, &text.replace("LOGS", &self.logs.display().to_string()))
    }

    /// The same, and waits until it is in force; and a moment longer, in which who logs hears of it.
    pub fn apply(&self, name: &str, text: &str) -> Result<()> {
        let before = self.bed.generation()?;
        self.write(name, text)?;
        self.bed.wait_for_generation(before)?;
        std::thread::sleep(std::time::Duration::from_millis(300));
        Ok(())
    }

    /// Another agent takes the place of the one that runs.
    pub fn restart(&mut self, args: &[&str]) -> Result<()> {
        if let Some(mut agent) = self.bed.agent.take() {
            agent.terminate(LIMIT)?;
        }
        let command = self.bed.node.command(env!("CARGO_BIN_EXE_beeway"));
        let command = command.args(["run", "--metrics", "127.0.0.1:0", "--node", "node-1"]);
        let command = command.arg("--config").arg(self.bed.config.path());
        let command = command.arg("--state").arg(self.bed.state.path());
        let command = command.arg("--cgroup").arg(self.bed.node.mesh().path());
        let args = args.iter().map(|arg| arg.replace("STATE", &self.state("")));
        self.bed.agent = Some(ready(command.args(args).spawn()?)?);
        Ok(())
    }

    /// The path of a file of the state folder.
    pub fn state(&self, name: &str) -> String {
        let path = self.bed.state.path().display().to_string();
        if name.is_empty() { path } else { format!("{path}/{name}") }
    }

    /// A GET to `web` on a connection of its own.
    pub fn get(&self, path: &str, headers: &[&str]) -> Result<Response> {
        let mut raw = RawClient::connect(&self.bed.client, WEB.parse()?)?;
        raw.get("web", path, headers).with_context(|| format!("GET {path}"))
    }

    /// The lines of a file, once there are as many; a moment later there must not be more.
    pub fn lines(&self, path: &str, wanted: usize) -> Result<Vec<String>> {
        let read = || {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let waited = wait_until("lines are written", || Ok(read().len() >= wanted));
        waited.with_context(|| format!("{path}: {:#?}", read()))?;
        std::thread::sleep(std::time::Duration::from_millis(300));
        let lines = read();
        ensure!(lines.len() == wanted, "{path} has {} lines of {wanted}: {lines:#?}", lines.len());
        Ok(lines)
    }

    /// The same of a log in JSON.
    pub fn records(&self, path: &str, wanted: usize) -> Result<Vec<Value>> {
        let lines = self.lines(path, wanted)?;
        lines.iter().map(|line| serde_json::from_str(line).context(line.clone())).collect()
    }

    /// A counter of `/metrics`.
    pub fn counter(&self, name: &str) -> Result<u64> {
        Ok(self.bed.scrape()?.value(name)? as u64)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.logs);
    }
}
