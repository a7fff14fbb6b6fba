//! Who is let in: every wall of the access rules, over real sockets and with real processes.
//!
//! Another user is `setpriv`, a silent proxy is nginx, an agent is a shell: nobody here is
//! pretended to be somebody by a test's word alone.

mod support;

use serde_json::{Value, json};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use support::proxy::{Proxy, Whose};
use support::users::{NOBODY, as_user, can_be_others, own_uid};
use support::{
    Connection, Options, Response, Scratch, Server, add_token, eventually, http, need, request,
};

/// Runs `curl` as another user; returns the status and the body.
#[track_caller]
fn curl_as(uid: &str, arguments: &[&str]) -> (String, Value) {
    need("curl");
    let output = as_user(uid, "curl")
        .args(["-sS", "--max-time", "30", "-w", "\n%{http_code}"])
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap_or_default())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap_or_else(|| panic!("curl said {output:?}"));
    (status.to_owned(), serde_json::from_str(body).unwrap_or(Value::Null))
}

/// A server with a token of each scope.
struct Guarded {
    server: Server,
    read: String,
    answer: String,
    full: String,
}

impl Guarded {
    #[track_caller]
    fn start(flags: &[&str]) -> Guarded {
        let options = Options::new();
        let file = options.scratch().join("tokens");
        let [read, answer, full] = [("eye", "read"), ("phone", "answer"), ("desk", "full")]
            .map(|(name, scope)| add_token(&file, name, scope));
        let server =
            options.flags(&["--agent", "demo", "--token-file", &file]).flags(flags).start();
        Guarded { server, read, answer, full }
    }

    /// A request with a token, "" for none.
    #[track_caller]
    fn send(&self, token: &str, method: &str, path: &str, body: &str) -> Response {
        let bearer = format!("Bearer {token}");
        let headers = [("Authorization", &*bearer)];
        let headers = if token.is_empty() { &headers[..0] } else { &headers[..] };
        request(self.server.address, method, path, headers, body.as_bytes())
    }

    #[track_caller]
    fn create(&self) -> String {
        let body = json!({"workingDir": self.server.root()}).to_string();
        let json = self.send(&self.full, "POST", "/api/sessions", &body).expect(201).json();
        json["sessionId"].as_str().unwrap().to_owned()
    }
}

#[test]
fn another_user_of_this_machine_is_refused_with_the_cure_and_let_in_by_it() {
    if !can_be_others() {
        return;
    }
    let server = Server::demo(&[]);
    let url = format!("http://{}", server.address);
    for path in ["/", "/health", "/api/sessions", "/api/events", "/nothing", "/login"] {
        let (status, body) = curl_as(NOBODY, &[&format!("{url}{path}")]);
        assert_eq!((&*status, &body["code"]), ("401", &json!("foreign_user")), "{path}: {body}");
        let sentence = body["error"].as_str().unwrap();
        assert!(sentence.contains("uid 65534") && sentence.contains("--trust-uid 65534"));
    }
    let create = ["-X", "POST", "-H", "Content-Type: application/json", "-d"];
    let body = json!({"workingDir": server.root()}).to_string();
    let sessions = format!("{url}/api/sessions");
    let create = [&create[..], &[&*body, &*sessions]].concat();
    assert_eq!(curl_as(NOBODY, &create).0, "401");
    assert_eq!(server.rows(), Vec::<Value>::new());

    let trusting = Server::demo(&["--trust-uid", NOBODY]);
    let (status, _) = curl_as(NOBODY, &[&format!("http://{}/health", trusting.address)]);
    assert_eq!(status, "200");
}

#[test]
fn another_user_is_refused_on_a_unix_socket_too() {
    if !can_be_others() {
        return;
    }
    let options = Options::new();
    let path = options.scratch().join("socket");
    let server = options.flags(&["--agent", "demo", "--listen", &format!("unix:{path}")]).start();
    // Only the mode keeps it out; with the mode out of the way, the kernel's word does.
    for name in [server.scratch.path(), std::path::Path::new(&path)] {
        std::fs::set_permissions(name, PermissionsExt::from_mode(0o777)).unwrap();
    }
    let (status, body) = curl_as(NOBODY, &["--unix-socket", &path, "http://localhost/health"]);
    assert_eq!((&*status, &body["code"]), ("401", &json!("foreign_user")));
    let (status, _) =
        curl_as(&own_uid().to_string(), &["--unix-socket", &path, "http://localhost/health"]);
    assert_eq!(status, "200");
}

/// Another user's nginx with the guide's block, which says nothing about who is behind it.
#[track_caller]
fn nginx(server: &Server, fields: &str) -> Proxy {
    let guide = "proxy_http_version 1.1; proxy_buffering off; proxy_cache off;
        proxy_set_header Connection ''; proxy_set_header Cache-Control no-cache;";
    Proxy::before(server.address, Whose::Nobodys, &format!("{guide} {fields}"))
}

#[test]
fn a_silent_proxy_of_another_user_is_refused_and_a_talking_one_too() {
    if !can_be_others() {
        return;
    }
    let server = Server::demo(&[]);
    let silent = nginx(&server, "");
    let (_, code) = request(silent.address(), "GET", "/api/sessions", &[], b"").expect_error(401);
    assert_eq!(code, "foreign_user");
    let talking = "proxy_set_header X-Forwarded-For $remote_addr;";
    let talking = nginx(&server, talking);
    let (_, code) = request(talking.address(), "GET", "/api/sessions", &[], b"").expect_error(401);
    assert_eq!(code, "proxy_without_token");
    // With a token, and the name that the proxy passes on, its users are served.
    let guarded = Guarded::start(&["--public-url", "https://claude.example"]);
    let fields = "proxy_set_header Host claude.example; proxy_set_header X-Forwarded-For 1.2.3.4;";
    let proxy = nginx(&guarded.server, fields);
    let bearer = format!("Bearer {}", guarded.read);
    request(proxy.address(), "GET", "/api/sessions", &[], b"").expect(401);
    request(proxy.address(), "GET", "/api/sessions", &[("Authorization", &bearer)], b"")
        .expect(200);
}

/// Sends one request with these lines behind the first; returns its answer.
#[track_caller]
fn raw(server: &Server, method: &str, path: &str, lines: &[&str]) -> Response {
    let mut connection = Connection::open(server.address);
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    connection.send(format!("{method} {path} HTTP/1.1\r\n{lines}Connection: close\r\n\r\n"));
    connection.response(method)
}

