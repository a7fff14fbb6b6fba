//! From the command line to a running server: everything that is looked at once.
//!
//! What is wrong is found before a port is taken, and told in one sentence that names it. The
//! order matters: limits, directories, agents, addresses, then the process itself.

use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sidestream::arguments::{
    self, AgentArgument, Arguments, DialectArgument, HookArgument, Listen, LogLevel,
};
use sidestream::core::access::tokens::{self, Scope, Tokens};
use sidestream::core::access::{Access, PublicUrl};
use sidestream::core::effect::{Level, Program};
use sidestream::core::server::{AgentConfig, Birth, Config, Dialect, End, Server};
use sidestream::limits::{Limits, MIB, mebibytes};
use sidestream::shell::clock::Clock;
use sidestream::shell::holders::Program as Running;
use sidestream::shell::journal::Refusal;
use sidestream::shell::log::Log;
use sidestream::shell::net;
use sidestream::shell::notify::{self, Notifier};
use sidestream::shell::peer::Peers;
use sidestream::shell::reactor::{Parts, Reactor, Surroundings};
use sidestream::shell::{disk, hooks, journal, private, process, sys, token_file, trust};
use sidestream::wire::sse::Epoch;

/// This program's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The CLI's own joining of deltas, in milliseconds: fewer lines to read than if we joined them.
const HOLD_VARIABLE: &str = "CLAUDE_CODE_STREAM_EVENT_HOLD_MS";
const CLAUDE_MISSING: &str = "claude was not found on the PATH, in ~/.local/bin, \
    ~/.claude/local or nvm; install it with `npm install -g @anthropic-ai/claude-code`";

/// What the operator's words come to on this machine.
struct Plan {
    arguments: Arguments,
    limits: Limits,
    tokens: Tokens,
    roots: Arc<[PathBuf]>,
    agents: Vec<AgentConfig>,
    commands: Vec<String>,
    /// What is run for events: programs, resolved, and their arguments.
    hooks: Vec<(PathBuf, Vec<String>)>,
    /// The descriptors' limits that we were started with: agents get them back.
    nofile: (u64, u64),
}

/// Looks at everything that a start needs, and starts nothing: beside a running server, too.
pub fn check(arguments: Arguments) -> Result<(), String> {
    let plan = plan(arguments)?;
    data_dir(&plan.arguments).map(drop)
}

/// Serves until told to stop.
pub fn serve(arguments: Arguments) -> Result<io::Result<End>, Refusal> {
    sys::bound_allocator();
    let system =
        |error: io::Error| Refusal::of(format!("the system refuses a start: {error}"), &error);
    // Journals are written before other signals are seen to.
    sys::ignore_signal(sys::SIGXFSZ).map_err(system)?;
    let mut plan = plan(arguments)?;
    let state = State::open(data_dir(&plan.arguments)?)?;
    let opened = plan.open(&state)?;
    plan.limits.sessions_found = u32::try_from(opened.sessions.len()).unwrap_or(u32::MAX);
    plan.limits.check()?;
    let shared = !plan.arguments.trust_uids.is_empty();
    let arguments = &plan.arguments;
    let variables = |name: &str| env::var_os(name);
    let notifier = Notifier::new(variables)?;
    let mut listeners = inherited(&plan)?;
    // The default is for whoever said nothing; sockets that were handed over say it.
    if listeners.is_empty() || !arguments.listen_is_default {
        listeners.extend(net::bind(&arguments.listen, arguments.listen_is_default, shared)?);
    }
    // With tokens nobody is let in on the kernel's word.
    let tcp = listeners.iter().any(|listener| listener.local().is_some());
    if tcp && !plan.tokens.are_wanted() {
        Peers::new().probe().map_err(|error| {
            format!(
                "the kernel does not say who connects over TCP ({error}); \
                 listen on a Unix socket, --listen unix:/path, or start with --token-file"
            )
        })?;
    }
    sys::become_subreaper().map_err(system)?;
    sys::forbid_dumps().map_err(system)?;
    sweep(&state.id);
    let banner = plan.banner(&state);
    let parts = plan.parts(&state, listeners, notifier, opened)?;
    let reactor = Reactor::new(parts).map_err(system)?;
    announce(banner, &reactor);
    let end = reactor.run();
    drop(state); // The lock is held to here.
    Ok(end)
}

