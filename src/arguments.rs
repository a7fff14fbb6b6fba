//! The command line and its variables, read into one checked structure.
//!
//! It promises that whatever it lets through can be run with: every bound is inside its range
//! and no two options contradict each other. What it refuses it refuses with one sentence that
//! names the option, what was given and what was expected. It does not touch the environment,
//! the file system or the network: arguments and a look-up for variables are passed in.

pub mod client;
mod hooks;
mod suggest;

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use crate::core::access::tokens::Scope;
use crate::core::api;
pub use crate::core::epochs::Durability;
use crate::limits::{KIB, Limits, MIB};
use crate::wire::target;
use client::{Client, Outside};
pub use hooks::HookArgument;

/// What `sidestream --help` prints, before what [`client::HELP`] says.
pub const HELP: &str = "\
sidestream runs Claude Code sessions and streams them to browsers over Server-Sent Events.

Usage: sidestream [serve] [OPTIONS]
       sidestream token add NAME SCOPE [--token-file FILE]   make a token: read, answer or full
       sidestream doctor [OPTIONS]                           look at what a start with them needs
       sidestream doctor --url URL [--idle TIME]             and at the way there from outside
       sidestream sessions|new|prompt|tail|approve|interrupt talk to a running server: below

General
  --listen ADDRESS      where to listen, repeatable: 127.0.0.1:3010, [::1]:3010, localhost:0,
                        unix:/run/sidestream.sock, 0.0.0.0:3010 (with tokens only); port 0
                        picks a free one [127.0.0.1:3010 and [::1]:3010]
  --base-path PATH      also answer below this path, as a proxy may pass it on: /claude [none]
  --node NAME           put this node's name into the ids of its sessions, session-NAME-…, for a
                        proxy that spreads them over several: n1 [none]
  --data-dir DIR        where state is kept [$XDG_STATE_HOME/sidestream]
  --durability MODE     what events survive: memory, nothing; write, our being killed; sync,
                        power loss [write]
  --log-level LEVEL     error, warn, info or debug [info]
  --log-format FORMAT   logfmt or json, a line each to stderr [logfmt]
  --check-config        check the options, say what is wrong, start nothing
  -h, --help            print this
  -V, --version         print the version

Agents
  --agent AGENT         [NAME=]DIALECT[:COMMAND], repeatable, the first is the default:
                        claude, claude:/path/to/claude, lines:COMMAND (run by /bin/sh once per
                        prompt), demo (built in, runs nothing)
                        [claude if it is found, else demo]
  --root DIR            sessions may work in here only, repeatable [$HOME]
  --agent-env NAME      also pass this variable to agents, repeatable [none]
  --allow-bypass        allow the mode bypassPermissions [no]
  --allow-persistent-rules
                        let an approval grant suggested rules that outlive its session [no]
  --raw-events          tell every line of an agent verbatim, too [no]

Notifications
  --on-event NAMES COMMAND   run this for turn-done, approval-waiting, session-failed or any event
                        by its name (a,b); repeatable. No shell: words, or a JSON list of them;
                        the event is JSON on its stdin, it has 10 s, four run at once [none]
  --on-event-tickets    that JSON has links which answer one approval each: whoever holds one may;
                        needs --public-url [no]

Access
  --trust DIR           let this directory's own hooks and MCP commands run unasked, repeatable
  --token-file FILE     ask everybody for a token; lines NAME SCOPE sha256:HEX, as `token add`
                        writes them [none: only our own user's processes are served]
  --trust-uid UID       also serve processes of this user, repeatable [only our own]
  --public-url URL      where a proxy publishes us: https://host[/base]; needs tokens [none]
  --allow-origin URL    pages of this origin may use us, repeatable; needs tokens [none]
  --trusted-proxy IP    take this proxy's word for its clients' addresses, repeatable [none]
  --read-cookie         a login also sets a cookie that may read, for EventSource [no]
  --allow-agent-access  let agents change what they run in, as their users may [no]

Bounds of the server [default, range]
  --connections-max COUNT             clients, as far as descriptors go [100000, 1 to 1000000]
  --connections-per-address-max COUNT from one address behind a proxy [256, 1 to 1000000]
  --sessions-max COUNT                sessions that are not closed [1000, 1 to 100000]
  --pipeline-max COUNT                replies a client has not taken [64, 1 to 10000]
  --waits-max COUNT                   long polls and other waits [1024, 1 to 100000]
  --login-failures-max COUNT          failed logins in a minute [10, 1 to 10000]
  --ticket-misses-max COUNT           wrong tickets in a minute [10, 1 to 10000]
  --pages-read-max COUNT              pages of the past read at once [16, 1 to 1000]
  --closed-sessions-max COUNT         closed ones still served to the end [16, 1 to 10000]
  --session-creations-per-s COUNT     new sessions in one second [10, 1 to 10000]
  --readers-per-session-max COUNT     streams of one session [10000, 1 to 1000000]
  --agents-max COUNT                  agent processes [8, 1 to 1000]
  --agents-starting-max COUNT         agents starting at once [2, 1 to 1000]
  --queue-max COUNT                   prompts waiting in a session [32, 1 to 10000]
  --approvals-max COUNT               approvals open in a session [64, 1 to 10000]
  --head-fields-max COUNT             fields of a request [100, 10 to 100]

Bounds of memory [default, range]
  --ring-size SIZE          log of one session, a power of two [1MiB, 64KiB to 1GiB]
  --all-ring-size SIZE      log of all sessions, a power of two [4MiB, 64KiB to 4GiB]
  --replay-bytes SIZE       past given to a new stream [256KiB, 0 to 1GiB]
  --line-max SIZE           longest line of an agent [32MiB, 64KiB to 1GiB]
  --head-size-max SIZE      head of a request [16KiB, 1KiB to 63KiB]
  --approvals-size-max SIZE all approvals open [8MiB, 64KiB to 4GiB]
  --body-size-max SIZE      body of a request [8MiB, 1KiB to 256MiB]
  --bodies-size-max SIZE    all bodies held at once [16MiB, 1KiB to 4GiB]
  --requests-size-max SIZE  heads and replies under way [16MiB, 256KiB to 4GiB]
  --body-rate-min SIZE      what a body, or a reply, moves in a second [1KiB, 0 to 1MiB]
  --queue-size-max SIZE     all prompts waiting [16MiB, 1KiB to 4GiB]
  --large-size-max SIZE     fields too large for a log [32MiB, 1KiB to 4GiB]

Bounds of the disk [default, range]
  --journal-max SIZE        one session's events, the oldest make room [64MiB, 8MiB to 1024GiB]
  --journal-total-max SIZE  all sessions' events [1GiB, 8MiB to 16384GiB]

Times [default, range]
  --heartbeat TIME          quiet time before a heartbeat [15s, 100ms to 60s]
  --write-stall TIME        a reader that takes nothing is cut [30s, 100ms to 1h]
  --keep-alive TIME         between two requests [60s, 100ms to 1h]
  --head-timeout TIME       to receive a head [10s, 100ms to 10m]
  --body-timeout TIME       to receive a body [30s, 100ms to 1h]
  --delta-hold TIME         joins text deltas, 0 for none [50ms, 0 to 5s]
  --start-timeout TIME      for an agent to be ready [30s, 100ms to 1h]
  --stall-after TIME        silence told as a stall [5m, 100ms to 24h]
  --interrupt-timeout TIME  from an interrupt to the end of the turn [10s, 100ms to 10m]
  --suspend-after TIME      an idle agent is stopped [15m, 100ms to 24h]
  --ladder-eof TIME         from end of input to SIGTERM [5s, 100ms to 10m]
  --ladder-term TIME        from SIGTERM to SIGKILL [5s, 100ms to 10m]
  --drain-delay TIME        from our SIGTERM to the first refusal [0, 0 to 10m]
  --drain-timeout TIME      from the first refusal to the exit [20s, 100ms to 1h]

Bounds that no option moves
  a prompt          20 images of 5MiB in base64; an id of 128 bytes
  a name, a model   200 characters
  a stream, a poll  1000 sessions by name; waits 60s; opens with 64KiB of ?pad=
  an approval       grants rules: 128 to one session, 16KiB together
  an answer         256KiB of events; 768KiB of a list
  tokens, tickets   256 tokens of 256 bytes; the newest 4096 tickets

Sizes are 65536, 64KiB, 1MiB or 1GiB; times 500ms, 15s, 10m or 2h.

Every option is also a variable: --ring-size is SIDESTREAM_RING_SIZE. The option wins; an empty
variable counts as none. Switches are 1 or 0 there. Repeatable ones hold a list there: separated
by commas (LISTEN, AGENT_ENV, TRUST_UID, ALLOW_ORIGIN, TRUSTED_PROXY), by colons (ROOT, TRUST), by
line ends (AGENT, ON_EVENT).

";

/// What the process was asked to do.
#[derive(Clone, Debug)]
pub enum Command {
    /// Run the server.
    Serve(Box<Arguments>),
    /// Print [`HELP`] and [`client::HELP`].
    Help,
    /// Print [`client::HELP`].
    ClientHelp,
    /// Print the version.
    Version,
    /// Make a token of this name and scope, and print it once.
    AddToken(Box<Arguments>, String, Scope),
    /// The options hold together; look at the rest of what a start needs, and start nothing.
    CheckConfig(Box<Arguments>),
    /// Look at everything that could keep a server from running well, and say what to do.
    Doctor(Box<Arguments>, Option<Outside>),
    /// Ask something of a running server.
    Client(Box<Client>),
}

/// Everything that the operator may set.
#[derive(Clone, Debug)]
pub struct Arguments {
    /// Where to listen. Never empty, no address twice; all of them local if there are no tokens.
    pub listen: Vec<Listen>,
    /// Whether `listen` is the default: then one of the two address families may be missing.
    pub listen_is_default: bool,
    /// Where state is kept; `None`: the default place.
    pub data_dir: Option<PathBuf>,
    /// The agents, by distinct names. Empty: `claude` if it is found, else `demo`.
    pub agents: Vec<AgentArgument>,
    /// Directories that sessions may work in, as given. Empty: the home directory.
    pub roots: Vec<PathBuf>,
    /// Empty, or a path with a leading slash and without a trailing one.
    pub base_path: String,
    /// What stands in the ids of our sessions: empty, or a letter and letters and digits, lower case,
    /// at most 16.
    pub node: String,
    /// Names of variables that agents are given beside the usual ones.
    pub agent_env: Vec<String>,
    /// Whether the mode `bypassPermissions` may be asked for.
    pub allow_bypass: bool,
    /// Whether an approval may grant rules that outlive its session.
    pub allow_persistent_rules: bool,
    /// Users beside our own whose processes are served.
    pub trust_uids: Vec<u32>,
    /// Directories whose own hooks and MCP commands may run without being asked about.
    pub trust: Vec<PathBuf>,
    /// Where the tokens' hashes stand; `None`: nobody is asked for one.
    pub token_file: Option<PathBuf>,
    /// Where people find us. Its base path is `base_path`.
    pub public_url: Option<PublicUrl>,
    /// Origins as browsers write them, none twice.
    pub allow_origins: Vec<String>,
    /// Proxies whose word for a client's address is taken.
    pub trusted_proxies: Vec<IpAddr>,
    /// Whether a login also sets a cookie that may read.
    pub read_cookie: bool,
    /// Whether agents may do what their users may.
    pub allow_agent_access: bool,
    /// Whether every line of an agent is told verbatim.
    pub raw_events: bool,
    /// The least urgent lines that are logged.
    pub log_level: LogLevel,
    /// How they are written.
    pub log_format: LogFormat,
    /// What survives what.
    pub durability: Durability,
    /// What is run for which events.
    pub on_event: Vec<HookArgument>,
    /// Whether they are given links that answer.
    pub on_event_tickets: bool,
    /// Every bound, each inside its range.
    pub limits: Limits,
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A host and a port: `localhost`, or an IP address without brackets. Port 0 picks one.
    Tcp(String, u16),
    /// The path of a Unix socket, at most 107 bytes.
    Unix(PathBuf),
}

/// `--public-url`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl {
    /// Scheme and authority as browsers write them: lower case, no default port.
    pub origin: String,
    /// The host's name, without a port.
    pub host: String,
    /// The base path, as in [`Arguments::base_path`].
    pub base: String,
}

