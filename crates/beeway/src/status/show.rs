//! `beeway status`: asks the agent and shows what it says. The document is read as a value, not as
//! a [`Status`](super::Status), so that agent and command may be of different versions.

use std::fmt::Write;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::admin_socket;
use crate::cli::StatusArgs;
use crate::output;

/// Exit status when no agent answers.
pub const NO_AGENT: u8 = 3;
const PATIENCE: Duration = Duration::from_secs(5);

const ORPHANED: &str = "no agent is running; programs from an earlier one are still attached: \
                        native and shortcut traffic goes on, detours are answered 503\n\
                        (`beeway run` takes over, `beeway off` removes them)\n";

/// Shows what the agent says.
pub fn status(args: &StatusArgs) -> Result<ExitCode> {
    let Some(status) = ask(&args.state)? else { return no_agent(args) };
    if args.json {
        output::json(&status)?;
    } else {
        output::text(&text(&status, SystemTime::now())?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn no_agent(args: &StatusArgs) -> Result<ExitCode> {
    if args.json {
        let attached = has_pins(&args.state);
        output::json(&json!({ "running": false, "attached": attached }))?;
    } else {
        output::text(&hint(&args.state))?;
    }
    Ok(ExitCode::from(NO_AGENT))
}

/// Says on stderr that no agent runs, where standard output is for something else.
pub fn nobody(state: &Path) -> Result<ExitCode> {
    eprint!("{}", hint(state));
    Ok(ExitCode::from(NO_AGENT))
}

fn hint(state: &Path) -> String {
    if has_pins(state) {
        return ORPHANED.into();
    }
    format!(
        "no agent is running, and none has left anything in {}\n\
         (start one with `beeway run --config DIR`, or name its directory with --state)\n",
        state.display()
    )
}

/// Whether an agent has left programs. Only root may look at them; that one may not is a sign too.
fn has_pins(state: &Path) -> bool {
    match std::fs::metadata(state.join("bpf/links")) {
        Ok(found) => found.is_dir(),
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    }
}

/// What the agent says; `None` when there is none.
fn ask(state: &Path) -> Result<Option<Value>> {
    let path = admin_socket(state);
    let mut stream = match UnixStream::connect(&path) {
        Ok(stream) => stream,
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => return Ok(None),
            io::ErrorKind::PermissionDenied => {
                bail!("only root may ask the agent: try `sudo beeway status`")
            }
            _ => return Err(error).with_context(|| format!("connect to {}", path.display())),
        },
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut document = String::new();
    stream
        .read_to_string(&mut document)
        .with_context(|| format!("the agent at {} does not answer", path.display()))?;
    let status = serde_json::from_str(&document).context("read what the agent says")?;
    Ok(Some(status))
}

fn text(status: &Value, now: SystemTime) -> Result<String> {
    let mut text = String::new();
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let up = now.as_secs().saturating_sub(number(&status["started"]));
    writeln!(
        text,
        "beeway {}, process {}, running for {}",
        word(&status["version"]),
        number(&status["pid"]),
        duration(up)
    )?;
    text += &output::table(
        &[
            vec!["cgroup".into(), word(&status["cgroup"])],
            vec!["state".into(), word(&status["state"])],
            vec!["programs".into(), words(&status["programs"])],
        ],
        &[],
    );
    generation(&mut text, &status["generation"], now)?;
    if let Some(reason) = status["rejected"].as_str() {
        writeln!(text, "\nREJECTED: the files as last read are not in force: {reason}")?;
    }
    section(&mut text, "requests", requests(status), &[1]);
    section(&mut text, "kernel", pairs(&status["counters"]), &[1]);
    section(&mut text, "proxy", pairs(&status["proxy"]), &[1]);
    section(&mut text, "homes", homes(&status["homes"]), &[1]);
    if let Some(error) = status["homes"]["error"].as_str() {
        writeln!(text, "\nWHO CALLS IS NOT KNOWN FOR SURE: {error}")?;
    }
    section(&mut text, "maps", maps(&status["maps"]), &[1, 3, 4]);
    problems(&mut text, &status["problems"])?;
    Ok(text)
}

fn generation(text: &mut String, generation: &Value, now: Duration) -> Result<()> {
    if generation.is_null() {
        writeln!(text, "\nno configuration is in force")?;
        return Ok(());
    }
    let since = number(&generation["in_force_unix_ms"]) / 1000;
    writeln!(
        text,
        "\ngeneration {}, in force for {} (it took {:.1} ms)",
        number(&generation["number"]),
        duration(now.as_secs().saturating_sub(since)),
        generation["took_ms"].as_f64().unwrap_or_default(),
    )?;
    let row = |name: &str| vec![name.to_owned(), grouped(number(&generation[name]))];
    let mut rows = vec![row("services"), row("endpoints"), row("rules")];
    let (used, limit) = (number(&generation["words_used"]), number(&generation["words_limit"]));
    rows.push(vec![
        "table words".into(),
        grouped(used),
        format!("of {} ({})", grouped(limit), percent(used, limit)),
    ]);
    text.push_str(&output::table(&rows, &[1]));
    Ok(())
}

/// Who is at home on this node, in numbers; `--json` has the names.
fn homes(homes: &Value) -> Vec<Vec<String>> {
    let count = |name: &str| vec![name.to_owned(), grouped(number(&homes[name]))];
    let workloads = homes["workloads"].as_array().map_or(0, Vec::len) as u64;
    let told = match homes["told"].as_bool() {
        Some(false) => "by looking at all cgroups, twice a second: see `beeway doctor`",
        _ => "as the kernel tells",
    };
    vec![
        vec!["workloads".into(), grouped(workloads)],
        count("cgroups"),
        count("namespaces"),
        count("refused"),
        vec!["found".into(), told.into()],
    ]
}

/// A heading and what is under it.
fn section(text: &mut String, name: &str, rows: Vec<Vec<String>>, right: &[usize]) {
    if !rows.is_empty() {
        text.push_str(&format!("\n{name}\n{}", output::table(&rows, right)));
    }
}

/// Lanes in the order of the kernel's list, each with its reasons.
fn requests(status: &Value) -> Vec<Vec<String>> {
    let reasons = status["requests"].as_array().map_or(&[][..], Vec::as_slice);
    let known = beeway_dataplane::counts::LANES;
    let mut rows = Vec::new();
    for lane in known {
        let Some(total) = status["lanes"][lane].as_u64() else { continue };
        rows.push(vec![lane.to_owned(), grouped(total)]);
        for count in reasons.iter().filter(|count| count["lane"] == lane) {
            let reason = format!("  {}", word(&count["reason"]));
            rows.push(vec![reason, grouped(number(&count["count"]))]);
        }
    }
    rows
}

fn pairs(values: &Value) -> Vec<Vec<String>> {
    let values = values.as_object().into_iter().flatten();
    values.map(|(name, value)| vec![name.clone(), grouped(number(value))]).collect()
}

fn maps(maps: &Value) -> Vec<Vec<String>> {
    let row = |map: &Value| {
        let (used, limit) = (number(&map["used"]), number(&map["limit"]));
        let limit_text = grouped(limit);
        vec![word(&map["name"]), grouped(used), "of".into(), limit_text, percent(used, limit)]
    };
    maps.as_array().into_iter().flatten().map(row).collect()
}

fn problems(text: &mut String, problems: &Value) -> Result<()> {
    let problems = problems.as_array().map_or(&[][..], Vec::as_slice);
    if problems.is_empty() {
        writeln!(text, "\nno problems in the configuration")?;
        return Ok(());
    }
    writeln!(text, "\n{} in the configuration", output::count(problems.len(), "problem"))?;
    for problem in problems {
        let line = problem["line"].as_u64().map(|line| format!("{line}:")).unwrap_or_default();
        let object = problem["object"].as_str().map(|name| format!("{name}: ")).unwrap_or_default();
        writeln!(
            text,
            "  {}:{line} {}: {object}{}",
            word(&problem["file"]),
            word(&problem["severity"]),
            word(&problem["reason"])
        )?;
    }
    Ok(())
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}

fn words(value: &Value) -> String {
    let words: Vec<String> = value.as_array().into_iter().flatten().map(word).collect();
    words.join(" ")
}

/// 1234567 as 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "-".into(),
        _ => format!("{:.1} %", part as f64 * 100.0 / whole as f64),
    }
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_readable_whatever_is_missing() {
        let now = UNIX_EPOCH + Duration::from_secs(4000);
        let text = text(&json!({}), now).unwrap();
        assert!(text.contains("no configuration is in force"), "{text}");
        let status = json!({
            "version": "0.1.0", "pid": 7, "started": 100,
            "generation": { "number": 3, "words_used": 1234567, "words_limit": 10000000,
                            "in_force_unix_ms": 3_990_000, "took_ms": 1.25 },
            "lanes": { "native": 12, "detour": 2 },
            "requests": [{ "lane": "detour", "reason": "other_cluster", "count": 2 }],
            "maps": [{ "name": "sockets", "used": 1, "limit": 4 }],
            "problems": [{ "severity": "error", "file": "a.yaml", "line": 3, "reason": "bad" }],
        });
        let text = super::text(&status, now).unwrap();
        for wanted in [
            "running for 1 h 5 min",
            "generation 3, in force for 10 s (it took 1.2 ms)",
            "1,234,567  of 10,000,000 (12.3 %)",
            "\n  native           12\n",
            "\n  detour            2\n    other_cluster   2\n",
            "sockets  1  of  4  25.0 %",
            "a.yaml:3: error: bad",
        ] {
            assert!(text.contains(wanted), "{wanted:?} is not in:\n{text}");
        }
    }
}