/// The sockets that a service manager opened for us. The rule for those of our own holds for them.
fn inherited(plan: &Plan) -> Result<Vec<net::Listener>, String> {
    let mut listeners = Vec::new();
    for (fd, name) in notify::inherited(|name| env::var_os(name))? {
        let listener = net::adopt(fd, &name)?;
        let strange = listener.local().filter(|address| !address.ip().to_canonical().is_loopback());
        if let Some(address) = strange.filter(|_| !plan.tokens.are_wanted()) {
            return Err(format!(
                "the socket `{name}` that was handed over is open at {address}, not on loopback, \
                 and serving others needs tokens: make one with `sidestream token add NAME SCOPE` \
                 and start with --token-file"
            ));
        }
        listeners.push(listener);
    }
    Ok(listeners)
}

fn plan(mut arguments: Arguments) -> Result<Plan, String> {
    let system = |error: io::Error| format!("the limit on open files cannot be read: {error}");
    let nofile = sys::nofile().map_err(system)?;
    let _ = sys::set_nofile(nofile.1, nofile.1); // Else what we have must do: `fit` says if not.
    let mut limits = std::mem::take(&mut arguments.limits);
    limits.check()?;
    limits.fit(sys::nofile().map_err(system)?.0)?;
    let tokens = match &arguments.token_file {
        Some(path) => token_file::read(path)?,
        None => Tokens::default(),
    };
    let roots = roots(&arguments)?.into();
    let (agents, commands) = agents(&arguments.agents);
    let names: Vec<String> =
        env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect();
    for sentence in arguments::strays(names.iter().map(String::as_str)) {
        super::tell(&sentence);
    }
    let hooks = arguments.on_event.iter().map(hook).collect::<Result<_, String>>()?;
    Ok(Plan { arguments, limits, tokens, roots, agents, commands, hooks, nofile })
}

impl Plan {
    /// Opens the journals: from here on the data directory knows of this start.
    fn open(&self, state: &State) -> Result<journal::Opened, Refusal> {
        let opened =
            journal::open(&state.path, self.arguments.durability, Epoch::new(random_word()?))?;
        for sentence in &opened.set_aside {
            super::tell(&format!("a session is left out: {sentence}"));
        }
        for sentence in &opened.damaged {
            super::tell(&format!("an event is lost: {sentence}"));
        }
        Ok(opened)
    }

