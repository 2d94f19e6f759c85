//! The routes and the requests for them, the same for Beeway and for Envoy. Pure.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use anyhow::{Context, Error};
use serde::{Deserialize, Serialize};

/// How many services there are, and how many routes each of them has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Size {
    /// Services.
    pub services: u32,
    /// Routes of each.
    pub routes: u32,
}

impl Size {
    /// One service.
    pub const fn one(routes: u32) -> Self {
        Self { services: 1, routes }
    }

    /// All routes of all services.
    pub fn total(self) -> u32 {
        self.services * self.routes
    }

    /// Routes that are asked for while a measurement runs: all but the canaries.
    fn asked(self) -> u32 {
        self.routes - self.routes / KINDS
    }
}

/// `10` for a service with ten routes, `1000x10` for a thousand of them.
impl Display for Size {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.services {
            1 => write!(f, "{}", self.routes),
            services => write!(f, "{services}x{}", self.routes),
        }
    }
}

impl FromStr for Size {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (services, routes) = text.split_once('x').unwrap_or(("1", text));
        let size = Self { services: services.parse()?, routes: routes.parse()? };
        let fine = (1..=1000).contains(&size.services) && (10..=10_000).contains(&size.routes);
        (fine && size.routes.is_multiple_of(KINDS))
            .then_some(size)
            .context("1 to 1000 services of 10, 20, ... 10000 routes")
    }
}

/// The list repeats itself after this many routes, with another number in the paths.
const KINDS: u32 = 10;

/// What the path of a request must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Path {
    /// This.
    Exact(String),
    /// This, or this and a `/` and more.
    Segments(String),
    /// Matched by this as a whole.
    Regex(String),
}

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Server {
    /// The server that connections to the service lead to.
    V1,
    /// The canary.
    V2,
}

impl Server {
    /// What it says of itself in `x-served-by`.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// A name and a value.
pub type Field = (&'static str, String);

/// One route, and what a request for it looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The path.
    pub path: Path,
    /// The method, if it matters.
    pub method: Option<&'static str>,
    /// A header that must have this value.
    pub header: Option<Field>,
    /// A query parameter that must have this value.
    pub query: Option<Field>,
    /// Where requests go.
    pub server: Server,
    /// The target of a request for it.
    target: String,
}

/// The routes of one service: three exact paths, one of them with a method; three segment
/// prefixes, one of them with a header; two regular expressions; an exact path with a query
/// parameter; and a canary by header. No two hold for the same request.
pub fn routes(count: u32) -> Vec<Route> {
    (0..count).map(route).collect()
}

fn route(index: u32) -> Route {
    let block = index / KINDS;
    let path = |rest: &str| format!("/shop/{block:04}/{rest}");
    let (kind, rest) = match index % KINDS {
        0 => (Path::Exact(path("home")), ""),
        1 => (Path::Segments(path("static")), "/main.css"),
        2 => (Path::Regex(path("items/[0-9]+")), ""),
        3 => (Path::Exact(path("cart")), ""),
        4 | 9 => (Path::Segments(path("account")), "/me"),
        5 => (Path::Exact(path("search")), "?page=2"),
        6 => (Path::Segments(path("help/en")), "/faq"),
        7 => (Path::Exact(path("checkout")), ""),
        _ => (Path::Regex(path("users/[a-z0-9-]+/orders")), ""),
    };
    let target = match &kind {
        Path::Exact(path) | Path::Segments(path) => format!("{path}{rest}"),
        Path::Regex(path) => path.replace("[0-9]+", "42").replace("[a-z0-9-]+", "jane-7"),
    };
    let header = match index % KINDS {
        4 => Some(("x-tenant", format!("t{block:04}"))),
        9 => Some(("end-user", "jason".to_owned())),
        _ => None,
    };
    Route {
        path: kind,
        method: (index % KINDS == 3).then_some("GET"),
        header,
        query: (index % KINDS == 5).then(|| ("page", "2".to_owned())),
        server: if index % KINDS == 9 { Server::V2 } else { Server::V1 },
        target,
    }
}

/// The name of a service.
pub fn service_name(service: u32) -> String {
    format!("s{service:04}")
}

/// The address of a service.
pub fn service_ip(service: u32) -> String {
    format!("10.96.{}.{}", service / 250 + 1, service % 250 + 1)
}

/// A request as it is sent, and who must answer it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The head.
    pub head: String,
    /// The right server.
    pub server: Server,
}

/// How many requests follow each other before the first comes again: every route of the longest
/// list that leads to v1. Shorter lists are gone through several times, so that the load generator
/// does the same work whatever the size.
const ASKED: u32 = Size::one(10_000).routes / KINDS * (KINDS - 1);

/// Prime to every number of routes, so that neighbours in the list are not asked for in turn.
const STRIDE: u64 = 7919;

/// The requests of a measurement of one service: all of its routes, as equally often as possible.
/// Each request is a string of its own, and as long as for any other size.
pub fn asked(size: Size, service: u32) -> Vec<Request> {
    let routes: Vec<Route> =
        routes(size.routes).into_iter().filter(|route| route.server == Server::V1).collect();
    debug_assert_eq!(routes.len(), size.asked() as usize);
    spread(ASKED, &routes).map(|(n, route)| request(route, service, n)).collect()
}

