//! Everything that is measured, started alike: a process on a core of its own that tells its port,
//! and a way to have it publish an event.

use crate::floors::Floor;
use crate::http;
use crate::machine;
use crate::wire;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take to say where it listens.
const PATIENCE: Duration = Duration::from_secs(30);

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The floor of single events.
    SendFloor,
    /// The floor of bursts.
    CoalescedFloor,
    /// The floor of idle clients.
    IdleFloor,
    /// The floor of the way from a pipe to a socket.
    RelayFloor,
    /// sidestream, with its journal.
    Sidestream,
    /// sidestream with `--durability memory`.
    SidestreamMemory,
    /// Express with an EventEmitter as bus.
    Express,
    /// Express with better-sse.
    BetterSse,
    /// axum over a broadcast channel.
    Axum,
    /// actix-web with a channel per client.
    Actix,
    /// Go's net/http with a channel per client.
    Go,
    /// nginx with nchan.
    Nchan,
}

/// The peers, in the order of the tables.
pub const PEERS: [Kind; 6] =
    [Kind::Express, Kind::BetterSse, Kind::Axum, Kind::Actix, Kind::Go, Kind::Nchan];

impl Kind {
    /// The name in tables and in the JSON file.
    pub fn name(self) -> &'static str {
        match self {
            Kind::SendFloor => "floor: send",
            Kind::CoalescedFloor => "floor: coalesced",
            Kind::IdleFloor => "floor: idle",
            Kind::RelayFloor => "floor: relay",
            Kind::Sidestream => "sidestream",
            Kind::SidestreamMemory => "sidestream, memory",
            Kind::Express => "Express, EventEmitter",
            Kind::BetterSse => "Express, better-sse",
            Kind::Axum => "axum, broadcast",
            Kind::Actix => "actix-web",
            Kind::Go => "Go net/http",
            Kind::Nchan => "nginx, nchan",
        }
    }

    /// Whether it is ours.
    pub fn is_sidestream(self) -> bool {
        matches!(self, Kind::Sidestream | Kind::SidestreamMemory)
    }
}

/// Where everything is.
pub struct Places {
    /// This crate's folder.
    pub home: PathBuf,
    /// The sidestream that is measured.
    pub sidestream: PathBuf,
    /// A folder of this run, removed at its end.
    pub scratch: PathBuf,
}

impl Places {
    /// Where this program was built, in the folder of its crate.
    pub fn find(sidestream: Option<PathBuf>) -> std::io::Result<Places> {
        let home = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let triple = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
        let built = || home.join("../../target").join(triple).join("release/sidestream");
        let scratch = std::env::temp_dir().join(format!("sidestream-bench-{}", std::process::id()));
        fs::create_dir_all(&scratch)?;
        Ok(Places { sidestream: sidestream.unwrap_or_else(built), home, scratch })
    }

    /// A program that was built beside this one.
    pub fn beside(&self, name: &str) -> PathBuf {
        let own = std::env::current_exe().unwrap_or_default();
        own.with_file_name(name)
    }

    /// A fresh folder.
    fn folder(&self, name: &str) -> std::io::Result<PathBuf> {
        let path = (0..).map(|n| self.scratch.join(format!("{name}-{n}"))).find(|p| !p.exists());
        let path = path.expect("numbers do not end");
        fs::create_dir_all(&path)?;
        Ok(path)
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.scratch); // In the system's folder for such things.
    }
}

/// How events get in.
pub enum Feed {
    /// Lines on a pipe.
    Pipe(File),
    /// One request each.
    Http(TcpStream),
}

/// A server that runs.
pub struct Running {
    /// What it is.
    pub kind: Kind,
    child: Child,
    /// Whose processor time and memory count.
    pub pid: u32,
    /// Where it listens.
    pub port: u16,
    /// What a client asks for.
    pub request: Vec<u8>,
    feed: Option<Feed>,
    /// sidestream's session.
    pub session: Option<String>,
    /// sidestream's folder.
    pub folder: Option<PathBuf>,
}