    fn parts(
        self,
        state: &State,
        listeners: Vec<net::Listener>,
        notifier: Option<Notifier>,
        opened: journal::Opened,
    ) -> Result<Parts, String> {
        let clock = Clock::new();
        let own_program = own_program()?;
        let birth = Birth {
            seed: random_word()?,
            epochs: opened.epochs,
            now_ms: clock.now_ms(),
            wall_ms: clock.wall_ms(),
        };
        let environment = environment(&self.arguments.agent_env, self.limits.delta_hold_ms);
        let hooks = hooks::Surroundings {
            commands: self.hooks,
            own_program: own_program.clone(),
            environment: hook_environment(),
            marker_prefix: state.id.clone(),
            nofile: self.nofile,
        };
        let (arguments, mut tokens) = (self.arguments, self.tokens);
        if arguments.read_cookie && tokens.are_wanted() {
            token_file::read_cookies(&state.path, &mut tokens)?;
        }
        let public_place =
            arguments.public_url.as_ref().map(|url| format!("{}{}", url.origin, url.base));
        let ticket_key = arguments.on_event_tickets.then(random).transpose()?;
        let trusted_dirs = disk::canonical_roots(&arguments.trust)
            .map_err(|(path, error)| format!("--trust {}: {error}", path.display()))?;
        let trusted = trust::load(&state.path)
            .map_err(|error| private::failed(&state.path.join("trust"), &error))?;
        let config = Config {
            agents: self.agents,
            commands: self.commands,
            access: Access {
                own_uid: sys::effective_uid(),
                trusted_uids: arguments.trust_uids,
                tokens,
                public: arguments
                    .public_url
                    .map(|url| PublicUrl { origin: url.origin, host: url.host }),
                allowed_origins: arguments.allow_origins,
                read_cookie: arguments.read_cookie,
                allow_agent_access: arguments.allow_agent_access,
                trusted_proxies: arguments.trusted_proxies,
            },
            base_path: arguments.base_path,
            allow_bypass: arguments.allow_bypass,
            allow_persistent_rules: arguments.allow_persistent_rules,
            node: arguments.node,
            raw_events: arguments.raw_events,
            trusted_dirs,
            trusted,
            roots: self.roots.to_vec(),
            hooks: arguments.on_event.iter().map(|hook| hook.chosen).collect(),
            public_place,
            ticket_key,
            log_level: level(arguments.log_level),
            version: VERSION,
        };
        let mut server = Server::new(self.limits, config, birth);
        server.restore(opened.sessions);
        if let Some(failing) = opened.failing {
            server.begin_failing(failing.sentence, &failing.session_ids);
        }
        Ok(Parts {
            server,
            store: opened.store,
            clock,
            notifier,
            hooks,
            log: Log::new(level(arguments.log_level), arguments.log_format),
            listeners,
            agents: Surroundings {
                own_program,
                roots: self.roots.clone(),
                data_dir: state.path.clone(),
                environment,
                marker_prefix: state.id.clone(),
                nofile: self.nofile,
            },
            disk: disk::Surroundings {
                roots: self.roots,
                data_dir: state.path.clone(),
                marker_prefix: state.id.clone(),
                token_file: arguments.token_file,
            },
        })
    }

    /// What the operator is told at the start, but for the addresses.
    fn banner(&self, state: &State) -> String {
        let mut text = format!("sidestream {VERSION}\n");
        for (number, agent) in self.agents.iter().enumerate() {
            let what = match (&agent.program, agent.dialect) {
                (Err(sentence), _) => format!("NOT USABLE: {sentence}"),
                (Ok(_), Dialect::Lines) => format!("lines, {}", self.commands[number]),
                (Ok(Program::Path(path)), _) => path.display().to_string(),
                (Ok(Program::Demo), _) => "built in".into(),
            };
            let default = if number == 0 { " (default)" } else { "" };
            text += &format!("agent {}{default}: {what}\n", agent.name);
        }
        if self.agents.first().is_some_and(|agent| agent.dialect == Dialect::Demo) {
            text += DEMO_NOTICE;
        }
        for root in self.roots.iter() {
            text += &format!("root: {}\n", root.display());
        }
        text += &format!("data directory: {}\n", state.path.display());
        let limits = &self.limits;
        text += &format!(
            "memory bound: {} MiB (",
            mebibytes(limits.memory(self.arguments.durability)),
        );
        // The largest first: what is below a MiB is in the sum.
        let mut terms = limits.terms(self.arguments.durability);
        terms.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        terms.retain(|(_, bytes)| *bytes >= MIB as u64);
        let terms = terms.iter().map(|(name, bytes)| format!("{name} {}", mebibytes(*bytes)));
        text += &terms.collect::<Vec<_>>().join(", ");
        text += &format!("; {} clients, {} agents)\n", limits.connections_max, limits.agents_max);
        if limits.sessions_found > limits.sessions_max {
            text += &format!(
                "note: there are {} sessions, more than --sessions-max {}: all are served, and none \
                 is created until fewer are left\n",
                limits.sessions_found, limits.sessions_max
            );
        }
        if self.tokens.are_wanted() {
            text += "note: everybody needs a token; make one with `sidestream token add`\n";
        } else if sys::effective_uid() == 0 {
            text += "note: running as root, so whatever runs as root is served, proxies too\n";
        }
        if !process::proc_available() {
            text += "note: no /proc here, so what agents leave behind is not found\n";
        }
        text
    }
}

fn random_word() -> Result<u64, String> {
    random().map(u64::from_ne_bytes)
}

fn random<const SIZE: usize>() -> Result<[u8; SIZE], String> {
    let mut bytes = [0; SIZE];
    getrandom::fill(&mut bytes)
        .map_err(|error| format!("the system has no random numbers: {error}"))?;
    Ok(bytes)
}

