//! The fuzzers' crate: what must hold is in `oracles.rs`, and stable runs it too (`tests/fuzz.rs`).

mod oracles;
#[path = "../../tests/simulation/shell.rs"]
mod shell;

pub use oracles::*;

/// What the journal's code, compiled here on a fake disk, calls its own crate.
mod core {
    pub use sidestream::core::*;
}
mod limits {
    pub use sidestream::limits::*;
}
mod wire {
    pub use sidestream::wire::*;
}
