//! The proxy between a kernel that is only pretended (plain sockets carry the frames) and upstream
//! servers that are real.

mod access;
mod again;
mod both;
mod check;
mod custom;
mod flow;
mod hostile;
mod http1;
mod http2;
mod kit;
mod plain;
mod random;
mod script;
mod upstream;