/// Makes a token, appends its hash to the file, and says the token: once, and to nobody else.
pub fn add_token(arguments: &Arguments, name: &str, scope: Scope) -> Result<String, String> {
    let file = match &arguments.token_file {
        Some(file) => file.clone(),
        None => data_dir(arguments)?.join("tokens"),
    };
    let token = tokens::text(&random()?);
    token_file::append(&file, name, scope, &token)?;
    let base = match &arguments.public_url {
        Some(url) => format!("{}{}", url.origin, url.base),
        None => arguments.listen.iter().find_map(local_url).unwrap_or_default(),
    };
    Ok(format!(
        "{token}\n\nThis is the token of {name}, scope {}. It is not shown again and not kept.\n\
         Log in at {base}/login#{token}\n\
         Servers started with --token-file {} know it from their next start or SIGHUP on.\n",
        scope.as_str(),
        file.display(),
    ))
}

/// How this machine reaches an address that we would listen on.
fn local_url(listen: &Listen) -> Option<String> {
    match listen {
        Listen::Unix(_) => None,
        Listen::Tcp(host, port) if listen.is_local() && host.contains(':') => {
            Some(format!("http://[{host}]:{port}"))
        }
        Listen::Tcp(host, port) if listen.is_local() => Some(format!("http://{host}:{port}")),
        Listen::Tcp(_, port) => Some(format!("http://localhost:{port}")),
    }
}

const DEMO_NOTICE: &str = "
  *****************************************************************
  **  DEMO AGENT: canned answers, runs nothing                   **
  **  For the real one: npm install -g @anthropic-ai/claude-code **
  *****************************************************************

";

fn announce(mut banner: String, reactor: &Reactor) {
    let names: Vec<String> = reactor.listening().collect();
    if let Some(line) = env::var("SSH_CONNECTION").ok().and_then(|ssh| tunnel(&ssh, &names)) {
        banner += &line;
    }
    for name in names {
        banner += &format!("listening on {name}\n");
    }
    super::print(&banner);
}

/// How whoever sits at the other end of an SSH connection gets here: its variable has the client's
/// address and port, then ours.
fn tunnel(ssh: &str, names: &[String]) -> Option<String> {
    let [_, _, host, ssh_port] = ssh.split(' ').collect::<Vec<_>>()[..] else { return None };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".:%_-".contains(&byte);
    if !host.bytes().chain(ssh_port.bytes()).all(plain) {
        return None;
    }
    let local = names.iter().find_map(|name| name.strip_prefix("http://127.0.0.1:"))?;
    let user = env::var("USER").ok().filter(|user| !user.is_empty() && user.bytes().all(plain));
    let user = user.map(|user| format!("{user}@")).unwrap_or_default();
    let port = if ssh_port == "22" { String::new() } else { format!("-p {ssh_port} ") };
    Some(format!(
        "from your own machine: ssh -N -L {local}:localhost:{local} {port}{user}{host}\n\
         and then open: http://localhost:{local}\n"
    ))
}

fn level(level: LogLevel) -> Level {
    match level {
        LogLevel::Error => Level::Error,
        LogLevel::Warn => Level::Warn,
        LogLevel::Info => Level::Info,
        LogLevel::Debug => Level::Debug,
    }
}

/// An absolute path from a variable; the rules of XDG and plain sense alike ignore others.
fn path_variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

// Agents

pub fn agents(asked: &[AgentArgument]) -> (Vec<AgentConfig>, Vec<String>) {
    if asked.is_empty() {
        return (vec![default_agent()], vec![String::new()]);
    }
    asked.iter().map(agent).unzip()
}

/// Claude if it is here; else the demo, unless somebody counts on Claude.
fn default_agent() -> AgentConfig {
    let claude = find_claude("claude");
    let counted_on = env::var_os("INVOCATION_ID").is_some()
        || path_variable("HOME").is_some_and(|home| home.join(".claude").is_dir());
    if claude.is_err() && !counted_on {
        let program = Ok(Program::Demo);
        return AgentConfig { name: "demo".into(), dialect: Dialect::Demo, program };
    }
    AgentConfig { name: "claude".into(), dialect: Dialect::Claude, program: claude }
}

