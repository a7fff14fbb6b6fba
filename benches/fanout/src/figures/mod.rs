//! The figures, one file each where they differ in how they are taken.

pub mod fan_out;
pub mod heartbeats;
pub mod replay;
pub mod requests;
pub mod sessions;
pub mod start;
pub mod throughput;
