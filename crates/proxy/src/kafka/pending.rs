//! Requests of a connection that are not answered yet. Kafka answers in the order of requests, so a
//! refusal waits here for its turn.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use kafka_protocol::protocol::StrBytes;
use rustc_hash::FxHashSet;
use tokio::sync::Notify;
use uuid::Uuid;

use super::request::Topic;
use crate::limits::{KAFKA_PENDING, KAFKA_REFUSALS};

/// What answers a request.
#[derive(Debug)]
pub(crate) enum Next {
    /// The broker does.
    Broker { correlation: i32, look: Look },
    /// We do, with this message.
    Refusal(Vec<u8>),
    /// Nobody: the connection ends here, in order.
    End,
}

/// What the broker's answer is looked at for.
#[derive(Debug)]
pub(crate) enum Look {
    Nothing,
    /// It must not offer what cannot be read here.
    Versions {
        version: i16,
    },
    /// It tells ids of topics, and must not tell of topics that the client may not know of.
    Metadata {
        version: i16,
        client_id: Option<StrBytes>,
        /// Topics that the broker was not asked for, with the errors that they get.
        refused: Vec<(Topic, i16)>,
    },
    /// It tells the session that begins with these topics.
    Session {
        version: i16,
        topics: FxHashSet<Key>,
    },
}

/// What identifies a topic: its name, or where there is none its id.
pub(crate) type Key = (Option<StrBytes>, Uuid);

#[derive(Debug, Default)]
pub(crate) struct Pending {
    queue: RefCell<VecDeque<Next>>,
    /// Bytes of the refusals among them.
    held: Cell<usize>,
    added: Notify,
    taken: Notify,
}

impl Pending {
    /// Waits until another request may be read.
    pub async fn room(&self) {
        while self.queue.borrow().len() >= KAFKA_PENDING || self.held.get() >= KAFKA_REFUSALS {
            self.taken.notified().await;
        }
    }

    pub fn add(&self, next: Next) {
        if let Next::Refusal(message) = &next {
            self.held.set(self.held.get() + message.len());
        }
        self.queue.borrow_mut().push_back(next);
        self.added.notify_one();
    }

    /// Resolves when something was added since this resolved last.
    pub async fn added(&self) {
        self.added.notified().await;
    }

    /// What comes next, if that is not the broker's.
    pub fn take_own(&self) -> Option<Next> {
        let mut queue = self.queue.borrow_mut();
        if matches!(queue.front()?, Next::Broker { .. }) {
            return None;
        }
        let next = queue.pop_front()?;
        if let Next::Refusal(message) = &next {
            self.held.set(self.held.get() - message.len());
        }
        self.taken.notify_one();
        Some(next)
    }

    /// What the broker's next answer is looked at for; `None`: it answers another request than is
    /// due, and nothing more can be said of the connection.
    pub fn take(&self, answer: i32) -> Option<Look> {
        let mut queue = self.queue.borrow_mut();
        let next = queue.pop_front()?;
        self.taken.notify_one();
        match next {
            Next::Broker { correlation, look } if correlation == answer => Some(look),
            _ => None,
        }
    }
}