fn agent(asked: &AgentArgument) -> (AgentConfig, String) {
    let (dialect, program, command) = match &asked.dialect {
        DialectArgument::Claude { path } => {
            let program = find_claude(path.as_deref().unwrap_or("claude"));
            (Dialect::Claude, program, String::new())
        }
        DialectArgument::Lines { command } => {
            (Dialect::Lines, Ok(Program::Path("/bin/sh".into())), command.clone())
        }
        DialectArgument::Demo => (Dialect::Demo, Ok(Program::Demo), String::new()),
    };
    (AgentConfig { name: asked.name.clone(), dialect, program }, command)
}

fn find_claude(name: &str) -> Result<Program, String> {
    let home = path_variable("HOME");
    let found = process::find_program(name, env::var_os("PATH").as_deref(), home.as_deref());
    found.map(Program::Path).ok_or_else(|| match name {
        "claude" => CLAUDE_MISSING.into(),
        _ => format!("{name} is not an executable file; name one with --agent claude:/PATH"),
    })
}

fn environment(extra: &[String], delta_hold_ms: u64) -> Vec<(OsString, OsString)> {
    let mut environment = process::environment(env::vars_os(), extra);
    if environment.iter().all(|(name, _)| name != HOLD_VARIABLE) {
        environment.push((HOLD_VARIABLE.into(), delta_hold_ms.to_string().into()));
    }
    environment
}

/// A command of the operator's as it will be run.
fn hook(asked: &HookArgument) -> Result<(PathBuf, Vec<String>), String> {
    let [name, arguments @ ..] = &*asked.command else {
        return Err("--on-event: no command".into());
    };
    let home = path_variable("HOME");
    let found = process::find_program(name, env::var_os("PATH").as_deref(), home.as_deref());
    let program = found.ok_or_else(|| format!("--on-event: {name} is not an executable file"))?;
    Ok((program, arguments.to_vec()))
}

/// What such a command knows of ours: where programs are, and whose home it is.
fn hook_environment() -> Vec<(OsString, OsString)> {
    let kept = ["PATH", "HOME", "LANG"];
    kept.iter().filter_map(|name| Some(((*name).into(), env::var_os(name)?))).collect()
}

/// Ourselves, to be started as the shim. By `/proc` it stays right when the file is replaced.
fn own_program() -> Result<PathBuf, String> {
    let by_proc = PathBuf::from("/proc/self/exe");
    if by_proc.exists() {
        return Ok(by_proc);
    }
    let name = env::args_os().next().unwrap_or_default();
    let found =
        process::find_program(&name.to_string_lossy(), env::var_os("PATH").as_deref(), None);
    found.ok_or_else(|| "the path of this program is not known; start it by its path".into())
}

/// Ends what a predecessor left when it was killed. Whoever started us is spared: it may be an
/// agent's shell that restarts its own server.
fn sweep(id: &str) {
    let mut ancestors = Vec::new();
    let mut ancestor = sys::parent();
    while ancestor > 1 && !ancestors.contains(&ancestor) {
        ancestors.push(ancestor);
        ancestor = process::parent_of(ancestor).unwrap_or(0);
    }
    process::sweep(id, None, &|pid| ancestors.contains(&pid));
}

// Directories

pub fn roots(arguments: &Arguments) -> Result<Vec<PathBuf>, String> {
    let mut asked = arguments.roots.clone();
    if asked.is_empty() {
        asked.push(path_variable("HOME").ok_or(
            "HOME is not set; name the directories that sessions may work in with --root DIR",
        )?);
    }
    disk::canonical_roots(&asked).map_err(|(path, error)| {
        format!("the root {} cannot be used: {error}; choose one with --root DIR", path.display())
    })
}

/// Where state is kept, whether or not it is there.
pub fn data_dir_path(arguments: &Arguments) -> Result<PathBuf, String> {
    let state_home = || {
        let home = || path_variable("HOME").map(|home| home.join(".local/state"));
        path_variable("XDG_STATE_HOME").or_else(home).map(|home| home.join("sidestream"))
    };
    let path = arguments.data_dir.clone().or_else(state_home);
    path.ok_or_else(|| {
        "neither XDG_STATE_HOME nor HOME is set; name the data directory with --data-dir DIR".into()
    })
}

