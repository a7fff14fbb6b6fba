//! HTTP/1.1 as a stranger sees it: framing, methods, types, errors; on real sockets.
//!
//! Each table row is one thing that a client may do, with the answer the contract names.

mod support;

use serde_json::json;
use support::{Connection, Options, Server, curl, http, request};

const JSON: (&str, &str) = ("Content-Type", "application/json");

#[test]
fn the_seeds_curl_lines_work_as_written() {
    let server = Server::demo(&[]);
    let url = format!("http://localhost:{}", server.address.port());
    let body = format!(r#"{{"workingDir":"{}"}}"#, server.root());
    let (answer, code) = curl(&[
        "-X",
        "POST",
        &format!("{url}/claude/api/claude/sessions"),
        "-H",
        "Content-Type: application/json",
        "-d",
        &body,
    ]);
    assert_eq!(code, Some(0));
    let created: serde_json::Value = serde_json::from_str(&answer).expect(&answer);
    assert_eq!(created["success"], true, "{created}");
    let session = created["sessionId"].as_str().expect("a sessionId");
    assert!(session.starts_with("session-"), "{session}");

    // Tests 1 and 2 of step 3: curl waits for events until its time is over (status 28).
    let events = format!("{url}/api/session/{session}/events");
    let watcher = std::thread::spawn({
        let events = events.clone();
        move || curl(&["-N", "--max-time", "6", "-H", "Accept: text/event-stream", &events])
    });
    server.await_streams(1);

    // Test 3: send a command.
    let (answer, code) = curl(&[
        "-X",
        "POST",
        &format!("{url}/api/session/{session}/prompt"),
        "-H",
        "Content-Type: application/json",
        "-d",
        r#"{"command":"ls -la"}"#,
    ]);
    assert_eq!(code, Some(0), "{answer}");
    let taken: serde_json::Value = serde_json::from_str(&answer).expect(&answer);
    assert_eq!(taken["success"], true, "{taken}");

    let (stream, code) = watcher.join().unwrap();
    assert_eq!(code, Some(28), "the stream stays open: {stream}");
    assert!(stream.contains("event: connected\n"), "{stream}");
    assert!(stream.contains("event: session-output\n"), "{stream}");

    // Step 5.
    let (answer, code) = curl(&[&format!("{url}/api/debug/metrics")]);
    assert_eq!(code, Some(0));
    let metrics = serde_json::from_str(&answer).expect(&answer);
    support::server::check_metrics(&metrics);
    assert!(metrics["eventBus"]["eventsByType"]["session-output"].as_u64() >= Some(1), "{metrics}");

    // Session validation.
    let (answer, _) = curl(&["-w", "%{http_code}", &format!("{url}/api/session/nobody/events")]);
    assert!(answer.ends_with("404"), "{answer}");
}

#[test]
fn the_pages_of_the_seed_are_served() {
    let server = Server::demo(&[]);
    for (path, kind) in [
        ("/", "text/html"),
        ("/test-sse.html", "text/html"),
        ("/js/session-event-stream.js", "text/javascript"),
    ] {
        let page = server.get(path).expect(200);
        assert!(page.header("content-type").unwrap().starts_with(kind), "{path}: {page}");
        assert!(page.header("etag").is_some(), "{path} has an ETag");
        assert!(!page.body.is_empty(), "{path}");
    }
    let script = server.get("/js/session-event-stream.js").text();
    assert!(script.contains("SessionEventStream"), "{script}");
    let page = server.get("/test-sse.html").text();
    assert!(page.contains("session-event-stream.js"), "{page}");
}

#[test]
fn a_page_that_the_client_has_is_not_sent_again() {
    let server = Server::demo(&[]);
    let tag = server.get("/test-sse.html").expect(200).header("etag").unwrap().to_string();
    for (wanted, status) in [
        (tag.clone(), 304),
        (format!("\"other\", {tag}"), 304),
        (format!("W/{tag}"), 304),
        (format!("W/W/{tag}"), 200),
        ("*".to_string(), 304),
        ("\"other\"".to_string(), 200),
    ] {
        let headers = [("If-None-Match", wanted.as_str())];
        let answer = request(server.address, "GET", "/test-sse.html", &headers, b"");
        assert_eq!(answer.status, status, "If-None-Match: {wanted}");
        assert_eq!(answer.body.is_empty(), status == 304);
        assert_eq!(answer.header("etag"), Some(tag.as_str()));
    }
}

#[test]
fn who_wants_only_what_is_not_there_is_told_that_it_is() {
    let server = Server::demo(&[]);
    let session = server.create();
    let ask = |method: &str, path: &str| {
        request(server.address, method, path, &[("If-None-Match", "*")], b"")
    };
    for path in ["/health", "/api/sessions", "/api/events/poll?wait=0"] {
        for method in ["GET", "HEAD"] {
            assert!(ask(method, path).expect(304).body.is_empty(), "{method} {path}");
        }
    }
    ask("GET", &format!("/api/session/{session}")).expect(304);
    ask("GET", "/api/session/none").expect(404);
    ask("DELETE", &format!("/api/session/{session}")).expect(412);
    server.stream_with(&session, "", &[("If-None-Match", "*")]).joined();
}

#[test]
fn a_field_that_is_no_text_is_an_unfit_one_and_not_none() {
    let server = Server::demo(&[]);
    let session = server.create();
    let told = |field: &[u8]| {
        let path = format!("/api/session/{session}/prompt");
        let body = br#"{"command":"say: once"}"#;
        let fields = [("Content-Type", "application/json"), ("X-Place", "here")];
        let request = http::encode(server.address, "POST", &path, &fields, body);
        let at = request.windows(13).position(|part| part == b"X-Place: here").unwrap();
        let mut connection = Connection::open(server.address);
        connection.send([&request[..at], field, &request[at + 13..]].concat());
        connection.response("POST")
    };
    let (_, code) = told(b"Idempotency-Key: cl\xe9-1").expect_error(400);
    assert_eq!(code, "invalid_prompt_id");
    let (_, code) = told(b"Content-Encoding: gzip\xff").expect_error(415);
    assert_eq!(code, "unknown_content_encoding");
    told(b"Idempotency-Key: cle-1").expect(202);
    for (path, name) in [("/api/events/poll?wait=%2B0", "wait"), ("/api/events?pad=%2B5", "pad")] {
        let (sentence, _) = server.get(path).expect_error(400);
        assert!(sentence.contains(name), "{sentence}");
    }
}

#[test]
fn every_answer_has_a_date_and_a_request_id() {
    let server = Server::demo(&[]);
    for path in ["/health", "/nowhere", "/api/sessions", "/test-sse.html"] {
        let answer = server.get(path);
        let date = answer.header("date").unwrap_or_else(|| panic!("{path}: {answer}"));
        httpdate::parse_http_date(date).unwrap_or_else(|error| panic!("{date}: {error}"));
        let unix = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let told = httpdate::parse_http_date(date).unwrap();
        let told = told.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert!(told.abs_diff(unix) <= 60, "{date}");
        assert!(answer.header("x-request-id").is_some_and(|id| !id.is_empty()), "{path}: {answer}");
    }
    let headers = [("X-Request-Id", "mine-17")];
    let answer = request(server.address, "GET", "/nowhere", &headers, b"");
    assert_eq!(answer.header("x-request-id"), Some("mine-17"));
    assert_eq!(answer.json()["requestId"], "mine-17");
}

#[test]
fn health_and_readiness_are_told_without_a_session() {
    let server = Server::demo(&[]);
    server.get("/health").expect(200);
    server.get("/ready").expect(200);
}

#[test]
fn an_unknown_route_is_404_and_a_known_one_with_the_wrong_method_is_405_with_allow() {
    let server = Server::demo(&[]);
    let session = server.create();
    for path in ["/nowhere", "/api", "/api/sessionsx", "/js/nothing.js"] {
        server.get(path).expect_error(404);
    }
    for (method, path, allowed) in [
        ("DELETE", "/api/sessions".to_string(), "POST"),
        ("POST", "/api/debug/metrics".to_string(), "GET"),
        ("GET", format!("/api/session/{session}/prompt"), "POST"),
        ("POST", format!("/api/session/{session}/events"), "GET"),
        ("PUT", format!("/api/session/{session}"), "DELETE"),
        ("POST", "/test-sse.html".to_string(), "GET"),
        ("GET", "/claude/api/claude/sessions".to_string(), "POST"),
        ("TRACE", "/api/sessions".to_string(), "GET"),
    ] {
        let answer = server.send(method, &path);
        assert_eq!(answer.status, 405, "{method} {path}: {answer}");
        let allow = answer.header("allow").unwrap_or_else(|| panic!("no Allow: {answer}"));
        assert!(allow.split(", ").any(|one| one == allowed), "{method} {path}: Allow: {allow}");
    }
    let answer = server.send("BREW", "/api/sessions");
    assert_eq!(answer.status, 501, "an unknown method: {answer}");
}

/// Path, content type, body; the statuses that fit, and words of which the sentence must have one.
type Refused<'a> = (&'a str, &'a str, String, &'a [u16], &'a [&'a str]);

