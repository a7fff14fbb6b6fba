//! The operator's log: lines for machines, without secrets, that never hold up the server.

mod support;

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read};
use support::{Options, Server, eventually, request};

const SECRET: &str = "correct-horse-battery-staple";

#[test]
fn json_lines_are_objects_and_tell_of_a_refused_request_by_its_id() {
    let server = Server::demo(&["--log-format", "json"]);
    let headers = [("Origin", "http://evil.example"), ("X-Request-Id", "mine-1")];
    request(server.address, "GET", "/api/sessions?token=x", &headers, b"").expect(403);
    eventually("it is told", || server.stderr().contains("mine-1"));
    let lines: Vec<Value> = server
        .stderr()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    for line in &lines {
        for member in ["ts", "level", "area", "msg"] {
            assert!(line[member].as_str().is_some_and(|text| !text.is_empty()), "{line}");
        }
    }
    let told = lines.iter().find(|line| line["request"] == "mine-1").unwrap();
    for (member, want) in [
        ("level", "warn"),
        ("area", "http"),
        ("status", "403"),
        ("code", "foreign_origin"),
        ("method", "GET"),
        ("path", "/api/sessions"),
    ] {
        assert_eq!(told[member], want, "{told}");
    }
}

#[test]
fn neither_tokens_nor_prompts_nor_what_agents_say_is_ever_logged() {
    let options = Options::new();
    let file = options.scratch().join("tokens");
    let token = support::add_token(&file, "me", "full");
    let server = options
        .flags(&["--agent", "demo", "--token-file", &file, "--log-level", "debug"])
        .flags(&["--read-cookie"])
        .start();
    let bearer = format!("Bearer {token}");
    let send = |method: &str, path: &str, body: Value| {
        let headers = [("Authorization", &*bearer)];
        let body = if method == "GET" { Vec::new() } else { body.to_string().into_bytes() };
        request(server.address, method, path, &headers, &body)
    };
    let created = send("POST", "/api/sessions", json!({"workingDir": server.root()})).expect(201);
    let session = created.json()["sessionId"].as_str().unwrap().to_owned();
    let prompt = format!("/api/session/{session}/prompt?wait=60");
    for command in [format!("say: {SECRET}"), format!("error {SECRET}")] {
        send("POST", &prompt, json!({"command": command}));
    }
    let login = send("POST", "/api/login", json!({"token": token})).expect(204);
    let cookie = login.header("set-cookie").unwrap().split([';', '=']).nth(1).unwrap().to_owned();
    send("POST", "/api/login", json!({"token": format!("sst_{SECRET}")})).expect(401);
    send("GET", &format!("/api/sessions?q={SECRET}"), Value::Null).expect(200);
    send("GET", &format!("/api/session/x?token={token}"), Value::Null).expect(404);
    let wrong = [("Authorization", &*format!("Bearer {SECRET}"))];
    request(server.address, "GET", "/api/sessions", &wrong, b"").expect(401);
    server.signal("HUP");
    eventually("it is all told", || server.stderr().contains("read again"));
    let log = server.stderr();
    assert!(
        log.contains("msg=answered") && log.contains("status=202") | log.contains("status=200")
    );
    for secret in [SECRET, &token, &token[4..], &cookie] {
        assert!(!log.contains(secret), "{secret} was logged:\n{log}");
    }
}

#[test]
fn a_flood_of_one_kind_is_cut_and_counted_and_others_pass() {
    let server = Server::demo(&[]);
    for _ in 0..200 {
        let headers = [("Origin", "http://evil.example")];
        request(server.address, "GET", "/", &headers, b"").expect(403);
    }
    server.create();
    eventually("another kind is told", || server.stderr().contains("msg=created"));
    let count = server.stderr().lines().filter(|line| line.contains("foreign_origin")).count();
    assert!((1..=100).contains(&count), "{count} lines of one kind");
    let page = server.get("/metrics").expect(200).text();
    let line = "sidestream_log_lines_lost_total{reason=\"too many of a kind\"} ";
    let lost = page.lines().find_map(|one| one.strip_prefix(line)).unwrap();
    assert!(lost.parse::<u32>().unwrap() >= 100, "{lost}");
}

#[test]
fn a_stderr_that_nobody_reads_holds_up_nothing() {
    let options = Options::new().flags(&["--agent", "demo", "--log-level", "debug"]);
    let mut child = options.command().spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("listening on http://") {
        line.clear();
        assert!(stdout.read_line(&mut line).unwrap() > 0, "it did not start");
    }
    let address = line.trim().rsplit('/').next().unwrap().parse().unwrap();
    // Kinds are limited to few lines, so the pipe is made as small as it can be.
    let lost = || {
        let page = request(address, "GET", "/metrics", &[], b"").expect(200).text();
        let line = "sidestream_log_lines_lost_total{reason=\"stderr full\"} ";
        let lost = page.lines().find_map(|one| one.strip_prefix(line).map(str::to_owned));
        lost.unwrap().parse::<u32>().unwrap()
    };
    let stderr = child.stderr.take().unwrap();
    sidestream::shell::sys::set_pipe_size(&stderr, 4096).unwrap();
    let path = format!("/{}", "x".repeat(150));
    eventually("the pipe is full", || {
        request(address, "GET", &path, &[], b"").expect(404);
        lost() > 0
    });
    for _ in 0..50 {
        request(address, "GET", "/health", &[], b"").expect(200);
    }
    support::signal(child.id(), "TERM");
    assert!(child.wait().unwrap().success(), "it ends as it should");
    let mut text = String::new();
    BufReader::new(stderr).read_to_string(&mut text).unwrap();
    assert!(
        text.ends_with('\n') && text.lines().all(|line| line.starts_with("ts=")),
        "whole lines"
    );
}