/// One agent that clients may choose by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentArgument {
    /// 1 to 64 of `[A-Za-z0-9._-]`.
    pub name: String,
    /// What it speaks and how it is started.
    pub dialect: DialectArgument,
}

/// What an agent speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialectArgument {
    /// The CLI.
    Claude {
        /// Its executable; `None`: looked for.
        path: Option<String>,
    },
    /// A shell command per prompt.
    Lines {
        /// For `/bin/sh -c`, not empty.
        command: String,
    },
    /// The built-in demonstration.
    Demo,
}

/// How urgent a log line must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `key=value`, values quoted where they must be.
    Logfmt,
    /// A JSON object.
    Json,
}

/// How an option takes its values.
#[derive(Clone, Copy)]
enum Arity {
    /// Once.
    One,
    /// Any number of times; in the variable, separated by this.
    Many(u8),
    /// Any number of times, two words each; in the variable, separated by line ends.
    Pairs,
    /// None, or `=BOOL`.
    Switch,
}

/// The options that are not bounds.
const OPTIONS: &[(&str, Arity)] = &[
    ("listen", Arity::Many(b',')),
    ("base-path", Arity::One),
    ("node", Arity::One),
    ("data-dir", Arity::One),
    ("durability", Arity::One),
    ("log-level", Arity::One),
    ("log-format", Arity::One),
    ("agent", Arity::Many(b'\n')),
    ("root", Arity::Many(b':')),
    ("agent-env", Arity::Many(b',')),
    ("allow-bypass", Arity::Switch),
    ("allow-persistent-rules", Arity::Switch),
    ("raw-events", Arity::Switch),
    ("on-event", Arity::Pairs),
    ("on-event-tickets", Arity::Switch),
    ("trust", Arity::Many(b':')),
    ("trust-uid", Arity::Many(b',')),
    ("token-file", Arity::One),
    ("public-url", Arity::One),
    ("allow-origin", Arity::Many(b',')),
    ("trusted-proxy", Arity::Many(b',')),
    ("read-cookie", Arity::Switch),
    ("allow-agent-access", Arity::Switch),
];

/// Options of `doctor` alone.
const OUTSIDE: [&str; 3] = ["url", "token-from", "idle"];

/// How a bound is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Count,
    Bytes,
    /// Bytes, a power of two.
    Ring,
    Milliseconds,
}

/// One bound: its option, its unit, its range, where it goes.
struct Bound {
    flag: &'static str,
    unit: Unit,
    min: u64,
    max: u64,
    set: fn(&mut Limits, u64),
    get: fn(&Limits) -> u64,
}

/// Writes a row of [`BOUNDS`]: flag, unit, range, field.
macro_rules! bound {
    ($flag:literal, $unit:ident, $min:expr, $max:expr, $field:ident) => {
        Bound {
            flag: $flag,
            unit: Unit::$unit,
            min: $min as u64,
            max: $max as u64,
            set: |limits, value| limits.$field = value as _,
            get: |limits| limits.$field as u64,
        }
    };
}

const GIB: usize = 1024 * MIB;
const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
/// The shortest time that the timer wheel can tell.
const TICK: u64 = 100;

/// One row per field of [`Limits`]. Sizes need a 64-bit `usize`, which the build checks.
const BOUNDS: &[Bound] = &[
    bound!("connections-max", Count, 1, 1_000_000, connections_max),
    bound!("connections-per-address-max", Count, 1, 1_000_000, connections_per_address_max),
    bound!("sessions-max", Count, 1, 100_000, sessions_max),
    bound!("pipeline-max", Count, 1, 10_000, pipeline_max),
    bound!("waits-max", Count, 1, 100_000, waits_max),
    bound!("login-failures-max", Count, 1, 10_000, login_failures_max),
    bound!("ticket-misses-max", Count, 1, 10_000, ticket_misses_max),
    bound!("pages-read-max", Count, 1, 1_000, pages_read_max),
    bound!("closed-sessions-max", Count, 1, 10_000, closed_sessions_max),
    bound!("session-creations-per-s", Count, 1, 10_000, session_creations_per_s),
    bound!("readers-per-session-max", Count, 1, 1_000_000, readers_per_session_max),
    bound!("agents-max", Count, 1, 1_000, agents_max),
    bound!("agents-starting-max", Count, 1, 1_000, agents_starting_max),
    bound!("queue-max", Count, 1, 10_000, queue_max),
    bound!("approvals-max", Count, 1, 10_000, approvals_max),
    bound!("head-fields-max", Count, 10, 100, head_fields_max),
    bound!("ring-size", Ring, 64 * KIB, GIB, ring_size),
    bound!("all-ring-size", Ring, 64 * KIB, 4 * GIB, all_ring_size),
    bound!("replay-bytes", Bytes, 0, GIB, replay_size),
    bound!("line-max", Bytes, 64 * KIB, GIB, line_size_max),
    bound!("head-size-max", Bytes, KIB, 63 * KIB, head_size_max),
    bound!("approvals-size-max", Bytes, 64 * KIB, 4 * GIB, approvals_size_max),
    bound!("body-size-max", Bytes, KIB, 256 * MIB, body_size_max),
    bound!("bodies-size-max", Bytes, KIB, 4 * GIB, bodies_size_max),
    bound!("requests-size-max", Bytes, 256 * KIB, 4 * GIB, requests_size_max),
    bound!("body-rate-min", Bytes, 0, MIB, body_rate_min),
    bound!("queue-size-max", Bytes, KIB, 4 * GIB, queue_size_max),
    bound!("journal-max", Bytes, 8 * MIB, 1024 * GIB, journal_max),
    bound!("journal-total-max", Bytes, 8 * MIB, 16 * 1024 * GIB, journal_total_max),
    bound!("large-size-max", Bytes, KIB, 4 * GIB, large_size_max),
    bound!("heartbeat", Milliseconds, TICK, MINUTE, heartbeat_ms),
    bound!("write-stall", Milliseconds, TICK, HOUR, write_stall_ms),
    bound!("keep-alive", Milliseconds, TICK, HOUR, keep_alive_ms),
    bound!("head-timeout", Milliseconds, TICK, 10 * MINUTE, head_timeout_ms),
    bound!("body-timeout", Milliseconds, TICK, HOUR, body_timeout_ms),
    bound!("delta-hold", Milliseconds, 0, 5 * SECOND, delta_hold_ms),
    bound!("start-timeout", Milliseconds, TICK, HOUR, start_timeout_ms),
    bound!("stall-after", Milliseconds, TICK, 24 * HOUR, stall_after_ms),
    bound!("interrupt-timeout", Milliseconds, TICK, 10 * MINUTE, interrupt_timeout_ms),
    bound!("suspend-after", Milliseconds, TICK, 24 * HOUR, suspend_after_ms),
    bound!("ladder-eof", Milliseconds, TICK, 10 * MINUTE, ladder_eof_ms),
    bound!("ladder-term", Milliseconds, TICK, 10 * MINUTE, ladder_term_ms),
    bound!("drain-delay", Milliseconds, 0, 10 * MINUTE, drain_delay_ms),
    bound!("drain-timeout", Milliseconds, TICK, HOUR, drain_timeout_ms),
];