#[test]
fn a_foreign_host_is_421_on_pages_streams_and_everything_else() {
    let server = Server::demo(&[]);
    let session = server.create();
    let stream = format!("/api/session/{session}/events");
    let paths =
        ["/", "/test-sse.html", "/js/app.js", "/login", "/health", "/api/sessions", &stream];
    for host in ["evil.example", "localhost.", "127.1", "2130706433", "0x7f.1", "0.0.0.0", "[::]"] {
        for path in paths.iter().chain(&["/nothing"]) {
            let answer = raw(&server, "GET", path, &[&format!("Host: {host}:3010")]);
            assert_eq!(answer.expect_error(421).1, "foreign_host", "{host} {path}");
        }
        let absolute = format!("http://{host}/api/sessions");
        raw(&server, "GET", &absolute, &["Host: localhost"]).expect(421);
    }
    for host in ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:9"] {
        raw(&server, "GET", "/api/sessions", &[&format!("Host: {host}")]).expect(200);
    }
}

#[test]
fn a_page_of_another_origin_can_neither_create_nor_read_nor_stream() {
    let server = Server::demo(&[]);
    let session = server.create();
    let stream = format!("/api/session/{session}/events");
    let port = server.address.port();
    let other_port = format!("Origin: http://localhost:{}", port.wrapping_add(1));
    let host = format!("Host: localhost:{port}");
    for lines in [
        &["Origin: https://evil.example"][..],
        &["Origin: https://evil.example", "Sec-Fetch-Site: cross-site"],
        &["Origin: null"],
        &["Origin: null", "Sec-Fetch-Site: cross-site"],
        &[&other_port, "Sec-Fetch-Site: same-site"],
        &["Origin: http://LOCALHOST.:3010"],
        &["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: script"],
        &["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe"],
        &["Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: cors", "Sec-Fetch-Dest: empty"],
    ] {
        let lines = [&[&*host][..], lines].concat();
        for path in ["/", "/api/sessions", "/api/events", &stream, "/health"] {
            let answer = raw(&server, "GET", path, &lines).expect(403);
            assert_eq!(answer.header("access-control-allow-origin"), None);
        }
        // What a page may send without asking: a form, or fetch with a simple type.
        let form = [&lines[..], &["Content-Type: text/plain", "Content-Length: 0"]].concat();
        raw(&server, "POST", "/api/sessions", &form).expect(403);
        let preflight = [&lines[..], &["Access-Control-Request-Method: POST"]].concat();
        raw(&server, "OPTIONS", "/api/sessions", &preflight).expect(403);
    }
    assert_eq!(server.rows().len(), 1, "nothing was created");
    // A link to a page is followed, as any link is.
    let link =
        ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"];
    raw(&server, "GET", "/", &[&[&*host][..], &link].concat()).expect(200);
}

#[test]
fn a_change_without_the_json_type_is_415_whatever_it_says() {
    let server = Server::demo(&[]);
    let body = json!({"workingDir": server.root()}).to_string();
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""] {
        let headers = [("Content-Type", kind)];
        request(server.address, "POST", "/api/sessions", &headers, body.as_bytes()).expect(415);
    }
    assert_eq!(server.rows().len(), 0);
}

#[test]
fn each_scope_reaches_as_far_as_it_says_and_no_token_reaches_nothing() {
    let guarded = Guarded::start(&[]);
    let session = guarded.create();
    let path = |rest: &str| format!("/api/session/{session}{rest}");
    let prompt = json!({"command": "say hi"}).to_string();
    let decision = json!({"decision": "allow"}).to_string();
    // Method, path, body; the answer to: nobody, a wrong token, read, answer, full.
    for (method, path, body, want) in [
        ("GET", "/health".into(), "", [200; 5]),
        ("GET", "/ready".into(), "", [200; 5]),
        ("GET", "/".into(), "", [200; 5]),
        ("GET", "/login".into(), "", [200; 5]),
        ("GET", "/js/login.js".into(), "", [200; 5]),
        ("GET", "/api/sessions".into(), "", [401, 401, 200, 200, 200]),
        ("HEAD", "/api/sessions".into(), "", [401, 401, 200, 200, 200]),
        ("GET", "/api/capabilities".into(), "", [401, 401, 200, 200, 200]),
        ("GET", "/api/debug/metrics".into(), "", [401, 401, 200, 200, 200]),
        ("GET", path("/approvals"), "", [401, 401, 200, 200, 200]),
        ("GET", path("/status"), "", [401, 401, 200, 200, 200]),
        ("HEAD", path("/events"), "", [401, 401, 200, 200, 200]),
        ("GET", "/api/session/none".into(), "", [401, 401, 404, 404, 404]),
        ("GET", "/nothing".into(), "", [401, 401, 404, 404, 404]),
        ("PUT", "/nothing".into(), "", [401, 401, 404, 404, 404]),
        ("POST", path("/approvals/none"), &decision, [401, 401, 403, 404, 404]),
        ("POST", path("/prompt"), &prompt, [401, 401, 403, 403, 202]),
        ("POST", path("/interrupt"), "{}", [401, 401, 403, 403, 200]),
        ("PATCH", path(""), "{\"name\":\"x\"}", [401, 401, 403, 403, 200]),
        ("DELETE", path("/queue/none"), "", [401, 401, 403, 403, 404]),
        ("POST", "/api/sessions".into(), "{}", [401, 401, 403, 403, 400]),
        ("POST", "/claude/api/claude/sessions".into(), "{}", [401, 401, 403, 403, 400]),
    ] {
        let tokens = ["", "sst_wrong", &guarded.read, &guarded.answer, &guarded.full];
        for (token, want) in tokens.iter().zip(want) {
            let answer = guarded.send(token, method, &path, body);
            assert_eq!(answer.status, want, "{method} {path} with {token}: {answer}");
            let challenge = answer.header("www-authenticate").unwrap_or_default();
            if want == 401 {
                assert_eq!(challenge, "Bearer realm=\"sidestream\"");
            }
            if want == 403 {
                assert!(challenge.contains("insufficient_scope"), "{challenge}");
            }
        }
    }
}

#[test]
fn every_wrong_token_gets_the_same_answer() {
    let guarded = Guarded::start(&[]);
    let digest_like = format!("sst_{}", "0".repeat(64));
    let almost = format!("{}x", guarded.full);
    let cut = &guarded.full[..67];
    let fields = [
        None,
        Some("Bearer sst_wrong".to_owned()),
        Some(format!("Bearer {digest_like}")),
        Some(format!("Bearer {almost}")),
        Some(format!("Bearer {cut}")),
        Some(format!("Basic {}", guarded.full)),
        Some(guarded.full.clone()),
        Some("Bearer".to_owned()),
        Some(format!("Bearer {} {}", guarded.full, guarded.full)),
    ];
    let answers: Vec<String> = fields
        .iter()
        .flat_map(|field| ["/api/sessions", "/nothing", "/api/session/x"].map(|path| (field, path)))
        .map(|(field, path)| {
            let headers: Vec<(&str, &str)> =
                field.iter().map(|field| ("Authorization", field.as_str())).collect();
            let headers = [&headers[..], &[("X-Request-Id", "same")]].concat();
            let mut answer = request(guarded.server.address, "GET", path, &headers, b"");
            answer.headers.retain(|(name, _)| name != "date");
            answer.to_string()
        })
        .collect();
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
    assert!(answers[0].starts_with("status 401") && answers[0].contains("/login"));
    // Neither in the query: what stands there is logged by every proxy.
    let path = format!("/api/sessions?token={}&access_token={}", guarded.full, guarded.full);
    guarded.send("", "GET", &path, "").expect(401);
}

