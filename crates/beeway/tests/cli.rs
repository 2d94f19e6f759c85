//! The command line as scripts see it: the real binary, its output and its exit status.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples")
}

fn beeway(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_beeway"));
    command.args(args).env_remove("BEEWAY_LOG").env_remove("RUST_LOG");
    command
}

fn run(args: &[&str]) -> Output {
    beeway(args).output().expect("start beeway")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", stdout(output), stderr(output)))
}

/// Asks where a request to reviews goes, with the routes of one of the example directories.
fn explain(config: &Path, more: &[&str]) -> Output {
    let config = config.to_str().expect("a path of text");
    let mut args = vec!["explain", "--config", config];
    args.extend(more);
    run(&args)
}

fn path(text: &Path) -> &str {
    text.to_str().expect("a path of text")
}

#[test]
fn check_of_a_good_configuration_is_silent_success() {
    let bookinfo = examples().join("bookinfo");
    let output = run(&["check", path(&bookinfo)]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).starts_with("no problems in 4 services, "), "{}", stdout(&output));
    let report = json(&run(&["check", "--json", path(&bookinfo)]));
    assert_eq!((&report["errors"], &report["counts"]["services"]), (&0.into(), &4.into()));
}

#[test]
fn check_of_a_bad_configuration_names_file_line_and_reason() {
    let dir = tempfile::tempdir().unwrap();
    let bad = "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  namespace: default\nspec:\n  \
               clusterIP: 10.96.0.300\n  ports:\n    - port: 80\n";
    fs::write(dir.path().join("bad.yaml"), bad).unwrap();
    let output = run(&["check", path(dir.path())]);
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert!(text.contains("bad.yaml:7: error: Service default/a: "), "{text}");
    assert!(text.contains("1 error"), "{text}");
    let output = run(&["check", "--json", path(dir.path())]);
    assert_eq!(output.status.code(), Some(1));
    let report = json(&output);
    let problem = &report["problems"][0];
    assert_eq!((&problem["severity"], &problem["line"]), (&"error".into(), &7.into()));
}

#[test]
fn check_of_no_directory_says_so() {
    let output = run(&["check", "/nonexistent/beeway"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("/nonexistent/beeway"), "{}", stderr(&output));
}

#[test]
fn explain_tells_rule_endpoints_and_lane() {
    let bookinfo = examples().join("bookinfo");
    let ask = |from: &str, more: &[&str]| {
        let mut args = vec!["--from", from, "GET", "http://reviews:9080/reviews/0", "--json"];
        args.extend(more);
        let output = explain(&bookinfo, &args);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let all = json(&output);
        assert_eq!(all["connect"][0]["workload"], "reviews-v1");
        let outcome = all["outcomes"][0].clone();
        assert_eq!(outcome["lanes"][0]["agrees"], true);
        (all["rule"]["index"].clone(), outcome)
    };
    let (rule, usual) = ask("default/productpage-v1", &[]);
    assert_eq!((rule, &usual["lanes"][0]["lane"]), (2.into(), &"native".into()));
    assert_eq!(usual["endpoints"][0]["workload"], "reviews-v1");

    let (rule, jason) = ask("default/productpage-v1", &["-H", "end-user: jason"]);
    assert_eq!((rule, &jason["lanes"][0]["lane"]), (1.into(), &"detour".into()));
    assert_eq!(jason["lanes"][0]["reason"], "other_cluster");
    assert_eq!(jason["endpoints"][0]["workload"], "reviews-v2");

    let (rule, intruder) = ask("default/intruder", &[]);
    assert_eq!((rule, &intruder["lanes"][0]["lane"]), (0.into(), &"answered".into()));
    assert_eq!((&intruder["status"], &intruder["share"]), (&403.into(), &1.0.into()));
}

#[test]
fn explain_tells_the_share_and_lane_of_each_backend() {
    let dir = tempfile::tempdir().unwrap();
    for file in fs::read_dir(examples().join("bookinfo")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
    }
    let canary = examples().join("bookinfo-canary/reviews-route.yaml");
    fs::copy(canary, dir.path().join("reviews-route.yaml")).unwrap();
    let question = ["--from", "default/load", "GET", "http://10.96.0.13:9080/reviews/0"];
    let all = json(&explain(dir.path(), &[&question[..], &["--json"]].concat()));
    let outcomes: Vec<(f64, &str, &str)> = all["outcomes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|o| {
            let workload = o["endpoints"][0]["workload"].as_str().unwrap();
            (o["share"].as_f64().unwrap(), workload, o["lanes"][0]["lane"].as_str().unwrap())
        })
        .collect();
    assert_eq!(outcomes, [(0.9, "reviews-v1", "native"), (0.1, "reviews-v3", "detour")]);
    let text = stdout(&explain(dir.path(), &question));
    assert!(text.contains("90 % of such requests goes to"), "{text}");
    assert!(text.contains("lane: detour (other_cluster)"), "{text}");
}

