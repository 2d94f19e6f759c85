//! Policies from YAML: what they let through, by the reference evaluator, and what is said of them.

mod authorization;
mod check;
mod closed;
mod kit;
mod network;
mod providers;
