//! `sidestream doctor`: every step of a start, looked at by itself, so that one that fails does not
//! hide the next; then the way from outside, if one was named.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use sidestream::arguments::Arguments;
use sidestream::arguments::client::Outside;
use sidestream::core::effect::Program;
use sidestream::core::server::Dialect;
use sidestream::shell::client::commands;
use sidestream::shell::doctor::{Finding, bad, good, machine, outside, report, warning};
use sidestream::shell::holders;
use sidestream::shell::{private, process, sys, token_file};

use super::start;

/// Looks, says what it found, and returns 1 if something does not work.
pub fn run(arguments: &Arguments, from: Option<Outside>) -> ExitCode {
    let findings = match from {
        None => here(arguments),
        Some(outside) => {
            match commands::token_of(outside.token.clone(), outside.token_from.clone()) {
                Ok(token) => outside::look(&outside, token),
                Err(sentence) => vec![bad("token", sentence, "name another with --token-from")],
            }
        }
    };
    let (text, count) = report(&findings);
    let _ = std::io::stdout().write_all(text.as_bytes()); // Nobody listens, nobody to tell.
    ExitCode::from(u8::from(count > 0))
}

fn here(arguments: &Arguments) -> Vec<Finding> {
    let version = start::VERSION;
    let mut found = vec![good("version", format!("sidestream {version}"))];
    found.extend(machine::kernel());
    found.extend(limits(arguments));
    found.extend(directories(arguments));
    found.extend(arguments.listen.iter().filter_map(|listen| {
        let finding = machine::address(listen);
        // Nobody asked for the default ones by name, and one server runs there already.
        let mine = arguments.listen_is_default && is_this_server(arguments, &finding);
        if mine { None } else { Some(finding) }
    }));
    found.extend(agents(arguments));
    if let Some(path) = &arguments.token_file {
        found.push(match token_file::read(path) {
            Ok(_) => good("tokens", format!("{} is well formed", path.display())),
            Err(sentence) => bad("tokens", sentence, "as the sentence says"),
        });
    }
    found
}

/// Whether an address is taken by the server that has our data directory: then it just runs.
fn is_this_server(arguments: &Arguments, finding: &Finding) -> bool {
    let Ok(path) = start::data_dir_path(arguments) else { return false };
    let lock = start::lock_holder(&path).unwrap_or_default();
    let pid = lock.trim();
    !pid.is_empty() && finding.found.contains(&format!("process {pid} "))
}

fn limits(arguments: &Arguments) -> Vec<Finding> {
    let mut limits = arguments.limits.clone();
    let asked = limits.connections_max;
    if let Ok((_, hard)) = sys::nofile() {
        let _ = sys::set_nofile(hard, hard); // As a start does.
    }
    let fits = sys::nofile().map_err(|error| error.to_string()).and_then(|it| limits.fit(it.0));
    let descriptors = match fits {
        Ok(()) => machine::descriptors(&limits, asked),
        Err(sentence) => bad("open files", sentence, "raise it: LimitNOFILE=, or ulimit -Hn"),
    };
    let memory = machine::memory(limits.memory(arguments.durability), limits.agents_max);
    vec![descriptors, memory]
}

fn directories(arguments: &Arguments) -> Vec<Finding> {
    let mut found = vec![match start::roots(arguments) {
        Ok(roots) => {
            let names: Vec<String> = roots.iter().map(|root| root.display().to_string()).collect();
            good("roots", names.join(", "))
        }
        Err(sentence) => bad("roots", sentence, "as the sentence says"),
    }];
    let path = match start::data_dir_path(arguments) {
        Ok(path) => path,
        Err(sentence) => {
            found.push(bad("data directory", sentence, "as the sentence says"));
            return found;
        }
    };
    // The doctor makes none: the nearest that is there says whether one could be made.
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).to_path_buf();
    if there != path {
        let name = path.display();
        found.push(match sys::may_execute(&there) {
            true => good("data directory", format!("{name} will be made at the first start")),
            false => {
                let what = format!("{name} cannot be made in {}", there.display());
                bad("data directory", what, "choose another with --data-dir DIR")
            }
        });
    } else {
        found.push(match start::data_dir(arguments) {
            Err(sentence) => bad("data directory", sentence, "as the sentence says"),
            Ok(path) => match holder(&path) {
                Some(holder) => {
                    let what = format!("{} is in use by {holder}", path.display());
                    let cure = "none, if that is the server that you mean; else choose another with \
                        --data-dir DIR";
                    warning("data directory", what, cure)
                }
                None => good("data directory", path.display().to_string()),
            },
        });
    }
    found.push(machine::disk(&there, arguments.limits.journal_total_max));
    found.push(machine::wall_clock(&path));
    found
}

/// The server that has a data directory now.
fn holder(path: &Path) -> Option<holders::Program> {
    let lock = private::read(&path.join("lock")).ok()?;
    match lock.try_lock_shared() {
        Err(fs::TryLockError::WouldBlock) => {
            let pid = start::lock_holder(path).ok()?.trim().parse().ok()?;
            Some(holders::Program::of(pid))
        }
        _ => None,
    }
}

fn agents(arguments: &Arguments) -> Vec<Finding> {
    let (agents, _) = start::agents(&arguments.agents);
    let environment = process::environment(std::env::vars_os(), &arguments.agent_env);
    let mut found = Vec::new();
    for agent in agents {
        match (&agent.program, agent.dialect) {
            (Err(sentence), _) => {
                let cure = "install it, or name another with --agent";
                found.push(bad("agent", format!("{}: {sentence}", agent.name), cure));
            }
            (Ok(Program::Path(path)), Dialect::Claude) => {
                found.extend(machine::claude(path, &environment));
            }
            (Ok(_), Dialect::Demo) if arguments.agents.is_empty() => {
                let what = "claude was not found, so the demo would answer, which runs nothing";
                let cure = "install it: npm install -g @anthropic-ai/claude-code";
                found.push(warning("agent", what, cure));
            }
            (Ok(_), dialect) => {
                found.push(good("agent", format!("{} speaks {}", agent.name, dialect.as_str())));
            }
        }
    }
    found
}
