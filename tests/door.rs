//! The door as a stranger finds it: raw bytes in, raw bytes out, over a real socket; and what it
//! does with the slow, the many and the greedy.
//!
//! The tables are those that the HTTP layer is held to alone. Here the answer's status and code
//! must be the verdict's, and the connection must be closed or kept as it says.

mod support;
#[path = "tables/http.rs"]
mod tables;

use serde_json::{Value, json};
use sidestream::limits::MIB;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use support::{
    Connection, Next, Options, PATIENCE, Server, add_token, allow_descriptors, eventually, http,
    request,
};
use tables::{BODIES, FIELDS, HEADS, HOSTS, TARGETS};

/// Statuses that tell of a request that was none.
const NO_REQUEST: [u16; 9] = [400, 408, 411, 413, 414, 417, 431, 501, 505];

/// How often a limit was met, as the metrics tell it.
#[track_caller]
fn hits(server: &Server, flag: &str) -> u64 {
    let page = server.get("/metrics").expect(200).text();
    let name = format!("sidestream_limit_hits_total{{limit=\"{flag}\"}} ");
    let value = page.lines().find_map(|line| line.strip_prefix(&name));
    value.unwrap_or_else(|| panic!("no {name}in {page}")).parse().unwrap()
}

/// What became of an input.
struct Outcome {
    status: u16,
    code: String,
    kept: bool,
    /// Then its answer has no body, and no code.
    is_head: bool,
}

/// A request that any server of ours answers with 200.
const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Sends one input and reads its answer, an interim one passed over; then looks whether the
/// connection takes another request.
#[track_caller]
fn knock(server: &Server, input: &[u8], row: &str) -> Outcome {
    let mut connection = Connection::open(server.address);
    connection.send(input);
    eprintln!("{row}"); // Shown with the panic, if there is one.
    let is_head = input.strip_prefix(b"\r\n").unwrap_or(input).starts_with(b"HEAD ");
    let answer = connection.response(if is_head { "HEAD" } else { "GET" });
    let code = serde_json::from_slice::<Value>(&answer.body)
        .ok()
        .and_then(|json| json["code"].as_str().map(str::to_owned))
        .unwrap_or_default();
    let says_close = answer.header("connection") == Some("close");
    if says_close {
        connection.expect_end();
    } else {
        connection.send(HEALTH);
        assert_eq!(connection.response("GET").status, 200, "kept for the next one: {row}");
    }
    Outcome { status: answer.status, code, kept: !says_close, is_head }
}

/// Sends an input that is not whole: nothing may be answered but an interim reply, and the end
/// of it is the end of the connection.
#[track_caller]
fn knock_in_vain(server: &Server, input: &[u8], row: &str) {
    let mut connection = Connection::open(server.address);
    connection.send(input);
    connection.half_close();
    let rest = connection.rest();
    let interim = rest == b"HTTP/1.1 100 Continue\r\n\r\n";
    assert!(rest.is_empty() || interim, "{row}: {}", rest.escape_ascii());
}

/// The same input to a path that takes a body: others refuse it by its head.
fn where_bodies_are_wanted(input: &[u8]) -> Vec<u8> {
    let Some(rest) = input.strip_prefix(b"POST / ") else { return input.to_vec() };
    let line_end = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
    let (version, fields) = rest.split_at(line_end);
    let has_host = memchr::memmem::find(fields, b"Host: ").is_some();
    let host = if has_host { &b""[..] } else { b"Host: localhost\r\n" };
    let has_type = memchr::memmem::find(fields, b"Content-Type: ").is_some();
    let kind = if has_type { &b""[..] } else { b"Content-Type: application/json\r\n" };
    [b"POST /api/sessions ", version, host, kind, fields].concat()
}

#[track_caller]
fn check(server: &Server, section: &str, input: &[u8], want: &str) {
    let row = format!("{section}: {}", input.escape_ascii());
    let words: Vec<&str> = want.split(' ').collect();
    if let Ok(status) = words[0].parse::<u16>() {
        let outcome = knock(server, input, &row);
        let code = if outcome.is_head { "" } else { words[1] };
        assert_eq!((outcome.status, &*outcome.code), (status, code), "{row}");
        assert!(!outcome.kept, "{row}: nothing behind it may be read as a request");
    } else if want == "more" || want.contains("chunked") || want.contains("length=") {
        let length = words.iter().find_map(|word| word.strip_prefix("length="));
        let input = &where_bodies_are_wanted(input);
        match length.map_or(1, |length| length.parse::<u64>().unwrap()) {
            0 => {}
            1..=1_000_000 => knock_in_vain(server, input, &row),
            // Longer than any body may be: told at once (RFC 9110 §15.5.14).
            _ => assert_eq!(knock(server, input, &row).status, 413, "{row}"),
        }
    } else if !want.contains("rest=") {
        let outcome = knock(server, input, &row);
        assert!(!NO_REQUEST.contains(&outcome.status), "{row}: {}", outcome.code);
        assert_eq!(outcome.kept, want.contains(" keep"), "{row}");
    }
}

