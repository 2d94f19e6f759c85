//! The proxy among strangers: clients, endpoints and a kernel that do as random numbers say.
//!
//! `make test` tries some seeds, the same each time; `make fuzz` (`BEEWAY_FUZZ=1`) begins with a random
//! one and goes on until it is stopped. `BEEWAY_SEED=n` tries one seed again: the same configuration, requests
//! and answers; in which order threads come to run is not repeated.

mod bed;
mod client;
mod client2;
mod endpoint;
mod endpoint2;
mod frames;
mod http;
mod ledger;
mod memory;
mod plan;
mod request;
mod run;
mod scene;
mod strict;
mod way;