const _: () = assert!(usize::BITS == 64);

/// The longest name of a node, in bytes: it stands in every id, and so in every event.
const NODE_SIZE_MAX: usize = 16;

/// One value of one option.
struct Given {
    /// The option without its dashes.
    flag: &'static str,
    /// What the operator wrote it as, for sentences.
    from: String,
    value: OsString,
}

/// Reads the arguments after the program's name, then the variables of what they left open.
/// An `Err` is one sentence for the operator, without a full stop.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    variables: impl Fn(&str) -> Option<OsString>,
) -> Result<Command, String> {
    let mut given = Vec::new();
    let mut parser = lexopt::Parser::from_args(args);
    let (mut check_only, mut first) = (false, true);
    let (mut token, mut doctor) = (None, None);
    while let Some(arg) = parser.next().map_err(|error| error.to_string())? {
        let (flag, arity) = match arg {
            lexopt::Arg::Short('h') | lexopt::Arg::Long("help") => return Ok(Command::Help),
            lexopt::Arg::Short('V') | lexopt::Arg::Long("version") => return Ok(Command::Version),
            lexopt::Arg::Value(word) if first && word == "serve" => {
                first = false;
                continue;
            }
            lexopt::Arg::Value(word) if first && word == "token" => {
                first = false;
                token = Some(Vec::new());
                continue;
            }
            lexopt::Arg::Value(word) if first && word == "doctor" => {
                first = false;
                doctor = Some(Vec::new());
                continue;
            }
            lexopt::Arg::Value(word) if first && client::WORDS.iter().any(|it| word == *it) => {
                let command = client::WORDS.into_iter().find(|it| word == *it).unwrap_or_default();
                let client = client::parse(command, parser, variables)?;
                return Ok(client.map_or(Command::ClientHelp, |it| Command::Client(Box::new(it))));
            }
            lexopt::Arg::Value(word) if token.as_ref().is_some_and(|words| words.len() < 3) => {
                let text = word.into_string().map_err(|word| unknown(&word.to_string_lossy()))?;
                token.iter_mut().for_each(|words| words.push(text.clone()));
                continue;
            }
            lexopt::Arg::Long("check-config") => {
                (check_only, first) = (true, false);
                continue;
            }
            lexopt::Arg::Long(name) if doctor.is_some() && OUTSIDE.contains(&name) => {
                let flag = OUTSIDE.into_iter().find(|flag| *flag == name).unwrap_or_default();
                let value = parser.value().map_err(|_| format!("--{flag} needs a value"))?;
                doctor.iter_mut().for_each(|given| given.push((flag, value.clone())));
                continue;
            }
            lexopt::Arg::Long(name) => option(name).ok_or_else(|| unknown(&format!("--{name}")))?,
            lexopt::Arg::Short(letter) => return Err(unknown(&format!("-{letter}"))),
            lexopt::Arg::Value(word) => return Err(unknown(&word.to_string_lossy())),
        };
        first = false;
        let value = match arity {
            Arity::Switch => parser.optional_value().unwrap_or_else(|| "1".into()),
            Arity::One | Arity::Many(_) => {
                parser.value().map_err(|_| format!("--{flag} needs a value"))?
            }
            Arity::Pairs => {
                let mut word =
                    || parser.value().map_err(|_| format!("--{flag} needs NAMES and COMMAND"));
                let mut pair = word()?;
                pair.push(" ");
                pair.push(word()?);
                pair
            }
        };
        if !matches!(arity, Arity::Many(_) | Arity::Pairs)
            && given.iter().any(|it: &Given| it.flag == flag)
        {
            return Err(format!("--{flag} was given twice, it may come once"));
        }
        given.push(Given { flag, from: format!("--{flag}"), value });
    }
    add_variables(&mut given, &variables);
    let arguments = Box::new(Arguments::new(&given)?);
    if let Some(words) = token {
        return add_token(arguments, &words);
    }
    arguments.need_tokens(&given)?;
    if let Some(given) = doctor {
        return Ok(Command::Doctor(arguments, client::outside(&given, variables)?));
    }
    Ok(if check_only { Command::CheckConfig(arguments) } else { Command::Serve(arguments) })
}

/// Reads the words behind `token`.
fn add_token(arguments: Box<Arguments>, words: &[String]) -> Result<Command, String> {
    let expected = "write `sidestream token add NAME SCOPE`";
    match words {
        [add, name, scope] if add == "add" => {
            let scope = Scope::from_word(scope)
                .ok_or_else(|| format!("`{scope}` is not a scope: {}", Scope::WORDS))?;
            Ok(Command::AddToken(arguments, name.clone(), scope))
        }
        _ => Err(expected.into()),
    }
}

fn unknown(what: &str) -> String {
    const COMMANDS: [&str; 3] = ["serve", "token", "doctor"];
    let meant = match what.strip_prefix("--") {
        Some(flag) => {
            let known = all_options().map(|(flag, _)| flag);
            let known = known.chain(["check-config", "help", "version"]);
            suggest::nearest(flag, known).map(|flag| format!("--{flag}"))
        }
        None => {
            let known = COMMANDS.into_iter().chain(client::WORDS);
            suggest::nearest(what, known).map(str::to_owned)
        }
    };
    match meant {
        Some(meant) => format!("`{what}` is not known, did you mean {meant}?"),
        None => format!("`{what}` is not known, `sidestream --help` lists the options"),
    }
}

/// The option of this name.
fn option(name: &str) -> Option<(&'static str, Arity)> {
    all_options().find(|(flag, _)| *flag == name)
}

fn all_options() -> impl Iterator<Item = (&'static str, Arity)> {
    OPTIONS.iter().copied().chain(BOUNDS.iter().map(|bound| (bound.flag, Arity::One)))
}

/// The variable that stands for an option.
fn variable(flag: &str) -> String {
    format!("SIDESTREAM_{}", flag.replace('-', "_").to_ascii_uppercase())
}

/// A sentence about each variable that looks like one of ours and is none: nobody reads it.
pub fn strays<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    // Those of the subcommands, and the mark by which an agent's processes are found.
    const OTHERS: [&str; 4] =
        ["SIDESTREAM_URL", "SIDESTREAM_TOKEN", "SIDESTREAM_TOKEN_FROM", "SIDESTREAM_MARKER"];
    let known: Vec<String> = all_options().map(|(flag, _)| variable(flag)).collect();
    let is_known = |name: &str| known.iter().any(|one| one == name) || OTHERS.contains(&name);
    names
        .filter(|name| name.starts_with("SIDESTREAM_") && !is_known(name))
        .map(|name| match suggest::nearest(name, known.iter().map(String::as_str)) {
            Some(meant) => format!("the variable {name} is not known, did you mean {meant}?"),
            None => format!("the variable {name} is not known"),
        })
        .collect()
}