#[test]
fn what_is_done_with_a_token_bears_its_name() {
    let guarded = Guarded::start(&[]);
    let session = guarded.create();
    let body = json!({"command": "run tool: ls"}).to_string();
    let bearer = format!("Bearer {}", guarded.read);
    let mut stream = guarded.server.stream_with(&session, "", &[("Authorization", &bearer)]);
    guarded
        .send(&guarded.full, "POST", &format!("/api/session/{session}/prompt"), &body)
        .expect(202);
    assert_eq!(stream.until_name("prompt-queued").text("by"), "desk");
    let required = stream.until_name("approval-required");
    let path = format!("/api/session/{session}/approvals/{}", required.text("approvalId"));
    let body = json!({"decision": "allow", "inputHash": required.data["inputHash"]}).to_string();
    guarded.send(&guarded.answer, "POST", &path, &body).expect(200);
    assert_eq!(stream.until_name("approval-resolved").text("by"), "phone");
    let told = guarded.send(&guarded.answer, "GET", "/api/capabilities", "").expect(200).json();
    assert_eq!(told["access"], json!({"tokens": true, "name": "phone", "scope": "answer"}));
}

#[test]
fn a_token_is_shown_once_and_only_its_hash_is_kept_in_a_file_of_ours() {
    let scratch = Scratch::new();
    let file = scratch.join("tokens");
    let token = add_token(&file, "me", "full");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("me full sha256:") && !text.contains(&token), "{text}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let other = add_token(&file, "you", "read");
    assert_ne!(token, other);

    let refused = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_sidestream"))
            .args(arguments)
            .env_clear()
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let add = |name, scope, file| refused(&["token", "add", name, scope, "--token-file", file]);
    assert!(add("me", "read", &file).contains("a token of me"));
    assert!(add("a", "write", &file).contains("read, answer or full"));
    assert!(add("a b", "read", &file).contains("name"));
    let link = scratch.join("link");
    symlink(&file, &link).unwrap();
    assert!(add("a", "read", &link).contains("symbolic link"));
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 2);
}

#[test]
fn a_token_file_that_cannot_be_trusted_is_refused_at_the_start_with_file_and_line() {
    let hash = format!("sha256:{}", "ab".repeat(32));
    for (text, mode, want) in [
        (format!("a read {hash}\nb read sha256:zz\n"), 0o600, "line 2"),
        (format!("a root {hash}\n"), 0o600, "line 1"),
        (format!("a read {hash}\n"), 0o666, "chmod 600"),
        ("# nobody\n".into(), 0o600, "token add"),
    ] {
        let options = Options::new();
        let file = options.scratch().join("tokens");
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
        let (code, said) = options.flags(&["--agent", "demo", "--token-file", &file]).refused();
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(want) && said.contains(&file), "{said}");
        assert!(!said.contains("abab"), "a hash was told: {said}");
    }
}

#[test]
fn a_start_that_would_let_strangers_in_is_refused_with_the_cure() {
    for flags in [
        ["--listen", "0.0.0.0:0"],
        ["--listen", "[::]:0"],
        ["--public-url", "https://claude.example"],
        ["--allow-origin", "https://app.example"],
        ["--listen", "192.0.2.1:0"],
        ["--listen", "[::ffff:0.0.0.0]:0"],
        ["--read-cookie", "--log-level=info"],
    ] {
        let (code, said) = Options::new().flags(&["--agent", "demo"]).flags(&flags).refused();
        assert_eq!(code, Some(2), "{flags:?}: {said}");
        assert!(said.contains("--token-file") && said.contains("sidestream token add"), "{said}");
    }
    // The same by their variables, which a unit file sets.
    for (name, value) in [
        ("SIDESTREAM_PUBLIC_URL", "https://claude.example"),
        ("SIDESTREAM_ALLOW_ORIGIN", "https://app.example"),
        ("SIDESTREAM_READ_COOKIE", "1"),
    ] {
        let options = Options::new().flags(&["--agent", "demo"]).env(name, value);
        let (code, said) = options.refused();
        assert_eq!(code, Some(2), "{name}: {said}");
        assert!(said.contains("--token-file"), "{said}");
    }
}

#[test]
fn an_allowed_origin_may_use_us_with_a_token_and_another_may_not() {
    let guarded = Guarded::start(&["--allow-origin", "https://app.example"]);
    let server = &guarded.server;
    let host = format!("Host: {}", server.address);
    let site = "Sec-Fetch-Site: cross-site";
    let (allowed, other) = ("Origin: https://app.example", "Origin: https://app.example:444");
    let ask =
        ["Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization"];
    let preflight = [&[&*host, allowed, site][..], &ask].concat();
    for path in ["/api/sessions", "/api/events", "/nothing"] {
        let answer = raw(server, "OPTIONS", path, &preflight).expect(204);
        let field = |name: &str| answer.header(name).unwrap_or_default().to_owned();
        assert_eq!(field("access-control-allow-origin"), "https://app.example");
        assert!(field("vary").contains("Origin"));
        for method in ["GET", "POST", "PATCH", "DELETE"] {
            assert!(field("access-control-allow-methods").contains(method));
        }
        for name in ["authorization", "content-type", "last-event-id", "idempotency-key"] {
            assert!(field("access-control-allow-headers").contains(name), "{name}");
        }
        assert_eq!(answer.header("access-control-allow-credentials"), None);
    }
    let refused = [&[&*host, other, site][..], &ask].concat();
    let answer = raw(server, "OPTIONS", "/api/sessions", &refused).expect(403);
    assert_eq!(answer.header("access-control-allow-origin"), None);
    assert_eq!(answer.header("vary"), Some("Origin"), "caches tell the two apart");

    let bearer = format!("Authorization: Bearer {}", guarded.read);
    for (lines, want) in [
        (&[&*host, allowed, site, &*bearer][..], 200),
        (&[&*host, allowed, site], 401),
        (&[&*host, other, site, &*bearer], 403),
        (&[&*host, site, &*bearer], 403),
    ] {
        for path in ["/api/sessions", "/api/events"] {
            let answer = raw(server, "HEAD", path, lines).expect(want);
            let told = answer.header("access-control-allow-origin");
            assert_eq!(told.is_some(), lines.contains(&allowed), "{path} {answer}");
        }
    }
    // A stream that a page may read says so in its head.
    let origin = [("Authorization", &bearer[15..]), ("Origin", "https://app.example")];
    let stream = support::Reader::open(server.address, "/api/events", &origin);
    assert_eq!(stream.head.header("access-control-allow-origin"), Some("https://app.example"));
}

