//! The states of an automaton that is to become rows and runs of the heap.

use super::sets::SetId;

/// A state, by its index; 0 is dead.
pub(super) type StateId = u32;

/// Transitions that differ from a state's default, in order of bytes.
pub(super) type Edges = Vec<(u8, StateId)>;

/// One state.
#[derive(Debug, Default, Clone, PartialEq, Eq, Hash)]
pub(super) struct State {
    /// What a string that ends here is accepted as.
    pub accept: SetId,
    /// Where every other byte leads.
    pub default: StateId,
    /// Where the bytes lead that matter here.
    pub step: Step,
}

/// How a state goes on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// By one byte.
    Edges(Edges),
    /// By these bytes, one after the other, to a state. Between them the same is accepted and any
    /// other byte leads to the same default.
    Run(Vec<u8>, StateId),
}

impl Default for Step {
    fn default() -> Step {
        Step::Edges(Edges::new())
    }
}

/// More states than the tables can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLarge;
