//! The child's side of a spawn: our own executable, started by posix_spawn, which prepares
//! what only the child itself can prepare and becomes the agent by exec.
//!
//! Why: with any `pre_exec` std forks instead, and a fork stalls every client for as long as
//! our page tables are large. A step that fails is one line on stderr and exit 127. This file
//! holds both ends of the argument list between the parent and the shim; it knows nothing of
//! agents.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

use super::process::Spec;
use super::sys;

/// The first argument that makes our executable a shim.
pub const FLAG: &str = "--shim";
/// The exit status of a shim that could not become the program.
pub const FAILED: i32 = 127;
/// What is added to the badness by which the kernel picks whom to kill when memory runs out:
/// an agent can be resumed, the server serves everyone.
const OOM_SCORE: i32 = 500;

/// What to type after [`FLAG`] for this program, in this process.
pub(super) fn arguments(spec: &Spec) -> Vec<OsString> {
    let number = |number: u64| OsString::from(number.to_string());
    let mut list = vec![
        number(u64::from(std::process::id())),
        number(spec.nofile.0),
        number(spec.nofile.1),
        spec.working_dir.into(),
        number(spec.roots.len() as u64),
    ];
    list.extend(spec.roots.iter().map(OsString::from));
    list.push(spec.closed.map_or_else(OsString::new, OsString::from)); // Empty: none.
    list.push(spec.program.into());
    list.extend(spec.arguments.iter().map(OsString::from));
    list
}

/// The arguments as the shim reads them.
struct Order {
    parent: u32,
    nofile: (u64, u64),
    working_dir: PathBuf,
    roots: Vec<PathBuf>,
    closed: Option<PathBuf>,
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl Order {
    fn read(mut list: impl Iterator<Item = OsString>) -> Option<Order> {
        fn number(text: OsString) -> Option<u64> {
            text.to_str()?.parse().ok()
        }
        Some(Order {
            parent: u32::try_from(number(list.next()?)?).ok()?,
            nofile: (number(list.next()?)?, number(list.next()?)?),
            working_dir: list.next()?.into(),
            roots: {
                let count = number(list.next()?)?;
                (0..count).map(|_| list.next().map(PathBuf::from)).collect::<Option<_>>()?
            },
            closed: Some(PathBuf::from(list.next()?)).filter(|path| !path.as_os_str().is_empty()),
            program: list.next()?.into(),
            arguments: list.collect(),
        })
    }
}

/// A step that failed: what could not be done, to what, and why.
struct Failure {
    step: &'static str,
    path: PathBuf,
    error: io::Error,
}

fn failed<P: AsRef<OsStr>>(step: &'static str, path: P) -> impl FnOnce(io::Error) -> Failure {
    let path = PathBuf::from(path.as_ref());
    move |error| Failure { step, path, error }
}

/// Becomes the program that the arguments after [`FLAG`] name. Comes back never: a failure is
/// told in one line on stderr, and the process ends with [`FAILED`].
pub fn main(arguments: impl Iterator<Item = OsString>) -> ! {
    let failure = match Order::read(arguments) {
        Some(order) => match run(&order) {
            Ok(never) => match never {},
            Err(failure) => failure,
        },
        None => failed("understand its arguments", FLAG)(io::ErrorKind::InvalidInput.into()),
    };
    // One write, and no panic if nobody reads it.
    let _ = io::stderr().write_all(line(&failure).as_bytes());
    std::process::exit(FAILED)
}

fn line(failure: &Failure) -> String {
    let mut line = String::from("sidestream: cannot ");
    line.push_str(failure.step);
    line.push_str(": ");
    // One line, whatever the path is made of.
    for char in failure.path.to_string_lossy().chars() {
        match char.is_control() {
            true => line.extend(char.escape_default()),
            false => line.push(char),
        }
    }
    line + &format!(": {}\n", failure.error)
}

fn run(order: &Order) -> Result<Infallible, Failure> {
    let program = &order.program;
    sys::new_session().map_err(failed("start a session for", program))?;
    sys::set_parent_death_signal(sys::SIGTERM).map_err(failed("watch the server for", program))?;
    // The server may have died before we asked to be told.
    if sys::parent() != order.parent {
        return Err(failed("outlive the server", program)(io::ErrorKind::NotConnected.into()));
    }
    sys::default_signals().map_err(failed("reset the signals for", program))?;
    let (soft, hard) = order.nofile;
    sys::set_nofile(soft, hard).map_err(failed("restore the file limit for", program))?;
    let _ = offer_to_the_oom_killer(); // A courtesy: some sandboxes refuse it.
    sys::close_on_exec_from(3).map_err(failed("close the files for", program))?;
    enter(order)?;
    let error = Command::new(program).args(&order.arguments).exec();
    Err(failed("execute", program)(error))
}

/// Changes into the directory and then asks where that is: no link can be changed in between.
fn enter(order: &Order) -> Result<(), Failure> {
    const STEP: &str = "enter the working directory";
    let directory = &order.working_dir;
    env::set_current_dir(directory).map_err(failed(STEP, directory))?;
    let here = env::current_dir().map_err(failed(STEP, directory))?;
    let refuse = |why| Err(failed(STEP, directory)(io::Error::other(why)));
    if here != *directory {
        return refuse("it now leads elsewhere");
    }
    if !order.roots.iter().any(|root| here.starts_with(root)) {
        return refuse("it is outside the allowed roots");
    }
    // It may have become ours since the session was made: by a restart with another --data-dir.
    if order.closed.as_ref().is_some_and(|closed| here.starts_with(closed)) {
        return refuse("it lies in the server's data directory");
    }
    Ok(())
}

fn offer_to_the_oom_killer() -> io::Result<()> {
    const FILE: &str = "/proc/self/oom_score_adj";
    let score: i32 = fs::read_to_string(FILE)?.trim().parse().unwrap_or(0);
    fs::write(FILE, (score + OOM_SCORE).min(1000).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn an_order_reads_as_it_was_written_and_a_torn_one_not_at_all() {
        let roots = [PathBuf::from("/home/a b"), PathBuf::from("/srv")];
        let closed = [Some(Path::new("/srv/state")), None];
        let arguments_in = ["--x".to_string(), String::new(), "--shim".to_string()];
        for closed in closed {
            let spec = Spec {
                program: Path::new("/bin/true"),
                arguments: &arguments_in,
                working_dir: Path::new("/home/a b/c"),
                roots: &roots,
                closed,
                environment: &[],
                marker: "d/s",
                nofile: (5, 6),
            };
            let list = arguments(&spec);
            let order = Order::read(list.iter().cloned()).unwrap();
            assert_eq!(order.parent, std::process::id());
            assert_eq!(order.nofile, (5, 6));
            assert_eq!(order.working_dir, spec.working_dir);
            assert_eq!(order.roots, roots);
            assert_eq!(order.closed.as_deref(), closed);
            assert_eq!(order.program, spec.program);
            assert_eq!(order.arguments, ["--x", "", "--shim"]);
            for length in 0..list.len() - arguments_in.len() {
                assert!(Order::read(list[..length].iter().cloned()).is_none(), "{length}");
            }
        }
    }

    #[test]
    fn a_failure_is_one_line_whatever_the_path_is_made_of() {
        let failure = failed("execute", "/a\nb\u{1b}[2J")(io::Error::other("no"));
        assert_eq!(line(&failure), "sidestream: cannot execute: /a\\nb\\u{1b}[2J: no\n");
    }
}
