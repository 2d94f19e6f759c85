//! One pod of many changes beside many policies ([`config`]): how long until calls are judged by it
//! ([`change`]).

pub mod change;
mod config;

use std::path::Path;

use anyhow::{Context, Result};
use beeway_testbed::{Node, Place, PodOptions, directory, nginx};
use serde::{Deserialize, Serialize};

use self::change::Step;
use self::config::{AT_FIRST, PODS, POLICIES, State};
use crate::bed::{PORT, confine_all, prepare};
use crate::mesh::Agent;
use crate::results::Machine;
use crate::run::Plan;
use crate::summary::{Verdict, median};
use crate::variant::Placement;
use crate::{check_stop, machine};

/// The most that a change may take in the median, in milliseconds.
const CHANGE_MS: f64 = 20.0;

/// What changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A pod goes.
    Removed,
    /// A pod comes, as there are others.
    Added,
    /// Its labels become those of others.
    Relabelled,
    /// Its labels are such as no other pod has any more, or has yet.
    New,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Added, Kind::Removed, Kind::Relabelled, Kind::New];

    fn title(self) -> &'static str {
        match self {
            Kind::Removed => "a pod goes",
            Kind::Added => "a pod comes",
            Kind::Relabelled => "labels become those of others",
            Kind::New => "labels become such as no other pod has, or cease to be",
        }
    }
}

/// A change that was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Of which kind.
    pub kind: Kind,
    /// Milliseconds from the rename of the file to the first request that was judged by it.
    pub ms: f64,
}

/// All that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The command line that gave them.
    pub command: String,
    /// What it ran on.
    pub machine: Machine,
    /// In the order in which they were made.
    pub changes: Vec<Change>,
    /// Memory of the agent in bytes, before the changes and after.
    pub memory: [u64; 2],
}

/// Builds the bed, changes a pod again and again, and tears the bed down.
pub fn run(plan: &Plan) -> Result<Results> {
    check_stop()?;
    let node = Node::new("pods")?;
    let pod = |name: &str, mesh| node.pod_with(name, PodOptions { mesh, ..Default::default() });
    let (client, server) = (pod("client", true)?, pod("server", false)?);
    prepare(&client)?;
    prepare(&server)?;
    let folder = directory("pods")?;
    let [c, s] = [&client, &server].map(|pod| pod.ip4().to_string());
    let agent = Agent::start(&plan.agent, &node, folder.path(), &config::files(&c, &s))?;
    let servers = [nginx(&server, PORT, "v1")?];
    let placement = Placement::of(2);
    confine_all(placement, &servers, std::iter::once(agent.process()))?;
    let plan_of_changes = change::Plan {
        to: server.addr4(PORT),
        head: format!("GET /app/1/ HTTP/1.1\r\nHost: {s}\r\n\r\n"),
        steps: steps(agent.config(), &c, &s),
        staging: folder.path().join("next.yaml"),
        rounds: plan.pod_rounds,
    };
    let file = folder.path().join("pods.json");
    std::fs::write(&file, serde_json::to_string(&plan_of_changes)?)?;
    let before = agent.process().memory()?;
    let output = client
        .command(std::env::current_exe()?)
        .mesh()
        .args(["change-pods".to_owned(), file.display().to_string()])
        .cpu(placement.client)
        .output(std::time::Duration::from_secs(280))?
        .success()
        .with_context(|| format!("the agent says: {}", agent.process().stderr().join("\n  ")))?;
    let changes = serde_json::from_str(&output.stdout).context("understand the changes")?;
    let memory = [before, agent.process().memory()?];
    let command = std::env::args().collect::<Vec<_>>().join(" ");
    Ok(Results { command, machine: machine::describe(plan), changes, memory })
}

