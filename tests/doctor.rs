//! The doctor, on machines that lack something, and at the far end of proxies that get it wrong.
//! The proxies are real nginx.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use support::proxy::{Proxy, Whose, certificate, free_port};
use support::{Options, Scratch, Server, eventually};

/// A doctor with these words and a home of its own.
fn doctor(scratch: &Scratch, words: &[&str], more: &[(&str, &str)]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidestream"));
    command.arg("doctor").args(words).env_clear().env("HOME", scratch.directory("home"));
    command.env("PATH", std::env::var("PATH").unwrap()).envs(more.iter().copied());
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code().expect("an exit"), text)
}

/// A stand-in for the CLI that knows its version, or does what else it is told.
fn cli(scratch: &Scratch, text: &str) -> String {
    let path = scratch.join("claude");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

#[track_caller]
fn line<'a>(report: &'a str, start: &str) -> &'a str {
    let found = report.lines().find(|line| line.starts_with(start));
    found.unwrap_or_else(|| panic!("no line `{start}` in\n{report}"))
}

#[test]
fn a_machine_that_has_everything_is_told_so_and_no_secret_is() {
    let scratch = Scratch::new();
    let agent = format!("claude:{}", cli(&scratch, "echo '9.9.9 (Claude Code)'"));
    let data = scratch.join("data");
    let words = ["--agent", &agent, "--listen", "127.0.0.1:0", "--data-dir", &data];
    let secret = [("ANTHROPIC_API_KEY", "sk-not-to-be-seen")];
    let (status, report) = doctor(&scratch, &words, &secret);
    assert_eq!(status, 0, "{report}");
    for start in [
        "ok    version: sidestream",
        "ok    kernel: Linux",
        "ok    /proc",
        "ok    pidfd",
        "ok    sock_diag",
        "ok    roots",
        "ok    data directory",
        "ok    clock",
        "ok    address: 127.0.0.1:0 is free",
        "ok    login: ANTHROPIC_API_KEY is set",
    ] {
        line(&report, start);
    }
    assert!(line(&report, "ok    claude").contains("9.9.9 (Claude Code)"), "{report}");
    assert!(!report.contains("sk-not"), "{report}");
    assert!(report.contains("memory: ") && report.contains("open files: "), "{report}");
    assert!(!std::path::Path::new(&data).exists(), "it makes nothing");

    let credentials = scratch.join("home/.claude");
    std::fs::create_dir_all(&credentials).unwrap();
    std::fs::write(format!("{credentials}/.credentials.json"), "{\"token\":\"hidden\"}").unwrap();
    let (_, report) = doctor(&scratch, &words, &[]);
    assert!(line(&report, "ok    login").contains(".credentials.json"), "{report}");
    assert!(!report.contains("hidden"), "{report}");
}

#[test]
fn what_is_missing_is_told_each_with_its_cure() {
    let scratch = Scratch::new();
    let agent = format!("claude:{}", cli(&scratch, "echo >&2 oh; exit 3"));
    let tokens = scratch.join("none");
    let words = [
        "--agent",
        &agent,
        "--root",
        "/nowhere/at/all",
        "--agent",
        "b=claude:/no/claude",
        "--listen",
        "unix:/nowhere/at/all/socket",
        "--token-file",
        &tokens,
    ];
    let (status, report) = doctor(&scratch, &words, &[]);
    assert_eq!(status, 1, "{report}");
    for (start, part) in [
        ("BAD   roots", "/nowhere/at/all"),
        ("BAD   claude", "--version ends with exit status: 3"),
        ("BAD   agent", "/no/claude"),
        ("BAD   address", "no directory /nowhere/at/all"),
        ("BAD   tokens", "none"),
        ("warn  login", "no credentials"),
    ] {
        assert!(line(&report, start).contains(part), "{start}: {part}\n{report}");
    }
    let problems =
        report.lines().filter(|line| line.starts_with("BAD") || line.starts_with("warn"));
    let cures = report.lines().filter(|line| line.starts_with("      do: "));
    assert_eq!(problems.count(), cures.count(), "{report}");

    // Without any: the demo would answer.
    let empty = scratch.directory("empty");
    let (_, report) = doctor(&scratch, &["--listen", "127.0.0.1:0"], &[("PATH", &empty)]);
    assert!(line(&report, "warn  agent").contains("demo"), "{report}");
}