/// The requests that show whether the routes are right: canaries too.
pub fn checked(size: Size, service: u32, count: u32) -> Vec<Request> {
    let routes = routes(size.routes);
    spread(count, &routes).map(|(n, route)| request(route, service, n)).collect()
}

/// A request for one route, by its index.
pub fn single(size: Size, index: usize) -> Request {
    request(&routes(size.routes)[index], 0, 0)
}

fn spread(count: u32, routes: &[Route]) -> impl Iterator<Item = (u32, &Route)> {
    let at = |n: u32| (u64::from(n) * STRIDE % routes.len() as u64) as usize;
    (0..count).map(move |n| (n, &routes[at(n)]))
}

fn request(route: &Route, service: u32, n: u32) -> Request {
    let more = format!("x-request-id: {n:08}\r\n");
    Request { head: head(route, service, &more), server: route.server }
}

fn head(route: &Route, service: u32, more: &str) -> String {
    let mut head = format!("GET {} HTTP/1.1\r\nHost: {}\r\n", route.target, service_name(service));
    if let Some((name, value)) = &route.header {
        head += &format!("{name}: {value}\r\n");
    }
    head + more + "\r\n"
}

/// A head whose verdict is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Head {
    /// 100 bytes: a path decides.
    Short,
    /// 730 bytes, as of a browser: a path and a header decide.
    Long,
}

impl Head {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Short, Self::Long];

    /// Its length.
    pub fn bytes(self) -> usize {
        match self {
            Self::Short => 100,
            Self::Long => 730,
        }
    }

    /// What decides, for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Short => "100 bytes, by path",
            Self::Long => "730 bytes, by path and header",
        }
    }
}

/// What a browser says.
const BROWSER: &str = "user-agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 \
                       Firefox/128.0\r\naccept: text/html,application/xhtml+xml,\
                       application/xml;q=0.9,*/*;q=0.8\r\naccept-language: en-US,en;q=0.5\r\n\
                       accept-encoding: gzip, deflate, br\r\ncache-control: no-cache\r\n\
                       referer: https://shop.example.com/shop/home\r\nsec-fetch-dest: document\r\n\
                       sec-fetch-mode: navigate\r\nsec-fetch-site: same-origin\r\n\
                       upgrade-insecure-requests: 1\r\n";

/// Requests with heads of the same length, spread over the first so many routes of a list.
pub fn timed(routes_asked: u32, head_kind: Head) -> Vec<Request> {
    let short = head_kind == Head::Short;
    let routes: Vec<Route> = routes(routes_asked)
        .into_iter()
        .filter(|route| route.server == Server::V1 && route.query.is_none())
        .filter(|route| route.header.is_none() == short)
        .collect();
    spread(ASKED, &routes)
        .map(|(n, route)| {
            let more = if short { "" } else { BROWSER };
            let pad = if short { "x-id: " } else { "cookie: session=" };
            let bare = head(route, 0, &format!("{more}{pad}\r\n")).len();
            let fill = format!("{n:0>width$}", width = head_kind.bytes().saturating_sub(bare));
            let head = head(route, 0, &format!("{more}{pad}{fill}\r\n"));
            Request { head, server: route.server }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_size_is_read_as_it_is_written() {
        for text in ["10", "10000", "1000x10"] {
            assert_eq!(text.parse::<Size>().expect("a size").to_string(), text);
        }
        for text in ["", "x", "5", "15", "0x10", "2000x10", "20000"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn every_route_is_asked_for_equally_often() {
        for routes in [10, 100, 1000, 10_000] {
            let size = Size::one(routes);
            let asked = asked(size, 0);
            let distinct: HashSet<&str> = asked
                .iter()
                .filter_map(|request| request.head.split_once(" HTTP/1.1").map(|(line, _)| line))
                .collect();
            assert_eq!(distinct.len(), size.asked() as usize, "{size}");
            assert!(asked.iter().all(|request| request.server == Server::V1));
            // Wherever it leads: the same work for the load generator.
            let bytes: usize = asked.iter().map(|request| request.head.len()).sum();
            assert_eq!((asked.len(), bytes / asked.len()), (9000, 77), "{size}");
        }
    }

    #[test]
    fn a_check_asks_for_canaries_too() {
        let checked = checked(Size::one(100), 0, 100);
        let canaries = checked.iter().filter(|request| request.server == Server::V2);
        assert_eq!(canaries.clone().count(), 10);
        assert!(canaries.clone().all(|request| request.head.contains("end-user: jason")));
    }

    #[test]
    fn timed_heads_have_their_length() {
        for head in Head::ALL {
            for routes in [10, 10_000] {
                for request in timed(routes, head) {
                    assert_eq!(request.head.len(), head.bytes(), "{}", request.head);
                    assert_eq!(request.head.contains("x-tenant"), head == Head::Long);
                    assert!(request.head.ends_with("\r\n\r\n"));
                }
            }
        }
    }

    #[test]
    fn addresses_of_services_are_distinct() {
        let all: HashSet<String> = (0..1000).map(service_ip).collect();
        assert_eq!(all.len(), 1000);
        assert_eq!((service_ip(0), service_ip(999)), ("10.96.1.1".into(), "10.96.4.250".into()));
    }
}