/// A service with rules of every kind, and more of them on one path than a group of the tables has.
fn all_kinds() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut text = String::from(
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  clusterIP: 10.96.0.10\n  \
         selector: {app: web}\n  ports: [{name: http, port: 80}]\n",
    );
    for (name, app, ip) in [("web-1", "web", "10.0.0.1"), ("client", "client", "10.0.0.2")] {
        text += &format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {app}}}}}\n\
             status: {{podIP: {ip}}}\n"
        );
    }
    text += "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: web}\n\
             spec:\n  hosts: [web]\n  http:\n";
    let mut rule = |condition: &str| {
        text += &format!("  - match: [{condition}]\n    route: [{{destination: {{host: web}}}}]\n");
    };
    rule("{uri: {exact: /query}, queryParams: {user: {exact: jason}}}");
    rule("{uri: {exact: /regex}, headers: {x-user: {regex: 'j[a-z]+'}}}");
    rule("{uri: {exact: /plain}}");
    rule("{method: {exact: BREW}}");
    for n in 0..70 {
        rule(&format!("{{uri: {{exact: /many}}, headers: {{x-n: {{exact: n{n}}}}}}}"));
    }
    fs::write(dir.path().join("all.yaml"), text).unwrap();
    dir
}

#[test]
fn explain_says_when_the_reference_router_is_asked_and_what_it_says() {
    let dir = all_kinds();
    for (method, target, header, lane, rule) in [
        ("GET", "/query?user=jason", "", ("native", "route", false), Some(0)),
        ("GET", "/query?user=martha", "", ("answered", "no_route", false), None),
        ("GET", "/regex", "x-user: jason", ("native", "route", false), Some(1)),
        ("GET", "/plain", "", ("native", "route", false), Some(2)),
        ("GET", "/odd/../plain", "", ("detour", "path", true), Some(2)),
        ("BREW", "/pot", "", ("detour", "unusual", true), Some(3)),
        ("GET", "/many", "x-n: n3", ("native", "route", false), Some(7)),
        ("GET", "/many", "x-n: n69", ("detour", "rule_action", true), Some(73)),
        ("HEAD", "/none", "", ("detour", "unusual", false), None),
    ] {
        let url = format!("http://web{target}");
        let mut args = vec!["--from", "default/client", method, &url];
        if !header.is_empty() {
            args.extend(["-H", header]);
        }
        let all = json(&explain(dir.path(), &[&args[..], &["--json"]].concat()));
        let found = &all["outcomes"][0]["lanes"][0];
        assert_eq!(found["lane"], lane.0, "{method} {target}: {all:#}");
        assert_eq!(found["reason"], lane.1, "{method} {target}: {all:#}");
        assert_eq!(found["router_asked"], lane.2, "{method} {target}: {all:#}");
        assert_eq!(found["agrees"], true, "{method} {target}: {all:#}");
        assert_eq!(all["rule"]["index"].as_u64(), rule, "{method} {target}: {all:#}");
        let text = stdout(&explain(dir.path(), &args));
        let says = "the reference router is asked, and says: ";
        assert_eq!(text.contains(says), lane.2, "{text}");
        if let (true, Some(rule)) = (lane.2, rule) {
            assert!(
                text.contains(&format!("{says}VirtualService default/web http[{rule}]")),
                "{text}"
            );
        }
    }
    let args = ["--from", "default/client", "GET", "http://web/odd/../plain"];
    let text = stdout(&explain(dir.path(), &args));
    assert!(text.contains("the path needs normalising: it becomes /plain"), "{text}");
}

#[test]
fn check_names_the_limit_that_leaves_rules_to_userspace() {
    let dir = all_kinds();
    let output = run(&["check", path(dir.path())]);
    assert_eq!(output.status.code(), Some(0), "a notice is no error");
    let text = stdout(&output);
    assert!(text.contains("notice: default/web:80: "), "{text}");
    assert!(text.contains("lead to more than 64 rules"), "{text}");
}

#[test]
fn explain_names_what_is_near_to_what_is_not_there() {
    let bookinfo = examples().join("bookinfo");
    for (from, url, wanted) in [
        ("default/intrudr", "http://reviews:9080/", "did you mean default/intruder?"),
        ("default/load", "http://review:9080/", "did you mean reviews?"),
        ("default/load", "http://reviews/", "no TCP port 80; it has 9080"),
        ("default/load", "http://10.9.9.9/", "there are 10.96.0.11"),
        ("default/load", "https://reviews/", "only http:// URLs"),
    ] {
        let output = explain(&bookinfo, &["--from", from, "GET", url]);
        assert_eq!(output.status.code(), Some(1), "{from} {url}");
        assert!(stderr(&output).contains(wanted), "{from} {url}: {}", stderr(&output));
    }
}

