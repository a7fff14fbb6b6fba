//! Containers that know nothing of HTTP or sessions. Every one has a capacity, takes its memory
//! once, and is checked against an obvious twin in its tests.

pub mod arena;
pub mod blocks;
pub mod lines;
pub mod list;
pub mod ring;
pub mod seldom;
pub mod text;
pub mod wheel;