#[test]
fn a_login_tells_a_token_from_none_and_ten_failures_are_enough() {
    let guarded = Guarded::start(&["--login-failures-max", "3"]);
    let log_in =
        |token: &str| guarded.send("", "POST", "/api/login", &json!({"token": token}).to_string());
    let answer = log_in(&guarded.read).expect(204);
    assert_eq!(answer.header("set-cookie"), None, "only with --read-cookie");
    guarded.send("", "POST", "/api/login", "{}").expect(400);
    for _ in 0..3 {
        assert_eq!(log_in("sst_no").expect_error(401).1, "token_unknown");
    }
    let limited = log_in("sst_nor_this").expect(429);
    // Who has a real one is not kept out by those who guess.
    log_in(&guarded.full).expect(204);
    let wait: u64 = limited.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    // Who is in stays in.
    let metrics = guarded.send(&guarded.read, "GET", "/api/debug/metrics", "").expect(200).json();
    assert_eq!(metrics["server"]["loginsFailed"], 3);
    assert_eq!(metrics["server"]["limited"], 1);

    let open = Server::demo(&[]);
    let answer = open.post("/api/login", json!({"token": "x"}));
    assert_eq!(answer.expect_error(409).1, "tokens_off");
}

#[test]
fn a_read_cookie_reads_and_changes_nothing() {
    let guarded = Guarded::start(&["--read-cookie"]);
    let session = guarded.create();
    let body = json!({"token": guarded.full}).to_string();
    let answer = guarded.send("", "POST", "/api/login", &body).expect(204);
    let set = answer.header("set-cookie").unwrap().to_owned();
    let port = guarded.server.address.port();
    assert!(set.starts_with(&format!("sidestream-read-{port}=")), "{set}");
    for attribute in ["; HttpOnly", "; SameSite=Strict", "; Path=/"] {
        assert!(set.contains(attribute), "{set}");
    }
    let cookie = set.split(';').next().unwrap();
    let value = cookie.split_once('=').unwrap().1;
    assert!(!guarded.full.contains(value), "the cookie is not the token");
    let send = |method: &str, path: &str, cookie: &str, body: &str| {
        let headers = [("Cookie", cookie)];
        request(guarded.server.address, method, path, &headers, body.as_bytes())
    };
    let cookies = format!("theme=dark; {cookie}; x=y");
    send("GET", "/api/sessions", &cookies, "").expect(200);
    let mut stream = guarded.server.stream_with(&session, "", &[("Cookie", &cookies)]);
    stream.until_name("connected");
    let prompt = json!({"command": "say no"}).to_string();
    let path = format!("/api/session/{session}/prompt");
    send("POST", &path, &cookies, &prompt).expect(403);
    send("GET", "/api/sessions", &cookie.replace(value, &"0".repeat(64)), "").expect(401);
    // A page at another port of this host can set one of that name, which comes first.
    let name = cookie.split('=').next().unwrap();
    send("GET", "/api/sessions", &format!("{name}=theirs; {cookie}; {name}="), "").expect(200);
    // A proxy's own credentials are none of ours, and a token that is none lets nobody in.
    for (credentials, status) in [("Basic dTpw", 200), ("Bearer x", 401), ("Bearer", 401)] {
        let headers = [("Cookie", cookie), ("Authorization", credentials)];
        let answer = request(guarded.server.address, "GET", "/api/sessions", &headers, b"");
        assert_eq!(answer.status, status, "{credentials}");
    }
    guarded.send(value, "GET", "/api/sessions", "").expect(401);
}

#[test]
fn a_read_cookie_outlives_a_restart_and_not_its_token_and_nothing_kept_opens_anything() {
    let options = Options::new();
    let (file, data) = (options.scratch().join("tokens"), options.scratch().join("data"));
    let token = add_token(&file, "desk", "full");
    let start = |options: Options| {
        options.flags(&["--agent", "demo", "--token-file", &file, "--read-cookie"]).start()
    };
    let server = start(options);
    let log_in = |server: &Server| {
        let body = json!({"token": token}).to_string();
        let answer = request(server.address, "POST", "/api/login", &[], body.as_bytes());
        answer.expect(204).header("set-cookie").unwrap().split(';').next().unwrap().to_owned()
    };
    let cookie = log_in(&server);
    assert_eq!(log_in(&server), cookie, "one token, one cookie");
    let value = cookie.split_once('=').unwrap().1.to_owned();
    let read = |server: &Server| {
        // Cookies go by the port, and a restart has another.
        let cookie = format!("sidestream-read-{}={value}", server.address.port());
        request(server.address, "GET", "/api/sessions", &[("Cookie", &cookie)], b"").status
    };
    assert_eq!(read(&server), 200);
    let kept = format!("{data}/cookies");
    eventually("the cookie's hash is kept", || std::fs::metadata(&kept).is_ok_and(|m| m.len() > 0));
    let text = std::fs::read_to_string(&kept).unwrap();
    assert!(
        !text.contains(&value) && !text.contains(&token) && text.lines().count() == 1,
        "{text}"
    );
    assert_eq!(std::fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    for word in text.split_ascii_whitespace() {
        let cookie = format!("sidestream-read-{}={word}", server.address.port());
        let headers = [("Cookie", &*cookie)];
        request(server.address, "GET", "/api/sessions", &headers, b"").expect(401);
    }
    let again = |server: Server, change: &dyn Fn()| {
        let mut server = server;
        assert!(server.stop().success());
        change();
        let flags = ["--data-dir", &*data];
        let next = start(Options::new().flags(&flags));
        (next, server)
    };
    let (server, _scratch) = again(server, &|| {});
    assert_eq!(read(&server), 200, "after a restart");
    let other = || {
        std::fs::remove_file(&file).unwrap();
        add_token(&file, "other", "full");
    };
    let (server, _other) = again(server, &other);
    assert_eq!(read(&server), 401, "its token is gone");
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), "", "and so is what was kept of it");
}