/// Makes the data directory if it is not there, and makes sure that it is ours alone.
pub fn data_dir(arguments: &Arguments) -> Result<PathBuf, String> {
    let path = data_dir_path(arguments)?;
    let refuse = |why: &dyn std::fmt::Display| {
        format!("the data directory {} cannot be used: {why}", path.display())
    };
    DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(|error| refuse(&error))?;
    let path = fs::canonicalize(&path).map_err(|error| refuse(&error))?;
    let directory = fs::metadata(&path).map_err(|error| refuse(&error))?;
    if directory.uid() != sys::effective_uid() {
        return Err(refuse(&format!("it belongs to uid {}", directory.uid())));
    }
    if directory.mode() & 0o022 != 0 {
        return Err(refuse(&"others may write to it; chmod 700 it"));
    }
    if directory.mode() & 0o077 != 0 {
        // Whoever made it did not know what it is for, systemd with its 0755 for one.
        fs::set_permissions(&path, Permissions::from_mode(0o700)).map_err(|it| refuse(&it))?;
    }
    Ok(path)
}

/// The data directory while it is ours.
struct State {
    path: PathBuf,
    /// Random, made once: by it agents of this directory are told from others'.
    id: String,
    /// Held by us alone until it is dropped.
    _lock: File,
}

impl State {
    fn open(path: PathBuf) -> Result<State, Refusal> {
        let lock = lock(&path)?.ok_or_else(|| {
            let holder = lock_holder(&path).unwrap_or_default();
            let holder = holder.trim();
            let command = holder.parse().map(|pid| Running::of(pid).command).unwrap_or_default();
            format!(
                "the data directory {} is in use by another sidestream, process {holder}; \
                 end it (`{command}`), or choose another with --data-dir DIR",
                path.display(),
            )
        })?;
        let id = id(&path)?;
        Ok(State { path, id, _lock: lock })
    }
}

/// Locks the directory and writes our number into the lock; `None` if another has it.
fn lock(path: &Path) -> Result<Option<File>, Refusal> {
    let path = path.join("lock");
    let refuse = |error: io::Error| Refusal::of(private::failed(&path, &error), &error);
    let opened = private::open(&path, private::writing().create(true).truncate(false));
    let mut file = opened.map_err(refuse)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(refuse(error)),
    }
    let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(refuse)?;
    Ok(Some(file))
}

/// What whoever has the lock wrote into it: its number.
pub fn lock_holder(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    private::read(&path.join("lock"))?.take(64).read_to_string(&mut text)?;
    Ok(text)
}

/// The directory's id: read, or made.
fn id(path: &Path) -> Result<String, Refusal> {
    let path = path.join("id");
    id_in(&path).map_err(|error| Refusal::of(private::failed(&path, &error), &error))
}