/// The same input with our own host, where the table has one that is only valid.
fn at_home(input: &[u8]) -> Vec<u8> {
    match memchr::memmem::find(input, b"Host: a\r\n") {
        Some(at) => [&input[..at], b"Host: localhost\r\n", &input[at + 9..]].concat(),
        None => input.to_vec(),
    }
}

#[test]
fn every_head_is_answered_as_its_rfc_says_and_the_connection_closed_where_framing_is_in_doubt() {
    let server = Server::demo(&[]);
    for (section, input, want) in HEADS {
        check(&server, section, &at_home(input), want);
    }
    for (section, fields, want) in FIELDS {
        let input = [b"POST / HTTP/1.1\r\nHost: localhost\r\n", *fields, b"\r\n"].concat();
        check(&server, section, &input, want);
    }
    for (section, host, stands) in HOSTS {
        let input = [b"GET / HTTP/1.1\r\nHost: ", *host, b"\r\n\r\n"].concat();
        let want = if *stands { "GET / 1.1 none keep" } else { "400 bad_host" };
        check(&server, section, &input, want);
    }
    assert!(HEADS.len() + FIELDS.len() + HOSTS.len() > 200);
}

#[test]
fn every_chunked_body_is_answered_as_its_rfc_says() {
    let server = Server::demo(&[]);
    let head = b"POST /api/sessions HTTP/1.1\r\nHost: localhost\r\n\
        Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (section, body, want, _) in BODIES {
        let row = format!("{section}: {}", body.escape_ascii());
        let input = [head, *body].concat();
        match *want {
            "more" => knock_in_vain(&server, &input, &row),
            "done" if body.ends_with(b"GET") => {}
            // What arrived is no session: said by whoever read all of it.
            "done" => {
                let outcome = knock(&server, &input, &row);
                assert_eq!(outcome.status, 400, "{row}");
                // An empty body is an empty object, which lacks what it must have.
                let told =
                    outcome.code.starts_with("invalid_") || outcome.code == "working_dir_missing";
                assert!(told, "{row}: {}", outcome.code);
                assert!(outcome.kept, "{row}");
            }
            // The table's bound is its own.
            "413 body_too_large" if !body.starts_with(b"FFFF") => {}
            want => check(&server, section, &input, want),
        }
    }
}

#[test]
fn every_target_has_one_reading_or_is_refused() {
    let server = Server::demo(&[]);
    for (section, method, target, want) in TARGETS {
        let row = format!("{section}: {method} {target}");
        let input = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let mut connection = Connection::open(server.address);
        connection.send(&input);
        let answer = connection.response(method);
        if let Some(want) = want.strip_prefix("400 ") {
            let (_, code) = answer.expect_error(400);
            assert_eq!(code, want, "{row}");
        } else {
            assert!(!NO_REQUEST.contains(&answer.status), "{row}: {answer}");
        }
    }
}

