//! Clauses that cannot hold together. What is found is sure; not everything is found.

use std::net::IpAddr;

use beeway_model::access::{
    Clause, Entity, Field, Identity, IdentityMatch, PathTest, PortRange, TRUST_DOMAIN, Text,
};
use beeway_model::{Subnet, Workload};

/// Why clauses that must all hold never do.
pub(crate) fn of(clauses: &[&Clause]) -> Option<String> {
    identities(clauses)
        .or_else(|| addresses(clauses))
        .or_else(|| ports(clauses))
        .or_else(|| texts(clauses))
}

/// On who calls. Who is no workload has neither account nor namespace.
fn identities(clauses: &[&Clause]) -> Option<String> {
    let of = |negated| {
        clauses.iter().filter(move |clause| clause.negated == negated).filter_map(|clause| {
            match &clause.field {
                Field::Caller(wanted) => Some(&wanted[..]),
                _ => None,
            }
        })
    };
    let foreign = |wanted: &IdentityMatch| trust_domain(wanted).is_some_and(|d| d != TRUST_DOMAIN);
    let mut others = of(false).filter(|w| !w.is_empty() && w.iter().all(foreign));
    if let Some(domain) = others.next().and_then(|wanted| trust_domain(&wanted[0])) {
        return Some(format!("{domain} is not the trust domain of the mesh, {TRUST_DOMAIN}"));
    }
    let is_workload = |wanted: &IdentityMatch| !matches!(wanted, IdentityMatch::Entity(_));
    let of_workloads = of(false).any(|wanted| wanted.iter().all(is_workload));
    let entities = of(false).filter(|wanted| {
        wanted.iter().all(|w| matches!(w, IdentityMatch::Entity(e) if *e != Entity::Cluster))
    });
    if of_workloads && entities.count() > 0 {
        return Some("who is no workload has no namespace, account or principal".to_owned());
    }
    // One list that names everybody it is for: try them.
    let named = |wanted: &[IdentityMatch]| wanted.iter().map(somebody).collect::<Option<Vec<_>>>();
    let (candidates, exact) = of(false)
        .filter_map(|wanted| {
            let named = named(wanted)?;
            let exact = named.iter().all(|workload| !workload.service_account.is_empty());
            Some((named, exact))
        })
        .max_by_key(|(_, exact)| *exact)?;
    let fits = |workload: &Workload| {
        let all = of(false).all(|wanted| wanted.iter().any(|w| may_be(w, workload)));
        all && !of(true).any(|unwanted| unwanted.iter().any(|w| must_be(w, workload, exact)))
    };
    (!candidates.iter().any(fits)).then(|| {
        let names: Vec<String> = candidates
            .iter()
            .map(|w| match w.service_account.is_empty() {
                true => format!("namespace {}", w.namespace),
                false => format!("account {}/{}", w.namespace, w.service_account),
            })
            .collect();
        format!("nobody of {} is what else is asked for", names.join(", "))
    })
}

fn trust_domain(wanted: &IdentityMatch) -> Option<&str> {
    match wanted {
        IdentityMatch::TrustDomain(Text::Exact(domain)) => Some(domain),
        IdentityMatch::Principal(Text::Exact(text)) => text.split_once('/').map(|(d, _)| d),
        IdentityMatch::Principal(Text::Prefix(text)) => text.split_once('/').map(|(d, _)| d),
        _ => None,
    }
}

/// Namespace and account of a principal, as far as its beginning tells.
fn parts(principal: &str) -> Option<(&str, Option<&str>)> {
    let rest = principal.strip_prefix(TRUST_DOMAIN)?.strip_prefix("/ns/")?;
    let (namespace, rest) = rest.split_once('/')?;
    Some((namespace, rest.strip_prefix("sa/")))
}

/// The workload that is meant, without an account if any of its namespace is.
fn somebody(wanted: &IdentityMatch) -> Option<Workload> {
    let (namespace, account) = match wanted {
        IdentityMatch::Namespace(Text::Exact(namespace)) => (namespace.as_str(), ""),
        IdentityMatch::ServiceAccount(namespace, account) => (namespace.as_str(), account.as_str()),
        IdentityMatch::Principal(Text::Exact(text)) => {
            let (namespace, account) = parts(text)?;
            (namespace, account?)
        }
        IdentityMatch::Principal(Text::Prefix(text)) => (parts(text)?.0, ""),
        _ => return None,
    };
    Some(Workload {
        namespace: namespace.to_owned(),
        name: String::new(),
        labels: [].into(),
        addresses: Vec::new(),
        service_account: account.to_owned(),
        node: None,
        uid: None,
        cgroup: None,
    })
}

/// Whether a workload can be like that: nothing is known of its labels, and perhaps not its account.
fn may_be(wanted: &IdentityMatch, workload: &Workload) -> bool {
    let known = !workload.service_account.is_empty();
    match wanted {
        IdentityMatch::Workloads(namespaces, _) => {
            namespaces.as_ref().is_none_or(|list| list.contains(&workload.namespace))
        }
        IdentityMatch::ServiceAccount(namespace, _) if !known => *namespace == workload.namespace,
        IdentityMatch::Principal(Text::Exact(text) | Text::Prefix(text)) if !known => {
            parts(text).is_none_or(|(namespace, _)| namespace == workload.namespace)
        }
        IdentityMatch::Principal(_) if !known => true,
        _ => wanted.holds(Identity::Workload(workload)),
    }
}

/// Whether it is like that for sure.
fn must_be(wanted: &IdentityMatch, workload: &Workload, exact: bool) -> bool {
    match wanted {
        IdentityMatch::Workloads(..) => false,
        IdentityMatch::Principal(_) | IdentityMatch::ServiceAccount(..) if !exact => false,
        _ => wanted.holds(Identity::Workload(workload)),
    }
}