/// A torn one cannot be: it gets its name when it is whole.
fn id_in(name: &Path) -> io::Result<String> {
    const LENGTH: usize = 32;
    let mut text = String::new();
    match private::read(name).and_then(|file| file.take(64).read_to_string(&mut text)) {
        Ok(_) => {
            let id = text.trim_end();
            if id.len() == LENGTH && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Ok(id.to_owned());
            }
            let why = "it does not hold an id; remove it";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut random = [0; LENGTH / 2];
    getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
    let id: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let draft = name.with_added_extension("new");
    let mut file = private::open(&draft, private::writing().create(true).truncate(true))?;
    file.write_all(format!("{id}\n").as_bytes())?;
    file.sync_all()?;
    fs::rename(draft, name)?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_came_by_ssh_is_told_the_way_back() {
        let names = ["unix:/s".to_owned(), "http://127.0.0.1:3010".to_owned()];
        let line = tunnel("198.51.100.7 50000 203.0.113.5 22", &names).unwrap();
        assert!(line.contains("ssh -N -L 3010:localhost:3010 "), "{line}");
        assert!(line.contains("203.0.113.5\n") && !line.contains("-p "), "{line}");
        assert!(tunnel("a 1 203.0.113.5 2222", &names).unwrap().contains(" -p 2222 "));
        assert_eq!(tunnel("a 1 203.0.113.5 22", &names[..1]), None);
        assert_eq!(tunnel("a 1 $(x) 22", &names), None);
        assert_eq!(tunnel("", &names), None);
    }

    fn scratch(name: &str) -> PathBuf {
        let name = format!("sidestream-start-{name}-{}", std::process::id());
        let path = env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn a_data_directory_is_made_for_us_alone_and_keeps_its_id() {
        let path = scratch("id").join("a/b");
        let arguments = Arguments { data_dir: Some(path.clone()), ..Arguments::default() };
        let state = State::open(data_dir(&arguments).unwrap()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        for file in ["lock", "id"] {
            assert_eq!(fs::metadata(path.join(file)).unwrap().mode() & 0o777, 0o600, "{file}");
        }
        let id = state.id.clone();
        drop(state);
        assert_eq!(State::open(path.clone()).unwrap().id, id);
        fs::write(path.join("id"), "torn").unwrap();
        assert!(State::open(path.clone()).map(drop).unwrap_err().sentence.contains("remove it"));
        fs::remove_dir_all(scratch("id")).unwrap_or_default();
    }

    #[test]
    fn a_second_server_on_one_data_directory_is_refused_with_the_firsts_number() {
        let path = scratch("lock");
        let arguments = Arguments { data_dir: Some(path.clone()), ..Arguments::default() };
        let first = State::open(data_dir(&arguments).unwrap()).unwrap();
        let sentence = State::open(path.clone()).map(drop).unwrap_err().sentence;
        let number = format!("process {};", std::process::id());
        assert!(sentence.contains(&number) && sentence.contains("--data-dir"), "{sentence}");
        drop(first);
        assert!(State::open(path.clone()).is_ok());
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_data_directory_that_others_may_write_to_is_refused() {
        let path = scratch("open");
        DirBuilder::new().mode(0o700).create(&path).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(&path, mode).unwrap();
        let arguments = Arguments { data_dir: Some(path.clone()), ..Arguments::default() };
        assert!(data_dir(&arguments).unwrap_err().contains("chmod 700"));
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_data_directory_that_others_may_read_is_closed_to_them() {
        let path = scratch("closed");
        DirBuilder::new().mode(0o755).create(&path).unwrap();
        let arguments = Arguments { data_dir: Some(path.clone()), ..Arguments::default() };
        data_dir(&arguments).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_root_that_is_not_there_is_refused_by_name() {
        let gone = scratch("gone");
        let arguments = Arguments { roots: vec![gone.clone()], ..Arguments::default() };
        let sentence = roots(&arguments).unwrap_err();
        assert!(sentence.contains(&gone.display().to_string()) && sentence.contains("--root"));
    }

    #[test]
    fn every_agent_that_is_asked_for_is_there_with_its_command_even_if_it_cannot_run() {
        let asked = |name: &str, dialect| AgentArgument { name: name.into(), dialect };
        let (agents, commands) = agents(&[
            asked("a", DialectArgument::Claude { path: Some("/none/claude".into()) }),
            asked("b", DialectArgument::Lines { command: "tr a b".into() }),
            asked("c", DialectArgument::Demo),
        ]);
        assert_eq!(commands, ["", "tr a b", ""]);
        assert!(agents[0].program.as_ref().unwrap_err().contains("/none/claude"));
        assert_eq!(agents[1].program, Ok(Program::Path("/bin/sh".into())));
        assert_eq!(agents[2].program, Ok(Program::Demo));
    }

    #[test]
    fn the_operators_own_delta_hold_wins_over_ours() {
        let hold = |environment: Vec<(OsString, OsString)>| {
            let held = environment.into_iter().filter(|(name, _)| name == HOLD_VARIABLE);
            held.map(|(_, value)| value).collect::<Vec<_>>()
        };
        let expected = env::var_os(HOLD_VARIABLE).unwrap_or("70".into());
        assert_eq!(hold(environment(&[], 70)), [expected]);
    }
}
