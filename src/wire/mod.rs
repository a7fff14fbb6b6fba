//! Bytes and their meaning, both ways: no state machine of the product, no I/O. All of it is
//! fed by strangers, so nothing here may panic on any input.

pub mod base64;
pub mod body;
pub mod claude;
pub mod document;
pub mod event_stream;
pub mod head;
pub mod json;
pub mod operations;
pub mod prometheus;
pub mod quoted;
pub mod reply;
pub mod sse;
pub mod target;
pub mod visible;
