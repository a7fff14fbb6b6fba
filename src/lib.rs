//! sidestream runs Claude Code sessions as child processes and streams them to browsers over
//! Server-Sent Events, from one thread, in memory whose bound is printed at start-up.
//!
//! Four floors, dependencies strictly downwards: `shell → core → wire → base`. Everything below
//! `shell` is pure: bytes, ticks and facts in, bytes and effects out.

pub mod arguments;
pub mod core;
pub mod limits;
pub mod shell;

pub use sidestream_lower::{base, wire};
