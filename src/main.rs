//! The command: for now only the shim's entry; the lead's `main.rs` takes its place.

use sidestream::shell::shim;

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == shim::FLAG) {
        shim::main(arguments);
    }
}
