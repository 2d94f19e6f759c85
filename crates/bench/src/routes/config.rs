//! The list of routes as the files of a Kubernetes cluster and as Envoy's virtual hosts. Pure.

use std::fmt::Write;

use serde_json::{Value, json};

use super::list::{Path, Route, Server, Size, routes, service_ip, service_name};
use crate::bed::PORT;

/// The most rules that an HTTPRoute may have (Gateway API v1).
const RULES: usize = 16;

/// Name and text of each file that Beeway is told: pods, services, and each HTTPRoute in a file of
/// its own.
pub fn beeway(size: Size, client: &str, v1: &str, v2: &str) -> Vec<(String, String)> {
    let pods = [("client", "client", client), ("web-v1", "v1", v1), ("web-v2", "v2", v2)];
    let pods = pods.map(|(name, version, ip)| pod(name, version, ip)).concat();
    let canary = service("web-v2", "10.96.0.2", "v2");
    let services: String =
        (0..size.services).map(|n| service(&service_name(n), &service_ip(n), "v1")).collect();
    let mut files =
        vec![("pods.yaml".to_owned(), pods), ("services.yaml".to_owned(), canary + &services)];
    let routes = routes(size.routes);
    for service in 0..size.services {
        for (part, rules) in routes.chunks(RULES).enumerate() {
            files.push((file_name(service, part), http_route(service, part, rules)));
        }
    }
    files
}

/// The file of an HTTPRoute.
fn file_name(service: u32, part: usize) -> String {
    format!("{}-{part:04}.yaml", service_name(service))
}

/// A file in which one route, whose index comes last, may lead to either server: its name, the
/// text that leads to v1 as everywhere else, and the text that leads to v2.
pub fn changing(size: Size) -> (String, [String; 2], usize) {
    let mut routes = routes(size.routes);
    let part = routes.len() / RULES / 2;
    let within = part * RULES..((part + 1) * RULES).min(routes.len());
    let index = within.clone().find(|at| plain(&routes[*at])).unwrap_or(within.start);
    let before = http_route(0, part, &routes[within.clone()]);
    routes[index].server = Server::V2;
    (file_name(0, part), [before, http_route(0, part, &routes[within])], index)
}

fn plain(route: &Route) -> bool {
    matches!(route.path, Path::Exact(_)) && route.method.is_none() && route.query.is_none()
}

fn pod(name: &str, version: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: default\n  labels:\n\
         \x20   version: {version}\nspec:\n  nodeName: bench\nstatus:\n  phase: Running\n  \
         podIP: {ip}\n  podIPs:\n  - ip: {ip}\n  conditions:\n  - type: Ready\n    \
         status: \"True\"\n---\n"
    )
}

fn service(name: &str, ip: &str, version: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: default\nspec:\n  \
         clusterIP: {ip}\n  clusterIPs:\n  - {ip}\n  selector:\n    version: {version}\n  ports:\n\
         \x20 - name: http\n    port: {PORT}\n    targetPort: {PORT}\n    protocol: TCP\n    \
         appProtocol: http\n---\n"
    )
}

fn http_route(service: u32, part: usize, rules: &[Route]) -> String {
    let service = service_name(service);
    let mut text = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  \
         name: {service}-{part:04}\n  namespace: default\nspec:\n  parentRefs:\n  - group: \"\"\n\
         \x20   kind: Service\n    name: {service}\n    port: {PORT}\n  rules:\n"
    );
    for route in rules {
        text += &rule(route, &service);
    }
    text
}

fn rule(route: &Route, service: &str) -> String {
    let (kind, value) = match &route.path {
        Path::Exact(value) => ("Exact", value),
        Path::Segments(value) => ("PathPrefix", value),
        Path::Regex(value) => ("RegularExpression", value),
    };
    let mut text =
        format!("  - matches:\n    - path:\n        type: {kind}\n        value: '{value}'\n");
    if let Some(method) = route.method {
        let _ = writeln!(text, "      method: {method}");
    }
    for (list, field) in [("headers", &route.header), ("queryParams", &route.query)] {
        if let Some((name, value)) = field {
            let _ = write!(
                text,
                "      {list}:\n      - type: Exact\n        name: {name}\n        value: '{value}'\n"
            );
        }
    }
    let backend = match route.server {
        Server::V1 => service,
        Server::V2 => "web-v2",
    };
    let _ = write!(text, "    backendRefs:\n    - name: {backend}\n      port: {PORT}\n");
    text
}

/// Envoy's virtual hosts, one for each service, as a line of JSON.
pub fn envoy(size: Size) -> String {
    let routes: Vec<Value> = routes(size.routes).iter().map(envoy_route).collect();
    let hosts: Vec<Value> = (0..size.services)
        .map(|n| json!({ "name": service_name(n), "domains": [service_name(n)], "routes": routes }))
        .collect();
    Value::from(hosts).to_string()
}

fn envoy_route(route: &Route) -> Value {
    let mut matches = match &route.path {
        Path::Exact(path) => json!({ "path": path }),
        Path::Segments(path) => json!({ "path_separated_prefix": path }),
        Path::Regex(regex) => json!({ "safe_regex": { "regex": regex } }),
    };
    let exact =
        |name: &str, value: &str| json!({ "name": name, "string_match": { "exact": value } });
    let method = route.method.map(|method| exact(":method", method));
    let header = route.header.as_ref().map(|(name, value)| exact(name, value));
    let headers: Vec<Value> = method.into_iter().chain(header).collect();
    if !headers.is_empty() {
        matches["headers"] = headers.into();
    }
    if let Some((name, value)) = &route.query {
        matches["query_parameters"] = json!([exact(name, value)]);
    }
    json!({ "match": matches, "route": { "cluster": route.server.name(), "timeout": "0s" } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_told_every_route() {
        let size = Size { services: 2, routes: 100 };
        let files = beeway(size, "10.244.0.2", "10.244.0.3", "10.244.0.4");
        // Two fixed ones, and 100 rules of each service in objects of 16.
        assert_eq!(files.len(), 2 + 2 * 7);
        let rules = |text: &str| text.matches("  - matches:\n").count();
        assert_eq!(files.iter().map(|(_, text)| rules(text)).sum::<usize>(), 200);
        assert!(files.iter().all(|(_, text)| rules(text) <= RULES));
        let envoy: Value = serde_json::from_str(&envoy(size)).expect("JSON");
        let routes = envoy[1]["routes"].as_array().expect("routes");
        assert_eq!(routes.len(), 100);
        assert_eq!(routes[4]["match"]["headers"][0]["name"], "x-tenant");
        assert_eq!(routes[9]["route"]["cluster"], "v2");
    }

    #[test]
    fn a_change_moves_one_route() {
        for routes in [10, 1000] {
            let size = Size::one(routes);
            let (name, [before, after], index) = changing(size);
            let files = beeway(size, "10.244.0.2", "10.244.0.3", "10.244.0.4");
            assert!(files.contains(&(name, before.clone())));
            let differing = before.lines().zip(after.lines()).filter(|(a, b)| a != b);
            assert_eq!(
                differing.collect::<Vec<_>>(),
                [("    - name: s0000", "    - name: web-v2")]
            );
            assert!(plain(&super::routes(routes)[index]));
        }
    }
}
