//! The lower two floors of sidestream, `base` and `wire`, as a package of their own: every byte of every agent and
//! reader passes through here, so it is compiled for speed, and what stands above for size.

#[path = "../src/base/mod.rs"]
pub mod base;
#[path = "../src/wire/mod.rs"]
pub mod wire;
