//! The lower two floors of sidestream, `base` and `wire`, as a package of their own: every byte of every agent and
//! reader passes through here, so it is compiled for speed, and what stands above for size.
//!
//! A function of this floor that is called in one place only would be inlined there, and compiled for size with its
//! caller: the ones that every line passes through say `#[inline(never)]`.

#[path = "../src/base/mod.rs"]
pub mod base;
#[path = "../src/wire/mod.rs"]
pub mod wire;