#[test]
fn a_taken_port_and_a_taken_directory_name_their_holder() {
    let server = Server::demo(&[]);
    let (data, address) = (server.scratch.join("data"), server.address.to_string());
    let pid = format!("process {} (`", server.pid());
    let scratch = Scratch::new();
    let words = ["--agent", "demo", "--listen", &address, "--data-dir", &data];
    let (status, report) = doctor(&scratch, &words, &[]);
    assert_eq!(status, 1, "{report}");
    let taken = line(&report, "BAD   address");
    assert!(taken.contains(&pid) && taken.contains("serve"), "{report}");
    let held = line(&report, "warn  data directory");
    assert!(held.contains(&pid) && held.contains("serve"), "{report}");

    // So does a start.
    let (status, sentence) =
        Options::new().flags(&["--agent=demo", "--listen", &address]).refused();
    assert_eq!(status, Some(2));
    assert!(sentence.contains(&pid) && sentence.contains("serve"), "{sentence}");
    let (status, sentence) = Options::new().flags(&["--agent=demo", "--data-dir", &data]).refused();
    assert_eq!(status, Some(2));
    let named = format!("process {};", server.pid());
    assert!(sentence.contains(&named) && sentence.contains("serve"), "{sentence}");

    std::fs::set_permissions(&data, PermissionsExt::from_mode(0o777)).unwrap();
    let (_, report) = doctor(&scratch, &words, &[]);
    assert!(line(&report, "BAD   data directory").contains("chmod 700"), "{report}");
    std::fs::set_permissions(&data, PermissionsExt::from_mode(0o700)).unwrap();
}

#[test]
fn a_banner_over_ssh_says_how_to_get_here() {
    let options = Options::new().flags(&["--agent", "demo"]);
    let server = options
        .env("SSH_CONNECTION", "198.51.100.7 50000 203.0.113.5 2222")
        .env("USER", "me")
        .start();
    let port = server.address.port();
    let want = format!("ssh -N -L {port}:localhost:{port} -p 2222 me@203.0.113.5");
    assert!(server.stdout().contains(&want), "{}", server.stdout());
    assert!(!Server::demo(&[]).stdout().contains("ssh"));
}

/// nginx in front of a server, with these lines in its location. Its workers are ours: what is
/// looked at is not who they are.
#[track_caller]
fn nginx(server: &Server, lines: &str) -> (Proxy, String) {
    let proxy = Proxy::before(server.address, Whose::Ours, lines);
    let url = format!("http://{}", proxy.address());
    (proxy, url)
}

