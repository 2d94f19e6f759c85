//! Connections that were there first: before the agent, or before a policy said anything.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use beeway_testbed::{Place, Pod, spawn_ready, tcp_echo};

use crate::bed::{self, Bed, wait_until};
use crate::kit::{
    ALL, Client, NATIVE, SHORTCUT, apply, assert_not_asked, get, no_admin, only_from, policy,
};

const ECHO: u16 = 7007;

/// Connections that were made while there was no agent, and have been used.
struct Early {
    http: Client,
    echo: Client,
    /// Of a process that is not in the mesh.
    outside: Client,
}

impl Early {
    fn connect(bed: &Bed) -> Result<Early> {
        let pod = bed.v1.ip4().to_string();
        let mut early = Early {
            http: Client::start(&bed.client)?,
            echo: Client::start(&bed.client)?,
            outside: Client::start_in(&bed.client, bed.node.plain().path())?,
        };
        for client in [&mut early.http, &mut early.outside] {
            client.connect((&pod, 8080))?;
            assert_eq!(client.get("/fine")?, "200");
        }
        early.echo.connect((&pod, ECHO))?;
        assert!(early.echo.echoes()?);
        Ok(early)
    }

    /// None of them gets a request for `path` to the server; `all` but the one from outside. What they
    /// have sent waits, and comes when nobody is there to stop it.
    fn assert_closed(&mut self, bed: &Bed, path: &str, all: bool) -> Result<()> {
        assert!(self.echo.is_cut_off()?, "{path}");
        let outside = all.then_some(&mut self.outside);
        for client in [&mut self.http].into_iter().chain(outside) {
            client.send("plain", &get(path))?;
            assert_eq!(client.glimpse()?, "timeout", "{path}");
        }
        assert_not_asked(bed, path)
    }

    fn assert_open(&mut self, what: &str) -> Result<()> {
        assert!(self.echo.echoes()?, "{what}");
        for client in [&mut self.http, &mut self.outside] {
            assert_eq!(client.get("/fine")?, "200", "{what}");
        }
        Ok(())
    }
}

/// A bed whose agent has gone without a trace.
fn empty_bed(label: &str, servers_in_mesh: bool) -> Result<(Bed, beeway_testbed::Process)> {
    let shape = if servers_in_mesh { SHORTCUT } else { NATIVE };
    let mut bed = Bed::new(label, shape, ALL)?;
    bed.record_requests()?;
    drop(bed.agent.take().context("an agent")?);
    bed::off(bed.state.path());
    let echo = spawn_ready(tcp_echo(&bed.v1, ECHO)?)?;
    Ok((bed, echo))
}

/// Where the server is in the mesh too, it is judged there; else at the client's end alone.
#[test]
fn connections_from_before_the_agent_are_judged() -> Result<()> {
    for servers_in_mesh in [true, false] {
        let (mut bed, _echo) = empty_bed("before", servers_in_mesh)?;
        let mut early = Early::connect(&bed)?;
        bed.write("policy.yaml", &only_from("elsewhere"))?;
        bed.start_agent()?;
        early.assert_closed(&bed, "/admin/first", servers_in_mesh)?;
        assert!(bed.counter("connections_denied")? >= 2);
        // who may call stays, until it may not, or may by some requests alone
        drop(bed.agent.take());
        bed::off(bed.state.path());
        let mut early = Early::connect(&bed)?;
        bed.write("policy.yaml", &only_from("default"))?;
        bed.start_agent()?;
        early.assert_open("allowed")?;
        apply(&bed, "policy.yaml", &only_from("elsewhere"))?;
        early.assert_closed(&bed, "/admin/second", servers_in_mesh)?;
        drop(bed.agent.take());
        bed::off(bed.state.path());
        let mut early = Early::connect(&bed)?;
        std::fs::remove_file(bed.config.path().join("policy.yaml"))?;
        bed.start_agent()?;
        early.assert_open("without policies")?;
        apply(&bed, "policy.yaml", &no_admin())?;
        early.assert_closed(&bed, "/admin/third", servers_in_mesh)?;
    }
    Ok(())
}

/// Who is asked by nobody may go on asking: what a guarded workload has begun is no call to it.
#[test]
fn calls_of_a_guarded_workload_from_before_the_agent_go_on() -> Result<()> {
    for servers_in_mesh in [true, false] {
        let (mut bed, _echo) = empty_bed("began", servers_in_mesh)?;
        let mut early = Early::connect(&bed)?;
        let nobody = policy("nobody", "  action: ALLOW\n").replace("app: web", "app: client");
        bed.write("policy.yaml", &nobody)?;
        bed.start_agent()?;
        for round in ["once", "twice"] {
            early.assert_open("its own calls")?;
            apply(&bed, "policy.yaml", &nobody.replace("nobody", round))?;
        }
    }
    Ok(())
}

fn pod_yaml(pod: &Pod) -> String {
    let mut text = String::new();
    let (ip4, ip6) = (pod.ip4(), pod.ip6());
    write!(
        text,
        "apiVersion: v1\nkind: Pod\n\
         metadata: {{name: {}, namespace: default, labels: {{app: web}}}}\n\
         spec: {{nodeName: node-1, containers: []}}\n\
         status: {{phase: Running, podIPs: [{{ip: {ip4}}}, {{ip: \"{ip6}\"}}]}}\n",
        pod.label(),
    )
    .expect("writing to a string");
    text
}

/// When they were made nobody knew who was called, or that anybody would ask.
#[test]
fn connections_from_before_the_policies_are_judged() -> Result<()> {
    let bed = Bed::new("late", NATIVE, ALL)?;
    for meshed in [true, false] {
        let name = if meshed { "meshed" } else { "plain" };
        let pod = if meshed { bed.node.pod(name)? } else { bed.node.plain_pod(name)? };
        let _servers = [
            spawn_ready(tcp_echo(&pod, ECHO)?)?,
            spawn_ready(beeway_testbed::http_server(&pod, 8080, name)?)?,
        ];
        let (mut echo, mut http) = (Client::start(&bed.client)?, Client::start(&bed.client)?);
        let mut outside = Client::start_in(&bed.client, bed.node.plain().path())?;
        let address = pod.ip4().to_string();
        echo.connect((&address, ECHO))?;
        http.connect((&address, 8080))?;
        outside.connect((&address, ECHO))?;
        assert!(echo.echoes()? && outside.echoes()?);
        assert_eq!(http.get("/fine")?, "200");
        apply(&bed, "pod.yaml", &pod_yaml(&pod))?;
        apply(&bed, "policy.yaml", &only_from("default"))?;
        assert!(echo.echoes()? && outside.echoes()?);
        assert_eq!(http.get("/fine")?, "200");
        apply(&bed, "policy.yaml", &policy("nobody", "  action: ALLOW\n"))?;
        wait_until("echoes are cut off", || echo.is_cut_off())?;
        http.send("plain", &get("/fine"))?;
        assert_eq!(http.glimpse()?, "timeout");
        assert_eq!(outside.is_cut_off()?, meshed, "nobody looks, outside of the mesh");
        std::fs::remove_file(bed.config.path().join("policy.yaml"))?;
    }
    Ok(())
}