impl Running {
    /// Starts it.
    ///
    /// # Errors
    /// A sentence that says why it cannot run here.
    pub fn start(kind: Kind, places: &Places) -> Result<Running, String> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let floor = |name: &str| {
            let mut command = Command::new(&own);
            command.args(["floor", name]);
            command
        };
        let node = |script: &str| {
            let mut command = Command::new("node");
            command.arg(places.home.join("peers/node").join(script));
            command
        };
        let mut command = match kind {
            Kind::SendFloor => floor("send"),
            Kind::CoalescedFloor => floor("coalesced"),
            Kind::IdleFloor => floor("idle"),
            Kind::RelayFloor => floor("relay"),
            Kind::Express => node("express.mjs"),
            Kind::BetterSse => node("better-sse.mjs"),
            Kind::Axum => Command::new(places.beside("peer-axum")),
            Kind::Actix => Command::new(places.beside("peer-actix")),
            Kind::Go => {
                let mut command = Command::new(places.home.join("target/peer-go"));
                command.env("GOMAXPROCS", "1");
                command
            }
            Kind::Nchan => return start_nginx(places, NCHAN).and_then(Running::with_publisher),
            Kind::Sidestream | Kind::SidestreamMemory => {
                return sidestream(kind, places, &[])?.with_agent();
            }
        };
        command.env("NODE_ENV", "production");
        let (mut child, port) = spawn(command, Stdio::piped())?;
        let feed = child.stdin.take().map(|stdin| {
            let stdin: std::os::fd::OwnedFd = stdin.into();
            Feed::Pipe(stdin.into())
        });
        Ok(Running {
            kind,
            pid: child.id(),
            child,
            port,
            request: http::get("/events"),
            feed,
            session: None,
            folder: None,
        })
    }

    /// Starts a floor with arguments of its own.
    pub fn start_floor(kind: Kind, arguments: &[&str]) -> Result<Running, String> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(own);
        command.arg("floor").args(arguments);
        let (mut child, port) = spawn(command, Stdio::piped())?;
        let feed = child.stdin.take().map(|stdin| {
            let stdin: std::os::fd::OwnedFd = stdin.into();
            Feed::Pipe(stdin.into())
        });
        let (request, session, folder) = (http::get("/events"), None, None);
        Ok(Running { kind, pid: child.id(), child, port, request, feed, session, folder })
    }

    /// Publishes `count` events whose frames have about `frame_size` bytes, as one write where the
    /// server reads a pipe. Returns when the write began.
    pub fn publish(&mut self, count: usize, frame_size: usize) -> std::io::Result<Instant> {
        let line = match self.kind.is_sidestream() {
            true => wire::delta_line(frame_size),
            false => wire::data_line(frame_size),
        };
        match self.feed.as_mut().expect("it was started with a feed") {
            Feed::Pipe(pipe) => {
                let lines = line.repeat(count);
                let start = Instant::now();
                pipe.write_all(&lines)?;
                Ok(start)
            }
            Feed::Http(stream) => {
                let mut requests = Vec::new();
                for _ in 0..count {
                    let head = "POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: ";
                    write!(requests, "{head}{}\r\n\r\n", line.len() - 1)?;
                    requests.extend_from_slice(&line[..line.len() - 1]);
                }
                // What it said to the last ones.
                stream.set_nonblocking(true)?;
                let mut rest = [0; 64 * 1024];
                while stream.read(&mut rest).is_ok_and(|count| count > 0) {}
                stream.set_nonblocking(false)?;
                let start = Instant::now();
                stream.write_all(&requests)?;
                Ok(start)
            }
        }
    }

    /// The pipe that its events come from.
    pub fn pipe(&mut self) -> &mut File {
        match self.feed.as_mut() {
            Some(Feed::Pipe(pipe)) => pipe,
            _ => unreachable!("only servers with a pipe are asked for it"),
        }
    }

    /// Processor time so far, in nanoseconds.
    pub fn cpu_ns(&self) -> u64 {
        machine::cpu_ns(self.pid)
    }

    /// Memory of its own, in bytes.
    pub fn memory(&self) -> u64 {
        machine::private_memory(self.pid)
    }

    /// A session with an agent whose standard output is ours to write.
    fn with_agent(mut self) -> Result<Running, String> {
        let id = self.create_session()?;
        self.request = http::get(&format!("/api/session/{id}/events?replay=none&heartbeat=60"));
        self.session = Some(id);
        self.hold()?;
        Ok(self)
    }

    /// Creates a session.
    pub fn create_session(&self) -> Result<String, String> {
        let work = self.folder.as_ref().expect("sidestream has one").join("work");
        let body = serde_json::json!({ "workingDir": work }).to_string();
        let answer = http::post(self.port, "/api/sessions", &body)?;
        let id = answer["sessionId"].as_str().ok_or_else(|| format!("no session: {answer}"))?;
        Ok(id.to_owned())
    }

    /// Has the agent open a turn, and takes its output over.
    pub fn hold(&mut self) -> Result<(), String> {
        let id = self.session.as_ref().expect("a session was created");
        let file = self.folder.as_ref().expect("sidestream has one").join("work/load-agent.pid");
        let _ = fs::remove_file(&file); // Of the turn before.
        let prompt = format!("/api/session/{id}/prompt");
        http::post(self.port, &prompt, r#"{"command":"hold"}"#)?;
        let deadline = Instant::now() + PATIENCE;
        let pid = loop {
            match fs::read_to_string(&file).ok().and_then(|text| text.parse::<u32>().ok()) {
                Some(pid) => break pid,
                None if Instant::now() > deadline => return Err("the agent did not start".into()),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let pipe = OpenOptions::new().write(true).open(format!("/proc/{pid}/fd/1"));
        self.feed = Some(Feed::Pipe(pipe.map_err(|error| format!("the agent's output: {error}"))?));
        Ok(())
    }

    fn with_publisher(mut self) -> Result<Running, String> {
        let stream = TcpStream::connect(("127.0.0.1", self.port));
        let stream = stream.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        self.feed = Some(Feed::Http(stream));
        Ok(self)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.feed = None;
        for pid in [self.pid, self.child.id()] {
            let _ = Command::new("kill").args(["-TERM", &pid.to_string()]).output();
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return self.clean();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.clean();
    }
}

impl Running {
    fn clean(&self) {
        if let Some(folder) = &self.folder {
            let _ = fs::remove_dir_all(folder); // Goes with the run's folder at the latest.
        }
    }
}

/// Starts a process where all of its threads will be on the servers' core: a child inherits it.
pub fn on_server_core<T>(start: impl FnOnce() -> T) -> T {
    machine::pin(machine::SERVER_CORE);
    let started = start();
    machine::pin(machine::LOAD_CORE);
    started
}

/// The same command, for a process that is ended when this one is killed.
fn ends_with_us(command: Command) -> Command {
    let mut wrapped = Command::new("setpriv");
    wrapped.args(["--pdeathsig", "TERM", "--"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        value.map(|value| wrapped.env(name, value));
    }
    wrapped
}

/// Starts a program on the servers' core and waits for the line that tells its port.
fn spawn(command: Command, stdin: Stdio) -> Result<(Child, u16), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut command = ends_with_us(command);
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child =
        on_server_core(|| command.spawn()).map_err(|error| format!("{name}: {error}"))?;
    let stdout = child.stdout.take().expect("it was piped");
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _ = sender.send(line); // Nobody waits for the later ones.
        }
    });
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(line) = receiver.recv_timeout(left) else {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("{name} did not say where it listens"));
        };
        let port = line.strip_prefix("listening on http://").and_then(|rest| rest.rsplit_once(':'));
        if let Some(port) = port.and_then(|(_, port)| port.trim_end_matches('/').parse().ok()) {
            return Ok((child, port));
        }
    }
}