/// On addresses: of the caller, of who calls in the end, and of who is called.
fn addresses(clauses: &[&Clause]) -> Option<String> {
    type Nets = fn(&Field) -> Option<&[Subnet]>;
    let kinds: [Nets; 3] = [
        |field| if let Field::CallerAddress(nets) = field { Some(nets) } else { None },
        |field| if let Field::RemoteAddress(nets) = field { Some(nets) } else { None },
        |field| if let Field::CalledAddress(nets) = field { Some(nets) } else { None },
    ];
    kinds.iter().find_map(|nets_of| {
        let of = |negated| {
            let of = clauses.iter().filter(move |clause| clause.negated == negated);
            of.filter_map(|clause| nets_of(&clause.field))
        };
        let first = of(false).next()?;
        let left = first.iter().filter(|net| {
            let meets = |others: &[Subnet]| others.iter().any(|o| within(net, o) || within(o, net));
            of(false).all(meets) && !of(true).any(|nots| nots.iter().any(|not| within(net, not)))
        });
        let names: Vec<String> = first.iter().map(net_text).collect();
        let none = left.count() == 0;
        none.then(|| format!("no address of {} is what else is asked for", names.join(", ")))
    })
}

fn within(inner: &Subnet, outer: &Subnet) -> bool {
    outer.contains(inner.address) && inner.bits >= outer.bits
}

fn net_text(net: &Subnet) -> String {
    match net.address {
        IpAddr::V4(address) if net.bits == 32 => address.to_string(),
        IpAddr::V6(address) if net.bits == 128 => address.to_string(),
        address => format!("{address}/{}", net.bits),
    }
}

fn ports(clauses: &[&Clause]) -> Option<String> {
    let of = |negated| {
        clauses.iter().filter(move |clause| clause.negated == negated).filter_map(|clause| {
            match &clause.field {
                Field::Port(ranges) => Some(ranges),
                _ => None,
            }
        })
    };
    let first = of(false).next()?;
    let meet = |a: &PortRange, b: &PortRange| {
        let alike = a.transport.is_none() || b.transport.is_none() || a.transport == b.transport;
        alike && a.first <= b.last && b.first <= a.last
    };
    let covers = |outer: &PortRange, inner: &PortRange| {
        let alike = outer.transport.is_none() || outer.transport == inner.transport;
        alike && outer.first <= inner.first && inner.last <= outer.last
    };
    let left = first.iter().filter(|range| {
        of(false).all(|others| others.iter().any(|other| meet(range, other)))
            && !of(true).any(|nots| nots.iter().any(|not| covers(not, range)))
    });
    let none = left.count() == 0;
    none.then(|| "no port is all that is asked for".to_owned())
}

/// On everything that is text: fields of one name.
fn texts(clauses: &[&Clause]) -> Option<String> {
    let fields = clauses.iter().filter(|c| !c.negated).filter_map(|c| text_field(&c.field));
    fields.into_iter().find_map(|(name, _, _)| {
        let of = |negated| {
            let of = clauses.iter().filter(move |clause| clause.negated == negated);
            of.filter_map(|clause| text_field(&clause.field)).filter(|(other, ..)| *other == name)
        };
        let (_, first, any_case) = of(false).next()?;
        let left = first.iter().filter(|text| {
            of(false).all(|(_, others, _)| others.iter().any(|other| meet(text, other, any_case)))
                && !of(true).any(|(_, nots, _)| nots.iter().any(|n| covers(n, text, any_case)))
        });
        let none = left.count() == 0;
        none.then(|| format!("no {name} is all that is asked for"))
    })
}

/// What a field of texts is called, its texts, and whether their case is ignored.
fn text_field(field: &Field) -> Option<(String, Vec<Text>, bool)> {
    Some(match field {
        Field::Method(texts) => ("method".to_owned(), texts.clone(), false),
        Field::Host(texts) => ("host".to_owned(), texts.clone(), true),
        Field::Sni(texts) => ("SNI".to_owned(), texts.clone(), false),
        Field::Header(name, texts) => (format!("header {name}"), texts.clone(), false),
        Field::Path(tests) => {
            let text = |test: &PathTest| match test {
                PathTest::Text(text) => Some(text.clone()),
                PathTest::Template(_) => None,
            };
            let texts = tests.iter().map(text).collect::<Option<_>>()?;
            ("path".to_owned(), texts, false)
        }
        _ => return None,
    })
}

/// Whether a value can be both.
fn meet(a: &Text, b: &Text, any_case: bool) -> bool {
    use Text::{Exact, Prefix};
    match (a, b) {
        (Exact(value), other) | (other, Exact(value)) => holds(other, value, any_case),
        (Prefix(a), Prefix(b)) => {
            holds(&Prefix(a.clone()), b, any_case) || holds(&Prefix(b.clone()), a, any_case)
        }
        _ => true,
    }
}

/// Whether whatever is `inner` is `outer` too.
fn covers(outer: &Text, inner: &Text, any_case: bool) -> bool {
    use Text::{Exact, Prefix, Present, Suffix};
    match (outer, inner) {
        (_, Exact(value)) => holds(outer, value, any_case),
        (Prefix(_), Prefix(value)) | (Suffix(_), Suffix(value)) => holds(outer, value, any_case),
        (Present, Prefix(value) | Suffix(value)) => !value.is_empty(),
        (Present, Present) => true,
        _ => false,
    }
}

fn holds(text: &Text, value: &str, any_case: bool) -> bool {
    match any_case {
        true => text.holds_in_any_case(value.as_bytes()),
        false => text.holds(value.as_bytes()),
    }
}
