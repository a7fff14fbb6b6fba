//! Pure state machines: bytes, ticks and facts in, bytes and effects out.
//!
//! No system call is made here, no clock is read, no randomness is drawn: what these machines do
//! is a function of what they were told, which is what the simulation relies on.

pub mod access;
pub mod addresses;
pub mod agent;
pub mod agents;
pub mod api;
pub mod approvals;
mod checks;
mod clients;
pub mod commit;
pub mod connection;
mod deadlines;
pub mod demo;
pub mod dialect;
mod dispatch;
pub mod effect;
pub mod epochs;
pub mod event;
pub mod holes;
pub mod hooks;
pub mod journal;
pub mod large;
pub mod leftovers;
mod lives;
pub mod log;
pub mod metrics;
mod names;
pub mod pages;
pub mod past;
mod pipes;
pub mod prompts;
pub mod publisher;
pub mod random;
pub mod restore;
pub mod server;
pub mod session;
pub mod shared;
pub mod streams;
pub mod tails;
pub mod tickets;
pub mod trust;
pub mod turn;
pub mod waits;