#[test]
fn a_hangup_reads_the_tokens_again_and_who_lost_his_loses_his_streams() {
    let guarded = Guarded::start(&[]);
    let server = &guarded.server;
    let file = server.scratch.join("tokens");
    let session = guarded.create();
    let stream = |token: &str| {
        let bearer = format!("Bearer {token}");
        let mut stream = server.stream_with(&session, "", &[("Authorization", &bearer)]);
        stream.until_name("replay-complete");
        stream
    };
    let (mut eye, mut phone) = (stream(&guarded.read), stream(&guarded.answer));
    let poll = format!("/api/session/{session}/events/poll?wait=60&after=");
    let cursor = guarded.send(&guarded.full, "GET", "/api/sessions", "").json()["lastEventId"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut waiting = Connection::open(server.address);
    let bearer = format!("Bearer {}", guarded.read);
    waiting.send(support::http::encode(
        server.address,
        "GET",
        &format!("{poll}{cursor}"),
        &[("Authorization", &bearer)],
        b"",
    ));
    let count = |token: &str| {
        let page = guarded.send(token, "GET", "/metrics", "").expect(200).text();
        let line = page.lines().find(|line| line.starts_with("sidestream_requests_waiting "));
        line.unwrap().rsplit(' ').next().unwrap().parse::<u32>().unwrap()
    };
    eventually("the poll waits", || count(&guarded.full) == 1);

    // A bad file changes nothing, and is told by its line.
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{good}broken\n")).unwrap();
    server.signal("HUP");
    eventually("the bad file is told", || server.stderr().contains("line 4"));
    assert!(server.stderr().contains("level=error"), "{}", server.stderr());
    guarded.send(&guarded.read, "GET", "/api/sessions", "").expect(200);
    // One goes, one is new, one stays.
    let rest: String = good
        .lines()
        .filter(|line| !line.starts_with("eye "))
        .fold(String::new(), |text, line| text + line + "\n");
    std::fs::write(&file, rest).unwrap();
    let new = add_token(&file, "new", "read");
    guarded.send(&new, "GET", "/api/sessions", "").expect(401);
    server.signal("HUP");
    eventually("the new token is known", || {
        guarded.send(&new, "GET", "/api/sessions", "").status == 200
    });
    guarded.send(&guarded.read, "GET", "/api/sessions", "").expect(401);
    eye.until_end();
    waiting.expect_end();
    let body = json!({"command": "say 3 words"}).to_string();
    let path = format!("/api/session/{session}/prompt");
    guarded.send(&guarded.full, "POST", &path, &body).expect(202);
    phone.until_name("prompt-completed");
    for token in [&guarded.full, &guarded.read, &new] {
        assert!(!server.stderr().contains(token.as_str()), "a token was logged");
    }
}

#[test]
fn a_hangup_without_tokens_is_survived_and_told() {
    let server = Server::demo(&[]);
    server.signal("HUP");
    eventually("it is told", || server.stderr().contains("no token file"));
    server.get("/health").expect(200);
}

#[test]
fn a_logout_takes_the_cookie_back_and_needs_nothing() {
    let guarded = Guarded::start(&["--read-cookie"]);
    let answer = guarded.send("", "DELETE", "/api/login", "").expect(204);
    let set = answer.header("set-cookie").unwrap();
    assert!(set.contains("=; ") && set.contains("Max-Age=0") && set.contains("HttpOnly"), "{set}");
    let open = Server::demo(&[]);
    assert_eq!(open.send("DELETE", "/api/login").expect(204).header("set-cookie"), None);
}

#[test]
fn a_link_in_the_data_directory_is_not_followed() {
    for name in ["lock", "id", "trust", "epochs"] {
        let options = Options::new();
        let (data, victim) =
            (options.scratch().directory("data"), options.scratch().join("victim"));
        std::fs::set_permissions(&data, PermissionsExt::from_mode(0o700)).unwrap();
        std::fs::write(&victim, "theirs").unwrap();
        symlink(&victim, format!("{data}/{name}")).unwrap();
        let options = options.flags(&["--agent", "demo"]);
        let mut child = options.command().spawn().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(2), "{name}: it started, or fell");
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "theirs", "{name}");
    }
}

#[test]
fn all_that_is_kept_is_for_us_alone() {
    let guarded = Guarded::start(&["--read-cookie"]);
    let body = json!({"token": guarded.read}).to_string();
    guarded.send("", "POST", "/api/login", &body).expect(204);
    let session = guarded.create();
    let path = format!("/api/session/{session}/prompt");
    let body = json!({"command": "big 600000"}).to_string();
    guarded.send(&guarded.full, "POST", &format!("{path}?wait=60"), &body).expect(200);
    let (mut files, mut seen) = (vec![guarded.server.scratch.path().join("data")], 0);
    while let Some(path) = files.pop() {
        let meta = std::fs::symlink_metadata(&path).unwrap();
        let want = if meta.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(meta.permissions().mode() & 0o777, want, "{}", path.display());
        seen += 1;
        if meta.is_dir() {
            files.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    assert!(seen > 5, "{seen}");
}

#[test]
fn pages_carry_a_strict_policy_and_the_login_page_is_among_them() {
    let guarded = Guarded::start(&[]);
    for path in ["/", "/login", "/test-sse.html"] {
        let answer = guarded.send("", "GET", path, "").expect(200);
        let policy = answer.header("content-security-policy").unwrap().to_owned();
        for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("cross-origin-resource-policy"), Some("same-origin"));
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
        let text = answer.text();
        assert!(!text.contains("<script>") && !text.contains(" onclick="), "{path}");
    }
    let script = guarded.send("", "GET", "/js/login.js", "").expect(200).text();
    assert!(script.contains("sidestream.token") && script.contains("replaceState"));
}

// Agents.

/// A socket that is bound to a device is found only by who asks for that device.
#[test]
fn an_agent_is_known_whatever_its_socket_is_bound_to_and_whoever_it_belongs_to() {
    let server = shell(&[]);
    let url = format!("http://{}", server.address);
    let (session, other) = (server.create(), server.create());
    let bound = curl_prompt(&url, "--interface lo", &other);
    let (text, _) = run(&server, &session, &bound);
    assert_eq!(text, "told 403\n");
    // The same human is let in by it.
    let output = Command::new("sh").args(["-c", &bound]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "told 202\n");
    if support::users::is_root() {
        // It gives its socket to another user, once that has been let in.
        need("python3");
        let code = format!(
            "import os, socket\ns = socket.create_connection((\"{}\", {}))\n\
             def ask(text):\n  s.sendall(text.encode())\n  return s.recv(65536).split()[1].decode()\n\
             host = \"Host: localhost\\r\\n\"\n\
             print(ask(\"GET /health HTTP/1.1\\r\\n\" + host + \"\\r\\n\"))\n\
             os.fchown(s.fileno(), 12345, -1)\n\
             print(ask(\"DELETE /api/session/{other} HTTP/1.1\\r\\n\" + host + \"\\r\\n\"))\n",
            server.address.ip(),
            server.address.port()
        );
        let file = format!("{}/ask.py", server.root());
        std::fs::write(&file, code).unwrap();
        let (text, _) = run(&server, &session, &format!("python3 {file}"));
        assert_eq!(text, "200\n403\n");
    }
}

/// Requests a client with a token is answered while strangers hold what room they can.
#[track_caller]
fn served(connection: &mut Connection, request: &[u8], by_strangers: &str) {
    for at in 0..50 {
        connection.send(request);
        assert_eq!(connection.response("GET").status, 200, "request {at}, {by_strangers}");
    }
}

/// Strangers who send this and nothing more, and read nothing.
#[track_caller]
fn strangers(address: SocketAddr, bytes: &str) -> Vec<Connection> {
    let mut all: Vec<Connection> = (0..64).map(|_| Connection::open(address)).collect();
    all.iter_mut().for_each(|connection| connection.send(bytes));
    all
}

#[test]
fn strangers_who_take_their_pages_slowly_or_never_end_their_heads_keep_nobody_waiting() {
    let guarded = Guarded::start(&["--requests-size-max", "256KiB"]);
    let address = guarded.server.address;
    let bearer = format!("Bearer {}", guarded.read);
    let head = [("Authorization", &*bearer)];
    let request = http::encode(address, "GET", "/api/sessions", &head, b"");
    // Pages are public, and large; they read nothing of them.
    let page = "GET /openapi.yaml HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(8);
    let takers = strangers(address, &page);
    served(&mut Connection::open(address), &request, "pages");
    drop(takers);
    // Heads that do not end: more of them than there is room for. One is in before the flood.
    let mut connection = Connection::open(address);
    connection.send(&request);
    assert_eq!(connection.response("GET").status, 200);
    let head = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}", "x".repeat(14_000));
    let heads = strangers(address, &head);
    served(&mut connection, &request, "heads");
    drop(heads);
}

