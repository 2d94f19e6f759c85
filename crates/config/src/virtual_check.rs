//! What can be said of VirtualServices before any port is looked at: which can be used, and what
//! of another each of them takes in.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::catalog::Catalog;
use crate::hostname::{Pattern, qualify};
use crate::istio::{self, HttpRule};
use crate::objects::Object;
use crate::problem::{Problem, Report};
use crate::virtual_delegate::merged;
use crate::virtual_match::{Condition, conditions};
use crate::virtual_policy::{Extras, extras, refused};
use crate::virtual_stream::{self, Stream};

type VirtualService = Object<istio::VirtualService>;

/// A VirtualService that can be used.
pub(crate) struct Usable<'a> {
    pub object: &'a VirtualService,
    pub patterns: Vec<Pattern>,
    /// Namespaces that see it; `None`: all.
    pub visible: Option<Vec<String>>,
    pub rules: Vec<UsableRule<'a>>,
    pub streams: Vec<Stream<'a>>,
}

pub(crate) struct UsableRule<'a> {
    /// Where its action is written, and the rule's place there.
    pub object: &'a VirtualService,
    pub index: usize,
    /// Its place in the object that has the hosts.
    root: usize,
    /// With what the root's rule says of it, when it is a delegate's.
    merged: Option<Box<HttpRule>>,
    /// `None`: it has none, and always holds.
    pub conditions: Option<Vec<Condition>>,
    pub extras: Option<Box<Extras>>,
}

impl UsableRule<'_> {
    pub(crate) fn rule(&self) -> &HttpRule {
        self.merged.as_deref().unwrap_or(&self.object.body.http[self.index])
    }

    /// What it is called, for people.
    pub(crate) fn name(&self, root: &VirtualService) -> String {
        let label = root.place.label();
        match self.merged {
            None => format!("{label} http[{}]", self.root),
            Some(_) => {
                let delegate = self.object;
                format!(
                    "{label} http[{}], delegate {}/{} http[{}]",
                    self.root, delegate.namespace, delegate.name, self.index
                )
            }
        }
    }
}

/// The usable ones among all objects.
pub(crate) fn usable<'a>(
    objects: &'a [VirtualService],
    catalog: &Catalog,
    problems: &mut Vec<Problem>,
) -> Vec<Usable<'a>> {
    let mut delegates = Delegates::default();
    for object in objects.iter().filter(|object| object.body.hosts.is_empty()) {
        let sound = check_delegate(object, &mut Report::new(&object.place, "", problems));
        delegates.known.insert((&object.namespace, &object.name), sound.then_some(object));
    }
    let roots = objects.iter().filter(|object| !object.body.hosts.is_empty());
    let usable = roots.filter_map(|root| check(root, &mut delegates, catalog, problems)).collect();
    for object in delegates.known.values().flatten() {
        if !delegates.used.contains(object.place.label()) {
            let reason = "it has no hosts, and no other delegates to it; it is not applied";
            problems.push(object.place.notice("", reason));
        }
    }
    usable
}

/// Objects without hosts, by namespace and name; `None`: it cannot be used.
#[derive(Default)]
struct Delegates<'a> {
    known: HashMap<(&'a str, &'a str), Option<&'a VirtualService>>,
    used: HashSet<&'a str>,
}

impl<'a> Delegates<'a> {
    /// The delegate that a rule of an object names, or why it cannot be used.
    fn find(
        &mut self,
        root: &VirtualService,
        delegate: &istio::Delegate,
    ) -> Result<&'a VirtualService, String> {
        let namespace = delegate.namespace.as_deref().filter(|namespace| !namespace.is_empty());
        let namespace = namespace.unwrap_or(&root.namespace);
        let name = format!("{namespace}/{}", delegate.name);
        let found = match self.known.get(&(namespace, &*delegate.name)) {
            Some(Some(found)) => *found,
            Some(None) => return Err(format!("delegate {name} cannot be used")),
            None => return Err(format!("there is no VirtualService {name} without hosts")),
        };
        self.used.insert(found.place.label());
        match visible(found) {
            Some(visible) if !visible.contains(&root.namespace) => {
                Err(format!("delegate {name} is not exported to {}", root.namespace))
            }
            _ => Ok(found),
        }
    }
}

fn check<'a>(
    object: &'a VirtualService,
    delegates: &mut Delegates<'a>,
    catalog: &Catalog,
    problems: &mut Vec<Problem>,
) -> Option<Usable<'a>> {
    let (place, spec) = (&object.place, &object.body);
    if !spec.gateways.is_empty() && !spec.gateways.iter().any(|g| g == "mesh") {
        let reason = "it is for gateways only, not for the mesh; it is not applied";
        problems.push(place.notice("spec.gateways", reason));
        return None;
    }
    let mut report = Report::new(place, "", problems);
    if spec.http.is_empty() && spec.tls.is_empty() && spec.tcp.is_empty() {
        report.error("spec", "it has no rules: neither http nor tls nor tcp");
    }
    let mut rules = Vec::with_capacity(spec.http.len());
    for (index, rule) in spec.http.iter().enumerate() {
        rules.push(check_rule(object, index, rule, report.below(&format!("spec.http.{index}"))));
    }
    let streams = virtual_stream::read(object, &mut report);
    if report.failed() {
        report.error("", "it is not applied as a whole, because of the errors in it");
        return None;
    }
    if spec.http.iter().any(|rule| rule.delegate.is_some()) {
        rules = delegated(object, rules, delegates, problems);
    }
    let patterns = patterns(object, catalog, problems);
    let visible = visible(object);
    if visible.as_ref().is_some_and(Vec::is_empty) {
        problems.push(place.notice("spec.exportTo", "no namespace sees it; it is not applied"));
        return None;
    }
    Some(Usable { object, patterns, visible, rules, streams })
}

