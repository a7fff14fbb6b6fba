//! The one part of the shell that the simulation runs, and the fuzzers: the journal's own code, on a fake disk.

#[allow(dead_code, reason = "each world uses a part")]
#[path = "files.rs"]
pub mod files;
#[allow(dead_code, reason = "what only the server's start asks for")]
#[path = "../../src/shell/journal.rs"]
pub mod journal;