#[test]
fn completions_and_man_page_know_every_command() {
    let commands =
        ["run", "exec", "check", "explain", "status", "top", "flows", "dashboard", "doctor", "off"];
    let mut pages = vec![stdout(&run(&["man"]))];
    for shell in ["bash", "zsh", "fish"] {
        pages.push(stdout(&run(&["completions", shell])));
    }
    for page in pages {
        for command in commands {
            assert!(page.contains(command), "{command} is missing in {page}");
        }
        for word in ["follow", "verdict", "denied", "shortcut", "interval", "p99"] {
            assert!(page.contains(word), "{word} is missing in {page}");
        }
    }
}

#[test]
fn wrong_arguments_exit_with_2() {
    for args in [
        &["run"][..],
        &["check"],
        &["nonsense"],
        &["explain", "GET", "http://a/"],
        &["flows", "--verdict", "allowed"],
        &["flows", "--lane", "fast"],
        &["flows", "--status", "6x"],
        &["flows", "--from", "a/b/c"],
        &["top", "--json"],
        &["top", "--interval", "0"],
        &["top", "--sort", "colour"],
    ] {
        assert_eq!(run(args).status.code(), Some(2), "{args:?}");
    }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn doctor_finds_what_this_machine_has_and_leaves_nothing() {
    let child = beeway(&["doctor", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start beeway");
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    let report = json(&output);
    let findings = report["findings"].as_array().unwrap();
    let found = |name: &str| findings.iter().find(|f| f["name"] == name).unwrap()["ok"] == true;
    assert!(findings.len() > 20, "{report}");
    assert_eq!(found("root"), is_root());
    assert_eq!(output.status.code(), Some(if report["ok"] == true { 0 } else { 1 }));
    if is_root() {
        // the whole test suite needs these
        for name in ["connect4", "sockops", "sk_msg redirect, ingress", "bpf_rdonly_cast"] {
            assert!(found(name), "{report:#}");
        }
        assert!(found("all of Beeway's programs load"), "{report:#}");
    }
    if let Some(mount) = beeway_dataplane::cgroup::mount_point() {
        assert!(!mount.join(format!("beeway-doctor-{pid}")).exists());
    }
}

#[test]
fn without_an_agent_there_is_nothing_to_tell_and_nothing_to_remove() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let output = run(&["status", "--state", path(&state)]);
    assert_eq!(output.status.code(), Some(3));
    assert!(stdout(&output).starts_with("no agent is running"), "{}", stdout(&output));
    for args in [&["flows"][..], &["flows", "-f", "--json"], &["top", "--once", "--json"]] {
        let output = run(&[args, &["--state", path(&state)]].concat());
        assert_eq!(output.status.code(), Some(3), "{args:?}");
        assert_eq!(stdout(&output), "", "{args:?}");
        assert!(stderr(&output).starts_with("no agent is running"), "{}", stderr(&output));
    }
    let cgroup = dir.path().join("cgroup");
    let output = run(&["off", "--state", path(&state), "--cgroup", path(&cgroup)]);
    if is_root() {
        assert_eq!((output.status.code(), &*stdout(&output)), (Some(0), "nothing to remove\n"));
    } else {
        assert!(stderr(&output).contains("try `sudo beeway off"), "{}", stderr(&output));
    }
    let output = run(&["exec", "--cgroup", path(&cgroup), "--", "true"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(is_root() != stderr(&output).contains("sudo"), "{}", stderr(&output));
}

/// An agent in a state directory and cgroup of its own; all of it is removed on drop.
struct Agent {
    process: Child,
    state: tempfile::TempDir,
    cgroup: PathBuf,
}

impl Agent {
    fn start(name: &str) -> Agent {
        let state = tempfile::tempdir().unwrap();
        let mount = beeway_dataplane::cgroup::mount_point().expect("cgroup v2 is mounted");
        let cgroup = mount.join(format!("beeway-cli-{name}-{}", std::process::id()));
        let config = examples().join("bookinfo");
        let mut process = beeway(&["run", "--metrics", "127.0.0.1:0", "--config", path(&config)])
            .args(["--state", path(state.path()), "--cgroup", path(&cgroup)])
            .env("BEEWAY_LOG", "warn")
            .stdout(Stdio::piped())
            .spawn()
            .expect("start beeway");
        let mut line = String::new();
        let stdout = process.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let agent = Agent { process, state, cgroup };
        assert_eq!(line, "ready\n");
        agent
    }

    fn off(&self) -> Output {
        run(&["off", "--state", path(self.state.path()), "--cgroup", path(&self.cgroup)])
    }

    fn status(&self) -> Output {
        run(&["status", "--json", "--state", path(self.state.path())])
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        self.off();
    }
}

#[test]
fn an_agent_is_seen_joined_lost_and_removed() {
    if !is_root() {
        let output = run(&["run", "--config", path(&examples().join("bookinfo"))]);
        assert!(stderr(&output).contains("sudo beeway run"), "{}", stderr(&output));
        return;
    }
    let mut agent = Agent::start("life");
    let output = agent.status();
    assert_eq!(output.status.code(), Some(0));
    let status = json(&output);
    assert_eq!(status["pid"], agent.process.id());
    assert_eq!(status["generation"]["services"], 4);

    let output = run(&["exec", "--cgroup", path(&agent.cgroup), "--", "cat", "/proc/self/cgroup"]);
    let name = agent.cgroup.file_name().unwrap().to_str().unwrap();
    assert!(stdout(&output).lines().any(|line| line == format!("0::/{name}")));

    agent.process.kill().unwrap();
    agent.process.wait().unwrap();
    let output = agent.status();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(json(&output)["attached"], true);

    let output = agent.off();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("detached the programs"), "{}", stdout(&output));
    assert!(!agent.cgroup.exists());
    assert_eq!(stdout(&agent.off()), "nothing to remove\n");
}

#[test]
fn a_running_agent_is_stopped_by_off() {
    if !is_root() {
        return;
    }
    let mut agent = Agent::start("off");
    let output = agent.off();
    assert!(stdout(&output).contains("stopped the agent"), "{}", stderr(&output));
    assert_eq!(agent.process.wait().unwrap().code(), Some(0));
}

#[test]
fn explain_names_the_limits_of_a_request() {
    let config = examples().join("limits");
    let check = run(&["check", path(&config)]);
    assert_eq!(check.status.code(), Some(0), "{}", stdout(&check));
    for (url, text) in [
        (
            "http://shop:9080/",
            "needs a token of EnvoyFilter default/shop (20 at most for each caller, 10 each 1s; \
             answered 429 without one), EnvoyFilter default/shop (100 at most, 50 each 1s; answered \
             429 without one)",
        ),
        (
            "http://shop:9081/",
            "needs a token of EnvoyFilter default/shop (4 at most, 4 each 60s; answered 429 without \
             one)",
        ),
    ] {
        let args = ["--from", "default/client", "GET", url];
        let all = json(&explain(&config, &[&args[..], &["--json"]].concat()));
        assert_eq!(all["outcomes"][0]["lanes"][0]["lane"], "native", "{all:#}");
        assert_eq!(all["outcomes"][0]["lanes"][0]["agrees"], true, "{all:#}");
        let said = stdout(&explain(&config, &args));
        assert!(said.contains(text), "{said}");
    }
}

#[test]
fn explain_names_the_policy_and_rule_that_decide() {
    let config = examples().join("authorization");
    for (from, method, url, allowed, text, lane) in [
        (
            "shop/orders",
            "GET",
            "http://web.shop/",
            true,
            "allowed by AuthorizationPolicy shop/web, rule 1",
            "native",
        ),
        (
            "shop/orders",
            "POST",
            "http://web.shop/",
            false,
            "denied: AuthorizationPolicy shop/nothing has no rule that allows it",
            "answered",
        ),
        // a policy in dry run reports it, which the kernel does not
        (
            "monitoring/prometheus",
            "GET",
            "http://web.shop/",
            true,
            "; reported by AuthorizationPolicy shop/only-the-shop",
            "detour",
        ),
        // named by service: for userspace
        (
            "shop/web",
            "GET",
            "http://orders.shop/orders/1",
            true,
            "allowed by AuthorizationPolicy shop/orders, rule 1",
            "detour",
        ),
        // each port of a pod by itself, under the policies of its services
        (
            "shop/web",
            "GET",
            "http://10.244.1.20:8080/orders/1",
            true,
            "allowed by AuthorizationPolicy shop/orders, rule 1",
            "detour",
        ),
        (
            "shop/web",
            "GET",
            "http://10.244.1.20:9090/metrics",
            false,
            "10.244.1.20:9090  orders  denied",
            "detour",
        ),
    ] {
        let args = ["--from", from, method, url];
        let all = json(&explain(&config, &[&args[..], &["--json"]].concat()));
        assert_eq!(all["policies"][0]["allowed"], allowed, "{from} {method} {url}: {all:#}");
        assert_eq!(all["outcomes"][0]["lanes"][0]["lane"], lane, "{all:#}");
        assert_eq!(all["outcomes"][0]["lanes"][0]["agrees"], true, "{all:#}");
        let said = stdout(&explain(&config, &args));
        assert!(said.contains(text), "{said}");
    }
}