/// The last token that is taken out of the file is the last one that opens anything.
#[test]
fn when_no_token_is_left_nobody_is_let_in_until_there_is_one() {
    let guarded = Guarded::start(&[]);
    let file = guarded.server.scratch.join("tokens");
    std::fs::write(&file, "# nobody\n").unwrap();
    guarded.server.signal("HUP");
    eventually("the last one is gone", || {
        guarded.send(&guarded.full, "GET", "/api/sessions", "").status == 401
    });
    eventually("it is told", || guarded.server.stderr().contains("nobody is let in"));
    guarded.send("", "GET", "/api/sessions", "").expect(401);
    assert_eq!(guarded.server.get("/api/sessions").status, 401, "not even we ourselves");
    let new = add_token(&file, "new", "read");
    guarded.server.signal("HUP");
    eventually("the new one opens", || {
        guarded.send(&new, "GET", "/api/sessions", "").status == 200
    });
}

/// A server whose agent is a shell: each prompt is its commands.
fn shell(flags: &[&str]) -> Server {
    need("curl");
    let all = [&["--agent", "lines:sh", "--ladder-eof", "500ms", "--ladder-term", "500ms"], flags];
    Server::start(&all.concat())
}

/// A prompt to `session`, as a command line of curl that says the status.
fn curl_prompt(url: &str, more: &str, session: &str) -> String {
    format!(
        "curl -s --max-time 20 {more} -o /dev/null -w 'told %{{http_code}}\\n' -X POST \
         -H 'Content-Type: application/json' -d '{{\"command\":\"echo done\"}}' \
         {url}/api/session/{session}/prompt"
    )
}

/// Runs a command line in a session's agent; returns what it printed.
#[track_caller]
fn run(server: &Server, session: &str, command: &str) -> (String, Vec<support::Event>) {
    let mut stream = server.stream(session);
    let prompt = server.prompt(session, command);
    stream.turn_end(&prompt);
    (stream.output(&prompt, "stdout"), std::mem::take(&mut stream.seen))
}

#[test]
fn an_agent_may_read_but_change_nothing_and_its_human_is_told() {
    let server = shell(&[]);
    let url = format!("http://{}", server.address);
    let (session, other) = (server.create(), server.create());
    let get = format!("curl -s -o /dev/null -w 'read %{{http_code}}\\n' {url}/api/sessions");
    let prompt = curl_prompt(&url, "", &other);
    let (text, events) = run(&server, &session, &format!("{get}; {prompt}; {prompt}"));
    assert_eq!(text, "read 200\ntold 403\ntold 403\n");
    let errors: Vec<_> =
        events.iter().filter(|event| event.text("code") == "agent_self_access").collect();
    assert_eq!(errors.len(), 1, "told once: {errors:?}");
    assert_eq!(errors[0].name, "session-error");
    assert!(errors[0].text("error").contains(&format!("POST /api/session/{other}/prompt")));
    assert_eq!(server.get(&format!("/api/session/{other}/queue")).json()["queue"], json!([]));
    assert_eq!(server.status(&other), "idle", "nothing reached the other session");
    // Everything else that changes something.
    let post = "-X POST -H 'Content-Type: application/json' -d '{}'";
    let commands: String = [
        format!("{post} {url}/api/sessions"),
        format!("{post} {url}/claude/api/claude/sessions"),
        format!("{post} {url}/api/session/{other}/interrupt"),
        format!("{post} {url}/api/session/{session}/approvals/x"),
        format!("{post} {url}/api/login"),
        format!("-X PATCH -H 'Content-Type: application/json' -d '{{}}' {url}/api/session/{other}"),
        format!("-X DELETE {url}/api/session/{other}"),
        format!("-X DELETE {url}/api/session/{other}/queue/x"),
    ]
    .map(|arguments| format!("curl -s -o /dev/null -w '%{{http_code}} ' {arguments}; "))
    .concat();
    let (text, _) = run(&server, &session, &commands);
    assert_eq!(text, "403 ".repeat(8));
    let metrics = server.metrics();
    assert_eq!(metrics["server"]["selfAccesses"], 10);
    // The human is served while the agent is at it.
    server.prompt(&session, "sleep 5");
    eventually("it runs", || server.status(&session) == "running");
    server.prompt(&other, "true");
    server.interrupt(&session);
}

#[test]
fn an_agent_is_known_behind_forks_sessions_lost_parents_threads_and_on_a_unix_socket() {
    need("python3");
    let options = Options::new();
    let socket = options.scratch().join("socket");
    let server = options
        .flags(&["--agent", "lines:sh", "--listen", &format!("unix:{socket}")])
        .flags(&["--ladder-eof", "500ms", "--ladder-term", "500ms"])
        .start();
    let url = format!("http://{}", server.address);
    let (session, other) = (server.create(), server.create());
    let out = server.scratch.join("root/out");
    let python = format!(
        "import ctypes, socket, threading\n\
         def ask():\n \
           ctypes.CDLL(None).unshare(0x400)\n \
           s = socket.create_connection(('127.0.0.1', {}))\n \
           b = b'{{\"command\":\"echo done\"}}'\n \
           s.sendall(b'POST /api/session/{other}/prompt HTTP/1.1\\r\\nHost: localhost\\r\\n'\n  \
             b'Content-Type: application/json\\r\\nContent-Length: %d\\r\\n\\r\\n' % len(b) + b)\n \
           print('told', s.recv(12)[-3:].decode())\n\
         t = threading.Thread(target=ask)\nt.start()\nt.join()\n",
        server.address.port()
    );
    std::fs::write(server.scratch.join("root/thread.py"), python).unwrap();
    for (name, command) in [
        ("plain", curl_prompt(&url, "", &other)),
        ("localhost", curl_prompt(&url.replace("127.0.0.1", "localhost"), "-4", &other)),
        ("subshell", format!("( ( {} ) )", curl_prompt(&url, "", &other))),
        ("setsid", format!("setsid -w {}", curl_prompt(&url, "", &other))),
        ("no environment", format!("env -i PATH=\"$PATH\" {}", curl_prompt(&url, "", &other))),
        (
            "orphan",
            format!(
                "(env -i PATH=\"$PATH\" setsid {} > {out} &) ; while [ ! -s {out} ]; do sleep 0.05; \
             done; cat {out}",
                curl_prompt(&url, "", &other)
            ),
        ),
        ("unix", curl_prompt("http://localhost", &format!("--unix-socket {socket}"), &other)),
        ("a thread with descriptors of its own", "python3 thread.py".into()),
    ] {
        let (text, _) = run(&server, &session, &command);
        assert_eq!(text, "told 403\n", "{name}");
    }
    assert_eq!(server.status(&other), "idle", "nothing reached the other session");
}

