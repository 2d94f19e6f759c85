//! The example directories, the Gateway API conformance files, and files cut at random.

use std::path::{Path, PathBuf};

use beeway_config::{Loaded, Options, Severity, check_dir, load, load_dir, read_dir};
use beeway_model::access::{Access, Call, Party, evaluate};
use beeway_model::telemetry::Side;
use beeway_model::{Mesh, Outcome, Protocol, Request, Transport, route};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn bookinfo() -> Loaded {
    load_dir(&workspace().join("examples/bookinfo"), &Options::default()).unwrap()
}

/// Where a GET goes: the workload drawn, or the status.
fn ask(mesh: &Mesh, from: &str, url: (&str, &str), headers: &[(&str, &[u8])], draw: u32) -> String {
    let (host, target) = url;
    let service = mesh.service_by_host(host, "default").unwrap();
    let request = Request {
        method: "GET",
        scheme: "http",
        authority: host,
        target,
        headers,
        source: mesh.workloads.iter().map(|w| &**w).find(|w| w.name == from),
    };
    match route(&service.ports[0], &request, draw).outcome {
        Outcome::Forward(id) => mesh
            .cluster(id)
            .pick(service.addresses[0], 0)
            .map_or("503".to_owned(), |e| e.workload.clone()),
        Outcome::Respond { status, body } => format!("{status} {body}"),
        Outcome::Redirect => unreachable!("no example redirects"),
    }
}

#[test]
fn bookinfo_is_clean_and_complete() {
    let Loaded { mesh, problems } = bookinfo();
    assert_eq!(problems, []);
    let names: Vec<&str> = mesh.services.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["details", "productpage", "ratings", "reviews"]);
    let clusters: Vec<String> = mesh
        .clusters
        .iter()
        .map(|c| {
            let name = c.name.replace(".default.svc.cluster.local", "");
            let endpoints = c.endpoints.iter().map(|e| format!(" {}={}", e.workload, e.address));
            name + ":" + &endpoints.collect::<String>()
        })
        .collect();
    assert_eq!(
        clusters,
        [
            "details:9080: details-v1=10.244.0.21:9080",
            "productpage:9080: productpage-v1=10.244.0.20:9080 productpage-v1=[fd00:be::20]:9080",
            "ratings:9080: ratings-v1=10.244.0.22:9080 ratings-v1=[fd00:be::22]:9080",
            "reviews:9080: reviews-v1=10.244.0.31:9080 reviews-v2=10.244.0.32:9080 \
             reviews-v3=10.244.0.33:9080 reviews-v1=[fd00:be::31]:9080 \
             reviews-v2=[fd00:be::32]:9080 reviews-v3=[fd00:be::33]:9080",
            "reviews:9080|v1: reviews-v1=10.244.0.31:9080 reviews-v1=[fd00:be::31]:9080",
            "reviews:9080|v2: reviews-v2=10.244.0.32:9080 reviews-v2=[fd00:be::32]:9080",
            "reviews:9080|v3: reviews-v3=10.244.0.33:9080 reviews-v3=[fd00:be::33]:9080",
        ]
    );
    assert_eq!(mesh.workloads.len(), 8);
    let intruder = mesh.workload_at("10.244.0.11".parse().unwrap()).unwrap();
    assert_eq!((intruder.name.as_str(), intruder.node.as_deref()), ("intruder", Some("node-1")));
    let (service, port) =
        mesh.frontend("fd00:96::13".parse().unwrap(), 9080, Transport::Tcp).unwrap();
    assert_eq!((service.name.as_str(), port.protocol), ("reviews", Protocol::Http));
    assert_eq!(service.hosts[0], "reviews.default.svc.cluster.local");
    let rules: Vec<&str> =
        port.rules.as_ref().unwrap().iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(
        rules,
        [
            "VirtualService default/reviews http[0]",
            "VirtualService default/reviews http[1]",
            "VirtualService default/reviews http[2]",
        ]
    );
}