#[test]
fn what_is_too_large_is_told_which_part_and_the_connection_closed() {
    let flags = ["--head-size-max", "1KiB", "--head-fields-max", "10", "--body-size-max", "1KiB"];
    let server = Server::demo(&flags);
    let long = |count: usize| "x".repeat(count);
    for (input, want) in [
        (format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", long(1100)), "414 "),
        (format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", long(1100)), "431 "),
        (long(1100), "501 "),
        (format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(10)), "431 "),
        ("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1025\r\n\r\n".into(), "413 "),
        (
            "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n401\r\n"
                .into(),
            "413 ",
        ),
    ] {
        let row = input.as_bytes()[..40.min(input.len())].escape_ascii().to_string();
        let outcome = knock(&server, input.as_bytes(), &row);
        assert_eq!(format!("{} ", outcome.status), want, "{row} {}", outcome.code);
        assert!(!outcome.kept, "{row}");
    }
}

#[test]
fn pipelined_requests_are_answered_in_order_and_no_faster_than_they_are_taken() {
    let server = Server::demo(&["--pipeline-max", "4"]);
    let count = 500;
    let mut input = Vec::new();
    for number in 0..count {
        let id = format!("r{number}");
        let path = if number % 50 == 7 { "/js/app.js" } else { "/health" };
        input.extend(http::encode(server.address, "GET", path, &[("X-Request-Id", &id)], b""));
    }
    let mut connection = Connection::open(server.address);
    connection.send(&input);
    for number in 0..count {
        let answer = connection.response("GET").expect(200);
        assert_eq!(answer.header("x-request-id"), Some(&*format!("r{number}")));
    }
    assert!(hits(&server, "pipeline-max") > 0);
    // One behind a request whose answer must wait.
    let create = json!({"workingDir": server.root()}).to_string();
    let mut both = http::encode(server.address, "POST", "/api/sessions", &[], create.as_bytes());
    both.extend(http::encode(server.address, "GET", "/api/sessions", &[], b""));
    connection.send(&both);
    connection.response("POST").expect(201);
    let rows = connection.response("GET").expect(200).json();
    assert_eq!(rows["sessions"].as_array().unwrap().len(), 1, "it came after");
}

/// However much of the room strangers take, a small head is read, and who shows a token with it is
/// served, waits and is answered; and nobody is come back to for whom there is no room.
#[test]
fn strangers_with_long_heads_hold_up_nobody_who_has_a_token() {
    let options = Options::new();
    let file = options.scratch().join("tokens");
    let token = format!("Bearer {}", add_token(&file, "me", "full"));
    let flags = ["--agent", "demo", "--token-file", &file, "--requests-size-max", "1MiB"];
    let server = options.flags(&flags).flags(&["--head-timeout", "10m"]).start();
    let ask = |method: &str, path: &str, body: &Value| {
        let fields = [("Authorization", &*token), ("Content-Type", "application/json")];
        request(server.address, method, path, &fields, body.to_string().as_bytes())
    };
    let made = ask("POST", "/api/sessions", &json!({"workingDir": server.root()})).expect(201);
    let session = made.json()["sessionId"].as_str().unwrap().to_owned();
    let head = |size| format!("GET /health HTTP/1.1\r\nHost: localhost\r\nX: {}", "a".repeat(size));
    let strangers: Vec<TcpStream> = (0..400)
        .map(|count| {
            let mut stranger = TcpStream::connect(server.address).unwrap();
            // Of the long ones some are refused while they send.
            let _ =
                stranger.write_all(head(if count % 2 == 0 { 15_000 } else { 1_000 }).as_bytes());
            stranger
        })
        .collect();
    let taken = || {
        let page = ask("GET", "/metrics", &Value::Null).expect(200).text();
        let of = |name: &str| -> u64 {
            let value = page.lines().find_map(|line| line.strip_prefix(name));
            value.unwrap_or_else(|| panic!("no {name}in {page}")).trim().parse().unwrap()
        };
        (
            of("sidestream_requests_bytes "),
            of("sidestream_loop_turn_seconds_count "),
            of("sidestream_limit_hits_total{limit=\"requests-size-max\"} "),
        )
    };
    eventually("strangers have what is theirs", || taken().0 > MIB as u64 / 16 * 9);
    let (_, turns, _) = taken();
    for _ in 0..20 {
        ask("GET", "/api/sessions", &Value::Null).expect(200);
    }
    let path = format!("/api/session/{session}/prompt?wait=60");
    let done = ask("POST", &path, &json!({"command": "say: hello"})).expect(200).json();
    assert_eq!(done["data"]["result"], "hello", "{done}");
    let (bytes, after, hits) = taken();
    assert!(bytes > MIB as u64 / 16 * 9, "they are there still: {bytes}");
    assert!(hits < 1_000, "{hits} times is not once for each");
    assert!(after - turns < 3_000, "{} turns of the loop for 22 requests", after - turns);
    drop(strangers);
}

/// A request that found no room all the time is told so, under the name of the limit.
#[test]
fn a_request_that_found_no_room_in_time_is_told_so() {
    let server = Server::demo(&["--requests-size-max", "256KiB", "--head-timeout", "1s"]);
    let session = server.create();
    let cursor = server.told(&format!("/api/session/{session}"))["lastEventId"].clone();
    // Long polls hold their heads for as long as they wait.
    let poll = format!(
        "GET /api/session/{session}/events/poll?wait=60&after={} HTTP/1.1\r\nHost: localhost\r\n\
         X: {}\r\n\r\n",
        cursor.as_str().unwrap(),
        "x".repeat(14_000)
    );
    let mut polls: Vec<Connection> = (0..24).map(|_| Connection::open(server.address)).collect();
    polls.iter_mut().for_each(|connection| connection.send(&poll));
    let mut connection = Connection::open(server.address);
    connection.send(HEALTH);
    let answer = connection.response("GET").expect(503);
    assert_eq!(answer.header("retry-after"), Some("5"));
    connection.expect_end();
    drop(polls);
    eventually("there is room again", || {
        request(server.address, "GET", "/health", &[], b"").status == 200
    });
    assert!(hits(&server, "requests-size-max") > 0);
}

/// Whatever a body is made of, what is made of it stays within the bound; and whoever has shown no token
/// sends next to nothing.
#[test]
fn a_body_of_very_many_values_is_refused_before_it_is_understood() {
    let server = Server::demo(&[]);
    let session = server.create();
    let before = server.memory("VmHWM");
    for value in ["{\"\":0},", "[0],", "0,"] {
        let body = format!("{{\"a\":[{}0]}}", value.repeat(8_000_000 / value.len()));
        for path in ["/api/sessions", &format!("/api/session/{session}/prompt")] {
            let answer = request(server.address, "POST", path, &[], body.as_bytes());
            assert_eq!(answer.expect_error(400).1, "too_many_values", "{value} {path}");
        }
    }
    let grown = server.memory("VmHWM") - before;
    assert!(grown < 32 * MIB, "{grown} bytes more at its peak");
    // The text of a prompt is one value, whatever stands in it.
    let command = json!({"command": format!("say: {}", "[{\",\\\"".repeat(20_000))}).to_string();
    let path = format!("/api/session/{session}/prompt");
    request(server.address, "POST", &path, &[], command.as_bytes()).expect(202);
    // Nobody is asked for a token at a login.
    let kind = ("Content-Type", "application/json");
    let body = format!("{{\"token\":\"{}\"}}", "x".repeat(5_000));
    let answer = request(server.address, "POST", "/api/login", &[kind], body.as_bytes());
    assert_eq!(answer.expect_error(413).1, "body_too_large");
    for size in [5_000, 1_000_000] {
        let mut connection = Connection::open(server.address);
        let head = "POST /api/login HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\
            Content-Type: application/json\r\n\r\n";
        connection.send(format!("{head}{size:x}\r\n"));
        assert_eq!(connection.response("POST").expect_error(413).1, "body_too_large", "{size}");
        let mut connection = Connection::open(server.address);
        connection.send(format!("{head}1\r\n"));
        connection.send(format!("x\r\n{size:x}\r\n"));
        assert_eq!(connection.response("POST").expect_error(413).1, "body_too_large", "{size}");
    }
}

/// What a session is called.
#[track_caller]
fn name(server: &Server, session: &str) -> Value {
    server.get(&format!("/api/session/{session}")).expect(200).json()["session"]["name"].clone()
}

/// RFC 9112 §9.3.2: what came before a stream is answered, whatever ends the stream.
#[test]
fn requests_before_a_stream_are_answered_though_it_ends_at_once() {
    let server = Server::demo(&[]);
    let session = server.create();
    let stream = format!("GET /api/session/{session}/events HTTP/1.1\r\nHost: localhost\r\n\r\n");
    for (row, behind, ends) in [
        ("a byte behind it", "\r\n", false),
        ("a request behind it", std::str::from_utf8(HEALTH).unwrap(), false),
        ("its client's end", "", true),
    ] {
        for count in 1..=3 {
            let mut connection = Connection::open(server.address);
            connection.send([&HEALTH.repeat(count), stream.as_bytes(), behind.as_bytes()].concat());
            if ends {
                connection.half_close();
            }
            for at in 0..count {
                assert_eq!(connection.response("GET").status, 200, "{row}, answer {at} of {count}");
            }
            let rest = connection.rest();
            let is_stream = rest.starts_with(b"HTTP/1.1 200 OK") && rest.ends_with(b"\n\n");
            assert!(rest.is_empty() || is_stream, "{row}: {}", rest.escape_ascii());
        }
    }
    // One that changes something is told so, since it does.
    let body = r#"{"name":"heard"}"#;
    let patch = format!(
        "PATCH /api/session/{session} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\
         Content-Type: application/json\r\n\r\n{body}{stream}\r\n",
        body.len()
    );
    let mut connection = Connection::open(server.address);
    connection.send(patch);
    assert_eq!(connection.response("PATCH").status, 200);
    assert_eq!(name(&server, &session), "heard");
    // And a stream that is under way keeps what stood before it, if its client says more.
    let mut connection = Connection::open(server.address);
    connection.send([HEALTH, stream.as_bytes()].concat());
    connection.send("x");
    assert_eq!(connection.response("GET").status, 200);
}

/// RFC 9112 §2.2: an empty line that somebody sends behind a body begins no request.
#[test]
fn an_empty_line_between_requests_is_hung_up_on_without_a_word() {
    let server = Server::demo(&["--head-timeout", "1s", "--keep-alive", "1s"]);
    for before in [HEALTH, b""] {
        let mut connection = Connection::open(server.address);
        connection.send([before, b"\r\n"].concat());
        if !before.is_empty() {
            connection.response("GET").expect(200);
        }
        connection.expect_end();
    }
    let mut connection = Connection::open(server.address);
    connection.send([HEALTH, b"\r\n", HEALTH].concat());
    for _ in 0..2 {
        connection.response("GET").expect(200);
    }
}

/// What a path takes is what its `Allow` says (RFC 9110 §10.2.1, §15.5.6), and a `PATCH` is told in
/// what it may be written (RFC 5789 §3.1).
#[test]
fn a_method_that_a_path_does_not_take_is_told_which_it_does() {
    let server = Server::demo(&[]);
    let session = server.create();
    let one = format!("/api/session/{session}");
    for (path, allow) in [
        ("/health", "GET, HEAD, OPTIONS"),
        ("/api/sessions", "GET, HEAD, POST, OPTIONS"),
        (&one, "GET, HEAD, PATCH, DELETE, OPTIONS"),
    ] {
        for method in ["TRACE", "QUERY", "PUT"] {
            let answer = server.send(method, path).expect(405);
            assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
        }
        let answer = server.send("OPTIONS", path).expect(204);
        assert_eq!(answer.header("allow"), Some(allow), "OPTIONS {path}");
        let patch = allow.contains("PATCH").then_some("application/json");
        assert_eq!(answer.header("accept-patch"), patch, "OPTIONS {path}");
    }
    let answer = server.send("OPTIONS", "*").expect(204);
    assert_eq!(answer.header("allow"), Some("GET, HEAD, POST, PATCH, DELETE, OPTIONS"));
    let head = [("Content-Type", "text/plain")];
    let answer = support::http::request(server.address, "PATCH", &one, &head, b"{}").expect(415);
    assert_eq!(answer.header("accept-patch"), Some("application/json"));
}

/// RFC 9110 §13: what its client wants to be true of it is looked at before a resource is changed.
#[test]
fn a_change_whose_precondition_is_not_so_changes_nothing() {
    let server = Server::demo(&[]);
    let session = server.create();
    let path = format!("/api/session/{session}");
    let send = |method: &str, path: &str, field: &str, value: &str| {
        let head = [(field, value), ("Content-Type", "application/json")];
        let body = if method == "GET" { &b""[..] } else { br#"{"name":"changed"}"# };
        support::http::request(server.address, method, path, &head, body)
    };
    for (method, field, value) in [
        ("PATCH", "If-Match", "\"none\""),
        ("PATCH", "If-None-Match", "*"),
        ("DELETE", "If-Match", "\"none\", \"nor this\""),
        ("GET", "If-Match", "\"none\""),
    ] {
        let (_, code) = send(method, &path, field, value).expect_error(412);
        assert_eq!(code, "precondition_failed", "{method} {field}");
    }
    assert_eq!(name(&server, &session), Value::Null);
    let nobody = "/api/session/session-1-00000000";
    send("PATCH", nobody, "If-Match", "\"none\"").expect(404);
    send("PATCH", &path, "If-Match", "*").expect(200);
    assert_eq!(name(&server, &session), "changed");
    // A page has a tag; the weak form of it does not match strongly.
    let tag = server.get("/login").expect(200).header("etag").unwrap().to_owned();
    send("GET", "/login", "If-Match", &tag).expect(200);
    send("GET", "/login", "If-Match", &format!("W/{tag}")).expect(412);
    send("GET", "/login", "If-Match", "\"x\"").expect(412);
    send("GET", "/login", "If-None-Match", &tag).expect(304);
}

/// One resource has one reading, however its path is escaped (RFC 3986 §6.2.2.2).
#[test]
fn an_escaped_path_names_what_the_plain_one_does() {
    let server = Server::demo(&["--base-path", "/base"]);
    for path in [
        "/healt%68",
        "/lo%67in",
        "/js/%61pp.js",
        "/style%2Ecss",
        "/%6fpenapi.yaml",
        "/%73ession/x",
        "/api/events%2eschema.json",
        "/%62ase/%6cogin",
        "/base/",
    ] {
        server.get(path).expect(200);
    }
    for path in ["/login/", "//login", "/js", "/base/base/login", &"/a".repeat(40)] {
        server.get(path).expect(404);
    }
    let moved = server.get("/base?x=1").expect(308);
    assert_eq!(moved.header("location"), Some("/base/?x=1"));
}

#[test]
fn an_https_url_leads_to_no_plain_server() {
    let server = Server::demo(&[]);
    for (target, status) in [("https://localhost/health", 421), ("http://localhost/health", 200)] {
        let mut connection = Connection::open(server.address);
        connection.send(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!(connection.response("GET").status, status, "{target}");
    }
}

#[test]
fn a_change_is_written_in_json_as_it_stands() {
    let server = Server::demo(&[]);
    let session = server.create();
    let path = |action: &str| format!("/api/session/{session}{action}");
    let send = |method, action: &str, head: &[(&str, &str)], body: &[u8]| {
        support::http::request(server.address, method, &path(action), head, body)
    };
    let text = [("Content-Type", "text/plain")];
    for (method, action) in
        [("POST", "/archive"), ("POST", "/unarchive"), ("POST", "/fork"), ("DELETE", "")]
    {
        let (_, code) = send(method, action, &text, b"x").expect_error(415);
        assert_eq!(code, "not_json", "{method} {action}");
        send(method, action, &[("Content-Type", "")], b"{}").expect_error(415);
    }
    let packed = [("Content-Type", "application/json"), ("Content-Encoding", "gzip")];
    let answer = send("POST", "/prompt", &packed, b"\x1f\x8b").expect(415);
    assert_eq!(answer.header("accept-encoding"), Some("identity"));
    // Without a body there is nothing to be written in anything.
    send("POST", "/archive", &[], b"").expect(200);
    let json = [("Content-Type", "application/json; charset=utf-8")];
    send("POST", "/unarchive", &json, b"").expect(200);
    send("POST", "/interrupt", &json, b"").expect(200);
}

#[test]
fn a_request_behind_a_long_poll_waits_for_its_answer_and_so_do_those_behind_it() {
    let server = Server::demo(&[]);
    let session = server.create();
    let list = server.told("/api/sessions");
    let cursor = list["lastEventId"].as_str().unwrap();
    let path = format!("/api/session/{session}/events/poll?wait=60&after={cursor}");
    let get = |path: &str, id: &str| {
        http::encode(server.address, "GET", path, &[("X-Request-Id", id)], b"")
    };
    let mut connection = Connection::open(server.address);
    connection
        .send([get(&path, "poll"), get("/health", "second"), get("/nothing", "third")].concat());
    assert_eq!(connection.word_within(Duration::from_millis(200)), None, "nothing overtakes it");
    server.prompt(&session, "say: hello");
    let poll = connection.response("GET").expect(200);
    assert_eq!(poll.header("x-request-id"), Some("poll"));
    assert!(!poll.json()["events"].as_array().unwrap().is_empty());
    assert_eq!(connection.response("GET").expect(200).header("x-request-id"), Some("second"));
    assert_eq!(connection.response("GET").expect(404).header("x-request-id"), Some("third"));
}

#[test]
fn a_poll_waits_as_long_as_it_says_whatever_else_has_a_time() {
    let server = Server::demo(&["--head-timeout", "10m", "--keep-alive", "1h"]);
    let mut connection = Connection::open(server.address);
    for path in ["/api/events/poll?wait=1", "/api/events/poll?wait=2"] {
        let start = Instant::now();
        connection.send(http::encode(server.address, "GET", path, &[], b""));
        let told = connection.response("GET").expect(200).json(); // Within our own patience.
        assert_eq!(told["events"], json!([]));
        assert!(start.elapsed() >= Duration::from_secs(1), "{path}: too soon");
    }
}

#[test]
fn a_stranger_is_refused_by_his_head_and_his_body_takes_no_room() {
    let flags = ["--body-size-max", "64KiB", "--bodies-size-max", "64KiB", "--body-rate-min", "0"];
    let server = Server::demo(&flags);
    let head = |path: &str, more: &str, length: usize| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n{more}\r\n"
        )
    };
    // An invitation comes before an answer, or not at all (RFC 9110 §10.1.1).
    let expect = "Expect: 100-continue\r\n";
    for (path, more, want) in [
        ("/api/sessions", "Origin: http://evil.example\r\n", 403),
        ("/api/sessions", "Via: 1.1 x\r\n", 401),
        ("/nothing", "", 404),
        ("/api/capabilities", "", 405),
    ] {
        for more in [more.to_owned(), format!("{more}{expect}")] {
            let mut connection = Connection::open(server.address);
            connection.send(head(path, &more, 60_000));
            let answer = connection.response("POST").expect(want);
            assert_eq!(answer.header("connection"), Some("close"), "{path}");
            connection.expect_end();
        }
    }
    let mut invited = Connection::open(server.address);
    invited.send(head("/api/sessions", expect, 2));
    let interim = invited.word_within(PATIENCE).unwrap();
    assert_eq!(interim, "HTTP/1.1 100 Continue\r\n\r\n");
    // Half of a body each, from many who may not: whoever may has the room all the same.
    let strangers: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address).unwrap();
            let head = head("/api/sessions", "Origin: http://evil.example\r\n", 60_000);
            // It may be refused before all of it is sent.
            let _ = stream.write_all(&[head.as_bytes(), &[b' '; 50_000]].concat());
            stream
        })
        .collect();
    let body = format!("{:60000}", json!({"workingDir": server.root()}));
    request(server.address, "POST", "/api/sessions", &[], body.as_bytes()).expect(201);
    drop(strangers);
}

