//! What is odd about policies that can be read: rules that can never match, and fields that ports
//! ignore which do not speak HTTP. For people: nothing here changes what a policy does.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use beeway_model::access::{
    AccessPolicy, AccessRule, Clause, Direction, Effect, Field, LabelSelector, Layer, PathTest,
    Scope, Text,
};
use beeway_model::{Mesh, Protocol, Service, Transport};

use crate::access::Listed;
use crate::authorization::never;
use crate::contradiction;
use crate::instance::Instances;
use crate::policy_item::selected;
use crate::problem::Problem;

/// What is served at a port: by protocol, `None` where no service says it.
type Ports = BTreeMap<(u16, bool), BTreeSet<Spoken>>;

/// What a port speaks, as far as policies care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Spoken {
    Http,
    Tls,
    Other,
    /// A pod has it, and no service.
    Unknown,
}

/// Looks at every policy.
pub(crate) fn check(
    listed: &[Listed],
    mesh: &Mesh,
    instances: &Instances,
    problems: &mut Vec<Problem>,
) {
    let closing = Closing::of(listed);
    let checker = Checker { mesh, instances, served: served(mesh), closing };
    let mut ports = HashMap::new();
    for at in listed.iter().filter(|at| at.readable) {
        checker.policy(at, problems);
        let ports = ports
            .entry((at.policy.scope.clone(), at.policy.direction))
            .or_insert_with(|| checker.ports(&at.policy));
        for (index, rule) in at.policy.rules.iter().enumerate() {
            if *rule != never() {
                Rule { at, index, rule, problems }.check(ports);
            }
        }
    }
}

/// What endpoints serve, by address.
fn served(mesh: &Mesh) -> HashMap<IpAddr, Ports> {
    let mut served: HashMap<IpAddr, Ports> = HashMap::new();
    for port in mesh.services.iter().flat_map(|service| &service.ports) {
        let spoken = match (port.transport, port.protocol) {
            (Transport::Tcp, Protocol::Http | Protocol::Http2) => Spoken::Http,
            (Transport::Tcp, Protocol::Tls) => Spoken::Tls,
            _ => Spoken::Other,
        };
        for endpoint in mesh.cluster(port.cluster).everybody() {
            let key = (endpoint.address.port(), port.transport == Transport::Udp);
            served.entry(endpoint.address.ip()).or_default().entry(key).or_default().insert(spoken);
        }
    }
    served
}

/// Policies that deny everything they are about.
struct Closing<'a> {
    /// By namespace.
    workloads: HashMap<Option<&'a str>, Vec<(&'a LabelSelector, &'a str)>>,
}

impl<'a> Closing<'a> {
    fn of(listed: &'a [Listed]) -> Self {
        let mut workloads: HashMap<_, Vec<_>> = HashMap::new();
        for at in listed.iter().filter(|at| at.readable && closes(&at.policy)) {
            if let Scope::Workloads(namespace, labels) = &at.policy.scope {
                let of = workloads.entry(namespace.as_deref()).or_default();
                of.push((labels, at.policy.name.as_str()));
            }
        }
        Self { workloads }
    }

    /// One that leaves nothing for another policy to decide.
    fn over(&self, policy: &AccessPolicy) -> Option<&'a str> {
        let Scope::Workloads(namespace, labels) = &policy.scope else { return None };
        let wider = |closing: &LabelSelector| closing.0.iter().all(|test| labels.0.contains(test));
        let of = |namespace| self.workloads.get(&namespace).map_or(&[][..], Vec::as_slice);
        let own = namespace.as_deref().map_or(&[][..], |namespace| of(Some(namespace)));
        let found = of(None).iter().chain(own).find(|(closing, _)| wider(closing));
        found.map(|(_, name)| *name)
    }
}

fn closes(policy: &AccessPolicy) -> bool {
    policy.effect == Effect::Deny
        && policy.layer == Layer::Authorization
        && !policy.dry_run
        && policy.rules.contains(&AccessRule::default())
}

struct Checker<'a> {
    mesh: &'a Mesh,
    instances: &'a Instances,
    served: HashMap<IpAddr, Ports>,
    closing: Closing<'a>,
}