#[test]
fn a_request_whose_sender_has_gone_changes_nothing_while_there_are_agents() {
    need("python3");
    let server = shell(&[]);
    let (session, other) = (server.create(), server.create());
    // With many descriptors to close it takes a while to end, and is not seen to hold any meanwhile.
    let python = format!(
        "import os, resource, socket\n\
         hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n\
         many = min(hard, 20000)\n\
         resource.setrlimit(resource.RLIMIT_NOFILE, (many, hard))\n\
         s = socket.create_connection(('127.0.0.1', {}))\n\
         null = os.open('/dev/null', os.O_RDONLY)\n\
         for _ in range(many - 100): os.dup(null)\n\
         b = b'{{\"command\":\"echo done\"}}'\n\
         s.sendall(b'POST /api/session/{other}/prompt HTTP/1.1\\r\\nHost: localhost\\r\\n'\n \
           b'Content-Type: application/json\\r\\nContent-Length: %d\\r\\n\\r\\n' % len(b) + b)\n\
         os._exit(0)\n",
        server.address.port()
    );
    std::fs::write(server.scratch.join("root/gone.py"), python).unwrap();
    let before = server.metrics()["server"]["requests"].as_u64().unwrap();
    run(
        &server,
        &session,
        "for i in 1 2 3 4 5 6 7 8 9 a b c d e f; do python3 gone.py; done; sleep 0.2",
    );
    let after = server.metrics()["server"]["requests"].as_u64().unwrap();
    assert!(after > before);
    assert_eq!(server.status(&other), "idle");
    let mut history = server.stream_with(&other, "?replay=all", &[]);
    history.until_name("replay-complete");
    assert!(history.seen.iter().all(|event| event.name != "prompt-queued"));
}

#[test]
fn what_an_agent_leaves_behind_is_held_off_when_the_agent_is_gone() {
    let server = shell(&[]);
    let (session, other, third) = (server.create(), server.create(), server.create());
    let (out, go) = (server.scratch.join("root/out"), server.scratch.join("root/go"));
    // As long as another agent lives, nobody can say whose it is, and it lives as well.
    let over = server.scratch.join("root/over");
    let long = server.prompt(&third, &format!("while [ ! -e {over} ]; do sleep 0.05; done"));
    let prompt = curl_prompt(&format!("http://{}", server.address), "", &other);
    // Without our variables and in a session of its own nothing says whose it was.
    let script = format!(
        "touch {out}.started\nwhile [ ! -e {go} ]; do sleep 0.05; done\n{prompt} > {out}.new\nmv {out}.new {out}\n"
    );
    std::fs::write(server.scratch.join("root/later.sh"), script).unwrap();
    // Its turn lasts until it has shed everything: what still bears our mark is swept away.
    let command = format!(
        "(env -i PATH=\"$PATH\" setsid sh later.sh > /dev/null 2>&1 &)\n\
         while [ ! -e {out}.started ]; do sleep 0.05; done"
    );
    run(&server, &session, &command);
    eventually("the agent is gone", || server.metrics()["server"]["agents"] == 1);
    std::fs::write(&go, "").unwrap();
    eventually("it has tried", || std::path::Path::new(&out).exists());
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "told 403\n");
    assert_eq!(server.status(&other), "idle");
    std::fs::write(&over, "").unwrap();
    server.stream_with(&third, "?replay=all", &[]).turn_end(&long);
    eventually("no agent lives", || server.metrics()["server"]["agents"] == 0);
    // Nobody is left, so even one who does not wait is believed.
    server.prompt(&other, "true");
}

#[test]
fn an_agent_may_do_what_its_user_may_where_the_user_says_so() {
    let server = shell(&["--allow-agent-access"]);
    let (session, other) = (server.create(), server.create());
    let prompt = curl_prompt(&format!("http://{}", server.address), "", &other);
    let (text, _) = run(&server, &session, &prompt);
    assert_eq!(text, "told 202\n");
}

// What belongs to others.

#[test]
fn nothing_of_another_session_is_reached_by_its_ids() {
    let server = Server::demo(&[]);
    let (mine, other) = (server.create(), server.create());
    let mut stream = server.stream(&other);
    let queued = {
        server.prompt(&other, "run tool: ls");
        stream.until_name("prompt-queued").clone()
    };
    let required = stream.until_name("approval-required").clone();
    let id = queued.id.as_deref().unwrap();
    server.get(&format!("/api/session/{other}/events/{id}")).expect(200);
    server.get(&format!("/api/session/{mine}/events/{id}")).expect(404);
    assert_eq!(server.decide(&mine, &required, "allow", json!({})).status, 404);
    let prompt = queued.text("promptId");
    server.send("DELETE", &format!("/api/session/{mine}/queue/{prompt}")).expect(404);
    // A cursor of another session's event is a place in time, and shows nothing of it.
    let reader = server.stream_with(&mine, "", &[("Last-Event-ID", id)]);
    assert!(!reader.head.text().contains(&other));
    server.decide(&other, &required, "deny", json!({})).expect(200);
}

