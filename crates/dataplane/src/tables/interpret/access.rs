//! What policies say, word for word as `judge_request()` of `access.h` does.

use std::mem::offset_of;
use std::net::IpAddr;

use beeway_model::Transport;

use super::{Choice, Context, Unsure};
use crate::abi;
use crate::tables::balance::transport_number;
use crate::tables::heap::address_bytes;
use crate::tables::records::Record;

/// What policies say of a call; of several the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Access {
    Pass,
    Unsure,
    Denied,
}

impl Context<'_> {
    /// What policies say of the request, on the connection that it is on. `visit`: it came in, and
    /// nobody knows for which service.
    pub(super) fn judge_request(&self, visit: bool) -> Access {
        let tables = self.tables;
        let mut access = Access::Pass;
        if tables.guarded == 0 {
            return access;
        }
        let to_itself = self.is_to_itself();
        if let Some(caller) = tables.find_workload(self.source).filter(|_| !to_itself) {
            access = access.max(self.group_says(self.word(at!(caller, workload.leave))));
        }
        let guard = self.guard(visit);
        if guard == 0 {
            return access;
        }
        if !to_itself {
            access = access.max(self.group_says(self.word(at!(guard, guard.network))));
        }
        let table = match visit {
            true => self.word(at!(guard, guard.visits)),
            false => self.word(at!(guard, guard.requests)),
        };
        if table == 0 {
            return access;
        }
        let beyond = self.word(at!(table, table.flags)) & abi::table_flags::TABLE_DETOUR.0 != 0;
        if beyond || self.head.needs_normalising {
            return access.max(Access::Unsure);
        }
        access.max(self.candidate_says(self.find(table)))
    }

    /// What is about who is called.
    fn guard(&self, straight: bool) -> u32 {
        let tables = self.tables;
        let tcp = transport_number(Transport::Tcp);
        let frontend = tables.find_frontend(self.endpoint, tcp).filter(|_| straight);
        match frontend.map_or(0, |slot| self.word(at!(slot, frontend.guard))) {
            0 => {
                let called = tables.find_workload(self.endpoint.ip());
                called.map_or(0, |slot| self.word(at!(slot, workload.guard)))
            }
            guard => guard,
        }
    }

    /// What each group says of the connection.
    pub(super) fn judge_connection(&self, straight: bool) -> [Option<bool>; 4] {
        let tables = self.tables;
        let of = |ip: IpAddr| tables.find_workload(ip);
        let leave = of(self.source).map_or(0, |slot| self.word(at!(slot, workload.leave)));
        let guard = self.guard(straight);
        let [network, connections, carriers] = match guard {
            0 => [0; 3],
            _ => [
                self.word(at!(guard, guard.network)),
                self.word(at!(guard, guard.connections)),
                self.word(at!(guard, guard.carriers)),
            ],
        };
        let groups = match self.is_to_itself() {
            true => [0, 0, connections, carriers],
            false => [leave, network, connections, carriers],
        };
        groups.map(|group| match self.group_says(group) {
            Access::Pass => Some(true),
            Access::Denied => Some(false),
            Access::Unsure => None,
        })
    }

    /// What the network's policies do not hold for.
    fn is_to_itself(&self) -> bool {
        self.source.to_canonical() == self.endpoint.ip().to_canonical()
    }

    fn group_says(&self, group: u32) -> Access {
        if group == 0 {
            return Access::Pass;
        }
        let mut choice = Choice { order: u32::MAX, candidate: Ok(None) };
        self.consider(group, abi::method::METHOD_GET.0, &mut choice);
        self.candidate_says(choice.candidate)
    }

    fn candidate_says(&self, found: Result<Option<u32>, Unsure>) -> Access {
        let candidate = match found {
            Err(Unsure) => return Access::Unsure,
            Ok(None) => return Access::Denied,
            Ok(Some(candidate)) => candidate,
        };
        let action = self.word(at!(candidate, candidate.action));
        match abi::action_kind(self.word(at!(action, action.kind))) {
            abi::action_kind::ACTION_PASS => Access::Pass,
            abi::action_kind::ACTION_ANSWER => Access::Denied,
            _ => Access::Unsure,
        }
    }

    pub(super) fn member_holds(&self, predicate: u32, ip: IpAddr) -> bool {
        let number = self.tables.identity_of(ip);
        let words = self.word(at!(predicate, predicate.value_length));
        let first = self.word(at!(predicate, predicate.value));
        number / 32 < words && self.word(first + number / 32) >> (number % 32) & 1 == 1
    }

    pub(super) fn in_ranges(&self, predicate: u32, ip: IpAddr) -> bool {
        self.contains(predicate, u128::from_be_bytes(address_bytes(ip.to_canonical())))
    }

    /// Whether one of a predicate's ranges contains a number.
    pub(super) fn contains(&self, predicate: u32, number: u128) -> bool {
        let first = self.word(at!(predicate, predicate.value));
        let wide = |high: u32, low: u32| {
            u128::from(self.tables.double(high)) << 64 | u128::from(self.tables.double(low))
        };
        (0..self.word(at!(predicate, predicate.value_length))).any(|n| {
            let range = first + n * abi::range::WORDS;
            let from = wide(at!(range, range.from_high), at!(range, range.from_low));
            let to = wide(at!(range, range.to_high), at!(range, range.to_low));
            (from..=to).contains(&number)
        })
    }
}
