//! Calls that begin as what one rule asks for, and are then spoiled a little, or not.

use std::net::{IpAddr, SocketAddr};

use super::policies::{FORWARDED, HEADERS, HOSTS, METHODS, NAMES, PATHS, VALUES};
use super::{Dice, Stage};
use crate::access::{Access, Call, Field, Party, PathTest, Text, evaluate};
use crate::mesh::{Mesh, Transport};
use crate::request::Request;

/// A call that somebody tries to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Who.
    pub caller: IpAddr,
    /// Whom.
    pub endpoint: SocketAddr,
    /// By the address of this one of the stage's services.
    pub service: (String, String),
    /// The name in the ClientHello; connections alone have one.
    pub sni: Option<String>,
    /// `None`: a connection.
    pub request: Option<Asked>,
}

/// A request that owns its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Method.
    pub method: String,
    /// Host.
    pub authority: String,
    /// Path and query.
    pub target: String,
    /// Further fields; names in any case.
    pub headers: Vec<(String, String)>,
}

impl Stage {
    /// A call that is near to what a policy of the mesh is about.
    pub fn attempt(&self, dice: &mut Dice, mesh: &Mesh) -> Attempt {
        let mut asked = Asked {
            method: dice.of(&METHODS).to_owned(),
            authority: dice.of(&HOSTS).to_owned(),
            target: dice.of(&PATHS).to_owned(),
            headers: Vec::new(),
        };
        let rules: Vec<_> = mesh.access.iter().flat_map(|policy| &policy.rules).collect();
        let mut sni = dice.one_in(2).then(|| dice.of(&NAMES).to_owned());
        let mut endpoint = dice.of(&self.endpoints);
        if !rules.is_empty() {
            for clause in dice.of(&rules).clauses() {
                match &clause.field {
                    Field::Port(ranges) => {
                        let fits = |endpoint: &&SocketAddr| {
                            ranges.iter().any(|r| r.holds(Transport::Tcp, endpoint.port()))
                        };
                        endpoint = self.endpoints.iter().find(fits).copied().unwrap_or(endpoint);
                    }
                    Field::Sni(texts) => sni = Some(holding(dice, texts, &NAMES)),
                    field => asked.meet(dice, field),
                }
            }
        }
        if dice.one_in(3) {
            asked.spoil(dice);
        }
        let connection = self.connections && dice.one_in(3);
        Attempt {
            caller: dice.of(&self.callers),
            endpoint,
            service: dice.of(&self.services),
            sni: sni.filter(|_| connection),
            request: (!connection).then_some(asked),
        }
    }
}

impl Attempt {
    /// What the reference evaluator says of it.
    pub fn judge(&self, mesh: &Mesh) -> Access {
        let party = |address| Party { address, identity: mesh.identity_at(address) };
        let fields: Vec<(&str, &[u8])> = match &self.request {
            Some(asked) => asked.headers.iter().map(|(n, v)| (n.as_str(), v.as_bytes())).collect(),
            None => Vec::new(),
        };
        let request = self.request.as_ref().map(|asked| Request {
            method: &asked.method,
            scheme: "http",
            authority: &asked.authority,
            target: &asked.target,
            headers: &fields,
            source: None,
        });
        let call = Call {
            caller: party(self.caller),
            called: party(self.endpoint.ip()),
            port: self.endpoint.port(),
            transport: Transport::Tcp,
            services: &[(&self.service.0, &self.service.1)],
            sni: self.sni.as_deref(),
            request: request.as_ref(),
        };
        evaluate(mesh.access.iter().enumerate(), &call)
    }
}

impl Asked {
    fn meet(&mut self, dice: &mut Dice, field: &Field) {
        match field {
            Field::Method(texts) => self.method = holding(dice, texts, &METHODS),
            Field::Host(texts) => self.authority = holding(dice, texts, &HOSTS),
            Field::Path(tests) => {
                self.target = match dice.of(tests) {
                    PathTest::Text(text) => holding(dice, &[text], &PATHS),
                    PathTest::Template(template) => {
                        template.replace("{**}", "x/y").replace("{*}", "seg")
                    }
                };
                if !self.target.starts_with('/') {
                    self.target.insert(0, '/');
                }
            }
            Field::Header(name, texts) => {
                let value = holding(dice, texts, &VALUES);
                self.headers.push((name.clone(), value));
            }
            Field::RemoteAddress(_) => {
                let value = match dice.below(3) {
                    0 => format!("{}, {}", dice.of(&FORWARDED), dice.of(&FORWARDED)),
                    1 => format!("{},nonsense", dice.of(&FORWARDED)),
                    _ => dice.of(&FORWARDED).to_owned(),
                };
                self.headers.push(("x-forwarded-for".to_owned(), value));
            }
            _ => {}
        }
    }

    /// Changes what makes a difference, or should make none.
    fn spoil(&mut self, dice: &mut Dice) {
        match dice.below(12) {
            0 => self.method = dice.of(&METHODS).to_owned(),
            1 => self.authority = dice.of(&HOSTS).to_owned(),
            2 => self.authority = self.authority.to_ascii_uppercase(),
            3 => self.target.push_str("?a=/admin"),
            4 => self.target.push('/'),
            5 => self.target.insert(0, '/'),
            6 => self.target = self.target.replacen('a', "%61", 1),
            7 => self.target = format!("/x/..{}", self.target),
            8 => self.target = format!("/{}", self.target[1..].replacen('/', "%2f", 1)),
            9 => self.target = self.target.to_ascii_uppercase(),
            10 => {
                self.headers.push((dice.of(&HEADERS).to_owned(), dice.of(&VALUES).to_owned()));
            }
            _ => self.headers.iter_mut().for_each(|(name, _)| name.make_ascii_uppercase()),
        }
    }
}

/// A value for which one of the conditions holds.
fn holding(dice: &mut Dice, texts: &[Text], values: &[&str]) -> String {
    match dice.of(texts) {
        Text::Exact(text) => text,
        // it may be a part of a port
        Text::Prefix(text) => text + dice.of(&["", "0"]),
        // a host does not begin with its port
        Text::Suffix(text) => dice.of(&["x", "a"]).to_owned() + &text,
        Text::Present => dice.of(values).to_owned(),
    }
}
