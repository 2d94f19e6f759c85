//! Which limits are about a request, word for word as `find_limits()` of `limits.h` does.

use std::mem::offset_of;

use super::access::Access;
use super::{Context, Unsure};
use crate::abi;
use crate::tables::records::Record;

impl Context<'_> {
    /// The limits of who is called that are about the request: a bit each, and the ids of their
    /// buckets.
    pub(super) fn find_limits(&self) -> (Access, u32, Vec<u64>) {
        let called = self.tables.find_workload(self.endpoint.ip());
        let guard = called.map_or(0, |slot| self.word(at!(slot, workload.guard)));
        let limits = if guard == 0 { 0 } else { self.word(at!(guard, guard.limits)) };
        if self.tables.guarded == 0 || limits == 0 {
            return (Access::Pass, 0, Vec::new());
        }
        let count = self.word(at!(limits, rate_limits.count));
        if count > abi::limits::RATE_LIMITS.0 {
            return (Access::Unsure, 0, Vec::new());
        }
        let (mut access, mut limited, mut ids) = (Access::Pass, 0, Vec::new());
        for n in 0..count {
            let limit = limits + abi::rate_limits::WORDS + n * abi::rate_limit::WORDS;
            match self.limit_holds(limit, limited) {
                Ok(false) => {}
                Ok(true) => {
                    limited |= 1 << n;
                    ids.push(self.tables.double(at!(limit, rate_limit.id)));
                }
                Err(Unsure) => access = Access::Unsure,
            }
        }
        (access, limited, ids)
    }

    fn limit_holds(&self, limit: u32, limited: u32) -> Result<bool, Unsure> {
        let port = self.word(at!(limit, rate_limit.port));
        if port != 0 && port != u32::from(self.endpoint.port()) {
            return Ok(false);
        }
        if self.word(at!(limit, rate_limit.unless)) & limited != 0 {
            return Ok(false);
        }
        let table = self.word(at!(limit, rate_limit.table));
        if table == 0 {
            return Ok(true);
        }
        let beyond = self.word(at!(table, table.flags)) & abi::table_flags::TABLE_DETOUR.0 != 0;
        if beyond || self.head.needs_normalising {
            return Err(Unsure);
        }
        let Some(candidate) = self.find(table)? else { return Ok(false) };
        let action = self.word(at!(candidate, candidate.action));
        match self.word(at!(action, action.kind)) == abi::action_kind::ACTION_DETOUR.0 {
            true => Err(Unsure),
            false => Ok(true),
        }
    }
}
