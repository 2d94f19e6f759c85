//! Gateway API's conformance cases, as data: where they are, and what they ask.
//!
//! The folder is `$BEEWAY_CONFORMANCE`, or `../shared/conformance` next to the workspace; its
//! README says what is in it.
#![allow(dead_code)] // each test binary uses its part

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The cases and their manifests.
pub struct Cases {
    folder: PathBuf,
    files: BTreeMap<String, Vec<Value>>,
}

/// One request and what must come back.
#[derive(Debug)]
pub struct Case {
    /// The source file and the case's name or number, for people.
    pub label: String,
    pub method: String,
    /// Empty when the source leaves it to the default of its group.
    pub host: String,
    /// Path and query.
    pub path: String,
    /// What the request carries; a Host among them stands instead of `host`.
    pub headers: Vec<(String, String)>,
    /// Any of these.
    pub statuses: Vec<u64>,
    /// A prefix of the name of the pod that must answer.
    pub backend: Option<String>,
    /// Its namespace.
    pub namespace: Option<String>,
    /// What must reach the backend; `None`: what was sent.
    pub expected: Option<Expected>,
    /// Where a redirect must lead, if the case looks.
    pub redirect: Option<Target>,
    /// Namespaces and names of the backends that must see a copy.
    pub mirrors: Vec<(String, String)>,
    /// Headers that the backend is to set in its answer.
    pub set_headers: Vec<(String, String)>,
    /// Headers that the answer must have, with one of these values; repeated ones are joined by
    /// commas.
    pub answer_headers: Vec<(String, Vec<String>)>,
    /// Spaces in them do not count.
    pub ignore_whitespace: bool,
    /// Headers that it must not have.
    pub absent_headers: Vec<String>,
}

/// What must reach the backend.
#[derive(Debug)]
pub struct Expected {
    /// Empty: any.
    pub host: String,
    /// Empty: any.
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub absent_headers: Vec<String>,
}

/// Where a redirect leads; `None`: as in the request, or the scheme's default for the port.
#[derive(Debug)]
pub struct Target {
    pub scheme: Option<String>,
    pub host: Option<String>,
    pub port: Option<String>,
    pub path: Option<String>,
}

impl Cases {
    /// The cases; `None`, with a message, when the folder is not there.
    pub fn find() -> Option<Cases> {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let folder = std::env::var_os("BEEWAY_CONFORMANCE")
            .map_or_else(|| workspace.join("../shared/conformance"), PathBuf::from);
        let Ok(text) = fs::read_to_string(folder.join("gateway-api-cases.json")) else {
            eprintln!("skipped: no conformance cases in {}", folder.display());
            return None;
        };
        let files = serde_json::from_str(&text).expect("an object of lists");
        Some(Cases { folder, files })
    }

    /// The names of the source files of a group (`mesh`, `tests`).
    pub fn sources(&self, group: &str) -> Vec<&str> {
        let prefix = format!("{group}/");
        self.files
            .keys()
            .filter_map(|name| name.strip_prefix(&prefix)?.strip_suffix(".go"))
            .collect()
    }

    /// The cases of a source file; there must be some.
    pub fn of(&self, group: &str, source: &str) -> Vec<Case> {
        let name = format!("{group}/{source}.go");
        let cases = self.files.get(&name).map_or(&[][..], Vec::as_slice);
        assert!(!cases.is_empty(), "{name} has no case");
        let read = |(at, case)| Case::read(&format!("{name} {at}"), group, case);
        cases.iter().enumerate().map(read).collect()
    }

    /// The cases of a source file as they are in the data.
    pub fn values(&self, group: &str, source: &str) -> &[Value] {
        self.files.get(&format!("{group}/{source}.go")).map_or(&[], Vec::as_slice)
    }

    /// The objects of a manifest.
    pub fn manifest(&self, path: &str) -> Vec<Value> {
        let path = self.folder.join("gateway-api").join(path);
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let documents = text.split("\n---").filter(|document| {
            document.lines().any(|line| !line.trim().is_empty() && !line.starts_with(['#', '-']))
        });
        documents
            .map(|document| {
                let document = document.strip_prefix("---").unwrap_or(document);
                serde_saphyr::from_str(document)
                    .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
            })
            .collect()
    }
}

