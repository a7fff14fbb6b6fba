//! The command: what it was asked to be, then start, run, exit by code.

mod doctor;
mod start;

use std::io::{self, Write};
use std::process::ExitCode;

use sidestream::arguments::{self, Command};
use sidestream::core::server::End;
use sidestream::shell::reactor::DEMO_FLAG;
use sidestream::shell::{client, demo, shim};

/// The exit status of a configuration that cannot be run with: trying again would say it again.
const REFUSED: u8 = 2;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    match arguments.peek() {
        Some(first) if first == shim::FLAG => shim::main(arguments.skip(1)),
        Some(first) if first == DEMO_FLAG => {
            return ExitCode::from(u8::try_from(demo::main()).unwrap_or(1));
        }
        _ => {}
    }
    let variables = |name: &str| std::env::var_os(name);
    let done = match arguments::parse(arguments, variables) {
        Ok(Command::Help) => Ok(print(&[arguments::HELP, arguments::client::HELP].concat())),
        Ok(Command::ClientHelp) => Ok(print(arguments::client::HELP)),
        Ok(Command::Client(client)) => Ok(ExitCode::from(client::commands::run(*client))),
        Ok(Command::Doctor(arguments, outside)) => Ok(doctor::run(&arguments, outside)),
        Ok(Command::Version) => Ok(print(&format!("sidestream {}\n", start::VERSION))),
        Ok(Command::CheckConfig(arguments)) => start::check(*arguments).map(|()| print("ok\n")),
        Ok(Command::AddToken(arguments, name, scope)) => {
            start::add_token(&arguments, &name, scope).map(|text| print(&text))
        }
        Ok(Command::Serve(arguments)) => match start::serve(*arguments) {
            Ok(end) => Ok(ended(end)),
            Err(refusal) if refusal.may_pass => {
                tell(&refusal.sentence);
                return ExitCode::FAILURE;
            }
            Err(refusal) => Err(refusal.sentence),
        },
        Err(sentence) => Err(sentence),
    };
    done.unwrap_or_else(|sentence| {
        tell(&sentence);
        ExitCode::from(REFUSED)
    })
}

fn ended(end: io::Result<End>) -> ExitCode {
    match end {
        Ok(End::Clean) => return ExitCode::SUCCESS,
        Ok(End::Cut) => {
            tell(
                "the drain was cut, by --drain-timeout or another signal: what was left is killed",
            );
        }
        Ok(End::Unwritten) => {
            tell(
                "the journal could not be written to the end: of what was shown, the newest is lost",
            );
        }
        Err(error) => tell(&format!("the poller failed: {error}")),
    }
    ExitCode::FAILURE
}

/// Says something to whoever started us, if they still listen: not with `println!`, which panics
/// when they do not.
fn print(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn tell(sentence: &str) {
    let _ = writeln!(io::stderr(), "sidestream: {sentence}"); // Nobody listens, nobody to tell.
}
