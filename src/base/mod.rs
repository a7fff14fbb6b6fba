//! Containers that know nothing of HTTP or sessions. Every one has a capacity.

pub mod arena;
pub mod lines;
pub mod wheel;
