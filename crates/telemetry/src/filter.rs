//! Which flows somebody asks for: what `beeway flows` takes as flags and the agent as parameters.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use beeway_model::Subnet;
use serde::{Deserialize, Serialize};

use crate::flow::{Flow, Verdict};
use crate::names::Party;

/// What is asked for, as text; what is absent holds of all flows. It is read by [`Filter::parse`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlowQuery {
    /// The newest so many of the flows that there were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<usize>,
    /// `1`: go on with those that come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub follow: Option<u8>,
    /// `1`: tell queries of paths too, which may hold secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queries: Option<u8>,
    /// Who calls: see [`End`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// What is asked for, or who is called: see [`End`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Verdicts with commas between them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// Lanes, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lane: Option<String>,
    /// Statuses, likewise: see [`Statuses`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Methods, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// What the path begins with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// Which flows are meant.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    from: Option<End>,
    to: Option<End>,
    verdicts: Vec<Verdict>,
    lanes: Vec<String>,
    statuses: Vec<Statuses>,
    methods: Vec<String>,
    path: String,
}

/// One end of a flow: `NAMESPACE/NAME`, `NAMESPACE/`, `NAME`, an address or a network (CIDR).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// By name: of a workload, an app (canonical service) or a service, or its DNS name. An empty
    /// name is anybody's.
    Name {
        /// `None`: in any.
        namespace: Option<String>,
        /// Workload, app, service or host.
        name: String,
    },
    /// By address.
    Net(Subnet),
}

/// A status, a range of them or a class: `404`, `400-499`, `5xx`; 0: no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statuses(RangeInclusive<u16>);

impl FromStr for End {
    type Err = String;

    fn from_str(text: &str) -> Result<End, String> {
        if let Some(net) = subnet(text)? {
            return Ok(End::Net(net));
        }
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, text),
        };
        if namespace.unwrap_or(name).is_empty() || name.contains('/') {
            return Err("written NAMESPACE/NAME, NAMESPACE/, NAME, an address or a network".into());
        }
        Ok(End::Name { namespace: namespace.map(str::to_owned), name: name.to_owned() })
    }
}

/// An address or a network; `None`: it is neither, but perhaps a name.
fn subnet(text: &str) -> Result<Option<Subnet>, String> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let Ok(address) = address.parse::<IpAddr>() else { return Ok(None) };
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = match bits {
        None => most,
        Some(bits) => bits
            .parse()
            .ok()
            .filter(|bits| *bits <= most)
            .ok_or_else(|| format!("the length of a network's prefix is 0 to {most}"))?,
    };
    Ok(Some(Subnet { address, bits }))
}

impl FromStr for Statuses {
    type Err = String;

    fn from_str(text: &str) -> Result<Statuses, String> {
        let wrong = || "written 404, 400-499 or 5xx".to_owned();
        let status = |text: &str| text.parse::<u16>().ok().filter(|code| *code <= 999);
        if let Some(class) = text.strip_suffix("xx") {
            let class = status(class).filter(|class| (1..=9).contains(class)).ok_or_else(wrong)?;
            return Ok(Statuses(class * 100..=class * 100 + 99));
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = status(first).ok_or_else(wrong)?..=status(last).ok_or_else(wrong)?;
        if range.is_empty() { Err(wrong()) } else { Ok(Statuses(range)) }
    }
}

impl End {
    fn is_caller(&self, flow: &Flow) -> bool {
        match self {
            End::Name { namespace, name } => is_party(&flow.source, namespace.as_deref(), name),
            End::Net(net) => net.contains(flow.source_address),
        }
    }

    fn is_called(&self, flow: &Flow) -> bool {
        match self {
            End::Name { namespace, name } => {
                let (namespace, service) = (namespace.as_deref(), &flow.service);
                let named = [&service.name, &service.host].into_iter().any(|of| holds(name, of));
                named && namespace.is_none_or(|namespace| namespace == service.namespace)
                    || flow.endpoint.is_some() && is_party(&flow.destination, namespace, name)
            }
            End::Net(net) => {
                let ends = [Some(flow.service_address), flow.endpoint];
                ends.into_iter().flatten().map(|at: SocketAddr| at.ip()).any(|ip| net.contains(ip))
            }
        }
    }
}

fn is_party(party: &Party, namespace: Option<&str>, name: &str) -> bool {
    let named = [&party.workload, &party.app].into_iter().any(|of| holds(name, of));
    named && namespace.is_none_or(|namespace| namespace == party.namespace)
}

fn holds(wanted: &str, of: &str) -> bool {
    wanted.is_empty() || wanted == of
}

impl Filter {
    /// Reads what is asked for. The error names the parameter, which is also the name of the flag.
    pub fn parse(query: &FlowQuery) -> Result<Filter, String> {
        let end = |name, text: &Option<String>| {
            text.as_deref().map(|text| text.parse().map_err(|why| wrong(name, text, why)))
        };
        Ok(Filter {
            from: end("from", &query.from).transpose()?,
            to: end("to", &query.to).transpose()?,
            verdicts: list("verdict", &query.verdict, verdict)?,
            lanes: list("lane", &query.lane, |lane| match LANES.contains(&lane) {
                true => Ok(lane.to_owned()),
                false => Err(format!("one of {}", LANES.join(", "))),
            })?,
            statuses: list("status", &query.status, str::parse)?,
            methods: list("method", &query.method, |method| Ok(method.to_owned()))?,
            path: query.path.clone().unwrap_or_default(),
        })
    }