impl Checker<'_> {
    /// What is odd about a policy as a whole.
    fn policy(&self, at: &Listed, problems: &mut Vec<Problem>) {
        let (policy, place) = (&at.policy, &at.place);
        match &policy.scope {
            Scope::Workloads(namespace, labels) => {
                let namespaces = namespace.clone().map(|namespace| vec![namespace]);
                let mut chosen = self.instances.matching(namespaces.as_deref(), labels);
                if chosen.next().is_none() {
                    let path = match policy.layer {
                        Layer::Authorization => "spec.selector",
                        Layer::Network => "spec.podSelector",
                    };
                    let reason = format!("there are no {}", selected(&policy.scope));
                    problems.push(place.warning(path, reason.replace("no all ", "no ")));
                }
            }
            Scope::Services(services) => {
                for (namespace, name) in services {
                    if self.service(namespace, name).next().is_none() {
                        let reason = format!("there is no service {namespace}/{name}");
                        problems.push(place.warning("spec.targetRefs", reason));
                    }
                }
            }
        }
        if policy.layer == Layer::Network {
            return;
        }
        if policy.rules.is_empty() && policy.effect != Effect::Allow {
            let reason = "no rules: it never matches (a rule `{}` matches everything)";
            problems.push(place.warning("spec", reason));
        }
        if policy.effect != Effect::Audit
            && !closes(policy)
            && let Some(closing) = self.closing.over(policy)
        {
            let reason =
                format!("{closing} denies all that this policy is about; it has no effect");
            problems.push(place.warning("", reason));
        }
    }

    fn service(&self, namespace: &str, name: &str) -> impl Iterator<Item = &Service> {
        let by_name = |s: &Service| (&*s.namespace, &*s.name).cmp(&(namespace, name));
        let first = self.mesh.services.partition_point(|s| by_name(s).is_lt());
        self.mesh.services[first..]
            .iter()
            .take_while(move |s| (&*s.namespace, &*s.name) == (namespace, name))
    }

    /// The ports that calls which a policy is about can be for.
    fn ports(&self, policy: &AccessPolicy) -> Ports {
        let mut ports = Ports::new();
        let mut add = |key: (u16, bool), spoken| {
            ports.entry(key).or_default().insert(spoken);
        };
        match &policy.scope {
            // Who is called is not known.
            _ if policy.direction == Direction::Egress => {}
            Scope::Services(services) => {
                for (namespace, name) in services {
                    let listed = self.service(namespace, name).flat_map(|s| &s.ports);
                    for endpoint in listed.flat_map(|p| self.mesh.cluster(p.cluster).everybody()) {
                        let number = endpoint.address.port();
                        let of = self.served.get(&endpoint.address.ip()).into_iter().flatten();
                        for (key, spoken) in of.filter(|(key, _)| key.0 == number) {
                            spoken.iter().for_each(|spoken| add(*key, *spoken));
                        }
                    }
                }
            }
            Scope::Workloads(namespace, labels) => {
                let namespaces = namespace.clone().map(|namespace| vec![namespace]);
                for instance in self.instances.matching(namespaces.as_deref(), labels) {
                    let of = instance.addresses.iter().filter_map(|a| self.served.get(a));
                    for (key, spoken) in of.flatten() {
                        spoken.iter().for_each(|spoken| add(*key, *spoken));
                    }
                    for port in &instance.ports {
                        add((port.number, port.transport == Some(Transport::Udp)), Spoken::Unknown);
                    }
                }
            }
        }
        for spoken in ports.values_mut().filter(|spoken| spoken.len() > 1) {
            spoken.remove(&Spoken::Unknown);
        }
        ports
    }
}

/// One rule.
struct Rule<'a> {
    at: &'a Listed,
    index: usize,
    rule: &'a AccessRule,
    problems: &'a mut Vec<Problem>,
}