/// Changes in turn, at the end of which all is as before. Each turns round whether the client's
/// request to the server is allowed.
fn steps(folder: &Path, client: &str, server: &str) -> Vec<Step> {
    let labelled = |app, version| State { app, version, ..AT_FIRST };
    [
        (Kind::Relabelled, 1, labelled("app-2", "v1")),
        (Kind::Relabelled, 1, AT_FIRST),
        (Kind::New, 1, labelled("app-2", "of-its-own")),
        (Kind::New, 1, AT_FIRST),
        (Kind::Removed, 0, State { client: false, ..AT_FIRST }),
        (Kind::Added, 0, AT_FIRST),
    ]
    .map(|(kind, which, state)| {
        let (name, text) = config::changing(client, server, state)[which].clone();
        Step { kind, file: folder.join(name), text }
    })
    .into()
}

/// Median, 99th percentile and maximum of the changes of a kind, or of all; in milliseconds.
fn times(results: &Results, kind: Option<Kind>) -> Option<[f64; 3]> {
    let of = |change: &&Change| kind.is_none_or(|kind| kind == change.kind);
    let mut times: Vec<f64> = results.changes.iter().filter(of).map(|change| change.ms).collect();
    times.sort_by(f64::total_cmp);
    let last = times.len().checked_sub(1)?;
    Some([median(&times)?, times[(last * 99).div_ceil(100)], times[last]])
}

/// Whether the aim was met.
pub fn verdict(results: Option<&Results>) -> Verdict {
    let all = results.and_then(|results| times(results, None));
    let kinds = results.into_iter().flat_map(|results| {
        let of = |kind: Kind| Some((kind, times(results, Some(kind))?));
        Kind::ALL.into_iter().filter_map(of)
    });
    let why = kinds.map(|(kind, [half, _, most])| {
        format!("{}: {half:.1} ms, {most:.1} ms at the most.", kind.title())
    });
    Verdict {
        id: "pods",
        aim: format!(
            "one pod of {PODS} changes beside {POLICIES} policies: in force in ≤ {CHANGE_MS} ms"
        ),
        met: all.map(|[half, ..]| half <= CHANGE_MS),
        found: all.map_or_else(String::new, |[half, most_of, most]| {
            format!("{half:.1} ms, p99 {most_of:.1} ms, the slowest {most:.1} ms")
        }),
        why: why.collect(),
    }
}

/// What the page says of it.
pub fn part(results: &Results) -> String {
    let mut text = format!(
        "\n## One pod of many\n\n{PODS} pods, {POLICIES} services and {POLICIES} \
         AuthorizationPolicies by selector, in 200 folders of three files; one pod's text changes in \
         a file of 50, which is renamed over the one before. From the rename to the first request \
         that is judged by it (200 or 403), 2 ms of quiet that are waited for among them; `{}`, \
         commit {}.\n\n| change | times | median | p99 | the slowest |\n|---|--:|--:|--:|--:|\n",
        results.command, results.machine.commit
    );
    for kind in Kind::ALL {
        let count = results.changes.iter().filter(|change| change.kind == kind).count();
        if let Some([half, most_of, most]) = times(results, Some(kind)) {
            text += &format!(
                "| {} | {count} | {half:.1} ms | {most_of:.1} ms | {most:.1} ms |\n",
                kind.title()
            );
        }
    }
    let [before, after] = results.memory.map(|bytes| bytes as f64 / f64::from(1 << 20));
    text + &format!(
        "\nMemory of the agent: {before:.0} MiB before, {after:.0} MiB after all of them.\n"
    )
}

#[cfg(test)]
pub mod tests {
    use super::*;

    #[test]
    fn the_median_says_whether_it_is_met() {
        let change = |ms| Change { kind: Kind::Added, ms };
        let results = |ms: &[f64]| Results {
            command: "beeway-bench run --parts pods".into(),
            machine: Machine::default(),
            changes: ms.iter().copied().map(change).collect(),
            memory: [1 << 20, 2 << 20],
        };
        assert_eq!(verdict(None).met, None);
        let met = verdict(Some(&results(&[10.0, 19.0, 40.0])));
        assert_eq!(
            (met.met, &*met.found),
            (Some(true), "19.0 ms, p99 40.0 ms, the slowest 40.0 ms")
        );
        let missed = results(&[10.0, 21.0, 40.0]);
        assert_eq!(verdict(Some(&missed)).met, Some(false));
        assert!(part(&missed).contains("| a pod comes | 3 | 21.0 ms | 40.0 ms | 40.0 ms |"));
    }
}