/// Sends bytes one at a time, `pause` apart, until they are all sent or the server is done with
/// us; then reads what it says.
fn drip(address: SocketAddr, head: &[u8], bytes: &[u8], pause: Duration) -> (Vec<u8>, Duration) {
    let start = Instant::now();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(head).unwrap();
    stream.set_nonblocking(true).unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    let mut next = bytes.iter();
    while start.elapsed() < PATIENCE {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
        if let Some(byte) = next.next() {
            let _ = stream.write(&[*byte]); // It may have hung up: the read tells.
        }
        std::thread::sleep(pause);
    }
    (answer, start.elapsed())
}

#[test]
fn slow_heads_and_slow_bodies_are_cut_and_a_steady_body_is_not() {
    let server = Server::demo(&["--head-timeout", "1s", "--body-timeout", "20s"]);
    let address = server.address;
    let (second, tenth) = (Duration::from_secs(1), Duration::from_millis(100));
    let head = |length: usize| {
        format!(
            "POST /api/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n"
        )
        .into_bytes()
    };
    std::thread::scope(|scope| {
        let slow_head = scope.spawn(|| {
            drip(address, b"GET / HT", &b"TP/1.1\r\nHost: localhost\r\nX: ".repeat(20), tenth)
        });
        let silent_head = scope.spawn(|| drip(address, b"GET /", b"", tenth));
        let slow_body = scope.spawn(|| drip(address, &head(1000), &[b' '; 1000], tenth));
        let silent_body = scope.spawn(|| drip(address, &head(10), b"", tenth));
        let steady = scope.spawn(|| {
            let mut connection = Connection::open(address);
            connection.send(head(8 * 2048));
            for _ in 0..8 {
                std::thread::sleep(second);
                connection.send([b' '; 2048]);
            }
            connection.response("POST").status
        });
        for (what, drips, most) in [
            ("slow head", slow_head, 10),
            ("silent head", silent_head, 10),
            ("slow body", slow_body, 15),
            ("silent body", silent_body, 15),
        ] {
            let (answer, elapsed) = drips.join().unwrap();
            let text = String::from_utf8_lossy(&answer).into_owned();
            assert!(text.starts_with("HTTP/1.1 408 "), "{what}: {text}");
            assert!(text.contains("Connection: close"), "{what}: {text}");
            assert!(elapsed < Duration::from_secs(most), "{what}: {elapsed:?}");
        }
        assert_eq!(steady.join().unwrap(), 400, "a body of blanks, taken whole");
    });
    assert_eq!(server.metrics()["server"]["requestsLate"], 4);
    assert_eq!((hits(&server, "head-timeout"), hits(&server, "body-rate-min")), (2, 2));
}