#[test]
fn a_working_directory_is_judged_by_where_it_leads_and_the_data_directory_is_none() {
    let server = Server::demo(&[]);
    let root = server.root();
    let outside = server.scratch.directory("outside");
    symlink(&outside, format!("{root}/link")).unwrap();
    std::fs::create_dir(format!("{root}/inside")).unwrap();
    symlink(format!("{root}/inside"), server.scratch.join("way-in")).unwrap();
    for (directory, want) in [
        (format!("{root}/inside"), 201),
        (format!("{root}/inside/../inside"), 201),
        (server.scratch.join("way-in"), 201),
        (format!("{root}/link"), 403),
        (format!("{root}/../outside"), 403),
        (format!("{root}/inside/../../outside"), 403),
        (outside, 403),
        (server.scratch.join("data"), 403),
        ("/".into(), 403),
        (format!("{root}/none"), 400),
        ("inside".into(), 400),
    ] {
        let answer = server.post("/api/sessions", json!({"workingDir": directory}));
        assert_eq!(answer.status, want, "{directory}: {answer}");
    }
    let within = Options::new();
    let everything = within.scratch().path().to_str().unwrap().to_owned();
    let data = within.scratch().join("data");
    let server = within.flags(&["--agent", "demo", "--root", &everything]).start();
    let answer = server.post("/api/sessions", json!({"workingDir": data}));
    assert!(matches!(answer.status, 400 | 403), "the data directory inside a root: {answer}");
}

/// What was a project when the session was made may be another's when its agent starts.
#[test]
fn an_agent_does_not_start_where_its_directory_has_become_the_data_directory() {
    let options = Options::new().flags(&["--agent", "demo"]);
    let everything = options.scratch().path().to_str().unwrap().to_owned();
    let mut server = options.flags(&["--root", &everything]).start();
    let root = server.root();
    let project = format!("{root}/project");
    std::fs::create_dir(&project).unwrap();
    let refused = |server: &Server, session: &str, why: &str| {
        let mut reader = server.stream(session);
        reader.joined();
        let prompt = server.prompt(session, "x");
        let error = reader.until_name("session-error");
        assert_eq!(error.data["code"], "agent_failed_to_start", "{}", error.data);
        assert!(error.data.to_string().contains(why), "{}", error.data);
        assert_eq!(reader.turn_end(&prompt).name, "prompt-failed");
    };

    // A link in its place, which leads to our own files.
    let session = server.create_in(&project);
    std::fs::rename(&project, format!("{root}/moved")).unwrap();
    symlink(server.scratch.join("data"), &project).unwrap();
    refused(&server, &session, "it now leads elsewhere");

    // The same directory, which a restart with another --data-dir makes ours.
    std::fs::remove_file(&project).unwrap();
    std::fs::rename(format!("{root}/moved"), &project).unwrap();
    assert!(server.stop().success());
    std::fs::remove_dir(&project).unwrap();
    std::fs::rename(server.scratch.join("data"), &project).unwrap();
    let flags = ["--agent", "demo", "--root", &everything, "--data-dir", &project];
    let again = Options::new().flags(&flags).start();
    refused(&again, &session, "it lies in the server's data directory");
}

#[test]
fn a_pipe_where_settings_are_looked_for_holds_up_nobody() {
    let server = Server::fake(&[]);
    let (trap, other) = (server.scratch.directory("root/trap"), server.create());
    assert!(Command::new("mkfifo").arg(format!("{trap}/.mcp.json")).status().unwrap().success());
    let session = server.create_in(&trap);
    let mut stream = server.stream(&session);
    let prompt = server.prompt(&session, "say: hello");
    let required = stream.until_name("approval-required");
    assert_eq!(required.text("kind"), "trust", "{}", required.data);
    // Whatever has to be durable still becomes so.
    let theirs = server.prompt(&other, "say: hello");
    server.stream(&other).turn_end(&theirs);
    server.decide(&session, &required, "deny", json!({})).expect(200);
    stream.turn_end(&prompt);
}

#[test]
fn a_get_changes_nothing() {
    let guarded = Guarded::start(&[]);
    let session = guarded.create();
    for path in ["/api/login", "/api/session/ID/prompt", "/api/session/ID/interrupt"] {
        let path = path.replace("ID", &session);
        guarded.send(&guarded.full, "GET", &path, "").expect(405);
    }
}

#[test]
fn an_address_behind_a_trusted_proxy_has_so_many_connections_and_no_more() {
    let flags = ["--trusted-proxy", "127.0.0.1", "--connections-per-address-max", "2"];
    let guarded = Guarded::start(&flags);
    let session = guarded.create();
    let bearer = format!("Bearer {}", guarded.read);
    let from = |address: &'static str| {
        [("Authorization", bearer.clone()), ("X-Forwarded-For", format!("9.9.9.9, {address}"))]
    };
    let stream = |address| {
        let headers = from(address);
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (*name, &**value)).collect();
        guarded.server.stream_with(&session, "", &headers)
    };
    let get = |address| {
        let headers = from(address);
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (*name, &**value)).collect();
        request(guarded.server.address, "GET", "/api/sessions", &headers, b"")
    };
    let (mut first, mut second) = (stream("1.2.3.4"), stream("1.2.3.4"));
    first.until_name("connected");
    second.until_name("connected");
    let mut third = stream("1.2.3.4");
    let busy = third.until_name("server-busy");
    assert_eq!(busy.text("reason"), "connections_per_address_max");
    let (_, code) = get("1.2.3.4").expect_error(429);
    assert_eq!(code, "connections_per_address_max");
    get("1.2.3.5").expect(200);
    drop(second);
    eventually("there is room again", || get("1.2.3.4").status == 200);
}

#[test]
fn the_real_cli_runs_a_script_that_would_allow_its_own_next_step_and_is_held_off() {
    need("curl");
    let api = support::Api::start();
    let server = api.serve(&[]);
    let (attacker, victim) = (server.create(), server.create());
    let mut asked = server.stream(&victim);
    let pwned = server.scratch.join("root/pwned");
    let prompt = server.prompt(&victim, &format!("run tool: touch {pwned} ;; say: done"));
    let open = asked.until_name("approval-required");
    let url = format!("http://{}/api/session/{victim}/approvals", server.address);
    let body = json!({"decision": "allow", "inputHash": open.data["inputHash"]});
    let script = format!(
        "curl -s -o /dev/null -w 'list %{{http_code}} ' {url}\n\
         curl -s -o /dev/null -w 'answer %{{http_code}}' -X POST \
         -H 'Content-Type: application/json' -d '{body}' {url}/{}\n",
        open.text("approvalId")
    );
    std::fs::write(server.scratch.join("root/attack.sh"), script).unwrap();
    let mut watched = server.stream(&attacker);
    let attack = server.prompt(&attacker, "run tool: sh attack.sh ;; say: tried");
    let required = watched.until_name("approval-required");
    server.decide(&attacker, &required, "allow", json!({})).expect(200);
    let told = watched.until_name("session-error");
    assert_eq!(told.text("code"), "agent_self_access", "{}", told.data);
    watched.turn_end(&attack);
    assert!(watched.story().contains("list 200 answer 403"), "{}", watched.story());
    // It still waits for its human, whose word counts.
    let path = format!("/api/session/{victim}/approvals");
    assert_eq!(server.get(&path).json()["approvals"].as_array().unwrap().len(), 1);
    assert!(!std::path::Path::new(&pwned).exists());
    server.decide(&victim, &open, "deny", json!({})).expect(200);
    asked.turn_end(&prompt);
}