/// Adds the variables of the options that are not given yet.
fn add_variables(given: &mut Vec<Given>, variables: impl Fn(&str) -> Option<OsString>) {
    for (flag, arity) in all_options() {
        if given.iter().any(|it| it.flag == flag) {
            continue;
        }
        let from = variable(flag);
        let Some(value) = variables(&from).filter(|value| !value.is_empty()) else { continue };
        let separator = match arity {
            Arity::Many(separator) => separator,
            Arity::Pairs => b'\n',
            Arity::One | Arity::Switch => {
                given.push(Given { flag, from, value });
                continue;
            }
        };
        for part in split(&value, separator) {
            given.push(Given { flag, from: from.clone(), value: part });
        }
    }
}

/// The parts of a list, without the empty ones.
fn split(value: &OsStr, separator: u8) -> Vec<OsString> {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let parts = value.as_bytes().split(|&byte| byte == separator);
    let parts = parts.map(<[u8]>::trim_ascii).filter(|part| !part.is_empty());
    parts.map(|part| OsString::from_vec(part.to_vec())).collect()
}

impl Given {
    /// The value as text.
    fn text(&self) -> Result<&str, String> {
        self.value.to_str().ok_or_else(|| self.refuse("text in UTF-8"))
    }

    /// The sentence for a value that is not what was expected.
    fn refuse(&self, expected: impl Display) -> String {
        format!("{}: `{}` is not {expected}", self.from, self.value.to_string_lossy())
    }

    fn switch(&self) -> Result<bool, String> {
        match self.text()? {
            "1" | "true" | "yes" | "on" => Ok(true),
            "0" | "false" | "no" | "off" => Ok(false),
            _ => Err(self.refuse("1 or 0")),
        }
    }

    fn path(&self, expected: &str) -> Result<PathBuf, String> {
        if self.value.is_empty() {
            return Err(self.refuse(expected));
        }
        Ok(PathBuf::from(&self.value))
    }
}

impl Arguments {
    /// Reads all values, then looks at what they say together.
    fn new(given: &[Given]) -> Result<Arguments, String> {
        let mut arguments = Arguments::default();
        for it in given {
            arguments.take(it)?;
        }
        if arguments.listen.is_empty() {
            let hosts = ["127.0.0.1", "::1"];
            arguments.listen = hosts.map(|host| Listen::Tcp(host.into(), 3010)).to_vec();
            arguments.listen_is_default = true;
        }
        if let Some(url) = &arguments.public_url {
            let base = url.base.clone();
            if !arguments.base_path.is_empty() && arguments.base_path != base {
                return Err(format!(
                    "--base-path is `{}`, and --public-url says `{base}`: leave --base-path out",
                    arguments.base_path
                ));
            }
            arguments.base_path = base;
        }
        if arguments.on_event_tickets
            && (arguments.public_url.is_none() || arguments.on_event.is_empty())
        {
            return Err("--on-event-tickets needs --public-url, where its links lead, and an \
                --on-event that is given them"
                .into());
        }
        agree(&mut arguments.limits, given)?;
        Ok(arguments)
    }

    /// Refuses to let anybody in whom only a token could tell from a stranger.
    fn need_tokens(&self, given: &[Given]) -> Result<(), String> {
        if self.token_file.is_some() {
            return Ok(());
        }
        let cure = "make one with `sidestream token add NAME SCOPE` and start with --token-file";
        if let Some(Listen::Tcp(host, port)) = self.listen.iter().find(|one| !one.is_local()) {
            return Err(format!(
                "--listen: {host}:{port} is not on loopback, and serving others needs tokens: \
                 {cure}"
            ));
        }
        let flags = ["public-url", "allow-origin", "read-cookie"];
        match given.iter().find(|it| flags.contains(&it.flag)) {
            Some(it) if it.flag != "read-cookie" || self.read_cookie => {
                Err(format!("{} needs tokens: {cure}", it.from))
            }
            _ => Ok(()),
        }
    }

    /// Takes one value in.
    fn take(&mut self, given: &Given) -> Result<(), String> {
        match given.flag {
            "listen" => {
                let listen = listen(given)?;
                let port_is_picked = matches!(listen, Listen::Tcp(_, 0));
                if self.listen.contains(&listen) && !port_is_picked {
                    return Err(format!("{}: `{}` came twice", given.from, given.text()?));
                }
                self.listen.push(listen);
            }
            "base-path" => self.base_path = base_path(given)?,
            "node" => self.node = node(given)?,
            "data-dir" => self.data_dir = Some(given.path("a directory")?),
            "durability" => self.durability = durability(given)?,
            "log-level" => self.log_level = log_level(given)?,
            "log-format" => self.log_format = log_format(given)?,
            "agent" => {
                let agent = agent(given)?;
                if self.agents.iter().any(|other| other.name == agent.name) {
                    return Err(format!(
                        "{}: the name `{}` is taken, write NAME={}",
                        given.from,
                        agent.name,
                        given.text()?
                    ));
                }
                self.agents.push(agent);
            }
            "root" => self.roots.push(given.path("a directory")?),
            "agent-env" => self.agent_env.push(variable_name(given)?),
            "allow-bypass" => self.allow_bypass = given.switch()?,
            "allow-persistent-rules" => self.allow_persistent_rules = given.switch()?,
            "raw-events" => self.raw_events = given.switch()?,
            "on-event" => self.on_event.push(hooks::hook(given)?),
            "on-event-tickets" => self.on_event_tickets = given.switch()?,
            "trust" => self.trust.push(given.path("a directory")?),
            "trust-uid" => {
                let uid = digits(given.text()?).and_then(|uid| u32::try_from(uid).ok());
                // The last one is the kernel's word for "no user".
                let uid = uid.filter(|uid| *uid != u32::MAX);
                self.trust_uids.push(uid.ok_or_else(|| given.refuse("a user id such as 33"))?);
            }
            "token-file" => self.token_file = Some(given.path("a file")?),
            "public-url" => self.public_url = Some(public_url(given)?),
            "allow-origin" => {
                let origin = origin(given)?;
                if !self.allow_origins.contains(&origin) {
                    self.allow_origins.push(origin);
                }
            }
            "trusted-proxy" => {
                let address = given.text()?.parse::<IpAddr>().map(|ip| ip.to_canonical());
                let address = address.map_err(|_| given.refuse("an IP address"))?;
                self.trusted_proxies.push(address);
            }
            "read-cookie" => self.read_cookie = given.switch()?,
            "allow-agent-access" => self.allow_agent_access = given.switch()?,
            flag => {
                let bound = BOUNDS.iter().find(|bound| bound.flag == flag);
                let bound = bound.ok_or_else(|| unknown(&given.from))?;
                (bound.set)(&mut self.limits, bound.read(given)?);
            }
        }
        Ok(())
    }
}

impl Default for Arguments {
    /// What holds when nothing is given, but for `listen`, which is empty here.
    fn default() -> Arguments {
        Arguments {
            listen: Vec::new(),
            listen_is_default: false,
            data_dir: None,
            agents: Vec::new(),
            roots: Vec::new(),
            base_path: String::new(),
            node: String::new(),
            agent_env: Vec::new(),
            allow_bypass: false,
            allow_persistent_rules: false,
            trust: Vec::new(),
            trust_uids: Vec::new(),
            token_file: None,
            public_url: None,
            allow_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            read_cookie: false,
            allow_agent_access: false,
            raw_events: false,
            on_event: Vec::new(),
            on_event_tickets: false,
            log_level: LogLevel::Info,
            log_format: LogFormat::Logfmt,
            durability: Durability::Write,
            limits: Limits::default(),
        }
    }
}

/// Makes bounds agree that depend on each other: the one that was not given follows the one that
/// was; two that were given and contradict each other are refused.
fn agree(limits: &mut Limits, given: &[Given]) -> Result<(), String> {
    // The first may not exceed the second.
    const PAIRS: &[(&str, &str, &str)] = &[
        ("agents-starting-max", "agents-max", "starting agents are agents"),
        ("body-size-max", "bodies-size-max", "one body must fit"),
        ("body-size-max", "queue-size-max", "one prompt must fit"),
        ("ring-size", "all-ring-size", "every event of a session must fit"),
    ];
    for (low, high, reason) in PAIRS {
        let find = |flag: &str| BOUNDS.iter().find(|bound| bound.flag == flag);
        let (Some(low), Some(high)) = (find(low), find(high)) else { continue };
        let (least, most) = ((low.get)(limits), (high.get)(limits));
        if least <= most {
            continue;
        }
        let source = |bound: &Bound| given.iter().find(|it| it.flag == bound.flag);
        match (source(low), source(high)) {
            (Some(a), Some(b)) => {
                return Err(format!(
                    "{} ({}) is above {} ({}): {reason}",
                    a.from,
                    spelled(low.unit, least),
                    b.from,
                    spelled(high.unit, most),
                ));
            }
            (None, _) => (low.set)(limits, most),
            (Some(_), None) => (high.set)(limits, least),
        }
    }
    Ok(())
}