/// Starts sidestream with what every figure needs, and `more`.
pub fn sidestream(kind: Kind, places: &Places, more: &[&str]) -> Result<Running, String> {
    let folder = places.folder("sidestream").map_err(|error| error.to_string())?;
    fs::create_dir_all(folder.join("work")).map_err(|error| error.to_string())?;
    sidestream_in(kind, places, folder, more)
}

/// The flags that sidestream is given in every figure, beside where things are.
pub const FLAGS: &[&str] = &[
    "--delta-hold=0ms",
    "--readers-per-session-max=20000",
    "--journal-max=512MiB",
    "--stall-after=1h",
    "--log-level=error",
];

/// The same in a folder that may have been used before.
pub fn sidestream_in(
    kind: Kind,
    places: &Places,
    folder: PathBuf,
    more: &[&str],
) -> Result<Running, String> {
    let mut command = sidestream_command(kind, places, &folder, "127.0.0.1:0");
    command.args(more);
    let (child, port) = spawn(command, Stdio::null())?;
    let (request, session) = (Vec::new(), None);
    let (pid, folder) = (child.id(), Some(folder));
    Ok(Running { kind, pid, child, port, request, feed: None, session, folder })
}

/// The command that starts sidestream.
pub fn sidestream_command(kind: Kind, places: &Places, folder: &Path, listen: &str) -> Command {
    let mut command = Command::new(&places.sidestream);
    let durability = if kind == Kind::SidestreamMemory { "memory" } else { "write" };
    command.arg(format!("--listen={listen}")).arg(format!("--durability={durability}"));
    command.arg("--data-dir").arg(folder.join("data")).arg("--root").arg(folder.join("work"));
    command.arg("--agent").arg(format!("claude:{}", places.beside("load-agent").display()));
    command.args(FLAGS);
    command
}

