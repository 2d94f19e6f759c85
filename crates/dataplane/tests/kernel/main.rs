//! The kernel's programs, asked by BPF_PROG_TEST_RUN: heads and verdicts without traffic.

mod broken;
mod case;
mod decisions;
mod differential;
mod generate;
mod heads;
mod histograms;
mod judge;
mod limits;
mod node;
mod policies;
mod reduce;
mod regressions;
mod runs;
mod tokens;
mod visits;
mod world;
