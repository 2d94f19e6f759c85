//! The kernel's programs, asked by BPF_PROG_TEST_RUN: heads and verdicts without traffic.
//!
//! Three say what becomes of a request: the eBPF programs, their twin in Rust
//! (`tables::interpret`) and the reference router. The first two must agree in everything, and
//! whatever they decide must be what the third says.

mod cases;
mod decisions;
mod heads;
mod node;
