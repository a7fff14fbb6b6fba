//! The only floor that makes system calls. It decides nothing but "which error is it".

pub mod client;
pub mod clock;
pub mod demo;
pub mod disk;
pub mod doctor;
pub mod files;
pub mod holders;
pub mod hooks;
pub mod journal;
pub mod log;
pub mod net;
pub mod notify;
pub mod peer;
pub mod private;
pub mod process;
pub mod reactor;
pub mod sample;
pub mod shim;
pub mod signals;
pub mod sys;
pub mod token_file;
pub mod trust;