impl Rule<'_> {
    fn check(&mut self, ports: &Ports) {
        let effect = &self.at.policy.effect;
        let all = AccessRule::default();
        if self.at.policy.rules[..self.index].contains(&all) {
            self.notice("", "an earlier rule matches everything".to_owned());
        }
        self.contradictions();
        self.values();
        if self.rule.clauses().any(|clause| matches!(clause.field, Field::Token(_))) {
            let outcome = match effect {
                Effect::Allow => "the rule never matches",
                _ => "that is taken as met, and the rule matches more than it says",
            };
            let reason = format!("it asks for what a token says, which nobody verifies: {outcome}");
            self.warning("", reason);
        }
        if !ports.is_empty() {
            self.ports(ports);
        }
    }

    fn warning(&mut self, part: &str, reason: String) {
        let path = self.path(part);
        self.problems.push(self.at.place.warning(&path, reason));
    }

    fn notice(&mut self, part: &str, reason: String) {
        let path = self.path(part);
        self.problems.push(self.at.place.notice(&path, reason));
    }

    fn path(&self, part: &str) -> String {
        let dot = if part.is_empty() { "" } else { "." };
        format!("{}.{}{dot}{part}", self.at.rules, self.index)
    }

    fn contradictions(&mut self) {
        let network = self.at.policy.layer == Layer::Network;
        let (to, source, operation) = match (network, self.at.policy.direction) {
            (false, _) => ("from", ".source", ".operation"),
            (true, Direction::Ingress) => ("from", "", ""),
            (true, Direction::Egress) => ("to", "", ""),
        };
        let conditions = &self.rule.conditions;
        if let Some(reason) = contradiction::of(&conditions.iter().collect::<Vec<_>>()) {
            return self.warning("when", format!("the rule can never match: {reason}"));
        }
        let lists = [
            (&self.rule.sources, to, source),
            (&self.rule.operations, if network { "ports" } else { "to" }, operation),
        ];
        for (list, key, behind) in lists {
            for (at, clauses) in list.iter().enumerate() {
                let all: Vec<&Clause> = clauses.iter().chain(conditions).collect();
                if let Some(reason) = contradiction::of(&all) {
                    let part = match network && key == "ports" {
                        true => key.to_owned(),
                        false => format!("{key}.{at}{behind}"),
                    };
                    self.warning(&part, format!("this can never match: {reason}"));
                }
            }
        }
    }

    /// Values that no request has.
    fn values(&mut self) {
        for (at, clauses) in self.rule.operations.iter().enumerate() {
            for clause in clauses {
                let (key, odd) = match (&clause.field, clause.negated) {
                    (Field::Method(texts), false) => ("methods", odd(texts, odd_method)),
                    (Field::Method(texts), true) => ("notMethods", odd(texts, odd_method)),
                    (Field::Path(tests), false) => ("paths", odd(tests, odd_path)),
                    (Field::Path(tests), true) => ("notPaths", odd(tests, odd_path)),
                    _ => continue,
                };
                for (index, reason) in odd {
                    self.warning(&format!("to.{at}.operation.{key}.{index}"), reason);
                }
            }
        }
    }

    /// What the rule is for the ports that it can be about.
    fn ports(&mut self, served: &Ports) {
        let any = [Vec::new()];
        let operations = match self.rule.operations.is_empty() {
            true => &any[..],
            false => &self.rule.operations,
        };
        let about = |(number, udp): (u16, bool)| {
            let transport = if udp { Transport::Udp } else { Transport::Tcp };
            let holds = |clause: &Clause| match &clause.field {
                Field::Port(ranges) => {
                    ranges.iter().any(|r| r.holds(transport, number)) != clause.negated
                }
                _ => true,
            };
            operations.iter().any(|o| o.iter().chain(&self.rule.conditions).all(holds))
        };
        let left: Vec<_> = served.iter().filter(|(key, _)| about(**key)).collect();
        if left.is_empty() {
            let whom = selected(&self.at.policy.scope);
            return self.notice("", format!("none of {whom} is known to serve a port of the rule"));
        }
        let speaking = |wanted: &dyn Fn(&Spoken) -> bool| -> Vec<String> {
            let of = left.iter().filter(|(_, spoken)| spoken.iter().any(wanted));
            of.map(|((number, udp), _)| format!("{number}{}", if *udp { "/udp" } else { "" }))
                .collect()
        };
        let http = !speaking(&|spoken| *spoken == Spoken::Http).is_empty();
        let tls = !speaking(&|spoken| matches!(spoken, Spoken::Tls | Spoken::Unknown)).is_empty();
        let other = speaking(&|spoken| matches!(spoken, Spoken::Tls | Spoken::Other));
        let sni = |clause: &Clause| matches!(clause.field, Field::Sni(_)) && !clause.negated;
        if self.rule.clauses().any(sni) && !tls {
            self.warning("", "connection.sni: no port of the rule speaks TLS".to_owned());
        }
        let fields = http_fields(self.rule);
        if !fields.is_empty() && !other.is_empty() {
            self.not_http(&fields, &other, http);
        }
    }

    /// `other` are ports that do not speak HTTP; `http`: there are some that do.
    fn not_http(&mut self, fields: &str, other: &[String], http: bool) {
        let ports = match other {
            [one] => format!("port {one} does not speak HTTP"),
            more => format!("ports {} do not speak HTTP", more.join(", ")),
        };
        match (&self.at.policy.effect, http) {
            (Effect::Allow, false) => {
                self.warning(
                    "",
                    format!("the rule can never match: it asks for {fields}, and {ports}"),
                );
            }
            (Effect::Allow, true) => {
                self.notice(
                    "",
                    format!("{ports}: the rule, which asks for {fields}, is not for there"),
                );
            }
            (effect, _) => {
                let outcome = match effect {
                    Effect::Deny => "denies every connection that the rest of it matches",
                    Effect::Audit => "reports every connection that the rest of it matches",
                    _ => {
                        "has its provider asked about every connection that the rest of it matches"
                    }
                };
                self.warning(
                    "",
                    format!("{ports}: {fields} are ignored there, and the rule {outcome}"),
                );
            }
        }
    }
}

