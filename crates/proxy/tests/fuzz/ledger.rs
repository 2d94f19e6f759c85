//! What was sent and answered in one try, and what went wrong.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use crate::run::Counts;
use crate::strict::Body;

/// A request of a client, as it should reach an endpoint.
#[derive(Debug, Clone)]
pub struct Sent {
    pub method: String,
    /// Targets with the Host that belongs to each: a rule may have several backends.
    pub places: Vec<(String, String)>,
    /// `None`: it may be any, because the request is not quite one.
    pub body: Option<Body>,
    /// How often it may reach endpoints, mirrors included.
    pub copies: usize,
}

/// What a client may see of an answer.
#[derive(Debug, Clone)]
pub enum Shown {
    /// This, or a part of it that is not taken for the whole.
    Whole(u16, Body),
    /// None of it as a whole.
    Part,
    /// Anything: the answer is not quite one.
    Any,
}

/// What the tasks of one try share.
#[derive(Default)]
pub struct Ledger {
    faults: RefCell<Vec<String>>,
    sent: RefCell<HashMap<u64, (Sent, usize)>>,
    answers: RefCell<HashMap<String, Shown>>,
    counts: RefCell<Counts>,
}

pub type Shared = Rc<Ledger>;

impl Ledger {
    /// Notes that something is wrong.
    pub fn fault(&self, what: impl Into<String>) {
        self.faults.borrow_mut().push(what.into());
    }

    /// Tells a reader who tries one seed what happens.
    pub fn tell(&self, what: impl FnOnce() -> String) {
        if std::env::var_os("BEEWAY_SEED").is_some() {
            println!("{}", what());
        }
    }

    pub fn count(&self, what: &'static str) {
        self.add(what, 1);
    }

    pub fn add(&self, what: &'static str, n: usize) {
        self.counts.borrow_mut().add(what, n);
    }

    /// Before a client sends it.
    pub fn send(&self, id: u64, sent: Sent) {
        self.tell(|| format!("{id} is sent: {} {:?}", sent.method, sent.places));
        self.sent.borrow_mut().insert(id, (sent, 0));
    }

    /// A head has reached an endpoint; `None` if nobody sent it.
    pub fn arrived(&self, id: &str, method: &str, place: (&str, &str)) -> Option<Sent> {
        let mut all = self.sent.borrow_mut();
        let Some((sent, copies)) = id.parse().ok().and_then(|id: u64| all.get_mut(&id)) else {
            drop(all);
            self.fault(format!("nobody sent {id:?}: {method} {place:?}"));
            return None;
        };
        *copies += 1;
        self.tell(|| format!("{id} has come to {place:?}"));
        let sent = sent.clone();
        if *copies > sent.copies {
            self.fault(format!("{id} came {copies} times, not {}", sent.copies));
        }
        let known = sent.places.iter().any(|(target, host)| (&**target, &**host) == place);
        // Where a request that is wrong ends, and the next begins, is not certain.
        if (sent.method != method && sent.body.is_some()) || !known {
            self.fault(format!("{id} came as {method} {place:?}, sent was {sent:?}"));
        }
        Some(sent)
    }

    /// A whole body has reached an endpoint.
    pub fn body(&self, id: &str, sent: &Sent, body: &Body) {
        self.count("whole bodies at endpoints");
        if let Some(wanted) = &sent.body
            && (wanted.data != body.data || !is_part(&body.trailers, &wanted.trailers))
        {
            self.fault(format!("{id} came with {}, sent was {}", show(body), show(wanted)));
        }
    }

    /// Before an endpoint answers.
    pub fn answer(&self, tag: String, shown: Shown) {
        self.tell(|| match &shown {
            Shown::Whole(status, body) => format!("{tag} is {status} with {}", show(body)),
            shown => format!("{tag} is {shown:?}"),
        });
        self.answers.borrow_mut().insert(tag, shown);
    }

    /// A client has got a whole answer of an endpoint.
    pub fn answered(&self, id: u64, tag: &str, status: u16, head: bool, body: &Body) {
        self.count("answers of endpoints");
        self.tell(|| format!("{id} is answered by {tag} with {status}"));
        let shown = self.answers.borrow().get(tag).cloned();
        let right = match &shown {
            None => false,
            Some(Shown::Any) => true,
            Some(Shown::Part) => false,
            Some(Shown::Whole(wanted, whole)) => {
                let same = head || whole.data == body.data;
                *wanted == status && same && is_part(&body.trailers, &whole.trailers)
            }
        };
        if tag.split('-').next() != Some(&id.to_string()) || !right {
            let shown = match shown {
                Some(Shown::Whole(status, body)) => format!("{status} with {}", show(&body)),
                other => format!("{other:?}"),
            };
            let got = format!("{status} with {}", show(body));
            self.fault(format!("{id} was answered by {tag}: {got}, sent was {shown}"));
        }
    }

    pub fn close(&self) -> Result<Counts, String> {
        match self.faults.borrow().first() {
            Some(fault) => Err(fault.clone()),
            None => Ok(self.counts.take()),
        }
    }
}

/// Trailers may be left out.
fn is_part(some: &[(String, Vec<u8>)], all: &[(String, Vec<u8>)]) -> bool {
    let known = |(name, value): &(String, Vec<u8>)| {
        all.iter().any(|(n, v)| n.eq_ignore_ascii_case(name) && v == value)
    };
    some.iter().all(known)
}

fn show(body: &Body) -> String {
    let begin = String::from_utf8_lossy(&body.data[..body.data.len().min(60)]).into_owned();
    format!("{} bytes {begin:?} and {:?}", body.data.len(), body.trailers)
}