impl Bound {
    /// Reads a value in this bound's unit and range.
    fn read(&self, given: &Given) -> Result<u64, String> {
        let text = given.text()?;
        let (value, expected) = match self.unit {
            Unit::Count => (digits(text), "a number"),
            Unit::Bytes => (bytes(text), "a size such as 65536, 64KiB, 1MiB or 1GiB"),
            Unit::Ring => (bytes(text), "a size such as 64KiB, 1MiB or 1GiB"),
            Unit::Milliseconds => (milliseconds(text), "a time such as 500ms, 15s, 10m or 2h"),
        };
        let value = value.ok_or_else(|| given.refuse(expected))?;
        if !(self.min..=self.max).contains(&value) {
            let (min, max) = (spelled(self.unit, self.min), spelled(self.unit, self.max));
            return Err(given.refuse(format!("between {min} and {max}")));
        }
        if self.unit == Unit::Ring && !value.is_power_of_two() {
            let (below, above) = (1 << value.ilog2(), value.next_power_of_two());
            let (below, above) = (spelled(self.unit, below), spelled(self.unit, above));
            return Err(given.refuse(format!("a power of two, {below} and {above} are")));
        }
        Ok(value)
    }
}

/// A decimal number: digits alone, no sign.
fn digits(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok())?
}

/// Splits a number from its unit.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((digits(&text[..end])?, &text[end..]))
}

fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = number_and_unit(text)?;
    let unit = match unit {
        "" | "B" => 1,
        "KiB" => KIB,
        "MiB" => MIB,
        "GiB" => GIB,
        _ => return None,
    };
    number.checked_mul(unit as u64)
}

/// A time needs its unit, except 0.
fn milliseconds(text: &str) -> Option<u64> {
    let (number, unit) = number_and_unit(text)?;
    let unit = match unit {
        "" if number == 0 => 1,
        "ms" => 1,
        "s" => SECOND,
        "m" => MINUTE,
        "h" => HOUR,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// Writes a bound the way it is given, in its largest whole unit.
fn spelled(unit: Unit, value: u64) -> String {
    let units: &[(u64, &str)] = match unit {
        Unit::Count => &[],
        Unit::Bytes | Unit::Ring => {
            &[(GIB as u64, "GiB"), (MIB as u64, "MiB"), (KIB as u64, "KiB")]
        }
        // The one-minute times are seconds to everyone: heartbeats, keep-alive.
        Unit::Milliseconds if value == MINUTE => &[(SECOND, "s")],
        Unit::Milliseconds => &[(HOUR, "h"), (MINUTE, "m"), (SECOND, "s"), (1, "ms")],
    };
    match units.iter().find(|(size, _)| value > 0 && value.is_multiple_of(*size)) {
        Some((size, name)) => format!("{}{name}", value / size),
        None => value.to_string(),
    }
}

/// Reads an address to listen on.
fn listen(given: &Given) -> Result<Listen, String> {
    let expected = "an address such as 127.0.0.1:3010, [::1]:3010, localhost:3010 or unix:/path";
    let text = given.text()?;
    if let Some(path) = text.strip_prefix("unix:") {
        // sun_path has 108 bytes, the last of them NUL.
        return match path.len() {
            0 => Err(given.refuse(expected)),
            1..=107 => Ok(Listen::Unix(path.into())),
            _ => Err(given.refuse("a path of at most 107 bytes, sockets take no more")),
        };
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(|| given.refuse(expected))?;
    let port = digits(port).and_then(|port| u16::try_from(port).ok());
    let port = port.ok_or_else(|| given.refuse(expected))?;
    let six = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let known = match six {
        Some(six) => six.parse::<Ipv6Addr>().is_ok(),
        None => host == "localhost" || host.parse::<Ipv4Addr>().is_ok(),
    };
    if known {
        Ok(Listen::Tcp(six.unwrap_or(host).into(), port))
    } else {
        Err(given.refuse(expected))
    }
}

/// Reads `https://host[:port][/base]`.
fn public_url(given: &Given) -> Result<PublicUrl, String> {
    let expected = "a URL such as https://host or https://host:8443/base";
    let text = given.text()?;
    let scheme_end = text.find("://").ok_or_else(|| given.refuse(expected))? + 3;
    let end = text[scheme_end..].find('/').map_or(text.len(), |at| scheme_end + at);
    let (origin, host) = origin_and_host(&text[..end]).ok_or_else(|| given.refuse(expected))?;
    let base = base_path(&Given { value: text[end..].into(), from: given.from.clone(), ..*given })?;
    Ok(PublicUrl { origin, host, base })
}

/// Reads an origin as browsers write one.
fn origin(given: &Given) -> Result<String, String> {
    let expected = "an origin such as https://host or http://localhost:5173, without a path";
    let text = given.text()?;
    let text = text.strip_suffix('/').unwrap_or(text);
    origin_and_host(text).map(|(origin, _)| origin).ok_or_else(|| given.refuse(expected))
}

/// `http[s]://host[:port]` in the form that browsers send, and the host's name alone.
fn origin_and_host(text: &str) -> Option<(String, String)> {
    let text = text.to_ascii_lowercase();
    let (scheme, authority) = text.split_once("://")?;
    let default = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return None,
    };
    let authority = authority.strip_suffix(default).unwrap_or(authority);
    let (host, _) = target::split_authority(authority.as_bytes())?;
    let fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte);
    let good = authority.bytes().all(fit) && !authority.ends_with(':');
    good.then(|| (format!("{scheme}://{authority}"), host.to_owned()))
}

impl Listen {
    /// Whether only this machine can connect.
    pub fn is_local(&self) -> bool {
        match self {
            Listen::Unix(_) => true,
            Listen::Tcp(host, _) if host == "localhost" => true,
            Listen::Tcp(host, _) => host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback()),
        }
    }
}

/// Reads `[NAME=]DIALECT[:COMMAND]`.
fn agent(given: &Given) -> Result<AgentArgument, String> {
    let text = given.text()?;
    // `lines:A=b env` has no name: a name has no colon.
    let (name, rest) = match text.split_once('=') {
        Some((name, rest)) if is_agent_name(name) => (Some(name), rest),
        Some((name, _)) if !name.contains(':') => {
            let expected = "an agent: its NAME may hold 64 letters, digits, dots, `_` and `-`";
            return Err(given.refuse(expected));
        }
        _ => (None, text),
    };
    let (word, command) = match rest.split_once(':') {
        Some((word, command)) => (word, Some(command)),
        None => (rest, None),
    };
    let dialect = match (word, command) {
        ("claude", None) => DialectArgument::Claude { path: None },
        ("claude", Some(path)) if !path.is_empty() => {
            DialectArgument::Claude { path: Some(path.into()) }
        }
        ("lines", Some(command)) if !command.trim().is_empty() => {
            DialectArgument::Lines { command: command.into() }
        }
        ("demo", None) => DialectArgument::Demo,
        _ => {
            let expected = "[NAME=]claude, [NAME=]claude:PATH, [NAME=]lines:COMMAND or [NAME=]demo";
            return Err(given.refuse(expected));
        }
    };
    Ok(AgentArgument { name: name.unwrap_or(word).into(), dialect })
}

fn is_agent_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(allowed)
}

/// Reads a base path: segments that need no escape, since it is compared as it stands.
fn base_path(given: &Given) -> Result<String, String> {
    let path = given.text()?;
    let path = path.strip_suffix('/').unwrap_or(path);
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let plain = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(allowed);
    let good =
        path.is_empty() || path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(plain));
    if !good {
        return Err(given.refuse("a path such as /claude or /tools/claude"));
    }
    match api::hidden_below(path) {
        None => Ok(path.into()),
        Some(hidden) => {
            Err(given.refuse(format_args!("a path such as /claude: {path}/{hidden} is taken")))
        }
    }
}

/// Reads a node's name. It begins with a letter: what follows `session-` in the ids of a server
/// without a name is a number.
fn node(given: &Given) -> Result<String, String> {
    let name = given.text()?;
    let good = name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.len() <= NODE_SIZE_MAX
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let expected = "a name such as n1: a letter, then letters and digits, lower case, 16 at most";
    if good { Ok(name.into()) } else { Err(given.refuse(expected)) }
}

/// Reads the name of an environment variable.
fn variable_name(given: &Given) -> Result<String, String> {
    let name = given.text()?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let good = name.bytes().all(allowed) && !name.starts_with(|c: char| c.is_ascii_digit());
    if good && !name.is_empty() {
        Ok(name.into())
    } else {
        Err(given.refuse("the name of a variable"))
    }
}

fn log_format(given: &Given) -> Result<LogFormat, String> {
    match given.text()? {
        "logfmt" => Ok(LogFormat::Logfmt),
        "json" => Ok(LogFormat::Json),
        _ => Err(given.refuse("logfmt or json")),
    }
}