/// With TLS and HTTP/2; its certificate is the file `certificate.pem`.
#[track_caller]
fn nginx_with_tls(server: &Server, lines: &str) -> (Proxy, String) {
    let (scratch, port) = (Scratch::new(), free_port());
    let (certificate, key) = certificate(&scratch, &["localhost"]);
    let text = format!(
        "server {{ listen 127.0.0.1:{port} ssl http2;
           ssl_certificate {certificate}; ssl_certificate_key {key};
           location / {{ proxy_pass http://{}; {lines} }} }}",
        server.address
    );
    let proxy = Proxy::nginx(scratch, port, Whose::Ours, &[&text]);
    (proxy, format!("https://localhost:{port}"))
}

/// What makes nginx fit for streams, and what tells us who is behind it.
const FIT: &str = "proxy_http_version 1.1; proxy_set_header Connection ''; proxy_buffering off;
    proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;";

/// A server with a token, and that token.
fn guarded() -> (Server, String) {
    let options = Options::new();
    let file = options.scratch().join("tokens");
    let token = support::add_token(&file, "doc", "read");
    (options.flags(&["--agent", "demo", "--token-file", &file]).start(), token)
}

#[test]
fn a_good_way_is_told_as_one_directly_and_through_a_proxy() {
    let scratch = Scratch::new();
    let server = Server::demo(&[]);
    let url = format!("http://{}", server.address);
    let (status, report) = doctor(&scratch, &["--url", &url], &[]);
    assert_eq!(status, 0, "{report}");
    for start in ["ok    reach", "ok    Host", "ok    access: no tokens", "ok    stream: arrives"] {
        line(&report, start);
    }

    let (server, token) = guarded();
    let (_proxy, url) = nginx(&server, FIT);
    let with = [("SIDESTREAM_TOKEN", &*token)];
    let (status, report) = doctor(&scratch, &["--url", &url, "--idle", "6s"], &with);
    assert_eq!(status, 0, "{report}");
    assert!(line(&report, "ok    reach").contains("nginx"), "{report}");
    line(&report, "ok    access: tokens are asked for; this one is doc's");
    line(&report, "ok    stream: arrives");
    line(&report, "ok    idle: a stream lives 6 s");
    assert!(!report.contains(&token) && !report.contains("warn"), "{report}");
    line(&report, "ok    login: a token that is none is refused");
    line(&report, "ok    login: this token is known");
    // Without the token it says what is missing.
    let (status, report) = doctor(&scratch, &["--url", &url], &[]);
    assert_eq!(status, 1, "{report}");
    assert!(report.contains("SIDESTREAM_TOKEN"), "{report}");
    line(&report, "ok    login: a token that is none is refused");
    // With one that somebody else's server knows, too.
    let stale = format!("sst_{}", "ab".repeat(32));
    let (status, report) = doctor(&scratch, &["--url", &url], &[("SIDESTREAM_TOKEN", &stale)]);
    assert_eq!(status, 1, "{report}");
    let refused = line(&report, "BAD   login: this token");
    assert!(refused.contains("none of the tokens") && !report.contains(&stale), "{report}");
    assert!(report.contains("sidestream token add NAME SCOPE"), "{report}");
}

#[test]
fn a_proxy_that_stands_between_a_login_and_its_server_is_found_out() {
    let scratch = Scratch::new();
    let (server, token) = guarded();
    let with = [("SIDESTREAM_TOKEN", &*token)];
    // It keeps the token to itself, as one with a password of its own does.
    let (_strips, url) = nginx(&server, &format!("{FIT} proxy_set_header Authorization '';"));
    let (status, report) = doctor(&scratch, &["--url", &url], &with);
    assert_eq!(status, 1, "{report}");
    line(&report, "ok    login: this token is known");
    let access = line(&report, "BAD   access");
    assert!(access.contains("takes their Authorization field off"), "{report}");
    assert!(report.contains("proxy_set_header Authorization"), "{report}");
    // It lets nobody change anything, and it answers for the server.
    for (answer, words) in [("403", "403"), ("204", "a token that nobody made is taken")] {
        let lines = format!("if ($request_method = POST) {{ return {answer}; }} {FIT}");
        let (_between, url) = nginx(&server, &lines);
        let (status, report) = doctor(&scratch, &["--url", &url], &with);
        assert_eq!(status, 1, "{report}");
        assert!(line(&report, "BAD   login").contains(words), "{report}");
        line(&report, "ok    access: tokens are asked for; this one is doc's");
    }
    // Whoever tries too often is told so.
    for _ in 0..12 {
        let body = br#"{"token":"sst_x"}"#;
        support::request(server.address, "POST", "/api/login", &[], body);
    }
    let (_, report) = doctor(&scratch, &["--url", &format!("http://{}", server.address)], &with);
    assert!(line(&report, "warn  login").contains("too many logins"), "{report}");
    line(&report, "ok    access: tokens are asked for; this one is doc's");
}

#[test]
fn tls_is_spoken_by_curl_and_the_token_stands_in_no_command_line() {
    let scratch = Scratch::new();
    let (server, token) = guarded();
    let (proxy, url) = nginx_with_tls(&server, FIT);
    let cert = proxy.scratch.join("certificate.pem");
    let with = [("SIDESTREAM_TOKEN", &*token), ("CURL_CA_BUNDLE", &cert)];
    let (status, report) = doctor(&scratch, &["--url", &url], &with);
    assert_eq!(status, 0, "{report}");
    line(&report, "ok    HTTP: browsers speak HTTP/2");
    line(&report, "ok    stream: arrives");
    line(&report, "ok    access: tokens are asked for; this one is doc's");

    // A tail over TLS, and what of it `ps` can see.
    let mut tail = Command::new(env!("CARGO_BIN_EXE_sidestream"))
        .args(["tail", "--url", &url])
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap())
        .envs(with)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let bearer = format!("Bearer {token}");
    let streams = || {
        let headers = [("Authorization", &*bearer)];
        let answer = support::request(server.address, "GET", "/api/debug/metrics", &headers, b"");
        answer.expect(200).json()["sse"]["totalConnections"].as_u64().unwrap()
    };
    eventually("its stream is open", || streams() == 1);
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&line).contains(&token), "{:?}", entry.path());
    }
    tail.kill().unwrap();
    tail.wait().unwrap();
    eventually("its curl is gone", || streams() == 0);
    // A certificate that nobody vouches for is a sentence.
    let (status, report) = doctor(&scratch, &["--url", &url], &with[..1]);
    assert_eq!(status, 1, "{report}");
    assert!(line(&report, "BAD   reach").contains("certificate"), "{report}");
}

