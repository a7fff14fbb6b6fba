//! The shipped proxy configurations, in real nginx and real Caddy, in front of the real server.
//!
//! What is loaded is what stands in `deploy/`; only addresses, ports and paths are replaced, and a
//! text to be replaced that is not there is a failed test. Clients are curl and Chromium, over TLS
//! and HTTP/2 with a certificate made here. Whether a proxy holds events back is told by a ratio:
//! when they arrive through it against when they arrive on a direct stream beside it.

mod support;

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::proxy::{Proxy, Whose, certificate, free_port};
use support::{Options, PATIENCE, Scratch, Server, browser, eventually, need, request};

/// nginx, as it is installed on hosts that have it in its own user.
const NGINX: &str = include_str!("../deploy/nginx.conf");
const NGINX_BASE_PATH: &str = include_str!("../deploy/nginx-base-path.conf");
const NGINX_ROLLOUT: &str = include_str!("../deploy/nginx-rollout.conf");
const CADDYFILE: &str = include_str!("../deploy/Caddyfile");

/// The text with these put in place of those, each of which must be there.
#[track_caller]
fn substituted(text: &str, pairs: &[(&str, &str)]) -> String {
    pairs.iter().fold(text.to_owned(), |text, (old, new)| {
        assert!(text.contains(old), "the shipped file has no `{old}` any more");
        text.replace(old, new)
    })
}

/// Which program.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Nginx,
    Caddy,
}

const BOTH: [Kind; 2] = [Kind::Nginx, Kind::Caddy];

/// Starts it with its shipped file, in front of what is at `upstream`.
#[track_caller]
fn proxy(kind: Kind, upstream: &str, port: u16) -> Proxy {
    match kind {
        Kind::Nginx => nginx(upstream, port),
        Kind::Caddy => caddy(upstream, port),
    }
}

/// Starts nginx with these files inside its `http`, as it is installed on hosts: its own user's.
#[track_caller]
fn nginx_with(scratch: Scratch, port: u16, files: &[&str]) -> Proxy {
    Proxy::nginx(scratch, port, Whose::Nobodys, files)
}

/// The names of the shipped files.
const NAMES: [&str; 2] = ["claude.example", "www.example"];

/// `deploy/nginx.conf` with our addresses and paths.
fn nginx_text(scratch: &Scratch, port: u16, upstream: &str) -> String {
    let (certificate, key) = certificate(scratch, &NAMES);
    substituted(
        NGINX,
        &[
            ("server 127.0.0.1:3010;", &format!("server {upstream};")),
            ("listen 443 ssl", &format!("listen 127.0.0.1:{port} ssl")),
            ("/etc/letsencrypt/live/claude.example/fullchain.pem", &certificate),
            ("/etc/letsencrypt/live/claude.example/privkey.pem", &key),
        ],
    )
}

#[track_caller]
fn nginx(upstream: &str, port: u16) -> Proxy {
    let scratch = Scratch::new();
    let text = nginx_text(&scratch, port, upstream);
    nginx_with(scratch, port, &[&text])
}