#[test]
fn who_says_nothing_between_requests_is_hung_up_on() {
    let server = Server::demo(&["--keep-alive", "500ms", "--head-timeout", "500ms"]);
    let mut fresh = Connection::open(server.address);
    let mut used = Connection::open(server.address);
    used.send(HEALTH);
    used.response("GET").expect(200);
    used.expect_end();
    fresh.expect_end();
    // Each under its own name; nobody else has met either.
    eventually("both are counted", || hits(&server, "head-timeout") == 1);
    assert!(hits(&server, "keep-alive") > 0);
}

#[test]
fn beyond_the_last_slot_there_is_a_503_and_those_who_are_in_stay_in() {
    let server = Server::demo(&["--connections-max", "20"]);
    let session = server.create();
    let mut stream = server.stream(&session);
    let mut inside = Connection::open(server.address);
    inside.send(HEALTH);
    inside.response("GET").expect(200);
    let mut crowd: Vec<Connection> = (0..40).map(|_| Connection::open(server.address)).collect();
    let mut refused = 0;
    for connection in &mut crowd {
        // Nothing was asked: a word at once can only be the refusal.
        if let Some(text) = connection.word_within(Duration::from_millis(100)) {
            assert!(text.starts_with("HTTP/1.1 503 ") && text.contains("Retry-After"), "{text}");
            refused += 1;
        }
    }
    assert!(refused >= 20, "{refused} of 40 were refused");
    inside.send(HEALTH);
    inside.response("GET").expect(200);
    drop(crowd);
    let prompt = server_prompt(&mut inside, &server, &session);
    stream.turn_end(&prompt);
    eventually("there is room again", || {
        let mut connection = Connection::open(server.address);
        connection.send(HEALTH);
        connection.word_within(PATIENCE).is_some_and(|text| text.starts_with("HTTP/1.1 200"))
    });
    let counted = server.metrics()["server"]["connectionsRefused"].as_u64().unwrap();
    assert!(counted >= refused, "{counted}");
    assert_eq!(hits(&server, "connections-max"), counted);
}