#[test]
fn a_proxy_that_buffers_cuts_or_hides_is_found_out() {
    let scratch = Scratch::new();
    let (server, token) = guarded();
    let with = [("SIDESTREAM_TOKEN", &*token)];
    let look = |lines: &str| {
        let (_proxy, url) = nginx(&server, lines);
        doctor(&scratch, &["--url", &url], &with)
    };
    let host = "proxy_set_header Host localhost;";

    // It collects what we say, and does not listen when we ask it not to.
    let lines = format!(
        "{host} proxy_ignore_headers X-Accel-Buffering; proxy_buffering on;
        proxy_buffers 8 64k; proxy_buffer_size 64k; proxy_busy_buffers_size 64k;"
    );
    let (status, report) = look(&lines);
    assert_eq!(status, 1, "{report}");
    let stream = line(&report, "BAD   stream");
    assert!(stream.contains("held back") || stream.contains("does not come"), "{report}");
    assert!(report.contains("proxy_buffering off"), "{report}");
    assert!(line(&report, "warn  HTTP").contains("HTTP/1.0"), "{report}");
    line(&report, "warn  forwarded");
    assert!(line(&report, "warn  Host").contains("doctor.invalid"), "{report}");

    // It cuts what is quiet for two seconds.
    let lines = format!("{FIT} proxy_read_timeout 2s;");
    let (status, report) = look(&lines);
    assert_eq!(status, 1, "{report}");
    assert!(line(&report, "BAD   stream").contains("was cut after 2."), "{report}");
    assert!(report.contains("proxy_read_timeout"), "{report}");

    // It tells us its own name for us.
    let (status, report) = look("proxy_set_header Host backend.internal;");
    assert_eq!(status, 1, "{report}");
    assert!(line(&report, "BAD   Host").contains("backend.internal"), "{report}");
    assert!(report.contains("proxy_set_header Host $host"), "{report}");
}

#[test]
fn a_proxy_without_tokens_and_one_without_a_server_are_found_out() {
    let scratch = Scratch::new();
    let mut server = Server::demo(&[]);
    // As root, nginx is one of us; what it does not say, we cannot know. The doctor can.
    let (_silent, silent) = nginx(
        &server,
        "proxy_http_version 1.1; proxy_buffering off;
        proxy_set_header Connection ''; proxy_set_header Host localhost;",
    );
    let (status, report) = doctor(&scratch, &["--url", &silent], &[]);
    assert_eq!(status, 1, "{report}");
    assert!(line(&report, "BAD   access").contains("without a token"), "{report}");
    let (_talking, talking) = nginx(&server, FIT);
    let (status, report) = doctor(&scratch, &["--url", &talking], &[]);
    assert_eq!(status, 1, "{report}");
    assert!(line(&report, "BAD   reach").contains("--token-file"), "{report}");

    assert!(server.stop().success());
    let (status, report) = doctor(&scratch, &["--url", &talking], &[]);
    assert_eq!(status, 1, "{report}");
    assert!(line(&report, "BAD   reach").contains("502"), "{report}");
    let (status, report) = doctor(&scratch, &["--url", "http://127.0.0.1:1"], &[]);
    assert_eq!(status, 1, "{report}");
    assert!(line(&report, "BAD   reach").contains("connection refused"), "{report}");
}
