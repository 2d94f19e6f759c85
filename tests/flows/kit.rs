//! A bed whose every request is told of, and ways to ask.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use beeway_testbed::{Output, Place, Process, RawClient};
use serde_json::Value;

use crate::bed::{self, Bed, LIMIT, NO_ADMIN, Shape, WEB};

/// What the kernel answers, and what needs userspace.
const RULES: &str = "\
- match: [{uri: {prefix: /known}}]
  directResponse: {status: 203, body: {string: known}}
- match: [{uri: {prefix: /nobody}}]
  route: [{destination: {host: nobody}}]
  timeout: 10s
- match: [{uri: {prefix: /moved}}]
  redirect: {uri: /}
- headers: {request: {set: {x-seen: \"yes\"}}}
  retries: {attempts: 0}
  route: [{destination: {host: web, subset: v1}}]
";

pub struct Scene {
    pub bed: Bed,
}

impl Scene {
    pub fn new(label: &str) -> Result<Scene> {
        Scene::shaped(label, Shape { servers_in_mesh: false })
    }

    pub fn shaped(label: &str, shape: Shape) -> Result<Scene> {
        let bed = Bed::new(label, shape, RULES)?;
        let before = bed.generation()?;
        bed.write("policy.yaml", NO_ADMIN)?;
        bed.wait_for_generation(before)?;
        Ok(Scene { bed })
    }

    /// Starts the agent anew without an access log, so that not all requests are told of.
    pub fn without_access_log(&mut self) -> Result<()> {
        self.bed.agent.take().context("an agent")?.terminate(LIMIT)?;
        let (config, state) = (self.bed.config.path(), self.bed.state.path());
        let agent = self.bed.node.command(bed::binary());
        let agent = agent.args(["run", "--metrics", "127.0.0.1:0", "--node", "node-1", "--config"]);
        let agent = agent.arg(config).arg("--state").arg(state).arg("--cgroup");
        self.bed.agent = Some(bed::ready(agent.arg(self.bed.node.mesh().path()).spawn()?)?);
        Ok(())
    }

    /// A connection to `web`.
    pub fn connect(&self) -> Result<RawClient> {
        RawClient::connect(&self.bed.client, WEB.parse()?)
    }

    /// A command of the agent's state directory.
    pub fn command(&self, args: &[&str]) -> beeway_testbed::Command {
        let command = self.bed.node.command(bed::binary()).args(args);
        command.arg("--state").arg(self.bed.state.path())
    }

    /// Runs one to its end.
    pub fn run(&self, args: &[&str]) -> Result<Output> {
        self.command(args).output(LIMIT)
    }

    /// Starts one.
    pub fn start(&self, args: &[&str]) -> Result<Process> {
        self.command(args).spawn()
    }

    /// What `beeway flows --json` prints, also as it is.
    pub fn flows_text(&self, flags: &[&str]) -> Result<(Vec<Value>, String)> {
        let text = self.run(&[&["flows", "--json"], flags].concat())?.success()?.stdout;
        let flows: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
        Ok((flows.with_context(|| text.clone())?, text))
    }

    /// What `beeway flows --json` prints.
    pub fn flows(&self, flags: &[&str]) -> Result<Vec<Value>> {
        Ok(self.flows_text(flags)?.0)
    }

    /// All flows, once there are as many.
    pub fn wait_for_flows(&self, wanted: usize) -> Result<Vec<Value>> {
        let mut flows = Vec::new();
        let came = wait_for("flows", || {
            flows = self.flows(&["--last", "4096"])?;
            ensure!(flows.len() <= wanted, "more");
            Ok(flows.len() == wanted)
        });
        came.with_context(|| format!("{} of {wanted}: {flows:#?}", flows.len()))?;
        Ok(flows)
    }

    /// Requests that `beeway top` knows of.
    pub fn total(&self) -> Result<u64> {
        let picture = self.run(&["top", "--once", "--json"])?.success()?.stdout;
        let picture: Value = serde_json::from_str(&picture)?;
        picture["all"]["total"].as_u64().context("no total")
    }

    /// Begins to read an answer of the agent.
    pub fn listen(&self, what: &str) -> Result<Listener> {
        Listener::connect(&self.bed.state.path().join("api.sock"), what)
    }

    /// A document of the agent.
    pub fn ask(&self, what: &str) -> Result<Value> {
        let mut text = String::new();
        self.listen(what)?.0.read_to_string(&mut text)?;
        let (start, end) = (text.find('{').context("no JSON")?, text.rfind('}').context("no end")?);
        Ok(serde_json::from_str(&text[start..=end])?)
    }
}

/// Somebody who reads an answer of the agent.
pub struct Listener(BufReader<UnixStream>);

impl Listener {
    /// Asks; an answer that is not good is an error with all of it.
    pub fn connect(socket: &Path, what: &str) -> Result<Listener> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(LIMIT))?;
        // an answer in HTTP/1.0 is not in chunks
        write!(stream, "GET {what} HTTP/1.0\r\n\r\n")?;
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            ensure!(reader.read_line(&mut head)? > 0, "{head:?} is no head");
        }
        if !head.starts_with("HTTP/1.0 200") {
            reader.read_to_string(&mut head)?;
            bail!("{head}");
        }
        Ok(Listener(reader))
    }

    /// The next line.
    pub fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.0.read_line(&mut line).context("no line in time")?;
        serde_json::from_str(&line).with_context(|| line.clone())
    }
}

/// Waits until something holds, asking at ease: each question is a process.
pub fn wait_for(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    bed::wait_until(what, || {
        let held = holds()?;
        if !held {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Ok(held)
    })
}