#[test]
fn bookinfo_routes_as_it_reads() {
    let mesh = bookinfo().mesh;
    let jason: &[(&str, &[u8])] = &[("End-User", b"jason")];
    let reviews = ("reviews", "/reviews/1");
    assert_eq!(ask(&mesh, "load", reviews, &[], 7), "reviews-v1");
    assert_eq!(ask(&mesh, "load", reviews, jason, 7), "reviews-v2");
    assert_eq!(ask(&mesh, "intruder", reviews, jason, 7), "403 RBAC: access denied");
    assert_eq!(ask(&mesh, "load", ("ratings", "/ratings/1"), &[], 7), "ratings-v1");
    assert_eq!(ask(&mesh, "load", ("ratings", "/ratingsX"), &[], 7), "404 ");
    assert_eq!(ask(&mesh, "load", ("ratings", "/health"), &[], 7), "ratings-v1");
    assert_eq!(ask(&mesh, "load", ("details", "/anything"), &[], 7), "details-v1");
}

#[test]
fn the_canary_file_takes_the_place_of_the_other() {
    let mut files = read_dir(&workspace().join("examples/bookinfo")).unwrap();
    let canary = read_dir(&workspace().join("examples/bookinfo-canary")).unwrap();
    let name = |path: &Path| path.file_name().unwrap().to_owned();
    for (path, text) in canary {
        let old = files.iter_mut().find(|(old, _)| name(old) == name(&path)).unwrap();
        old.1 = text;
    }
    let Loaded { mesh, problems } = load(&files, &Options::default());
    assert_eq!(problems, []);
    let draws = (0..1000u32).map(|n| n * (u32::MAX / 1000));
    let v3 = draws.filter(|d| ask(&mesh, "load", ("reviews", "/"), &[], *d) == "reviews-v3");
    assert_eq!(v3.count(), 99);
}

#[test]
fn authorization_is_clean_and_reads_as_it_says() {
    let dir = workspace().join("examples/authorization");
    let options = Options { node: Some("node-1".to_owned()) };
    let Loaded { mesh, problems } = check_dir(&dir, &options).unwrap();
    assert_eq!(problems, []);
    assert_eq!(mesh.access.len(), 11);
    let (web, orders, db) = ("10.244.1.10", "10.244.1.20", "10.244.1.30");
    let (prometheus, outside, node) = ("10.244.1.40", "203.0.113.5", "192.0.2.11");
    for (from, to, port, asked, allowed) in [
        (outside, web, 8080, "GET /", true),
        (outside, web, 8080, "POST /", false),
        (node, web, 8080, "GET /", true),
        (prometheus, web, 8080, "GET /", true),
        (outside, web, 8081, "GET /", false),
        (web, orders, 8080, "GET /orders/7", true),
        (web, orders, 8080, "POST /orders", true),
        (web, orders, 8080, "POST /orders/7", false),
        (web, orders, 8080, "POST /orders/7/cancel", false),
        (db, orders, 8080, "GET /orders", false),
        (prometheus, orders, 8080, "GET /orders", false),
        (prometheus, orders, 9090, "GET /metrics", true),
        (prometheus, orders, 9090, "GET /orders", false),
        (outside, orders, 8080, "GET /orders", false),
        (orders, db, 5432, "", true),
        (web, db, 5432, "", false),
        (outside, db, 5432, "", false),
        (db, "198.51.100.2", 8005, "", true),
        (db, "198.51.100.2", 8011, "", false),
        (db, "198.51.100.1", 8005, "", false),
        (db, web, 8080, "GET /", false),
    ] {
        let access = access(&mesh, (from, to, port), asked);
        assert_eq!(access.allowed, allowed, "{from} {to}:{port} {asked}: {access:?}");
    }
    let dry_run = access(&mesh, (outside, web, 8080), "GET /").dry_run;
    assert_eq!(dry_run.len(), 1);
}

