//! `beeway explain`: where a request would go, and why.

pub(crate) mod access;
mod answer;
mod asked;
mod url;

use std::fmt::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::check;
use crate::cli::ExplainArgs;
use crate::output;
use access::Policies;
use answer::{Explanation, Lane, Share, Target};
use asked::Asked;
use url::Url;

/// Endpoints that the text names; JSON has all of them.
const SHOWN: usize = 8;

/// Answers the question on the command line.
pub fn explain(args: &ExplainArgs) -> Result<ExitCode> {
    let explanation = answered(args)?;
    if args.json {
        output::json(&explanation)?;
    } else {
        output::text(&text(args, &explanation)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The answer as JSON.
pub fn document(args: &ExplainArgs) -> Result<String> {
    serde_json::to_string(&answered(args)?).context("write JSON")
}

fn answered(args: &ExplainArgs) -> Result<Explanation> {
    let url = Url::parse(&args.url)?;
    let checked = check::read(&args.config)?;
    let tables = checked.tables.with_context(|| {
        format!("the configuration is too large: see `beeway check {}`", args.config.display())
    })?;
    let asked = Asked::find(&checked.mesh, args, &url)?;
    Ok(answer::answer(&checked.mesh, &tables, &asked))
}

fn text(args: &ExplainArgs, e: &Explanation) -> Result<String> {
    let mut text = format!("{} {}\n", args.method, args.url);
    let protocol = format!("{:?}", e.protocol).to_lowercase();
    let rule = match (&e.rule, e.rules) {
        (Some(rule), Some(of)) => format!("{} (rule {} of {of})", rule.name, rule.index + 1),
        (None, Some(of)) if protocol.starts_with("http") => format!("none of {of} holds"),
        _ => "none is attached".into(),
    };
    let mut rows = vec![
        vec!["from".into(), format!("{} ({})", e.from, e.source)],
        vec!["known by".into(), e.known_by.join(", else by ")],
        vec!["service".into(), format!("{} at {} ({protocol})", e.service, e.address)],
        vec!["rule".into(), rule.clone()],
    ];
    if let Some(reason) = e.rule.as_ref().and_then(|rule| rule.detour.as_ref()) {
        rows.push(vec![String::new(), format!("only userspace can carry it out: {reason}")]);
    }
    text += &output::table(&rows, &[]);
    text += "\nconnect() leads to\n";
    match e.connect.is_empty() {
        true if e.to_proxy => {
            text += "  the userspace proxy of this node, which takes the connection as a whole\n";
        }
        true => text += "  nothing: it fails with ECONNREFUSED, there is no ready endpoint\n",
        false => text += &targets(&e.connect),
    }
    for share in &e.outcomes {
        outcome(&mut text, share, &rule)?;
    }
    if !e.policies.is_empty() {
        text += "\npolicies\n";
        let row = |p: &Policies| vec![p.endpoint.to_string(), p.workload.clone(), p.text()];
        let rows: Vec<Vec<String>> = e.policies.iter().take(SHOWN).map(row).collect();
        text += &output::table(&rows, &[]);
        if e.policies.len() > SHOWN {
            writeln!(text, "  and {} more", e.policies.len() - SHOWN)?;
        }
    }
    if !e.notices.is_empty() {
        text += "\nleft to userspace in this service\n";
        for notice in &e.notices {
            writeln!(text, "  {notice}")?;
        }
    }
    Ok(text)
}

fn outcome(text: &mut String, share: &Share, rule: &str) -> Result<()> {
    let part = match share.share {
        1.0 => "every such request".to_owned(),
        part => format!("{} of such requests", percent(part)),
    };
    match (&share.cluster, share.status) {
        (Some(cluster), None) => writeln!(text, "\n{part} goes to {cluster}")?,
        (Some(_), Some(403)) => writeln!(text, "\n{part} is answered 403: a policy denies it")?,
        (Some(cluster), Some(status)) => {
            writeln!(text, "\n{part} is answered {status}: {cluster} has no ready endpoint")?;
        }
        (None, status) => {
            let body = share.body.as_ref().map(|body| format!(", {body:?}")).unwrap_or_default();
            writeln!(text, "\n{part} is answered {}{body}", status.unwrap_or_default())?;
        }
    }
    *text += &targets(&share.endpoints);
    for lane in &share.lanes {
        writeln!(text, "  lane: {}", lane_text(lane))?;
        if lane.router_asked {
            writeln!(
                text,
                "  the kernel cannot tell: the reference router is asked, and says: {rule}"
            )?;
        }
        if !lane.agrees {
            writeln!(text, "  THE REFERENCE ROUTER SAYS OTHERWISE: this is a bug in Beeway")?;
        }
    }
    Ok(())
}

fn lane_text(lane: &Lane) -> String {
    let part = match lane.share > 0.999_999 {
        true => String::new(),
        false => format!(" for {} of the connections", percent(lane.share)),
    };
    let meaning = match lane.lane {
        "native" if lane.same_node => "; on one node, bytes take the shortcut past TCP",
        "detour" if !lane.router_asked => "; the userspace proxy does it",
        "answered" => "; the kernel answers",
        _ => "",
    };
    format!("{}{part} ({}): {}{meaning}", lane.lane, lane.reason, lane.why)
}

fn targets(targets: &[Target]) -> String {
    let row = |target: &Target| {
        let place = if target.same_node { "on the caller's node" } else { "" };
        let address = target.address.to_string();
        vec![address, target.workload.clone(), percent(target.share), place.to_owned()]
    };
    let rows: Vec<Vec<String>> = targets.iter().take(SHOWN).map(row).collect();
    let mut text = output::table(&rows, &[2]);
    if targets.len() > SHOWN {
        text += &format!("  and {} more\n", targets.len() - SHOWN);
    }
    text
}

fn percent(part: f64) -> String {
    let text = format!("{:.2}", part * 100.0);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}