/// nginx with nchan: one channel.
const NCHAN: &str = "
    location = /events { nchan_subscriber eventsource; nchan_channel_id all;
        nchan_subscriber_first_message newest; nchan_eventsource_event session-output; }
    location = /publish { nchan_publisher; nchan_channel_id all; nchan_message_buffer_length 1000; }
";
/// nginx with one constant answer.
const CONSTANT: &str = "
    location = /health { default_type application/json; return 200 '{\"status\":\"ok\"}'; }
";

/// nginx that answers `/health` with a constant.
pub fn start_constant(places: &Places) -> Result<Running, String> {
    start_nginx(places, CONSTANT)
}

fn start_nginx(places: &Places, locations: &str) -> Result<Running, String> {
    let folder = places.folder("nginx").map_err(|error| error.to_string())?;
    // A port that was free a moment ago: nginx cannot choose one by itself.
    let port = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    let port = port.map_err(|error| error.to_string())?.port();
    let module = "/usr/lib/nginx/modules/ngx_nchan_module.so";
    let load = match locations.contains("nchan") {
        true if !Path::new(module).exists() => return Err("libnginx-mod-nchan is missing".into()),
        true => format!("load_module {module};"),
        false => String::new(),
    };
    let text = format!(
        "{load}\ndaemon off;\nworker_processes 1;\nworker_rlimit_nofile 20000;\npid {0}/pid;\n\
         error_log {0}/error.log;\nevents {{ worker_connections 19900; }}\nhttp {{\n\
         access_log off;\nkeepalive_requests 100000000;\nnchan_max_reserved_memory 1024M;\n\
         client_body_temp_path {0}/body;\nproxy_temp_path {0}/proxy;\nfastcgi_temp_path {0}/fcgi;\n\
         uwsgi_temp_path {0}/uwsgi;\nscgi_temp_path {0}/scgi;\n\
         server {{ listen 127.0.0.1:{port} backlog=4096; {locations} }}\n}}\n",
        folder.display()
    );
    let text = match load.is_empty() {
        true => text.replace("nchan_max_reserved_memory 1024M;\n", ""),
        false => text,
    };
    let file = folder.join("nginx.conf");
    fs::write(&file, text).map_err(|error| error.to_string())?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(&folder).arg("-c").arg(&file);
    let mut command = ends_with_us(command);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = on_server_core(|| command.spawn()).map_err(|error| format!("nginx: {error}"))?;
    let deadline = Instant::now() + PATIENCE;
    // The worker is forked some time after the first connection can be made.
    let worker = loop {
        let accepts = TcpStream::connect(("127.0.0.1", port)).is_ok();
        match machine::children(child.id()).first() {
            Some(worker) if accepts => break *worker,
            _ if Instant::now() > deadline => return Err("nginx did not start".into()),
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let (kind, request) = (Kind::Nchan, http::get("/events"));
    let (pid, session) = (worker, None);
    Ok(Running { kind, child, pid, port, request, feed: None, session, folder: Some(folder) })
}

/// Which floor an argument names.
pub fn floor_named(name: &str, argument: Option<&str>) -> Option<Floor> {
    Some(match name {
        "send" => Floor::Send,
        "coalesced" => Floor::Coalesced,
        "idle" => Floor::Idle,
        "relay" => Floor::Relay,
        "sink" => Floor::Sink,
        "beat" => Floor::Beat(Duration::from_millis(argument?.parse().ok()?)),
        _ => return None,
    })
}