#[test]
fn telemetry_is_clean_and_says_what_it_reads() {
    let dir = workspace().join("examples/telemetry");
    let Loaded { mesh, problems } = check_dir(&dir, &Options::default()).unwrap();
    assert_eq!(problems, []);
    let telemetry = &mesh.telemetry;
    let labels = |app: &str| [("app".to_owned(), app.to_owned())].into();
    let logged = |namespace, app, side| {
        let wanted = telemetry.logging(namespace, &labels(app), side).unwrap();
        wanted.iter().map(|to| to.provider.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(logged("default", "front", Side::Client), ["envoy", "errors"]);
    assert_eq!(logged("default", "front", Side::Server), ["envoy"]);
    assert_eq!(logged("default", "shop", Side::Server), ["envoy"]);
    let sampled = |namespace, app| {
        let said = telemetry.tracing(namespace, &labels(app), Side::Client).unwrap();
        said.and_then(|to| to.sampling)
    };
    assert_eq!(sampled("default", "front"), Some(10.0));
    assert_eq!(sampled("default", "shop"), Some(1.0));
    assert_eq!(sampled("observability", "otel-collector"), None);
}

/// What policies say of a call, to all services before its endpoint: `METHOD TARGET`, or a
/// connection.
fn access(mesh: &Mesh, (from, to, port): (&str, &str, u16), asked: &str) -> Access {
    let party = |address: &str| {
        let address = address.parse().unwrap();
        Party { address, identity: mesh.identity_at(address) }
    };
    let address = (to.parse::<std::net::IpAddr>().unwrap(), port).into();
    let before = mesh.services.iter().filter(|service| {
        let clusters = service.ports.iter().map(|port| mesh.cluster(port.cluster));
        clusters.flat_map(|cluster| cluster.endpoints.iter()).any(|e| e.address == address)
    });
    let services: Vec<(&str, &str)> = before.map(|s| (&*s.namespace, &*s.name)).collect();
    let request = asked.split_once(' ').map(|(method, target)| Request {
        method,
        scheme: "http",
        authority: "any",
        target,
        headers: &[],
        source: None,
    });
    let call = Call {
        caller: party(from),
        called: party(to),
        port,
        transport: Transport::Tcp,
        services: &services,
        sni: None,
        request: request.as_ref(),
    };
    evaluate(mesh.access.iter().enumerate(), &call)
}

/// A file that asks for all that can be asked for.
fn everything() -> (PathBuf, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/everything.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    (path, text)
}

#[test]
fn everything_is_understood() {
    let Loaded { mesh, problems } = load(&[everything()], &Options::default());
    assert_eq!(problems, []);
    let ports = mesh.services.iter().flat_map(|service| &service.ports);
    let counts: Vec<(usize, usize)> = ports
        .map(|port| (port.rules.as_ref().map_or(0, Vec::len), port.stream_rules.len()))
        .collect();
    assert_eq!(counts, [(9, 0), (0, 0), (0, 1), (0, 1), (2, 0), (2, 0)]);
}

#[test]
fn conformance_files_load() {
    let dir = workspace().join("../shared/conformance");
    if !dir.is_dir() {
        println!("skipped: {} is not there", dir.display());
        return;
    }
    let base: Vec<_> = ["base", "mesh"]
        .iter()
        .flat_map(|part| read_dir(&dir.join("gateway-api").join(part)).unwrap())
        .collect();
    for file in read_dir(&dir).unwrap() {
        let alone = load(std::slice::from_ref(&file), &Options::default());
        let name = file.0.clone();
        let mut all = base.clone();
        all.push(file);
        let loaded = load(&all, &Options::default());
        for problem in alone.problems.iter().chain(&loaded.problems) {
            assert!(problem.line.is_some(), "{problem}");
        }
        if name.parent().is_some_and(|parent| parent.ends_with("tests/mesh")) {
            for problem in loaded.problems.iter().filter(|p| p.file == name) {
                println!("{problem}");
            }
        }
    }
}

/// The conformance suite's own requests, for the files that need no more than routing.
#[test]
fn conformance_requests_go_where_the_suite_says() {
    let dir = workspace().join("../shared/conformance");
    let Ok(cases) = std::fs::read_to_string(dir.join("gateway-api-cases.json")) else {
        println!("skipped: {} is not there", dir.display());
        return;
    };
    let cases: serde_json::Value = serde_json::from_str(&cases).unwrap();
    let base = read_dir(&dir.join("gateway-api/mesh")).unwrap();
    let mut asked = 0;
    for name in ["matching", "query-param-matching", "named-rule", "simple-same-namespace"] {
        let path = dir.join(format!("gateway-api/tests/mesh/httproute-{name}.yaml"));
        let mut files = base.clone();
        files.push((path.clone(), std::fs::read_to_string(&path).unwrap()));
        let mesh = load(&files, &Options::default()).mesh;
        let host = "echo.gateway-conformance-mesh.svc.cluster.local";
        let port = mesh.service_by_host(host, "").unwrap().port(80, Transport::Tcp).unwrap();
        for case in cases[format!("mesh/httproute-{name}.go")].as_array().unwrap() {
            let sent = &case["Request"];
            let headers: Vec<(&str, &[u8])> = sent["Headers"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, value)| (name.as_str(), value.as_str().unwrap().as_bytes()))
                .collect();
            let request = Request {
                method: sent["Method"].as_str().unwrap_or("GET"),
                scheme: "http",
                authority: "echo",
                target: sent["Path"].as_str().unwrap_or("/"),
                headers: &headers,
                source: None,
            };
            let got = match route(port, &request, 0).outcome {
                Outcome::Forward(id) => mesh.cluster(id).name.split('.').next().unwrap().to_owned(),
                Outcome::Respond { status, .. } => status.to_string(),
                Outcome::Redirect => unreachable!("no example redirects"),
            };
            let status = case["Response"]["StatusCode"].as_u64().unwrap_or(200);
            let wanted = match case["Backend"].as_str() {
                Some(backend) => backend.to_owned(),
                None => status.to_string(),
            };
            assert_eq!(got, wanted, "{name}: {case}");
            asked += 1;
        }
    }
    assert!(asked >= 25, "{asked}");
}

/// A small generator (xorshift64), so that the property needs no crate and repeats itself.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound.max(1) as u64).unwrap()
    }
}