#[test]
fn without_a_descriptor_for_another_client_those_who_are_in_are_served_and_it_is_counted() {
    support::need("prlimit");
    let server = Server::demo(&[]);
    let mut inside = Connection::open(server.address);
    inside.send(HEALTH);
    inside.response("GET").expect(200);
    let limit = |count: usize| {
        let (pid, nofile) = (server.pid().to_string(), format!("--nofile={count}:20000"));
        let status = std::process::Command::new("prlimit").args(["--pid", &pid, &nofile]).status();
        assert!(status.unwrap().success());
    };
    // What it holds without a gap; the next one is one too many.
    let held = |number: &usize| {
        std::fs::symlink_metadata(format!("/proc/{}/fd/{number}", server.pid())).is_ok()
    };
    limit((0..).take_while(held).count());
    for _ in 0..3 {
        let mut outside = TcpStream::connect(server.address).unwrap();
        let _ = outside.write_all(HEALTH); // It may have been hung up on by now.
        let mut said = Vec::new();
        let _ = outside.read_to_end(&mut said); // The end, or a reset.
        assert!(said.is_empty(), "hung up on without a word");
        inside.send(HEALTH);
        inside.response("GET").expect(200);
    }
    limit(20_000);
    eventually("there is room again", || {
        let mut outside = TcpStream::connect(server.address).unwrap();
        let asked = outside
            .write_all(&[&HEALTH[..HEALTH.len() - 2], b"Connection: close\r\n\r\n"].concat());
        let mut said = String::new();
        asked.is_ok()
            && outside.read_to_string(&mut said).is_ok()
            && said.starts_with("HTTP/1.1 200")
    });
    assert!(hits(&server, "open-files") >= 3);
}