    /// Whether a flow is meant.
    pub fn holds(&self, flow: &Flow) -> bool {
        fn any<T>(of: &[T], holds: impl Fn(&T) -> bool) -> bool {
            of.is_empty() || of.iter().any(holds)
        }
        self.from.as_ref().is_none_or(|end| end.is_caller(flow))
            && self.to.as_ref().is_none_or(|end| end.is_called(flow))
            && any(&self.verdicts, |verdict| *verdict == flow.verdict)
            && any(&self.lanes, |lane| lane == flow.lane)
            && any(&self.statuses, |of| !flow.connection && of.0.contains(&flow.status))
            && any(&self.methods, |method| *method == flow.method)
            && flow.bare_path().starts_with(&self.path)
    }
}

/// Names of lanes, as in [`Flow::lane`].
pub const LANES: [&str; 5] = ["native", "shortcut", "detour", "answered", "refused"];

fn verdict(text: &str) -> Result<Verdict, String> {
    let named = Verdict::ALL.into_iter().find(|verdict| verdict.as_str() == text);
    named.ok_or_else(|| format!("one of {}", Verdict::ALL.map(Verdict::as_str).join(", ")))
}

fn list<T>(
    name: &str,
    text: &Option<String>,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let items = text.iter().flat_map(|text| text.split(','));
    items.map(|item| read(item).map_err(|why| wrong(name, item, why))).collect()
}

fn wrong(name: &str, text: &str, why: String) -> String {
    format!("{name} {text:?}: {why}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::names::ServiceName;

    fn party(namespace: &str, workload: &str, app: &str) -> Arc<Party> {
        let mut party = (*Party::unknown()).clone();
        (party.namespace, party.workload) = (namespace.into(), workload.into());
        party.app = app.into();
        Arc::new(party)
    }

    /// shop/orders-v1 asks for shop/web and is denied.
    fn flow() -> Flow {
        Flow {
            start: SystemTime::UNIX_EPOCH,
            duration: Duration::ZERO,
            connection: false,
            inbound: false,
            source: party("shop", "orders-v1", "orders"),
            source_address: "10.0.1.7".parse().expect("an address"),
            service: Arc::new(ServiceName {
                namespace: "shop".into(),
                name: "web".into(),
                host: "web.shop.svc.cluster.local".into(),
                port: 80,
            }),
            service_address: ([10, 96, 0, 10], 80).into(),
            destination: party("front", "web-v2", "site"),
            endpoint: Some(([10, 0, 2, 9], 8080).into()),
            lane: "detour",
            reason: "",
            verdict: Verdict::Denied,
            protocol: "http",
            version: "HTTP/1.1",
            method: "GET".into(),
            authority: "web".into(),
            path: "/a/b?c=/x".into(),
            user_agent: String::new(),
            forwarded_for: String::new(),
            request_id: String::new(),
            trace: None,
            status: 403,
            grpc_status: None,
            flags: "-".into(),
            detail: String::new(),
            rule: String::new(),
            cluster: String::new(),
            policy: String::new(),
            audit: Vec::new(),
            dry_run: Vec::new(),
            attempts: 1,
            received: 0,
            sent: 0,
        }
    }

    fn holds(query: &str) -> bool {
        let query: FlowQuery = serde_urlencoded::from_str(query).expect("known parameters");
        Filter::parse(&query).unwrap_or_else(|error| panic!("{error}")).holds(&flow())
    }

    #[test]
    fn a_flow_is_found_by_what_it_is() {
        for query in [
            "",
            "from=shop/orders-v1&to=shop/web",
            "from=orders",
            "from=shop/&to=front/",
            "to=web.shop.svc.cluster.local",
            "to=site",
            "from=10.0.1.7&to=10.96.0.10",
            "from=10.0.1.0/24&to=10.0.2.9",
            "from=0.0.0.0/0",
            "from=::ffff:10.0.1.7",
            "verdict=failed,denied",
            "lane=native,detour&status=5xx,400-499&method=POST,GET&path=/a",
            "status=403&path=/a/b",
            "last=5&follow=1&queries=1",
        ] {
            assert!(holds(query), "{query}");
        }
    }

    #[test]
    fn a_flow_is_not_found_by_what_it_is_not() {
        for query in [
            "from=web",
            "from=front/",
            "from=shop/web",
            "to=orders",
            "to=front/web",
            "to=10.0.1.7",
            "from=10.0.2.0/24",
            "from=::1",
            "verdict=forwarded",
            "lane=native",
            "status=5xx",
            "status=404",
            "method=get",
            "path=/x",
            "path=/a/b?c",
            "from=orders&to=web&status=200",
        ] {
            assert!(!holds(query), "{query}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let query = |text| serde_urlencoded::from_str::<FlowQuery>(text);
        assert!(query("fron=web").is_err(), "a filter that is not understood must not be dropped");
        for (text, named) in [
            ("from=", "from"),
            ("from=a/b/c", "from"),
            ("to=/web", "to"),
            ("to=10.0.0.0/33", "0 to 32"),
            ("verdict=allowed", "one of forwarded, answered, denied, limited, failed"),
            ("lane=fast", "one of native"),
            ("status=499-400", "status"),
            ("status=0xx", "status"),
            ("status=xx", "status"),
            ("status=4000", "status"),
        ] {
            let error = Filter::parse(&query(text).expect(text)).expect_err(text);
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