#[test]
fn mutilated_files_never_panic() {
    let files = read_dir(&workspace().join("examples")).unwrap();
    let everything = [everything()];
    let tokens = [
        "---\n",
        "- ",
        ": ",
        "\t",
        "{",
        "]",
        "\"",
        "null",
        "-1",
        "99999999999",
        "&a",
        "*a",
        "~",
        "é",
        "\u{0}",
        "|\n",
        "? ",
        "%X\n",
        "...\n",
        "regex: '('\n",
        "weight: 4294967295\n",
    ];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for round in 0..400 {
        // Every other time the one in which most can go wrong.
        let mut mutated = if round % 2 == 0 { everything.to_vec() } else { files.clone() };
        let at = random.below(mutated.len());
        let text = &mut mutated[at].1;
        for _ in 0..=random.below(3) {
            let boundary =
                |at: usize, text: &str| (0..=at).rev().find(|i| text.is_char_boundary(*i)).unwrap();
            let from = boundary(random.below(text.len() + 1), text);
            let to = boundary((from + random.below(60)).min(text.len()), text).max(from);
            let token = tokens[random.below(tokens.len())];
            match random.below(3) {
                0 => text.replace_range(from..to, ""),
                1 => text.replace_range(from..to, token),
                _ => text.insert_str(from, token),
            }
        }
        let lines = text.lines().count().max(1);
        let file = mutated[at].0.clone();
        let first = load(&mutated, &Options::default());
        for problem in first.problems.iter().filter(|p| p.file == file) {
            assert!((1..=lines).contains(&problem.line.unwrap()), "{problem}");
        }
        if round % 10 == 0 {
            assert_eq!(first, load(&mutated, &Options::default()));
        }
    }
}

#[test]
fn hidden_and_other_files_are_skipped() {
    let files = read_dir(&workspace().join("examples/bookinfo")).unwrap();
    assert!(files.iter().all(|(path, _)| path.extension().unwrap() == "yaml"));
    assert!(files.is_sorted());
    assert!(read_dir(Path::new("/no/such/directory")).is_err());
    assert!(bookinfo().problems.iter().all(|p| p.severity != Severity::Error));
}
