//! Ways around policies: none gets a forbidden request, or a forbidden connection, to a server.

#[path = "../bed/mod.rs"]
mod bed;
mod before;
mod datagrams;
mod full;
mod handed;
mod kit;
mod late;
mod sends;
mod unrest;