/// Prompts over a connection that is open already; returns the prompt's id.
fn server_prompt(connection: &mut Connection, server: &Server, session: &str) -> String {
    let path = format!("/api/session/{session}/prompt");
    let body = json!({"command": "say: hello"}).to_string();
    connection.send(http::encode(server.address, "POST", &path, &[], body.as_bytes()));
    let json = connection.response("POST").expect(202).json();
    json["promptId"].as_str().unwrap().to_owned()
}

/// The time that each of these requests took, sorted.
fn healthy(address: SocketAddr, count: usize) -> Vec<Duration> {
    let mut times: Vec<Duration> = (0..count)
        .map(|number| {
            let start = Instant::now();
            let path = if number % 2 == 0 { "/health" } else { "/api/sessions" };
            request(address, "GET", path, &[], b"").expect(200);
            start.elapsed()
        })
        .collect();
    times.sort();
    times
}

#[test]
fn a_healthy_client_is_answered_while_hundreds_flood_drip_and_refuse_to_read() {
    allow_descriptors(4096);
    let server = Server::demo(&["--head-timeout", "60s"]);
    let address = server.address;
    let alone = healthy(address, 200);
    let connect = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    };
    let session = server.create();
    let events = format!("GET /api/session/{session}/events HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut silent: Vec<TcpStream> = (0..200).map(|_| connect(b"")).collect();
    silent.extend((0..200).map(|_| connect(b"GET / HTTP/1.1\r\nHo")));
    silent.extend((0..100).map(|_| {
        connect(b"POST /api/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx")
    }));
    silent.extend((0..100).map(|_| connect(events.as_bytes()))); // They never read.
    let greedy: Vec<TcpStream> = (0..50).map(|_| connect(&HEALTH.repeat(500))).collect();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (flooded, churned) = std::thread::scope(|scope| {
        let churn = scope.spawn(|| {
            let mut count = 0u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                drop(connect(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"));
                count += 1;
            }
            count
        });
        let mut reader = server.stream(&session);
        let prompt = server.prompt(&session, "deltas 500");
        let times = healthy(address, 200);
        reader.turn_end(&prompt);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        (times, churn.join().unwrap())
    });
    let p99 = |times: &[Duration]| times[times.len() * 99 / 100];
    eprintln!(
        "p99 alone {:?}, in the flood {:?} ({} silent, {} greedy, {churned} came and went)",
        p99(&alone),
        p99(&flooded),
        silent.len(),
        greedy.len()
    );
    assert!(p99(&flooded) < Duration::from_secs(2), "{:?}", p99(&flooded));
    drop((silent, greedy));
    eventually("all of them are gone", || {
        server.metrics()["server"]["connections"].as_u64().is_some_and(|count| count <= 2)
    });
}

#[test]
fn a_reader_that_never_reads_is_cut_and_the_others_have_everything() {
    let server = Server::demo(&["--write-stall", "1s"]);
    let session = server.create();
    let events = format!("GET /api/session/{session}/events HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut stuck = TcpStream::connect(server.address).unwrap();
    stuck.write_all(events.as_bytes()).unwrap();
    let mut reader = server.stream(&session);
    server.await_streams(2);
    // More than all the buffers between us hold.
    let mut sent = 0;
    eventually("the stuck one is cut", || {
        let prompt = server.prompt(&session, "big 400000");
        reader.turn_end(&prompt);
        sent += 400_000;
        server.metrics()["server"]["readersCut"] == 1 || sent > 200_000_000
    });
    server.await_streams(1);
    assert_eq!(hits(&server, "write-stall"), 1);
    assert!(matches!(reader.next_within(Duration::from_millis(1)), Next::Silence | Next::Event(_)));
}

#[test]
fn options_of_the_door_are_refused_out_of_range_by_name() {
    for flag in ["--pipeline-max", "--login-failures-max", "--body-rate-min"] {
        let (code, said) = Options::new().flags(&["--agent", "demo", flag, "-5"]).refused();
        assert_eq!(code, Some(2));
        assert!(said.contains(flag), "{said}");
    }
}
