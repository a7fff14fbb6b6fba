//! The terminal's side: the subcommands that talk to a running server.
//!
//! Blocking and single-threaded; none of it runs inside a server. `http` sends one request on one
//! connection, `follow` keeps a stream alive over restarts and broken networks, `screen` turns
//! events into text without a system call, and `commands` puts them together.

pub mod commands;
pub mod follow;
pub mod http;
pub mod screen;
