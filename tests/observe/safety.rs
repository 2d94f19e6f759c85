//! That no byte of a request can pretend to be something else.

use anyhow::Result;
use beeway_testbed::RawClient;
use regex::Regex;

use crate::bed::WEB;
use crate::scene::{LANES, Scene};

/// Values of `user-agent`, each character a byte.
fn hostile() -> Vec<String> {
    let utf8 = |text: &str| text.bytes().map(char::from).collect::<String>();
    vec![
        "a\" \"forged\" 200".into(),
        "back\\slash\\".into(),
        "tab\there".into(),
        "esc\u{1b}[2J".into(),
        "del\u{7f}".into(),
        "nul\0".into(),
        "bell\u{7}".into(),
        "cr\rforged".into(),
        "lf\nforged: yes".into(),
        "latin \u{e4}\u{ff}\u{85}".into(),
        utf8("line \u{2028} paragraph \u{2029} bidi \u{202e} bom \u{feff} csi \u{9b}"),
        "{\"json\": true}".into(),
        "x".repeat(6000),
        "%0d%0aforged".into(),
    ]
}

/// Paths that some server or other lets pass.
const PATHS: [&str; 5] = ["/a\"b", "/a\\b", "/a%0d%0ab", "/\u{e4}\u{1b}[0m", "/a'b`c"];

#[test]
fn nothing_can_be_injected() -> Result<()> {
    let envoy = Regex::new(
        r#"^\[\S+\] "[^" ]+ [^" ]+ [^" ]+" \d+ \S+ \S+ \S+ "[^"]*" \d+ \d+ \d+ \S+( "[^"]*"){5} \S+ \S+ \S+ \S+ \S+ \S+$"#,
    )?;
    for format in ["json", "text"] {
        let args = ["--access-log", "STATE/a.log", "--access-log-format", format];
        let scene = Scene::new(&format!("inject-{format}"), &[], &args)?;
        let mut served = 0;
        let mut ask = |path: &str, agent: &str| -> Result<()> {
            // who is refused loses his connection
            let mut raw = RawClient::connect(&scene.bed.client, WEB.parse()?)?;
            let text = format!("GET {path} HTTP/1.1\r\nHost: web\r\nUser-Agent: {agent}\r\n\r\n");
            if raw.request(&text).is_ok_and(|answer| answer.status == 200) {
                served += 1;
            }
            Ok(())
        };
        for (_, prefix) in LANES {
            for agent in hostile() {
                ask(&format!("{prefix}/a"), &agent)?;
            }
            for path in PATHS {
                ask(&format!("{prefix}{path}"), "good")?;
            }
        }
        assert!(served >= 16, "{served} were served");
        crate::bed::wait_until("lines are written", || {
            Ok(scene.counter("beeway_access_log_lines_total")? >= served)
        })?;
        std::thread::sleep(std::time::Duration::from_millis(300));
        let text = std::fs::read(scene.state("a.log"))?;
        let text = String::from_utf8(text).expect("a log is UTF-8");
        let lines: Vec<&str> = text.split_terminator('\n').collect();
        assert_eq!(scene.counter("beeway_access_log_lines_total")?, lines.len() as u64);
        for line in &lines {
            let odd = |c: char| c.is_control() || "\u{2028}\u{2029}\u{202e}\u{feff}".contains(c);
            assert!(!line.contains(odd) && line.len() < 10_000, "{line:?}");
            if format == "text" {
                assert!(envoy.is_match(line), "{line}");
            } else {
                let record: serde_json::Value = serde_json::from_str(line)?;
                assert!(
                    record.get("forged").is_none() && record["method"] == "GET"
                        || record["method"].is_null(),
                    "{line}"
                );
            }
        }
    }
    Ok(())
}