#[test]
fn bad_input_is_answered_with_its_status_and_a_sentence_that_names_it() {
    let server = Server::demo(&["--body-size-max", "4KiB"]);
    let session = server.create();
    let root = server.root();
    let absent = format!("{root}/absent");
    let file = format!("{root}/a-file");
    std::fs::write(&file, "not a directory").unwrap();
    let outside = server.scratch.join("home");
    let prompt = format!("/api/session/{session}/prompt");
    let create = "/api/sessions";
    let large = json!({"command": "x".repeat(5000)}).to_string();
    let dir = |path: &str| json!({"workingDir": path}).to_string();
    let table: &[Refused] = &[
        (create, "application/json", "{}".into(), &[400], &["workingDir"]),
        (create, "application/json", "[]".into(), &[400], &["object"]),
        (create, "application/json", "".into(), &[400], &["workingDir"]),
        (create, "application/json", dir(""), &[400], &["workingDir"]),
        (
            create,
            "application/json",
            dir("relative/path"),
            &[400],
            &["relative/path", "workingDir"],
        ),
        (create, "application/json", dir(&absent), &[400], &[&absent]),
        (create, "application/json", dir(&file), &[400], &[&file]),
        (create, "application/json", dir(&outside), &[403], &[&outside]),
        (create, "application/json", dir(&format!("{root}/../home")), &[403], &["home"]),
        (create, "application/json", dir("/"), &[403], &["--root"]),
        (create, "application/json", r#"{"workingDir":5}"#.into(), &[400], &["workingDir"]),
        (create, "application/json", r#"{"workingDir":null}"#.into(), &[400], &["workingDir"]),
        (
            create,
            "application/json",
            json!({"workingDir": root, "agent": "nobody"}).to_string(),
            &[400, 404],
            &["nobody"],
        ),
        (&prompt, "application/json", "{}".into(), &[400], &["command"]),
        (&prompt, "application/json", r#"{"command":["ls"]}"#.into(), &[400], &["command"]),
        (&prompt, "application/json", r#"{"command":""}"#.into(), &[400], &["command"]),
        (
            &prompt,
            "application/json",
            large.clone(),
            &[413],
            &["4096", "4 KiB", "4KiB", "--body-size-max"],
        ),
        (&prompt, "text/plain", r#"{"command":"ls"}"#.into(), &[415], &["application/json"]),
        (
            &prompt,
            "application/x-www-form-urlencoded",
            "command=ls".into(),
            &[415],
            &["application/json"],
        ),
    ];
    for (path, kind, body, statuses, words) in table {
        let answer =
            request(server.address, "POST", path, &[("Content-Type", kind)], body.as_bytes());
        let case = format!("{path} {kind} {:.80}", body);
        assert!(statuses.contains(&answer.status), "{case}: {answer}");
        let status = answer.status;
        let (error, _) = answer.expect_error(status);
        assert!(words.iter().any(|word| error.contains(word)), "{case}: {error}");
    }
    // A missing content type, too: a form of another site's page has none we would take.
    let body = dir(&root);
    let head = format!(
        "POST {create} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n{body}",
        server.address,
        body.len()
    );
    let mut connection = Connection::open(server.address);
    connection.send(head);
    connection.response("POST").expect_error(415);
    // Nothing of all that was taken.
    assert_eq!(server.rows().len(), 1, "only the session that was created first");
}

#[test]
fn a_body_that_is_not_json_is_400_with_the_position() {
    let server = Server::demo(&[]);
    for (body, places) in [
        (r#"{"workingDir": nope}"#, ["15", "16", "17"]),
        (r#"{"workingDir":"/x",}"#, ["18", "19", "20"]),
        (r#"{"workingDir":"/x"} trailing"#, ["19", "20", "21"]),
    ] {
        let answer = request(server.address, "POST", "/api/sessions", &[JSON], body.as_bytes());
        let (error, _) = answer.expect_error(400);
        assert!(places.iter().any(|place| error.contains(place)), "{body}: {error}");
    }
    let broken = b"{\"workingDir\":\"\xff\"}";
    request(server.address, "POST", "/api/sessions", &[JSON], broken).expect_error(400);
    let deep = "[".repeat(100_000);
    request(server.address, "POST", "/api/sessions", &[JSON], deep.as_bytes()).expect_error(400);
}

#[test]
fn content_type_is_read_as_a_media_type() {
    let server = Server::demo(&[]);
    let body = json!({"workingDir": server.root()}).to_string();
    for kind in
        ["application/json; charset=utf-8", "Application/JSON", "application/json;charset=UTF-8"]
    {
        let headers = [("Content-Type", kind)];
        request(server.address, "POST", "/api/sessions", &headers, body.as_bytes()).expect(201);
    }
}

#[test]
fn unknown_fields_of_a_body_are_ignored() {
    let server = Server::demo(&[]);
    let body = json!({"workingDir": server.root(), "colour": "blue", "nested": {"a": [1, 2]}});
    server.post("/api/sessions", body).expect(201);
}

#[test]
fn an_unknown_session_is_404_json_on_every_route() {
    let server = Server::demo(&[]);
    for base in ["/api/session", "/api/sessions"] {
        let unknown = format!("{base}/session-1-unknown");
        for (method, tail, body) in [
            ("GET", "", ""),
            ("DELETE", "", ""),
            ("GET", "/status", ""),
            ("GET", "/events", ""),
            ("POST", "/prompt", r#"{"command":"ls"}"#),
            ("POST", "/interrupt", "{}"),
            ("GET", "/approvals", ""),
            ("POST", "/approvals/a-1", r#"{"decision":"allow","inputHash":"x"}"#),
        ] {
            let path = format!("{unknown}{tail}");
            let answer = request(server.address, method, &path, &[], body.as_bytes());
            let (error, code) = answer.expect_error(404);
            assert_eq!(code, "session_not_found", "{method} {path}: {error}");
        }
    }
    for odd in ["..", "%2e%2e", "a%2Fb", "%00", "%zz", "x".repeat(3000).as_str()] {
        let answer = server.get(&format!("/api/session/{odd}/status"));
        assert!(matches!(answer.status, 400 | 404 | 414), "{odd:.20}: {answer}");
    }
}

#[test]
fn a_connection_serves_many_requests() {
    let server = Server::demo(&[]);
    let mut connection = Connection::open(server.address);
    for _ in 0..50 {
        connection.send(http::encode(server.address, "GET", "/health", &[], b""));
        connection.response("GET").expect(200);
        connection.send(http::encode(server.address, "GET", "/nowhere", &[], b""));
        connection.response("GET").expect(404);
    }
    let close = [("Connection", "close")];
    connection.send(http::encode(server.address, "GET", "/health", &close, b""));
    let last = connection.response("GET").expect(200);
    assert_eq!(last.header("connection").map(str::to_ascii_lowercase).as_deref(), Some("close"));
    connection.expect_end();
}

#[test]
fn http_1_0_is_answered_and_closed() {
    let server = Server::demo(&[]);
    let mut connection = Connection::open(server.address);
    connection.send(format!("GET /health HTTP/1.0\r\nHost: {}\r\n\r\n", server.address));
    connection.response("GET").expect(200);
    connection.expect_end();
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::demo(&[]);
    let session = server.create();
    let one = http::encode(server.address, "GET", "/health", &[], b"");
    let two = http::encode(server.address, "GET", &format!("/api/session/{session}"), &[], b"");
    let three = http::encode(server.address, "GET", "/nowhere", &[], b"");
    let body = json!({"workingDir": server.root()}).to_string();
    let four = http::encode(server.address, "POST", "/api/sessions", &[], body.as_bytes());
    let five = http::encode(server.address, "GET", "/test-sse.html", &[], b"");
    let expected = [200, 200, 404, 201, 200];
    let all = [one, two, three, four, five].concat();

    let mut whole = Connection::open(server.address);
    whole.send(&all);
    let statuses = expected.map(|_| whole.response("GET").status);
    assert_eq!(statuses, expected, "sent at once");

    let mut dripped = Connection::open(server.address);
    for piece in all.chunks(7) {
        dripped.send(piece);
    }
    let statuses = expected.map(|_| dripped.response("GET").status);
    assert_eq!(statuses, expected, "sent in pieces of seven bytes");
}

#[test]
fn head_is_get_without_the_body() {
    let server = Server::demo(&[]);
    for path in
        ["/test-sse.html", "/health", "/api/sessions", "/nowhere", "/js/session-event-stream.js"]
    {
        let mut connection = Connection::open(server.address);
        connection.send(http::encode(server.address, "GET", path, &[], b""));
        let got = connection.response("GET");
        connection.send(http::encode(server.address, "HEAD", path, &[], b""));
        let head = connection.response("HEAD");
        assert_eq!(head.status, got.status, "{path}");
        assert_eq!(head.header("content-type"), got.header("content-type"), "{path}");
        // No byte of a body follows: the next answer stands right behind.
        connection.send(http::encode(server.address, "GET", "/health", &[], b""));
        connection.response("GET").expect(200);
    }
}

#[test]
fn options_tells_the_methods() {
    let server = Server::demo(&[]);
    let answer = server.send("OPTIONS", "/api/sessions");
    assert!(matches!(answer.status, 200 | 204), "{answer}");
    let allow = answer.header("allow").unwrap_or_else(|| panic!("no Allow: {answer}"));
    for method in ["GET", "POST", "OPTIONS"] {
        assert!(allow.split(", ").any(|one| one == method), "Allow: {allow}");
    }
}

#[test]
fn a_chunked_body_is_read_whatever_its_pieces() {
    let server = Server::demo(&[]);
    let body = json!({"workingDir": server.root()}).to_string();
    let head = format!(
        "POST /api/sessions HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\n",
        server.address
    );
    for piece in [1, 3, 1000] {
        let mut bytes = head.clone().into_bytes();
        for chunk in body.as_bytes().chunks(piece) {
            bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        let mut connection = Connection::open(server.address);
        for part in bytes.chunks(11) {
            connection.send(part);
        }
        connection.response("POST").expect(201);
        // The connection is at a message boundary.
        connection.send(http::encode(server.address, "GET", "/health", &[], b""));
        connection.response("GET").expect(200);
    }
}

#[test]
fn expect_100_continue_is_answered_before_the_body() {
    let server = Server::demo(&["--body-size-max", "4KiB"]);
    let body = json!({"workingDir": server.root()}).to_string();
    let head = |length: usize| {
        format!(
            "POST /api/sessions HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\nExpect: 100-continue\r\n\r\n",
            server.address
        )
    };
    let mut connection = Connection::open(server.address);
    connection.send(head(body.len()));
    assert_eq!(connection.head().status, 100);
    connection.send(&body);
    connection.response("POST").expect(201);
    // A body that would be refused is refused before it is sent.
    let mut connection = Connection::open(server.address);
    connection.send(head(100_000));
    connection.response("POST").expect_error(413);
    // The real curl does this by itself for bodies above 1 MiB; below, when told to.
    let (answer, _) = curl(&[
        "-w",
        "%{http_code}",
        "-H",
        "Expect: 100-continue",
        "-H",
        "Content-Type: application/json",
        "-d",
        &body,
        &format!("http://{}/api/sessions", server.address),
    ]);
    assert!(answer.ends_with("201"), "{answer}");
}

#[test]
fn heads_that_are_not_http_are_refused_and_the_connection_closed() {
    let server = Server::demo(&[]);
    let host = format!("Host: {}", server.address);
    let table: &[(&str, String, &[u16])] = &[
        ("no Host", "GET /health HTTP/1.1\r\n\r\n".into(), &[400]),
        ("two Hosts", format!("GET /health HTTP/1.1\r\n{host}\r\n{host}\r\n\r\n"), &[400]),
        ("garbage", "hello\r\n\r\n".into(), &[400]),
        ("space before colon", format!("GET /health HTTP/1.1\r\n{host}\r\nA : b\r\n\r\n"), &[400]),
        (
            "both framings",
            format!(
                "POST /api/sessions HTTP/1.1\r\n{host}\r\nContent-Length: 2\r\n\
                 Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
            &[400],
        ),
        (
            "two lengths",
            format!(
                "POST /api/sessions HTTP/1.1\r\n{host}\r\nContent-Length: 2\r\n\
                 Content-Length: 3\r\n\r\n{{}}"
            ),
            &[400],
        ),
        (
            "signed length",
            format!("POST /api/sessions HTTP/1.1\r\n{host}\r\nContent-Length: +2\r\n\r\n{{}}"),
            &[400],
        ),
        (
            "huge head",
            format!("GET /health HTTP/1.1\r\n{host}\r\nA: {}\r\n\r\n", "x".repeat(70_000)),
            &[431, 400],
        ),
        ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), &[400, 501, 505]),
    ];
    for (case, bytes, statuses) in table {
        let mut connection = Connection::open(server.address);
        connection.send(bytes);
        let answer = connection.response("GET");
        assert!(statuses.contains(&answer.status), "{case}: {answer}");
        let _ = connection.rest(); // It ends: else this would run into the read timeout.
    }
    server.get("/health").expect(200);
}

#[test]
fn a_client_that_half_closes_still_gets_its_answer() {
    let server = Server::demo(&[]);
    let mut connection = Connection::open(server.address);
    connection.send(http::encode(server.address, "GET", "/api/sessions", &[], b""));
    connection.half_close();
    connection.response("GET").expect(200);
    connection.expect_end();
}

#[test]
fn slow_heads_slow_bodies_and_idle_connections_are_cut() {
    let server = Server::demo(&[
        "--head-timeout",
        "500ms",
        "--body-timeout",
        "500ms",
        "--keep-alive",
        "500ms",
    ]);
    let mut slow_head = Connection::open(server.address);
    slow_head.send("GET /health HTTP/1.1\r\nHost: loc");
    let told = String::from_utf8(slow_head.rest()).unwrap();
    assert!(told.is_empty() || told.starts_with("HTTP/1.1 408 "), "{told}");

    let mut slow_body = Connection::open(server.address);
    slow_body.send(format!(
        "POST /api/sessions HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
         Content-Length: 100\r\n\r\n{{",
        server.address
    ));
    let told = String::from_utf8(slow_body.rest()).unwrap();
    assert!(told.starts_with("HTTP/1.1 408 "), "{told}");

    let mut idle = Connection::open(server.address);
    idle.send(http::encode(server.address, "GET", "/health", &[], b""));
    idle.response("GET").expect(200);
    idle.expect_end();
    // A stream is none of these.
    let session = server.create();
    let mut reader = server.stream(&session);
    reader.joined();
    let quiet = std::time::Duration::from_millis(1500);
    assert!(matches!(reader.next_within(quiet), support::Next::Silence), "{}", reader.story());
}

#[test]
fn flags_that_make_no_sense_are_refused_with_a_sentence() {
    for (flags, word) in [
        (&["--no-such-flag"][..], "no-such-flag"),
        (&["--heartbeat", "soon"][..], "heartbeat"),
        (&["--body-size-max", "many"][..], "body-size-max"),
        (&["--agent", "nodialect:x:y"][..], "nodialect"),
        (&["--listen", "127.0.0.1:notaport"][..], "notaport"),
    ] {
        let (code, text) = Options::new().flags(flags).refused();
        assert_eq!(code, Some(2), "{flags:?}: {text}");
        assert!(text.contains(word), "{flags:?}: {text}");
    }
}

#[test]
fn a_port_that_is_taken_is_told() {
    let server = Server::demo(&[]);
    let address = server.address.to_string();
    let (code, text) = Options::new().flags(&["--agent", "demo", "--listen", &address]).refused();
    assert_ne!(code, Some(0));
    assert!(text.contains(&address), "{text}");
}

#[test]
fn start_up_prints_the_url_the_agent_and_the_memory_bound() {
    let server = Server::demo(&[]);
    support::eventually("the start-up lines", || {
        let text = server.stdout() + &server.stderr();
        text.contains(&format!("http://{}", server.address))
            && text.contains("demo")
            && text.contains("MiB")
    });
}

#[test]
fn requests_leave_no_descriptor_behind() {
    let server = Server::demo(&[]);
    let session = server.create();
    server.get("/health").expect(200);
    let before = server.descriptors();
    for _ in 0..100 {
        server.get("/api/sessions").expect(200);
        drop(Connection::open(server.address));
        drop(server.stream(&session));
    }
    server.await_streams(0);
    support::eventually("all descriptors are given back", || server.descriptors() <= before);
}