impl Case {
    fn read(label: &str, group: &str, case: &Value) -> Case {
        let (request, response) = (&case["Request"], &case["Response"]);
        let text = |value: &Value| value.as_str().map(|text| resolved(text, group));
        let pairs = |value: &Value| pairs(value, group);
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let texts =
            |value: &Value| -> Vec<String> { list(value).iter().filter_map(text).collect() };
        let mut statuses: Vec<u64> =
            list(&response["StatusCodes"]).iter().filter_map(Value::as_u64).collect();
        statuses.extend(response["StatusCode"].as_u64());
        if statuses.is_empty() {
            statuses.push(200);
        }
        let exact =
            pairs(&response["Headers"]).into_iter().map(|(name, value)| (name, vec![value]));
        let any = response["ValidHeaderValues"].as_object().into_iter().flatten();
        let any = any.map(|(name, values)| (name.clone(), texts(values)));
        let name = case["TestCaseName"].as_str().map(|name| format!(" {name}")).unwrap_or_default();
        Case {
            label: format!("{label}{name}"),
            method: text(&request["Method"]).unwrap_or_else(|| "GET".to_owned()),
            host: text(&request["Host"]).unwrap_or_default(),
            path: text(&request["Path"]).unwrap_or_else(|| "/".to_owned()),
            headers: pairs(&request["Headers"]),
            statuses,
            backend: text(&case["Backend"]),
            namespace: text(&case["Namespace"]),
            expected: case.get("ExpectedRequest").map(|expected| Expected::read(expected, group)),
            redirect: case.get("RedirectRequest").map(Target::read),
            mirrors: list(&case["MirroredTo"])
                .iter()
                .map(|mirror| &mirror["BackendRef"])
                .filter_map(|backend| Some((text(&backend["Namespace"])?, text(&backend["Name"])?)))
                .collect(),
            set_headers: pairs(&case["BackendSetResponseHeaders"]),
            answer_headers: exact.chain(any).collect(),
            ignore_whitespace: response["IgnoreWhitespace"] == true,
            absent_headers: texts(&response["AbsentHeaders"]),
        }
    }
}

impl Expected {
    fn read(expected: &Value, group: &str) -> Expected {
        let request = &expected["Request"];
        let text =
            |key: &str| request[key].as_str().map(|text| resolved(text, group)).unwrap_or_default();
        let absent = expected["AbsentHeaders"].as_array().into_iter().flatten();
        Expected {
            host: text("Host"),
            path: text("Path"),
            headers: pairs(&request["Headers"], group),
            absent_headers: absent.filter_map(|name| name.as_str().map(str::to_owned)).collect(),
        }
    }
}

impl Target {
    fn read(target: &Value) -> Target {
        let text = |key: &str| target[key].as_str().map(str::to_owned);
        Target {
            scheme: text("Scheme"),
            host: text("Host"),
            port: text("Port"),
            path: text("Path"),
        }
    }
}

fn pairs(value: &Value, group: &str) -> Vec<(String, String)> {
    let pairs = value.as_object().into_iter().flatten();
    pairs.filter_map(|(name, v)| Some((name.clone(), resolved(v.as_str()?, group)))).collect()
}

/// What a value that was no literal in the source stands for.
fn resolved(text: &str, group: &str) -> String {
    let named = match text {
        "$ns" if group == "mesh" => "gateway-conformance-mesh",
        "$ns" | "$confsuite.InfrastructureNamespace" => "gateway-conformance-infra",
        "$suite.MeshNamespace" => "gateway-conformance-mesh",
        "$confsuite.WebBackendNamespace" => "gateway-conformance-web-backend",
        "$suite.AppBackendNamespace" => "gateway-conformance-app-backend",
        "$confsuite.InfraBackendServiceNameV1" => "infra-backend-v1",
        "$confsuite.InfraBackendServiceNameV2" => "infra-backend-v2",
        "$confsuite.InfraBackendServiceNameV3" => "infra-backend-v3",
        other => other,
    };
    named.to_owned()
}

/// Fails unless every source is either replayed or left out, and none that is named is missing.
pub fn assert_all_named(sources: &[&str], replayed: &[&str], left_out: &[(&str, &str)]) {
    let mut named: Vec<&str> = replayed.to_vec();
    named.extend(left_out.iter().map(|(source, _)| source));
    named.sort_unstable();
    let mut there = sources.to_vec();
    there.sort_unstable();
    assert_eq!(named, there, "each source file is replayed, or left out for a reason");
}
