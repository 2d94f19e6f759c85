//! A cluster as the files of its namespaces: pods, services and policies. Pure.

use std::fmt::Write;

use crate::bed::PORT;

/// Namespaces, with a folder each.
const NAMESPACES: usize = 200;
/// Apps of a namespace, each with a service and a policy.
const APPS: usize = 5;
/// Pods of an app.
const REPLICAS: usize = 10;

/// How many pods there are.
pub const PODS: usize = NAMESPACES * APPS * REPLICAS;
/// How many policies.
pub const POLICIES: usize = NAMESPACES * APPS;

/// Where the pods that exist are: the client is one of the first app there, the server of the next
/// namespace.
const CLIENT: usize = 99;

/// What is changed of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State<'a> {
    /// Whether the client is a pod of it.
    pub client: bool,
    /// The labels of the server.
    pub app: &'a str,
    pub version: &'a str,
}

/// As the cluster is at first: the client may call the server.
pub const AT_FIRST: State<'static> = State { client: true, app: "app-1", version: "v1" };

/// The folder of a namespace.
fn namespace(n: usize) -> String {
    format!("ns-{:03}", n % NAMESPACES)
}

/// Name and text of every file, by the addresses of client and server.
pub fn files(client: &str, server: &str) -> Vec<(String, String)> {
    let of = |n: usize| {
        let services: String = (0..APPS).map(|app| service(n, app)).collect();
        let policies: String = (0..APPS).map(|app| policy(n, app)).collect();
        [
            ("services", services),
            ("policies", policies),
            ("pods", pods(n, client, server, AT_FIRST)),
        ]
        .map(|(name, text)| (format!("{}/{name}.yaml", namespace(n)), text))
    };
    (0..NAMESPACES).flat_map(of).collect()
}

/// The names of the files that have the client and the server, and their texts in a state.
pub fn changing(client: &str, server: &str, state: State<'_>) -> [(String, String); 2] {
    [CLIENT, CLIENT + 1]
        .map(|n| (format!("{}/pods.yaml", namespace(n)), pods(n, client, server, state)))
}

fn pods(n: usize, client: &str, server: &str, state: State<'_>) -> String {
    let mut text = String::new();
    for app in 0..APPS {
        for replica in 0..REPLICAS {
            let number = (n * APPS + app) * REPLICAS + replica;
            let made_up =
                format!("10.{}.{}.{}", 64 + (number >> 16), number >> 8 & 255, number & 255);
            let name = format!("app-{app}");
            let labels = (&*name, "v1");
            let place = (n, app, replica);
            text += &match place {
                (CLIENT, 0, 0) if !state.client => String::new(),
                (CLIENT, 0, 0) => pod(place, labels, client, "bench"),
                (server_at, 1, 0) if server_at == CLIENT + 1 => {
                    pod(place, (state.app, state.version), server, "bench")
                }
                _ => pod(place, labels, &made_up, &format!("node-{}", number % 100)),
            };
        }
    }
    text
}

fn pod(
    place: (usize, usize, usize),
    (label, version): (&str, &str),
    ip: &str,
    node: &str,
) -> String {
    let (n, app, replica) = place;
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: app-{app}-{replica:02}\n  namespace: {}\n  \
         labels:\n    app: {label}\n    version: {version}\n    pod-template-hash: h{app}\nspec:\n  \
         nodeName: {node}\n  serviceAccountName: default\n  containers:\n  - name: main\n    \
         image: app-{app}\n    ports:\n    - containerPort: {PORT}\nstatus:\n  phase: Running\n  \
         podIP: {ip}\n  podIPs:\n  - ip: {ip}\n  conditions:\n  - type: Ready\n    \
         status: \"True\"\n---\n",
        namespace(n)
    )
}

fn service(n: usize, app: usize) -> String {
    let number = n * APPS + app;
    let ip = format!("10.96.{}.{}", number >> 8, number & 255);
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: app-{app}\n  namespace: {}\nspec:\n  \
         clusterIP: {ip}\n  selector:\n    app: app-{app}\n  ports:\n  - name: http\n    port: 80\n    \
         targetPort: {PORT}\n---\n",
        namespace(n)
    )
}

/// The first two apps of a namespace may be called from the one before, the others from the one
/// behind. The last policy asks for a version too, so that versions tell pods apart.
fn policy(n: usize, app: usize) -> String {
    let from = namespace(if app < 2 { n + NAMESPACES - 1 } else { n + 1 });
    let version = if app == APPS - 1 { "      version: v1\n" } else { "" };
    let mut text = format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: app-{app}\n  \
         namespace: {}\nspec:\n  selector:\n    matchLabels:\n      app: app-{app}\n{version}  rules:\n",
        namespace(n)
    );
    let _ = write!(
        text,
        "  - from:\n    - source:\n        principals: [cluster.local/ns/{from}/sa/default]\n    \
         to:\n    - operation:\n        methods: [GET]\n        paths: [/app/{app}/*]\n---\n"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_of_one_pod() {
        let files = files("10.244.0.2", "10.244.0.3");
        let count =
            |what: &str| files.iter().map(|(_, text)| text.matches(what).count()).sum::<usize>();
        assert_eq!(count("kind: Pod\n"), 10_000);
        assert_eq!(count("kind: AuthorizationPolicy\n"), 1_000);
        let [client, server] = changing("10.244.0.2", "10.244.0.3", AT_FIRST);
        assert!(files.contains(&client) && files.contains(&server));
        let other = State { app: "app-2", ..AT_FIRST };
        let [same, relabelled] = changing("10.244.0.2", "10.244.0.3", other);
        assert_eq!(same, client);
        let differing = server.1.lines().zip(relabelled.1.lines()).filter(|(a, b)| a != b);
        assert_eq!(differing.collect::<Vec<_>>(), [("    app: app-1", "    app: app-2")]);
        let gone = State { client: false, ..AT_FIRST };
        let [without, same] = changing("10.244.0.2", "10.244.0.3", gone);
        assert_eq!(same, server);
        assert_eq!(without.1.matches("kind: Pod\n").count(), 49);
    }
}