/// Caddy with `deploy/Caddyfile`, which makes its certificate itself, as it does for `localhost`.
#[track_caller]
fn caddy(upstream: &str, port: u16) -> Proxy {
    need("caddy");
    let scratch = Scratch::new();
    let site = substituted(
        CADDYFILE,
        &[
            (
                "\nclaude.example {",
                &format!("\nhttps://claude.example:{port} {{\n\tbind 127.0.0.1"),
            ),
            ("reverse_proxy 127.0.0.1:3010", &format!("reverse_proxy {upstream}")),
        ],
    );
    std::fs::write(scratch.join("site"), site).unwrap();
    let main = format!(
        "{{\nadmin off\nlocal_certs\nskip_install_trust\nauto_https disable_redirects\n\
         storage file_system {}\nlog {{\noutput file {}\n}}\n}}\nimport {}\n",
        scratch.join("store"),
        scratch.join("error"),
        scratch.join("site")
    );
    std::fs::write(scratch.join("Caddyfile"), main).unwrap();
    let child = Command::new("caddy")
        .args(["run", "--adapter", "caddyfile", "--config", &scratch.join("Caddyfile")])
        .env_clear()
        .env("HOME", scratch.directory("home"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let caddy = Proxy::of(child, scratch, port);
    // It listens before it has made its certificate.
    eventually("Caddy greets", || {
        let (url, name) = (format!("https://claude.example:{port}"), "claude.example");
        let greeting = Command::new("curl")
            .args(["-sk", "--resolve", &format!("{name}:{port}:127.0.0.1"), &url])
            .output();
        greeting.expect("curl runs").status.success()
    });
    caddy
}

/// A server behind a proxy, as the shipped files say that it is started, and its full token.
struct Behind {
    server: Server,
    token: String,
    /// What it is called outside: `https://claude.example:PORT`.
    public: String,
    port: u16,
}

/// The flags that the shipped files name, and the token they let in.
fn flags(scratch: &Scratch, public: &str) -> (Vec<String>, String) {
    let file = scratch.join("tokens");
    let token = support::add_token(&file, "desk", "full");
    let flags = ["--token-file", &file, "--public-url", public, "--trusted-proxy", "127.0.0.1"];
    (flags.map(String::from).to_vec(), token)
}

impl Behind {
    #[track_caller]
    fn start(host: &str, base: &str, more: &[&str]) -> Behind {
        let port = free_port();
        let public = format!("https://{host}:{port}{base}");
        let options = Options::new();
        let (flags, token) = flags(options.scratch(), &public);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let server = options.flags(&["--agent", "demo"]).flags(&flags).flags(more).start();
        Behind { server, token, public, port }
    }

    fn address(&self) -> String {
        self.server.address.to_string()
    }

    fn bearer(&self) -> String {
        format!("Authorization: Bearer {}", self.token)
    }

    /// A direct request with the token.
    #[track_caller]
    fn ask(&self, method: &str, path: &str, body: &str) -> Value {
        let bearer = format!("Bearer {}", self.token);
        let headers = [("Authorization", &*bearer)];
        let answer = request(self.server.address, method, path, &headers, body.as_bytes());
        assert!(answer.status < 300, "{path}: {answer}");
        answer.json()
    }

    #[track_caller]
    fn session(&self) -> String {
        let body = json!({"workingDir": self.server.root()}).to_string();
        let made = self.ask("POST", "/api/sessions", &body);
        made["sessionId"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    fn prompt(&self, session: &str, command: &str) {
        let path = format!("/api/session/{session}/prompt");
        self.ask("POST", &path, &json!({"command": command}).to_string());
    }

    /// Past the proxy.
    fn direct(&self, path: &str) -> Watch {
        Watch::start(&[&format!("http://{}{path}", self.server.address), "-H", &self.bearer()])
    }

    /// Through the proxy.
    fn through(&self, path: &str, more: &[&str]) -> Watch {
        let (url, bearer) = (format!("{}{path}", self.public), self.bearer());
        let resolve = self.resolve();
        let mut all = vec!["-k", "--http2", "--resolve", &resolve, &url, "-H", &bearer];
        all.extend_from_slice(more);
        Watch::start(&all)
    }

    fn resolve(&self) -> String {
        let host = self.public.split("//").nth(1).unwrap().split([':', '/']).next().unwrap();
        format!("{host}:{}:127.0.0.1", self.port)
    }

    /// One request through the proxy: the status, HTTP's version, the body.
    #[track_caller]
    fn get(&self, path: &str, more: &[&str]) -> (String, String, Value) {
        let (url, resolve) = (format!("{}{path}", self.public), self.resolve());
        let mut all = vec!["-k", "--http2", "--resolve", &resolve, &url];
        all.extend_from_slice(&["-w", "\n%{http_code} %{http_version}"]);
        all.extend_from_slice(more);
        let (text, _) = support::curl(&all);
        let (body, told) = text.rsplit_once('\n').unwrap();
        let (status, version) = told.split_once(' ').unwrap();
        let body = serde_json::from_str(body).unwrap_or(Value::Null);
        (status.to_owned(), version.to_owned(), body)
    }
}

/// One frame that came, and when.
#[derive(Clone, Debug)]
struct Frame {
    at: Instant,
    id: String,
    name: String,
    data: Value,
}

/// A stream read by curl, which is told not to hold anything back.
struct Watch {
    child: Child,
    frames: Arc<Mutex<Vec<Frame>>>,
}

impl Watch {
    #[track_caller]
    fn start(arguments: &[&str]) -> Watch {
        need("curl");
        let mut child = Command::new("curl")
            .args(["-sSN", "-H", "Accept: text/event-stream"])
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let frames = Arc::new(Mutex::new(Vec::new()));
        let (ours, pipe) = (frames.clone(), child.stdout.take().unwrap());
        std::thread::spawn(move || {
            let blank =
                || Frame { at: Instant::now(), id: "".into(), name: "".into(), data: Value::Null };
            let mut frame = blank();
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                match line.split_once(": ") {
                    Some(("id", id)) => frame.id = id.to_owned(),
                    Some(("event", name)) => frame.name = name.to_owned(),
                    Some(("data", data)) => {
                        frame.data = serde_json::from_str(data).unwrap_or_default()
                    }
                    _ if line.is_empty() => {
                        frame.at = Instant::now();
                        ours.lock().unwrap().push(std::mem::replace(&mut frame, blank()));
                    }
                    _ => {}
                }
            }
        });
        Watch { child, frames }
    }

    fn frames(&self) -> Vec<Frame> {
        self.frames.lock().unwrap().clone()
    }

    fn count(&self, name: &str) -> usize {
        self.frames().iter().filter(|frame| frame.name == name).count()
    }

    /// Waits for the nth frame of this name.
    #[track_caller]
    fn until(&self, name: &str, count: usize) {
        let start = Instant::now();
        while self.count(name) < count {
            let story: Vec<String> = self.frames().into_iter().map(|frame| frame.name).collect();
            assert!(start.elapsed() < PATIENCE, "no {count} × {name}: {story:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Ids of the log, in the order in which they came.
    fn ids(&self) -> Vec<String> {
        let frames = self.frames();
        frames.into_iter().map(|frame| frame.id).filter(|id| !id.is_empty()).collect()
    }

    /// When the words of the last turn came.
    fn words(&self) -> Vec<Instant> {
        let mut times = Vec::new();
        for frame in self.frames() {
            match &*frame.name {
                "prompt-started" => times.clear(),
                "session-output" => times.push(frame.at),
                _ => {}
            }
        }
        times
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The stream through the proxy is the direct one, event by event and no later.
#[track_caller]
fn expect_unbuffered(behind: &Behind) {
    let session = behind.session();
    let path = format!("/api/session/{session}/events");
    let (direct, through) = (behind.direct(&path), behind.through(&path, &[]));
    // The first byte comes though nothing follows it, and each event though the next one is only
    // caused by its arrival: what a proxy holds back would be waited for in vain.
    for watch in [&direct, &through] {
        watch.until("replay-complete", 1);
    }
    for turn in 1..=5 {
        behind.prompt(&session, "say: one");
        through.until("prompt-completed", turn);
    }
    // Forty words, one each 50 ms: how long from the first to the last, and how far behind any is.
    behind.prompt(&session, "slow 40 50");
    for watch in [&direct, &through] {
        watch.until("prompt-completed", 6);
    }
    assert_eq!(through.ids(), direct.ids());
    let (own, proxied) = (direct.words(), through.words());
    assert!(own.len() >= 20, "the words came one by one: {}", own.len());
    let span = |times: &[Instant]| (times[times.len() - 1] - times[0]).as_secs_f64();
    let ratio = span(&proxied) / span(&own);
    let late = own.iter().zip(&proxied).map(|(own, proxied)| proxied.duration_since(*own));
    let late = late.max().unwrap().as_secs_f64() / span(&own);
    eprintln!(
        "through {}: span {ratio:.3} of the direct one, latest {late:.4} of it",
        behind.public
    );
    assert!((0.5..2.0).contains(&ratio), "held back: {ratio} of the direct span");
    assert!(late < 0.5, "late by {late} of the whole");
}

/// Unbuffered in no time: words as they come, not joined.
const FLOWING: [&str; 4] = ["--delta-hold", "0", "--heartbeat", "1s"];

#[test]
fn events_pass_nginx_as_they_come() {
    let behind = Behind::start("claude.example", "", &FLOWING);
    let _nginx = nginx(&behind.address(), behind.port);
    expect_unbuffered(&behind);
    let (status, version, _) = behind.get("/api/sessions", &["-H", &behind.bearer()]);
    assert_eq!((&*status, &*version), ("200", "2"));
}

#[test]
fn events_pass_caddy_as_they_come() {
    let behind = Behind::start("claude.example", "", &FLOWING);
    let _caddy = caddy(&behind.address(), behind.port);
    expect_unbuffered(&behind);
    let (status, version, _) = behind.get("/api/sessions", &["-H", &behind.bearer()]);
    assert_eq!((&*status, &*version), ("200", "2"));
}

#[test]
fn events_pass_a_unix_socket_behind_both() {
    for kind in BOTH {
        let place = Scratch::new();
        std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let socket = place.join("sidestream.sock");
        let listen = format!("unix:{socket}");
        // As the shipped files say: the uid of nginx's workers. It opens the socket to them.
        let more = [&FLOWING[..], &["--listen", &listen, "--trust-uid", "65534"]].concat();
        let behind = Behind::start("claude.example", "", &more);
        let upstream = match kind {
            Kind::Nginx => format!("unix:{socket}"),
            Kind::Caddy => format!("unix/{socket}"),
        };
        let _proxy = proxy(kind, &upstream, behind.port);
        expect_unbuffered(&behind);
    }
}

#[test]
fn events_and_pages_pass_below_a_base_path() {
    let behind = Behind::start("www.example", "/claude", &FLOWING);
    let scratch = Scratch::new();
    // As its head says: the upstream and the split from nginx.conf, the rest in a host's server.
    let other = free_port();
    let whole = nginx_text(&scratch, other, &behind.address());
    let part = scratch.join("base-path");
    std::fs::write(&part, NGINX_BASE_PATH).unwrap();
    let (key, certificate) = (scratch.join("key.pem"), scratch.join("certificate.pem"));
    let host = format!(
        "server {{ listen 127.0.0.1:{} ssl http2; server_name www.example;
           ssl_certificate {certificate}; ssl_certificate_key {key};
           location / {{ return 200 'the rest of the host'; }}
           include {part}; }}",
        behind.port
    );
    let _nginx = nginx_with(scratch, behind.port, &[&whole, &host]);
    expect_unbuffered(&behind);
    for path in ["/", "/login", "/test-sse.html", "/js/session-event-stream.js", "/style.css"] {
        assert_eq!(behind.get(path, &[]).0, "200", "{path}");
    }
    let (status, ..) = behind.get("/api/sessions", &["-H", &behind.bearer()]);
    assert_eq!(status, "200");
    let answer = request(behind.server.address, "GET", "/claude/login", &[], b"").expect(200);
    assert!(!answer.text().contains("=\"/js/"), "the page's links leave the base path");
}

#[test]
fn events_and_pages_pass_caddy_below_a_base_path() {
    let behind = Behind::start("claude.example", "/claude", &FLOWING);
    // As the file says: a path in front of the upstream.
    let _caddy = caddy(&format!("/claude/* {}", behind.address()), behind.port);
    expect_unbuffered(&behind);
    assert_eq!(behind.get("/login", &[]).0, "200");
    assert_eq!(behind.get("/api/sessions", &["-H", &behind.bearer()]).0, "200");
}

#[test]
fn the_block_of_the_guide_does_not_load() {
    need("nginx");
    let scratch = Scratch::new();
    let guide = "location /api/session/ {
        proxy_buffering off; proxy_cache off;
        proxy_pass http://localhost:3010; proxy_http_version 1.1;
        proxy_set_header Connection ''; proxy_set_header Cache-Control no-cache;
        proxy_set_header X-Accel-Buffering no;
        proxy_read_timeout 86400s; proxy_send_timeout 86400s;
        proxy_buffering off; }";
    let text = format!("events {{}} http {{ server {{ listen 127.0.0.1:1; {guide} }} }}");
    std::fs::write(scratch.join("conf"), text).unwrap();
    let output = Command::new("nginx")
        .args(["-t", "-p", scratch.path().to_str().unwrap(), "-c", &scratch.join("conf")])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && told.contains("\"proxy_buffering\" directive is duplicate"),
        "{told}"
    );
}

/// nginx as many have it: no word about streams, and buffering on.
fn careless_nginx(behind: &Behind, more: &str) -> Proxy {
    let scratch = Scratch::new();
    let (certificate, key) = certificate(&scratch, &NAMES);
    let text = format!(
        "server {{ listen 127.0.0.1:{} ssl http2; server_name claude.example;
           ssl_certificate {certificate}; ssl_certificate_key {key};
           location / {{ proxy_pass http://{}; proxy_http_version 1.1;
             proxy_set_header Host $http_host; proxy_buffering on; {more} }} }}",
        behind.port,
        behind.address()
    );
    nginx_with(scratch, behind.port, &[&text])
}

#[test]
fn the_header_of_the_answer_is_what_keeps_nginx_from_buffering() {
    let behind = Behind::start("claude.example", "", &FLOWING);
    let obeying = careless_nginx(&behind, "");
    expect_unbuffered(&behind);
    drop(obeying);
    // The same, deaf to the header: nothing of a turn comes while a direct stream has all of it,
    // heartbeats included; it comes when nginx's buffer is full.
    let deaf = "proxy_ignore_headers X-Accel-Buffering; proxy_buffer_size 64k;
        proxy_buffers 4 64k; proxy_busy_buffers_size 64k;";
    let _deaf = careless_nginx(&behind, deaf);
    let session = behind.session();
    let path = format!("/api/session/{session}/events");
    let (direct, through) = (behind.direct(&path), behind.through(&path, &[]));
    direct.until("replay-complete", 1);
    for turn in 1..=3 {
        behind.prompt(&session, "say: one");
        direct.until("prompt-completed", turn);
    }
    direct.until("heartbeat", 3);
    assert!(through.frames().is_empty(), "nginx was to hold them back: {:?}", through.frames());
    behind.prompt(&session, "big 200000");
    through.until("session-output", 1);
    eventually("a direct stream has as much", || through.ids().len() <= direct.ids().len());
}

#[test]
fn an_idle_stream_lives_ninety_seconds_on_heartbeats_alone() {
    // The real thing: the default heartbeat of 15 s, the shipped timeouts, both proxies at once.
    // It sleeps, so the other tests of this file run beside it.
    let started: Vec<(Behind, Proxy, String, Watch)> = BOTH
        .into_iter()
        .map(|kind| {
            let behind = Behind::start("claude.example", "", &[]);
            let proxy = proxy(kind, &behind.address(), behind.port);
            let session = behind.session();
            let watch = behind.through(&format!("/api/session/{session}/events"), &[]);
            watch.until("replay-complete", 1);
            (behind, proxy, session, watch)
        })
        .collect();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(90) {
        std::thread::sleep(Duration::from_secs(1));
    }
    for (behind, _proxy, session, mut watch) in started {
        assert!(!watch.has_ended(), "the stream did not survive");
        assert!(watch.count("heartbeat") >= 4, "{} heartbeats", watch.count("heartbeat"));
        behind.prompt(&session, "say: awake");
        watch.until("prompt-completed", 1);
        assert_eq!(watch.count("connected"), 1);
    }
}

#[test]
fn without_heartbeats_an_idle_stream_is_cut_and_with_them_it_is_not() {
    // Scaled: nginx's patience of 75 s is 4 s here; the server's heartbeat is 60 s, or 1 s.
    for (heartbeat, survives) in [("60s", false), ("1s", true)] {
        let behind = Behind::start("claude.example", "", &["--heartbeat", heartbeat]);
        let scratch = Scratch::new();
        let text = nginx_text(&scratch, behind.port, &behind.address());
        let text = substituted(&text, &[("proxy_read_timeout 75s", "proxy_read_timeout 4s")]);
        let _nginx = nginx_with(scratch, behind.port, &[&text]);
        let session = behind.session();
        let mut watch = behind.through(&format!("/api/session/{session}/events"), &[]);
        watch.until("replay-complete", 1);
        if survives {
            watch.until("heartbeat", 8);
            assert!(!watch.has_ended());
        } else {
            eventually("the idle stream is cut", || watch.has_ended());
            assert_eq!(watch.count("heartbeat"), 0);
        }
    }
}

#[test]
fn what_the_server_says_of_hosts_tokens_and_addresses_holds_behind_both() {
    for kind in BOTH {
        let limit = ["--connections-per-address-max", "3"];
        let behind = Behind::start("claude.example", "", &limit);
        let _proxy = proxy(kind, &behind.address(), behind.port);
        let session = behind.session();
        let path = format!("/api/session/{session}/events");
        // Nobody comes in without a token, whatever he says of himself; the answer is ours.
        let lies = ["X-Forwarded-For: 127.0.0.1", "Forwarded: for=127.0.0.1", "X-Real-IP: ::1"];
        for lie in lies {
            for path in [&*path, "/api/sessions", "/api/events"] {
                let (status, _, body) = behind.get(path, &["-H", lie]);
                assert_eq!((&*status, &body["code"]), ("401", &json!("token_needed")), "{path}");
            }
        }
        let bearer = behind.bearer();
        let unknown = behind.get("/api/session/session-1-no/events", &["-H", &bearer]);
        assert_eq!((&*unknown.0, &unknown.2["code"]), ("404", &json!("session_not_found")));
        // Three connections of one address; a fourth is not let in by another name for it, while
        // another address is. Both proxies tell who it is, not who he says he is.
        let crowd: Vec<Watch> = (0..3).map(|_| behind.through(&path, &[])).collect();
        crowd.iter().for_each(|watch| watch.until("replay-complete", 1));
        let fourth = behind.through(&path, &["-H", "X-Forwarded-For: 8.8.8.8"]);
        fourth.until("server-busy", 1);
        assert_eq!(fourth.frames()[0].data["reason"], "connections_per_address_max");
        let elsewhere = behind.through(&path, &["--interface", "127.0.0.2"]);
        elsewhere.until("replay-complete", 1);
    }
}

#[test]
fn a_host_that_is_not_the_public_one_is_refused_behind_nginx() {
    let behind = Behind::start("claude.example", "", &[]);
    let _nginx = nginx(&behind.address(), behind.port);
    let own = behind.bearer();
    assert_eq!(behind.get("/api/sessions", &["-H", &own]).0, "200");
    let answer = behind.get("/api/sessions", &["-H", &own, "-H", "Host: evil.example"]);
    assert_eq!((&*answer.0, &answer.2["code"]), ("421", &json!("foreign_host")));
    // The same proxy before a server that was not told of it: it lets nobody in.
    let naive = Server::demo(&[]);
    let port = free_port();
    let _other = nginx(&naive.address.to_string(), port);
    let url = format!("https://claude.example:{port}/api/sessions");
    let resolve = format!("claude.example:{port}:127.0.0.1");
    let (text, _) = support::curl(&["-k", "--resolve", &resolve, &url]);
    assert!(text.contains("foreign_host"), "{text}");
    let (text, _) = support::curl(&["-k", "--resolve", &resolve, &url, "-H", "Host: localhost"]);
    assert!(text.contains("proxy_without_token"), "{text}");
}

#[test]
fn a_server_that_is_away_is_told_as_busy_on_streams_and_as_an_error_elsewhere() {
    for kind in BOTH {
        let (gone, port) = (free_port(), free_port());
        let _proxy = proxy(kind, &format!("127.0.0.1:{gone}"), port);
        let resolve = format!("claude.example:{port}:127.0.0.1");
        let get = |path: &str| {
            let url = format!("https://claude.example:{port}{path}");
            support::curl(&["-ki", "--http1.1", "--resolve", &resolve, &url]).0
        };
        let mut retries = BTreeSet::new();
        for _ in 0..20 {
            for path in
                ["/api/session/session-1-a/events", "/api/sessions/x/events?a=b", "/api/events"]
            {
                let text = get(path);
                let (head, body) = text.split_once("\r\n\r\n").unwrap();
                let head = head.to_lowercase();
                assert!(head.starts_with("http/1.1 200"), "{path}: {text}");
                assert!(head.contains("content-type: text/event-stream; charset=utf-8"), "{text}");
                assert!(head.contains("cache-control: no-cache, no-transform"), "{text}");
                let lines: Vec<&str> = body.split('\n').collect();
                let ["", ""] = lines[3..] else { panic!("not one whole frame: {text}") };
                let data: Value =
                    serde_json::from_str(lines[2].strip_prefix("data: ").unwrap()).unwrap();
                assert_eq!(lines[1], "event: server-busy");
                assert_eq!(lines[0], format!("retry: {}", data["retryAfterMs"]));
                assert_eq!(data["reason"], "proxy");
                retries.insert(lines[0].to_owned());
            }
        }
        if kind == Kind::Nginx {
            assert!(retries.len() > 1, "all come back at once: {retries:?}");
        }
        for path in
            ["/api/sessions", "/api/session/x/status", "/api/session/x/events/poll", "/health"]
        {
            assert!(get(path).starts_with("HTTP/1.1 502"), "{path}: {}", get(path));
        }
    }
}

/// An old backend: says so to everything.
fn old_backend() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut head = Vec::new();
            let mut bytes = [0; 1024];
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read(&mut bytes) {
                    Ok(count @ 1..) => head.extend_from_slice(&bytes[..count]),
                    _ => break,
                }
            }
            let head = String::from_utf8_lossy(&head).to_lowercase();
            let said =
                if head.contains("upgrade: websocket") && head.contains("connection: upgrade") {
                    "old websocket"
                } else {
                    "old"
                };
            let length = said.len();
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{said}"
            );
        }
    });
    port
}