fn log_level(given: &Given) -> Result<LogLevel, String> {
    match given.text()? {
        "error" => Ok(LogLevel::Error),
        "warn" => Ok(LogLevel::Warn),
        "info" => Ok(LogLevel::Info),
        "debug" => Ok(LogLevel::Debug),
        _ => Err(given.refuse("error, warn, info or debug")),
    }
}

fn durability(given: &Given) -> Result<Durability, String> {
    let mode = match given.text()? {
        "memory" => Durability::Memory,
        "write" => Durability::Write,
        "sync" => Durability::Sync,
        _ => return Err(given.refuse("memory, write or sync")),
    };
    Ok(mode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::*;

    /// Parses words, with variables.
    fn run(words: &[&str], variables: &[(&str, &str)]) -> Result<Command, String> {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name);
        parse(words.iter().map(OsString::from), |name| find(name).map(|(_, value)| value.into()))
    }

    fn served(words: &[&str], variables: &[(&str, &str)]) -> Arguments {
        match run(words, variables) {
            Ok(Command::Serve(arguments)) => *arguments,
            other => panic!("{words:?}: {other:?}"),
        }
    }

    fn refused(words: &[&str]) -> String {
        run(words, &[]).map(|command| panic!("{words:?}: {command:?}")).unwrap_err()
    }

    fn tcp(host: &str, port: u16) -> Listen {
        Listen::Tcp(host.into(), port)
    }

    #[test]
    fn without_arguments_the_defaults_hold_and_are_inside_their_ranges() {
        let arguments = served(&[], &[]);
        assert_eq!(arguments.listen, [tcp("127.0.0.1", 3010), tcp("::1", 3010)]);
        assert!(arguments.listen_is_default && arguments.agents.is_empty());
        assert_eq!(arguments.durability, Durability::Write);
        assert_eq!(arguments.log_level, LogLevel::Info);
        assert_eq!(format!("{:?}", arguments.limits), format!("{:?}", Limits::default()));
        for bound in BOUNDS {
            let value = (bound.get)(&Limits::default());
            assert!((bound.min..=bound.max).contains(&value), "{}", bound.flag);
        }
    }

    #[test]
    fn every_field_of_the_limits_has_its_own_option() {
        let shown = format!("{:?}", Limits::default());
        // And one that says what the start has found.
        assert_eq!(shown.matches(": ").count(), BOUNDS.len() + 1, "{shown}");
        let mut limits = Limits::default();
        for (at, bound) in BOUNDS.iter().enumerate() {
            (bound.set)(&mut limits, at as u64 + 1);
        }
        for (at, bound) in BOUNDS.iter().enumerate() {
            assert_eq!(
                (bound.get)(&limits),
                at as u64 + 1,
                "{} has a field of its own",
                bound.flag
            );
        }
    }

    #[test]
    fn every_bound_takes_both_ends_of_its_range_and_nothing_beyond() {
        for bound in BOUNDS {
            let flag = format!("--{}", bound.flag);
            for value in [bound.min, bound.max] {
                let arguments = served(&[&flag, &spelled(bound.unit, value)], &[]);
                assert_eq!((bound.get)(&arguments.limits), value, "{flag}");
            }
            let raw = |value: u64| match bound.unit {
                Unit::Milliseconds => format!("{value}ms"),
                Unit::Count | Unit::Bytes | Unit::Ring => value.to_string(),
            };
            let over = refused(&[&flag, &raw(bound.max + 1)]);
            assert!(over.starts_with(&flag) && over.contains(" between "), "{over}");
            if let Some(under) = bound.min.checked_sub(1) {
                assert!(refused(&[&flag, &raw(under)]).contains(" between "), "{flag}");
            }
        }
    }

    #[test]
    fn the_help_lists_every_option_with_its_default_and_its_range() {
        for (flag, _) in OPTIONS {
            assert!(HELP.contains(&format!("\n  --{flag}")), "{flag}");
        }
        for bound in BOUNDS {
            let spell = |value| spelled(bound.unit, value);
            let default = spell((bound.get)(&Limits::default()));
            let range = format!("[{default}, {} to {}]", spell(bound.min), spell(bound.max));
            let start = format!("  --{} ", bound.flag);
            let line = HELP.lines().find(|line| line.starts_with(&start)).unwrap_or_default();
            assert!(line.ends_with(&range), "{start}: `{line}` should end in {range}");
        }
        let options = HELP.lines().filter(|line| line.starts_with("  --")).count();
        assert_eq!(options, OPTIONS.len() + BOUNDS.len() + 1, "--check-config is the one");
        assert!(HELP.lines().chain(client::HELP.lines()).all(|line| line.len() <= 100));
        let fixed = [
            format!("{IMAGES_MAX} images of {}MiB", IMAGE_SIZE_MAX / MIB),
            format!("an id of {PROMPT_ID_SIZE_MAX} bytes"),
            format!("{NAME_LENGTH_MAX} characters"),
            format!("{SESSIONS_NAMED_MAX} sessions by name; waits {WAIT_S_MAX}s"),
            format!("{}KiB of ?pad=", PAD_MAX / KIB),
            format!("{GRANTED_MAX} to one session, {}KiB", GRANTED_SIZE_MAX / KIB),
            format!("{}KiB of events; {}KiB of a list", PAGE_SIZE_MAX / KIB, LIST_SIZE / KIB),
            format!("{TOKENS_MAX} tokens of {TOKEN_SIZE_MAX} bytes"),
            format!("{TICKETS_MAX} tickets"),
        ];
        for told in fixed {
            assert!(HELP.contains(&told), "{told}");
        }
        for word in client::WORDS {
            assert!(client::HELP.contains(&format!("\n  sidestream {word} ")), "{word}");
        }
    }

    #[test]
    fn help_version_and_check_config_are_commands_and_serve_may_be_said() {
        for word in ["-h", "--help"] {
            assert!(matches!(run(&["serve", word, "--nonsense"], &[]), Ok(Command::Help)));
        }
        for word in ["-V", "--version"] {
            assert!(matches!(run(&[word], &[]), Ok(Command::Version)));
        }
        let command = run(&["--check-config", "--queue-max", "5"], &[]);
        assert!(matches!(command, Ok(Command::CheckConfig(it)) if it.limits.queue_max == 5));
        assert_eq!(served(&["serve", "--queue-max=5"], &[]).limits.queue_max, 5);
        assert!(run(&["--check-config", "--queue-max", "0"], &[]).is_err());
    }

    #[test]
    fn the_doctor_takes_the_servers_options_and_its_own() {
        let words = ["doctor", "--url=https://a/b", "--queue-max=5", "--idle", "90s"];
        match run(&words, &[("SIDESTREAM_TOKEN", "t")]) {
            Ok(Command::Doctor(arguments, Some(outside))) => {
                assert_eq!(arguments.limits.queue_max, 5);
                assert_eq!((outside.idle_ms, &*outside.server.base), (90_000, "/b"));
                assert_eq!(outside.token.as_deref(), Some("t"));
            }
            other => panic!("{other:?}"),
        }
        let bare = run(&["doctor"], &[("SIDESTREAM_URL", "http://a")]);
        assert!(matches!(bare, Ok(Command::Doctor(_, None))), "{bare:?}");
        assert!(matches!(run(&["tail", "-h"], &[]), Ok(Command::ClientHelp)));
        assert!(matches!(run(&["new", "/d"], &[]), Ok(Command::Client(_))));
    }

    #[test]
    fn what_is_unknown_doubled_or_without_its_value_is_named() {
        for (words, part) in [
            (&["--nonsense"][..], "`--nonsense` is not known, `sidestream --help` lists"),
            (&["--lisen=x"], "`--lisen` is not known, did you mean --listen?"),
            (&["--heart-beat", "1s"], "did you mean --heartbeat?"),
            (&["session"], "did you mean sessions?"),
            (&["doctr"], "did you mean doctor?"),
            (&["doctor", "--idle", "1m"], "--idle is about a way from outside"),
            (&["doctor", "--url", "x"], "--url: `x` is not a URL"),
            (&["doctor", "--url=http://a", "--idle=1"], "--idle: `1` is not a time"),
            (&["--url=http://a"], "`--url` is not known"),
            (&["tail", "--lisen"], "`--lisen` is not known to tail"),
            (&["--nonsense=1"], "`--nonsense` is not known"),
            (&["-x"], "`-x` is not known"),
            (&["start"], "`start` is not known"),
            (&["serve", "serve"], "`serve` is not known"),
            (&["--queue-max"], "--queue-max needs a value"),
            (&["--queue-max", "1", "--queue-max", "1"], "--queue-max was given twice"),
            (&["--raw-events", "--raw-events"], "--raw-events was given twice"),
            (&["--check-config=1"], "check-config"),
            (&["--log-format", "xml"], "--log-format: `xml` is not logfmt or json"),
            (&["--log-level", "loud"], "--log-level: `loud` is not error, warn, info or debug"),
            (&["--raw-events=maybe"], "--raw-events: `maybe` is not 1 or 0"),
        ] {
            let sentence = refused(words);
            assert!(sentence.contains(part), "{words:?}: {sentence}");
        }
    }

    #[test]
    fn a_variable_stands_in_for_its_option_and_the_option_wins() {
        let variables = [
            ("SIDESTREAM_QUEUE_MAX", "7"),
            ("SIDESTREAM_HEARTBEAT", ""),
            ("SIDESTREAM_LISTEN", "127.0.0.1:1, unix:/a b,"),
            ("SIDESTREAM_ROOT", "/a,b:/c"),
            ("SIDESTREAM_AGENT", "demo\nx=lines:a, b:c; d\n"),
            ("SIDESTREAM_AGENT_ENV", "A,B"),
            ("SIDESTREAM_TRUST_UID", "33,34"),
            ("SIDESTREAM_RAW_EVENTS", "yes"),
            ("SIDESTREAM_ALLOW_BYPASS", "1"),
            ("SIDESTREAM_ALLOW_PERSISTENT_RULES", "1"),
            ("SIDESTREAM_NODE", "n1"),
        ];
        let words = ["--trust-uid", "5", "--allow-bypass=0"];
        let arguments = served(&words, &variables);
        assert_eq!(arguments.limits.queue_max, 7);
        assert_eq!(arguments.limits.heartbeat_ms, 15_000);
        assert_eq!(arguments.listen, [tcp("127.0.0.1", 1), Listen::Unix("/a b".into())]);
        assert_eq!(arguments.roots, [PathBuf::from("/a,b"), PathBuf::from("/c")]);
        let command = "a, b:c; d".into();
        let lines = AgentArgument { name: "x".into(), dialect: DialectArgument::Lines { command } };
        assert_eq!(arguments.agents[1..], [lines]);
        assert_eq!(arguments.agent_env, ["A", "B"]);
        assert_eq!(arguments.trust_uids, [5]);
        assert!(arguments.raw_events && !arguments.allow_bypass && !arguments.listen_is_default);
        assert!(arguments.allow_persistent_rules && arguments.node == "n1");
        let bad = run(&[], &[("SIDESTREAM_QUEUE_MAX", "x")]).unwrap_err();
        assert_eq!(bad, "SIDESTREAM_QUEUE_MAX: `x` is not a number");
        // A bad variable that an option overrules is never read.
        assert!(run(&["--queue-max=1"], &[("SIDESTREAM_QUEUE_MAX", "x")]).is_ok());
    }

    #[test]
    fn a_variable_that_nobody_reads_is_told() {
        let names = [
            "HOME",
            "SIDESTREAM_HEARTBEET",
            "SIDESTREAM_URL",
            "SIDESTREAM_LISTEN",
            "SIDESTREAM_QUITE_ELSE",
        ];
        let told = strays(names.into_iter());
        assert_eq!(
            told,
            [
                "the variable SIDESTREAM_HEARTBEET is not known, did you mean SIDESTREAM_HEARTBEAT?",
                "the variable SIDESTREAM_QUITE_ELSE is not known",
            ]
        );
    }

    #[test]
    fn what_is_run_for_events_is_read_as_words_or_as_json() {
        let hooks = |words: &[&str], variables: &[(&str, &str)]| served(words, variables).on_event;
        let words = [
            "--on-event",
            "turn-done",
            "/bin/tell it now",
            "--on-event=session-closed",
            "[\"/bin/x\",\"a b\",\"\"]",
        ];
        let read = hooks(&words, &[]);
        assert_eq!(read[0].command, ["/bin/tell", "it", "now"]);
        assert_eq!(read[1].command, ["/bin/x", "a b", ""]);
        let lines = "turn-done a b\n approval-waiting\tc \n";
        let read = hooks(&[], &[("SIDESTREAM_ON_EVENT", lines)]);
        assert_eq!(read[0].command, ["a", "b"]);
        assert_eq!(read[1].command, ["c"]);
        assert_ne!(read[0].chosen, read[1].chosen);
        for (words, part) in [
            (&["--on-event", "turn-done"][..], "needs NAMES and COMMAND"),
            (&["--on-event", "turn-done", " "], "no command"),
            (&["--on-event", "turn-done", "[]"], "no command"),
            (&["--on-event", "turn-done", "[\"\"]"], "no command"),
            (&["--on-event", "nothing", "x"], "`nothing` is not one of turn-done"),
            (&["--on-event-tickets", "--on-event", "turn-done", "x"], "needs --public-url"),
            (&["--on-event-tickets", "--token-file=/t", "--public-url=https://a"], "--on-event"),
        ] {
            let sentence = refused(words);
            assert!(sentence.contains(part), "{words:?}: {sentence}");
        }
    }

    #[test]
    fn sizes_times_and_counts_are_read_as_written_or_refused() {
        for (text, want) in [
            ("0", Some(0)),
            ("65536", Some(65_536)),
            ("64KiB", Some(65_536)),
            ("1MiB", Some(1 << 20)),
            ("3GiB", Some(3 << 30)),
            ("7B", Some(7)),
            ("64kib", None),
            ("64KB", None),
            ("64 KiB", None),
            ("1.5MiB", None),
            ("-1", None),
            ("+1", None),
            ("", None),
            ("KiB", None),
            ("18446744073709551616", None),
            ("18446744073709551615GiB", None),
        ] {
            assert_eq!(bytes(text), want, "{text}");
        }
        for (text, want) in [
            ("0", Some(0)),
            ("500ms", Some(500)),
            ("15s", Some(15_000)),
            ("10m", Some(600_000)),
            ("2h", Some(7_200_000)),
            ("15", None),
            ("15S", None),
            ("1d", None),
            ("1m30s", None),
            ("s", None),
            ("18446744073709551615h", None),
        ] {
            assert_eq!(milliseconds(text), want, "{text}");
        }
        assert_eq!(
            refused(&["--heartbeat", "15"]),
            "--heartbeat: `15` is not a time such as 500ms, 15s, 10m or 2h"
        );
        assert_eq!(
            refused(&["--ring-size", "3MiB"]),
            "--ring-size: `3MiB` is not a power of two, 2MiB and 4MiB are"
        );
    }

    #[test]
    fn bounds_that_depend_on_each_other_follow_or_are_refused_together() {
        let limits = served(&["--agents-max", "1"], &[]).limits;
        assert_eq!((limits.agents_max, limits.agents_starting_max), (1, 1));
        let limits = served(&["--ring-size", "8MiB", "--body-size-max=64MiB"], &[]).limits;
        assert_eq!(limits.all_ring_size, 8 * MIB);
        assert_eq!((limits.bodies_size_max, limits.queue_size_max), (64 * MIB, 64 * MIB));
        let limits = served(&["--bodies-size-max", "1MiB"], &[]).limits;
        assert_eq!(limits.body_size_max, MIB);
        let sentence = refused(&["--agents-max", "1", "--agents-starting-max", "2"]);
        let want =
            "--agents-starting-max (2) is above --agents-max (1): starting agents are agents";
        assert_eq!(sentence, want);
        assert!(refused(&["--ring-size=2MiB", "--all-ring-size=1MiB"]).contains("must fit"));
    }

    #[test]
    fn addresses_to_listen_on_are_local_whole_and_different() {
        for (text, want) in [
            ("127.0.0.1:3010", Ok(tcp("127.0.0.1", 3010))),
            ("127.9.9.9:0", Ok(tcp("127.9.9.9", 0))),
            ("[::1]:65535", Ok(tcp("::1", 65_535))),
            ("localhost:80", Ok(tcp("localhost", 80))),
            ("unix:/run/a", Ok(Listen::Unix("/run/a".into()))),
            ("0.0.0.0:3010", Err("not on loopback, and serving others needs tokens")),
            ("[::]:3010", Err("--token-file")),
            ("192.168.1.2:3010", Err("sidestream token add")),
            ("example.com:80", Err("an address such as")),
            ("3010", Err("an address such as")),
            (":3010", Err("an address such as")),
            ("::1:3010", Err("an address such as")),
            ("[::1]", Err("an address such as")),
            ("[127.0.0.1]:80", Err("an address such as")),
            ("127.0.0.1:65536", Err("an address such as")),
            ("127.0.0.1:+80", Err("an address such as")),
            ("127.0.0.1:", Err("an address such as")),
            ("unix:", Err("an address such as")),
            ("", Err("an address such as")),
        ] {
            let got = run(&["--listen", text], &[]);
            match (got, want) {
                (Ok(Command::Serve(it)), Ok(want)) => assert_eq!(it.listen, [want]),
                (Err(sentence), Err(part)) => assert!(sentence.contains(part), "{sentence}"),
                (got, want) => panic!("{text}: {got:?} {want:?}"),
            }
        }
        let long = format!("unix:/{}", "x".repeat(107));
        assert!(refused(&["--listen", &long]).contains("at most 107 bytes"));
        let twice = ["--listen=localhost:1", "--listen=localhost:1"];
        assert!(refused(&twice).contains("came twice"));
        assert_eq!(served(&["--listen=localhost:0", "--listen=localhost:0"], &[]).listen.len(), 2);
    }

    #[test]
    fn whoever_lets_strangers_in_needs_tokens_and_is_told_the_cure() {
        for words in [
            &["--listen", "0.0.0.0:1"][..],
            &["--listen", "[::]:1"],
            &["--public-url", "https://a.example"],
            &["--allow-origin", "https://a.example"],
            &["--read-cookie"],
        ] {
            let sentence = refused(words);
            assert!(sentence.contains(words[0]), "{sentence}");
            assert!(sentence.contains("token add"), "{sentence}");
            let with = [words, &["--token-file", "/t"]].concat();
            assert_eq!(served(&with, &[]).token_file, Some("/t".into()));
        }
        served(&["--read-cookie=0"], &[]);
    }

    #[test]
    fn a_public_url_is_an_origin_a_host_and_a_base_path() {
        let url = |text: &str| {
            let words = ["--token-file=/t", "--public-url", text];
            let arguments = served(&words, &[]);
            let url = arguments.public_url.clone().unwrap();
            assert_eq!(url.base, arguments.base_path);
            (url.origin, url.host, url.base)
        };
        let told = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        assert_eq!(url("https://A.example"), told("https://a.example", "a.example", ""));
        assert_eq!(url("https://a.example:443/"), told("https://a.example", "a.example", ""));
        assert_eq!(url("http://[::1]:80/x/y/"), told("http://[::1]", "[::1]", "/x/y"));
        assert_eq!(url("https://a:8443/b"), told("https://a:8443", "a", "/b"));
        for text in [
            "a.example",
            "ftp://a",
            "https://",
            "https://a:b",
            "https://a:70000",
            "https://u@a",
            "https://a?x",
            "https://a/b?x",
            "https://a/../b",
            "https://[::1",
            "https://[::1]é",
        ] {
            let sentence = refused(&["--token-file=/t", "--public-url", text]);
            assert!(sentence.contains("--public-url"), "{sentence}");
        }
        let both = ["--token-file=/t", "--public-url=https://a/b", "--base-path=/c"];
        assert!(refused(&both).contains("--base-path"));
        for (text, want) in [
            ("https://APP.example:443", Some("https://app.example")),
            ("http://localhost:5173/", Some("http://localhost:5173")),
            ("null", None),
            ("*", None),
            ("https://a/b", None),
        ] {
            let words = ["--token-file=/t", "--allow-origin", text];
            match (run(&words, &[]), want) {
                (Ok(Command::Serve(it)), Some(want)) => assert_eq!(it.allow_origins, [want]),
                (Err(sentence), None) => assert!(sentence.contains("origin"), "{sentence}"),
                (got, want) => panic!("{text}: {got:?} {want:?}"),
            }
        }
    }

    #[test]
    fn a_token_is_added_by_name_and_scope() {
        let words = ["token", "add", "phone", "answer", "--token-file", "/t"];
        match run(&words, &[]) {
            Ok(Command::AddToken(arguments, name, scope)) => {
                assert_eq!((&*name, scope), ("phone", Scope::Answer));
                assert_eq!(arguments.token_file, Some("/t".into()));
            }
            other => panic!("{other:?}"),
        }
        assert!(refused(&["token"]).contains("token add NAME SCOPE"));
        assert!(refused(&["token", "add", "phone"]).contains("token add NAME SCOPE"));
        assert!(refused(&["token", "remove", "a", "read"]).contains("token add NAME SCOPE"));
        assert!(refused(&["token", "add", "a", "write"]).contains("read, answer or full"));
        assert!(refused(&["token", "add", "a", "read", "b"]).contains("`b`"));
    }

    #[test]
    fn agents_have_distinct_names_and_a_dialect_with_what_it_needs() {
        let claude = |path: Option<&str>| DialectArgument::Claude { path: path.map(String::from) };
        let lines = |command: &str| DialectArgument::Lines { command: command.into() };
        for (text, name, dialect) in [
            ("claude", "claude", claude(None)),
            ("claude:/opt/a=b:c", "claude", claude(Some("/opt/a=b:c"))),
            ("opus=claude:/x", "opus", claude(Some("/x"))),
            ("lines:tr a-z A-Z", "lines", lines("tr a-z A-Z")),
            ("lines:A=b env", "lines", lines("A=b env")),
            ("a.b_c-1=lines:x:y", "a.b_c-1", lines("x:y")),
            ("demo", "demo", DialectArgument::Demo),
            ("try=demo", "try", DialectArgument::Demo),
        ] {
            let want = AgentArgument { name: name.into(), dialect };
            assert_eq!(served(&["--agent", text], &[]).agents, [want], "{text}");
        }
        for text in ["", "x", "claude:", "lines", "lines:", "lines: ", "demo:x", "=demo", "x="] {
            assert!(refused(&["--agent", text]).starts_with("--agent: `"), "{text}");
        }
        assert!(refused(&["--agent", "a b=demo"]).contains("its NAME may hold"));
        let long = format!("{}=demo", "x".repeat(65));
        assert!(refused(&["--agent", &long]).contains("its NAME may hold"));
        let twice = refused(&["--agent=lines:a", "--agent=lines:b"]);
        assert!(twice.contains("`lines` is taken"), "{twice}");
        let two = served(&["--agent=lines:a", "--agent=b=lines:b"], &[]).agents;
        assert_eq!(two.len(), 2);
    }

    #[test]
    fn durability_is_one_of_three() {
        assert_eq!(served(&["--durability=memory"], &[]).durability, Durability::Memory);
        assert_eq!(served(&["--durability=write"], &[]).durability, Durability::Write);
        assert_eq!(served(&["--durability=sync"], &[]).durability, Durability::Sync);
        assert!(refused(&["--durability", "none"]).contains("memory, write or sync"));
    }

    #[test]
    fn base_paths_names_and_user_ids_are_plain_or_refused() {
        for (text, want) in
            [("/a", "/a"), ("/a/b/", "/a/b"), ("/", ""), ("", ""), ("/a-b.c_d~", "/a-b.c_d~")]
        {
            assert_eq!(served(&["--base-path", text], &[]).base_path, want);
        }
        for text in ["a", "/a//b", "//", "/a/..", "/.", "/a b", "/%41", "/a?b", "/a#b", "/\u{e9}"] {
            assert!(refused(&["--base-path", text]).contains("a path such as"), "{text}");
        }
        for text in ["", "1A", "A-B", "A=B", "A B"] {
            assert!(refused(&["--agent-env", text]).contains("name of a variable"), "{text}");
        }
        for text in ["", "-1", "www-data", "4294967295", "4294967296"] {
            assert!(refused(&["--trust-uid", text]).contains("a user id"), "{text}");
        }
        for name in ["a", "n1", "eu2west1", "abcdefghijklmnop"] {
            assert_eq!(served(&["--node", name], &[]).node, name);
        }
        for name in ["", "1", "1n", "N1", "n-1", "n.1", "n_1", "\u{e9}", "abcdefghijklmnopq"] {
            assert!(refused(&["--node", name]).contains("a name such as n1"), "{name}");
        }
        assert!(served(&[], &[]).node.is_empty() && !served(&[], &[]).allow_persistent_rules);
        assert!(refused(&["--token-file", ""]).contains("is not a file"));
        for text in ["/session", "/api", "/api/session/"] {
            let sentence = refused(&["--base-path", text]);
            assert!(sentence.contains("is taken"), "{sentence}");
        }
        assert!(refused(&["--token-file=/t", "--public-url=https://a/api"]).contains("/api/"));
        assert!(refused(&["--root", ""]).contains("a directory"));
        assert!(refused(&["--data-dir="]).contains("a directory"));
    }

    #[test]
    fn bytes_that_are_no_text_are_kept_in_paths_and_refused_elsewhere() {
        use std::os::unix::ffi::OsStringExt;
        let odd = OsString::from_vec(b"/\xff".to_vec());
        let command = parse(["--root".into(), odd.clone()], |_| None).unwrap();
        assert!(matches!(command, Command::Serve(it) if it.roots == [PathBuf::from(&odd)]));
        let sentence = parse(["--agent".into(), odd], |_| None).unwrap_err();
        assert!(sentence.ends_with("is not text in UTF-8"), "{sentence}");
    }
}