/// The fields of a rule that only requests have, for people.
fn http_fields(rule: &AccessRule) -> String {
    let mut names: Vec<String> = Vec::new();
    for clause in rule.clauses() {
        let name = match &clause.field {
            Field::Method(_) => "methods".to_owned(),
            Field::Path(_) => "paths".to_owned(),
            Field::Host(_) => "hosts".to_owned(),
            Field::Header(name, _) => format!("header {name}"),
            Field::Token(name) => name.clone(),
            _ => continue,
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(", ")
}

/// Which values are odd, and why.
fn odd<T>(values: &[T], why: impl Fn(&T) -> Option<String>) -> Vec<(usize, String)> {
    let values = values.iter().enumerate();
    values.filter_map(|(at, value)| Some((at, why(value)?))).collect()
}

/// Methods that are registered (IANA's HTTP Method Registry) and seen.
const METHODS: &[&str] = &[
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "CONNECT",
    "OPTIONS",
    "TRACE",
    "PATCH",
    "ACL",
    "COPY",
    "LOCK",
    "MKCALENDAR",
    "MKCOL",
    "MOVE",
    "PRI",
    "PROPFIND",
    "PROPPATCH",
    "PURGE",
    "QUERY",
    "REPORT",
    "SEARCH",
    "UNLOCK",
];

fn odd_method(text: &Text) -> Option<String> {
    let Text::Exact(method) = text else { return None };
    let upper = method.to_ascii_uppercase();
    match (METHODS.contains(&method.as_str()), METHODS.contains(&upper.as_str())) {
        (true, _) => None,
        (false, true) => Some(format!("methods have their case: {method} is not {upper}")),
        (false, false) => Some(format!("{method} is no method that is known")),
    }
}

fn odd_path(test: &PathTest) -> Option<String> {
    let PathTest::Text(text) = test else { return None };
    match text {
        Text::Exact(path) | Text::Prefix(path) if !path.starts_with('/') => {
            Some(format!("no path begins with `{path}`: it begins with /"))
        }
        Text::Exact(path) | Text::Prefix(path) | Text::Suffix(path)
            if path.contains(['?', '#']) =>
        {
            Some(format!("`{path}`: paths are compared without query and fragment"))
        }
        Text::Exact(path) | Text::Prefix(path) | Text::Suffix(path) if path.contains('*') => {
            Some(format!("`{path}`: a `*` is a wildcard at one end alone, and a letter elsewhere"))
        }
        _ => None,
    }
}
