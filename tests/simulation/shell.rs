//! The one part of the shell that the simulation runs: the journal's own code, on a fake disk.

#[path = "files.rs"]
pub mod files;
#[allow(dead_code, reason = "what only the server's start asks for")]
#[path = "../../src/shell/journal.rs"]
pub mod journal;