fn check_rule<'a>(
    object: &'a VirtualService,
    index: usize,
    rule: &HttpRule,
    mut report: Report<'_>,
) -> UsableRule<'a> {
    let conditions = conditions(&rule.matches, &mut report);
    if rule.delegate.is_some() {
        let actions = [
            ("route", !rule.route.is_empty()),
            ("redirect", rule.redirect.is_some()),
            ("directResponse", rule.direct_response.is_some()),
        ];
        for (action, _) in actions.into_iter().filter(|(_, there)| *there) {
            report.error(action, format!("a rule has not both delegate and {action}"));
        }
        return UsableRule { object, index, root: index, merged: None, conditions, extras: None };
    }
    if let Some((part, reason)) = refused(rule) {
        report.error(part, reason);
    }
    let extras = extras(rule, &object.namespace, report);
    UsableRule { object, index, root: index, merged: None, conditions, extras }
}

/// Whether an object without hosts can be used.
fn check_delegate(object: &VirtualService, report: &mut Report<'_>) -> bool {
    let spec = &object.body;
    let fields = [
        ("gateways", !spec.gateways.is_empty()),
        ("tls", !spec.tls.is_empty()),
        ("tcp", !spec.tcp.is_empty()),
    ];
    for (field, _) in fields.into_iter().filter(|(_, there)| *there) {
        report.error(&format!("spec.{field}"), format!("without hosts it has no {field}"));
    }
    for (index, rule) in spec.http.iter().enumerate() {
        let mut report = report.below(&format!("spec.http.{index}"));
        if rule.delegate.is_some() {
            report.error("delegate", "a delegate does not delegate");
        } else {
            check_rule(object, index, rule, report);
        }
    }
    if report.failed() {
        report.error("", "it is not applied as a whole, because of the errors in it");
    }
    !report.failed()
}

/// The rules of an object, with those of its delegates in their places.
fn delegated<'a>(
    object: &'a VirtualService,
    rules: Vec<UsableRule<'a>>,
    delegates: &mut Delegates<'a>,
    problems: &mut Vec<Problem>,
) -> Vec<UsableRule<'a>> {
    let mut all = Vec::new();
    for rule in rules {
        let written = &object.body.http[rule.index];
        let Some(delegate) = &written.delegate else {
            all.push(rule);
            continue;
        };
        match delegates.find(object, delegate) {
            Ok(delegate) => take_over(object, rule.index, delegate, &mut all, problems),
            Err(reason) => {
                let path = format!("spec.http.{}.delegate", rule.index);
                let reason = format!("{reason}; the rule is not applied");
                problems.push(object.place.error(&path, reason));
            }
        }
    }
    all
}

/// The rules of a delegate in place of the rule `root` of an object.
fn take_over<'a>(
    object: &'a VirtualService,
    root: usize,
    delegate: &'a VirtualService,
    all: &mut Vec<UsableRule<'a>>,
    problems: &mut Vec<Problem>,
) {
    for (index, rule) in delegate.body.http.iter().enumerate() {
        let mut report = Report::new(&delegate.place, format!("spec.http.{index}"), problems);
        let label = object.place.label();
        let Some(rule) = merged(&object.body.http[root], &object.namespace, rule) else {
            let reason =
                format!("not applied for {label} http[{root}]: its match is not within that one's");
            report.error("match", reason);
            continue;
        };
        let conditions = conditions(&rule.matches, &mut report);
        let extras = extras(&rule, &delegate.namespace, report.below(""));
        if report.failed() {
            let reason = format!("not applied for {label} http[{root}], because of these errors");
            report.error("", reason);
            continue;
        }
        let merged = Some(Box::new(rule));
        all.push(UsableRule { object: delegate, index, root, merged, conditions, extras });
    }
}

/// The namespaces of `exportTo`; `None`: all.
fn visible(object: &VirtualService) -> Option<Vec<String>> {
    let export_to = &object.body.export_to;
    if export_to.is_empty() || export_to.iter().any(|to| to == "*") {
        return None;
    }
    let named = export_to.iter().filter(|to| *to != "~");
    let named = named.map(|to| if to == "." { object.namespace.clone() } else { to.clone() });
    Some(named.collect::<BTreeSet<_>>().into_iter().collect())
}

fn patterns(
    object: &VirtualService,
    catalog: &Catalog,
    problems: &mut Vec<Problem>,
) -> Vec<Pattern> {
    let mut patterns = Vec::new();
    for (index, host) in object.body.hosts.iter().enumerate() {
        let qualified = qualify(host, &object.namespace);
        let pattern = Pattern::new(&qualified);
        let mut hosts = catalog.services.iter().flat_map(|s| &s.hosts[..s.full_hosts]);
        if catalog.by_host(&qualified).is_none()
            && !hosts.any(|known| pattern.matches(known).is_some())
        {
            let mut reason = format!("host {host} is no service of this mesh");
            if let Some(meant) = catalog.meant_by(&qualified) {
                reason = format!("{reason}; the full name is {meant}");
            }
            problems.push(object.place.warning(&format!("spec.hosts.{index}"), reason));
        }
        patterns.push(pattern);
    }
    patterns
}