#[test]
fn a_rollout_moves_a_share_of_the_clients_and_keeps_each_where_it_is() {
    let behind = Behind::start("claude.example", "", &[]);
    let scratch = Scratch::new();
    let text = nginx_text(&scratch, behind.port, &behind.address());
    // As the file's head says.
    let headers = "proxy_set_header Connection $claude_connection;
        proxy_set_header Upgrade $http_upgrade; proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header Forwarded '';";
    let root = "location / {\n        proxy_pass http://sidestream;";
    let new_root = format!("location / {{ proxy_pass http://$claude_backend; {headers}");
    let text = substituted(&text, &[(root, &new_root)]);
    let text = substituted(
        &text,
        &[("proxy_pass http://sidestream;", "proxy_pass http://$claude_backend;")],
    );
    let old = format!("server 127.0.0.1:{};", old_backend());
    let rollout = |share: &str| {
        substituted(NGINX_ROLLOUT, &[("server 127.0.0.1:3000;", &old), ("10% sidestream", share)])
    };
    let path = scratch.path().to_owned();
    let nginx = nginx_with(scratch, behind.port, &[&text, &rollout("10% sidestream")]);
    let bearer = behind.bearer();
    let is_new = |agent: &str, more: &[&str]| {
        let mut all = vec!["-A", agent, "-H", &*bearer];
        all.extend_from_slice(more);
        behind.get("/api/sessions", &all).2["success"] == true
    };
    let clients: Vec<String> = (0..40).map(|n| format!("browser {n}")).collect();
    let moved =
        || -> BTreeSet<&String> { clients.iter().filter(|name| is_new(name, &[])).collect() };
    let first = moved();
    assert!((1..15).contains(&first.len()), "{} of 40 at 10 %", first.len());
    assert_eq!(moved(), first, "a client stays where it is");
    // A larger share: nobody goes back.
    std::fs::write(Path::new(&path).join("part-1.conf"), rollout("60% sidestream")).unwrap();
    nginx.signal("HUP");
    let mut second = moved();
    eventually("the new share holds", || {
        second = moved();
        second.len() > 15
    });
    assert!(second.is_superset(&first) && second.len() < 35, "{} of 40 at 60 %", second.len());
    for client in &clients[..5] {
        assert!(is_new(client, &["-H", "Cookie: claude_backend=sidestream"]));
        assert!(!is_new(client, &["-H", "Cookie: claude_backend=old"]));
    }
    // The old WebSocket is upgraded at the old one, and 410 with the way to go on at ours.
    let chat = |backend: &str| {
        let url = format!("{}/claude/api/claude/chat", behind.public);
        let cookie = format!("Cookie: claude_backend={backend}");
        let upgrade = ["-H", "Connection: Upgrade", "-H", "Upgrade: websocket"];
        let mut all = vec!["-ki", "--http1.1", "--resolve"];
        let resolve = behind.resolve();
        all.extend_from_slice(&[&*resolve, &*url, "-H", &*bearer, "-H", &*cookie]);
        all.extend_from_slice(&upgrade);
        support::curl(&all).0
    };
    assert!(chat("old").ends_with("old websocket"), "{}", chat("old"));
    let gone = chat("sidestream");
    assert!(gone.starts_with("HTTP/1.1 410"), "{gone}");
    assert!(gone.contains("/api/session/{id}/events>; rel=\"successor-version\""), "{gone}");
}

#[test]
fn browsers_behind_both_proxies_survive_a_restart_and_twenty_tabs_have_a_stream_each() {
    for kind in BOTH {
        let (backend, port) = (free_port(), free_port());
        let public = format!("https://claude.example:{port}");
        let place = Scratch::new();
        let (flags, token) = flags(&place, &public);
        let _proxy = proxy(kind, &format!("127.0.0.1:{backend}"), port);
        let port = backend.to_string();
        let binary = env!("CARGO_BIN_EXE_sidestream");
        let ours = ["--url", &public, "--backend-port", &port, "--token", &token];
        let flags = flags.iter().map(String::as_str);
        let all = ours.into_iter().chain(["--binary", binary, "--"]).chain(flags);
        browser::run("stream-proxy.mjs", &all.collect::<Vec<_>>());
    }
}
