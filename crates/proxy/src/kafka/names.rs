//! Names of topics by their ids, as brokers have told them.

use std::sync::Mutex;

use kafka_protocol::protocol::StrBytes;
use rustc_hash::FxHashMap;
use uuid::Uuid;

use crate::limits::KAFKA_NAMES;

/// What all connections have learnt. A client asks one broker for metadata and fetches from another,
/// so a connection alone would know nothing. What a broker says counts for the brokers that the same
/// policies select, and no others: nobody can give a topic of another cluster a name that is allowed.
#[derive(Debug, Default)]
pub(crate) struct Names {
    by_scope: Mutex<FxHashMap<String, FxHashMap<Uuid, StrBytes>>>,
}

impl Names {
    /// Takes in what a broker has said. `scope` names the policies that select it.
    pub fn learn(&self, scope: &str, topics: impl Iterator<Item = (Uuid, StrBytes)>) {
        let mut by_scope = self.by_scope.lock().expect("no panic while it is held");
        for (id, name) in topics.filter(|(id, _)| !id.is_nil()) {
            let known = by_scope.get(scope).is_some_and(|names| names.contains_key(&id));
            if !known && by_scope.values().map(FxHashMap::len).sum::<usize>() >= KAFKA_NAMES {
                by_scope.clear();
            }
            match by_scope.get_mut(scope) {
                Some(names) => drop(names.insert(id, name)),
                None => drop(by_scope.entry(scope.to_owned()).or_default().insert(id, name)),
            }
        }
    }

    /// The name of a topic.
    pub fn find(&self, scope: &str, id: &Uuid) -> Option<StrBytes> {
        let by_scope = self.by_scope.lock().expect("no panic while it is held");
        by_scope.get(scope)?.get(id).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_count_where_they_were_learnt_and_are_not_kept_for_ever() {
        let names = Names::default();
        let name = StrBytes::from_static_str("orders");
        let id = |n: u64| Uuid::from_u64_pair(1, n);
        names.learn("a", [(id(0), name.clone()), (Uuid::nil(), name.clone())].into_iter());
        assert_eq!(names.find("a", &id(0)), Some(name.clone()));
        assert_eq!((names.find("b", &id(0)), names.find("a", &Uuid::nil())), (None, None));
        names.learn("b", (1..KAFKA_NAMES as u64).map(|n| (id(n), name.clone())));
        names.learn("b", std::iter::once((id(1), name.clone())));
        assert!(names.find("a", &id(0)).is_some() && names.find("b", &id(1)).is_some());
        names.learn("c", std::iter::once((id(0), name.clone())));
        assert!(names.find("a", &id(0)).is_none() && names.find("c", &id(0)).is_some());
    }
}
