//! `/metrics`: what Prometheus reads, held to by its own checker, and to what really happened.

mod support;

use serde_json::json;
use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use support::{Connection, Server, eventually, need, request};

/// Every sample of a page by its name and labels.
fn samples(page: &str) -> BTreeMap<String, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}")))
    };
    let all: Vec<(String, f64)> = lines.map(sample).collect();
    let count = all.len();
    let map: BTreeMap<String, f64> = all.into_iter().collect();
    assert_eq!(map.len(), count, "a sample stands twice: {page}");
    map
}

#[track_caller]
fn scrape(server: &Server) -> BTreeMap<String, f64> {
    samples(&server.get("/metrics").expect(200).text())
}

/// What `promtool check metrics` says of a page.
#[track_caller]
fn check(page: &str) {
    need("promtool");
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.is_empty(), "{said}\n{page}");
}

#[test]
fn promtool_finds_nothing_to_say_before_and_after_everything_has_happened() {
    let server = Server::demo(&[]);
    let answer = server.get("/metrics").expect(200);
    let kind = answer.header("content-type").unwrap();
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    let before = answer.text();
    check(&before);
    let session = server.create();
    let mut stream = server.stream(&session);
    let prompt = server.prompt(&session, "say 20 words ;; run tool: date");
    let required = stream.until_name("approval-required");
    let running = server.get("/metrics").expect(200).text();
    check(&running);
    server.decide(&session, &required, "allow", json!({})).expect(200);
    stream.turn_end(&prompt);
    let after = server.get("/metrics").expect(200).text();
    check(&after);
    let names = |page: &str| -> Vec<String> {
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).map(str::to_owned).collect()
    };
    assert_eq!(names(&before), names(&after), "a family is there from the start or not at all");
    let head = server.send("HEAD", "/metrics").expect(200);
    assert!(head.body.is_empty());
}

#[test]
fn the_documentation_lists_every_family_with_its_type_and_no_other() {
    let server = Server::demo(&[]);
    let page = server.get("/metrics").expect(200).text();
    let families: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
    let text = std::fs::read_to_string(path).unwrap();
    let listed: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .map(|(name, rest)| format!("{name} {}", rest.split(' ').next().unwrap()))
        .collect();
    assert_eq!(listed, families);
}

#[test]
fn what_happens_is_counted_under_its_name() {
    let server = Server::demo(&["--queue-max", "1"]);
    let session = server.create();
    let mut stream = server.stream(&session);
    let prompt = server.prompt(&session, "run tool: date");
    let required = stream.until_name("approval-required");
    server.prompt(&session, "say: queued");
    let path = format!("/api/session/{session}/prompt");
    let full = server.post(&path, json!({"command": "one too many"})).expect(429);
    assert!(full.header("retry-after").is_some());
    // Whoever asks with an id that we never gave has a gap.
    let id = [("Last-Event-ID", "nobodys-1")];
    let mut gap = server.stream_with(&session, "", &id);
    gap.until_name("replay-complete");
    let now = scrape(&server);
    for (name, want) in [
        ("sidestream_streams{sessions=\"one\"}", 2.0),
        ("sidestream_streams_opened_total", 2.0),
        ("sidestream_stream_resumes_total{resume=\"fresh\"}", 1.0),
        ("sidestream_stream_resumes_total{resume=\"gap\"}", 1.0),
        ("sidestream_stream_gaps_total", 1.0),
        ("sidestream_sessions{status=\"waiting\"}", 1.0),
        ("sidestream_approvals_open", 1.0),
        ("sidestream_prompts_queued", 1.0),
        ("sidestream_limit_hits_total{limit=\"queue-max\"}", 1.0),
        ("sidestream_agents", 1.0),
        ("sidestream_agent_processes{agent=\"demo\"}", 1.0),
        ("sidestream_agents_started_total", 1.0),
        ("sidestream_events_total{type=\"approval-required\"}", 1.0),
        ("sidestream_events_total{type=\"session-created\"}", 1.0),
        ("sidestream_requests_waiting", 0.0),
    ] {
        assert_eq!(now.get(name), Some(&want), "{name}: {now:#?}");
    }
    assert!(now["sidestream_prompts_queued_bytes"] >= 11.0);
    assert!(now["sidestream_agent_resident_memory_bytes{agent=\"demo\"}"] > 0.0);
    server.decide(&session, &required, "deny", json!({})).expect(200);
    stream.turn_end(&prompt);
    eventually("the queue is empty", || scrape(&server)["sidestream_prompts_queued"] == 0.0);
    let now = scrape(&server);
    let by_type = server.metrics()["eventBus"]["eventsByType"].clone();
    for (name, count) in by_type.as_object().unwrap() {
        let line = format!("sidestream_events_total{{type=\"{name}\"}}");
        assert!(now[&line] <= count.as_f64().unwrap() && now[&line] > 0.0, "{name}");
    }
    // The demo says what a model would have taken.
    assert!(now["sidestream_tokens_total{kind=\"output\"}"] > 0.0, "{now:#?}");
    assert!(now["sidestream_cost_usd_total"] > 0.0);
}

#[test]
fn every_limit_that_a_client_can_meet_is_answered_and_counted() {
    let flags = ["--sessions-max", "2", "--session-creations-per-s", "1", "--waits-max", "1"];
    let flags =
        [&flags[..], &["--readers-per-session-max", "1", "--head-timeout", "300ms"]].concat();
    let more = ["--body-timeout", "1s", "--body-size-max", "1KiB", "--keep-alive", "300ms"];
    let server = Server::demo(&[&flags[..], &more, &["--head-fields-max", "10"]].concat());
    let body = json!({"workingDir": server.root()});
    let create = || server.post("/api/sessions", body.clone());
    let mut ids = Vec::new();
    eventually("two are there, and one came too soon", || {
        let answer = create();
        if answer.status == 201 {
            ids.push(answer.json()["sessionId"].as_str().unwrap().to_owned());
        } else {
            assert_eq!(answer.header("retry-after"), Some("1"), "{answer}");
            answer.expect(429);
        }
        let counted = scrape(&server);
        ids.len() == 2
            && counted["sidestream_limit_hits_total{limit=\"session-creations-per-s\"}"] > 0.0
    });
    eventually("the third is one too many", || create().expect_error(429).1 == "sessions_max");
    let first = &ids[0];
    let _stream = server.stream(first);
    server.await_streams(1);
    let mut second = server.stream(first);
    assert_eq!(second.until_name("server-busy").text("reason"), "readers_max");
    second.until_end();
    // A poll that waits leaves no room for another.
    let list = server.told("/api/sessions");
    let cursor = list["lastEventId"].as_str().unwrap();
    let poll = format!("/api/session/{first}/events/poll?wait=60&after={cursor}");
    let mut waiting = Connection::open(server.address);
    waiting.send(support::http::encode(server.address, "GET", &poll, &[], b""));
    eventually("a second poll is refused", || {
        let answer = server.get(&poll.replace("wait=60", "wait=1"));
        answer.status == 503 && answer.expect_error(503).1 == "waits_max"
    });
    // The metrics are to be had all the same.
    assert_eq!(scrape(&server)["sidestream_requests_waiting"], 1.0);

    let talk = |bytes: &[u8]| {
        let mut connection = Connection::open(server.address);
        connection.send(bytes);
        connection
    };
    let post = "POST /api/sessions HTTP/1.1\r\nHost: localhost\r\n\
        Content-Type: application/json\r\nContent-Length:";
    assert_eq!(talk(format!("{post} 9999\r\n\r\n").as_bytes()).response("POST").status, 413);
    let fields = "X: y\r\n".repeat(20);
    let many = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
    assert_eq!(talk(many.as_bytes()).response("GET").status, 431);
    let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(70_000));
    assert_eq!(talk(long.as_bytes()).response("GET").status, 414);
    assert_eq!(talk(b"GET / HTTP/1.1\r\n").response("GET").status, 408);
    assert_eq!(talk(format!("{post} 9\r\n\r\nx").as_bytes()).response("POST").status, 408);
    talk(b"").expect_end();
    let mut rests = talk(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(rests.response("GET").status, 200);
    rests.expect_end();
    let now = scrape(&server);
    for limit in [
        "sessions-max",
        "session-creations-per-s",
        "readers-per-session-max",
        "waits-max",
        "head-size-max",
        "head-fields-max",
        "head-timeout",
        "body-size-max",
        "body-timeout",
        "keep-alive",
    ] {
        let line = format!("sidestream_limit_hits_total{{limit=\"{limit}\"}}");
        assert!(now[&line] > 0.0, "{limit}: {now:#?}");
    }
    for status in ["408", "413", "414", "431"] {
        let line = format!("sidestream_requests_bad_total{{status=\"{status}\"}}");
        assert!(now[&line] > 0.0, "{status}");
    }
    assert!(now["sidestream_responses_total{class=\"4xx\"}"] >= 7.0);
    assert!(now["sidestream_responses_total{class=\"5xx\"}"] >= 1.0);
}

#[test]
fn the_process_and_its_loop_and_its_journal_are_measured() {
    let server = Server::demo(&["--durability", "sync", "--heartbeat", "200ms"]);
    let session = server.create();
    let prompt = server.prompt(&session, "deltas 50");
    let mut stream = server.stream(&session);
    stream.turn_end(&prompt);
    stream.until_name("heartbeat");
    drop(stream);
    let now = scrape(&server);
    let files = server.descriptors() as f64;
    assert!((now["process_open_fds"] - files).abs() <= 4.0, "{files} {now:#?}");
    assert!(now["process_max_fds"] >= now["process_open_fds"]);
    assert!(now["process_resident_memory_bytes"] > 1e6);
    assert!(now["process_virtual_memory_bytes"] > now["process_resident_memory_bytes"]);
    assert!(now["process_cpu_seconds_total"] >= 0.0);
    let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let age = wall.as_secs_f64() - now["process_start_time_seconds"];
    assert!((0.0..600.0).contains(&age), "{age}");
    for name in ["loop_turn", "loop_lag", "journal_commit"] {
        let of = |end: &str| now[&format!("sidestream_{name}_seconds_{end}")];
        assert!(of("count") > 0.0, "{name}: {now:#?}");
        let bound = |le: &str| of(&format!("bucket{{le=\"{le}\"}}"));
        assert_eq!(bound("+Inf"), of("count"), "{name}");
        assert!(bound("0.00001") <= bound("0.01") && bound("0.01") <= bound("10"), "{name}");
    }
    assert!(now["sidestream_journal_commit_seconds_sum"] > 0.0);
    assert!(now["sidestream_journal_bytes"] > 1000.0);
    assert_eq!(now["sidestream_journal_failing"], 0.0);
    // What agents took stays counted when they are gone.
    server.close(&session);
    eventually("the agent is gone", || scrape(&server)["sidestream_agents"] == 0.0);
    assert!(scrape(&server)["sidestream_agents_cpu_seconds_total"] >= 0.0);
}

#[test]
fn limits_on_agents_and_logins_and_bodies_are_counted() {
    let server = Server::demo(&[
        "--agents-max",
        "1",
        "--queue-size-max",
        "64KiB",
        "--body-size-max",
        "64KiB",
    ]);
    let hits =
        |flag: &str| scrape(&server)[&format!("sidestream_limit_hits_total{{limit=\"{flag}\"}}")];
    let (one, two) = (server.create(), server.create());
    let first = server.prompt(&one, "slow 100000 1000");
    server.stream(&one).until_name("prompt-started");
    let second = server.prompt(&two, "say: hello");
    assert_eq!((hits("agents-max"), scrape(&server)["sidestream_agents_awaited"]), (1.0, 1.0));
    let big = json!({"command": "x".repeat(40_000)});
    let path = format!("/api/session/{two}/prompt");
    server.post(&path, big.clone()).expect(202);
    assert_eq!(server.post(&path, big).expect_error(429).1, "queue_size_max");
    assert_eq!(hits("queue-size-max"), 1.0);
    server.interrupt(&one);
    server.stream(&one).turn_end(&first);
    let _ = second;
}

#[test]
fn who_may_not_read_gets_no_metrics() {
    let server = Server::demo(&[]);
    let headers = [("X-Forwarded-For", "1.2.3.4")];
    request(server.address, "GET", "/metrics", &headers, b"").expect(401);
    let headers = [("Origin", "https://evil.example")];
    request(server.address, "GET", "/metrics", &headers, b"").expect(403);
    server.send("POST", "/metrics").expect(405);
    let now = scrape(&server);
    let refused =
        |code: &str| now[&format!("sidestream_requests_refused_total{{code=\"{code}\"}}")];
    assert_eq!((refused("proxy_without_token"), refused("foreign_origin")), (1.0, 1.0));
}

#[test]
fn labels_come_from_closed_lists_so_that_use_adds_no_series() {
    let server = Server::demo(&[]);
    let before = scrape(&server).len();
    let mut ids = Vec::new();
    for number in 0..9 {
        let session = server.create();
        ids.push(session.clone());
        server.stream(&session).joined();
        server.get(&format!("/nothing/{number}")).expect(404);
        let headers = [("Origin", &*format!("http://h{number}.example"))];
        request(server.address, "GET", "/", &headers, b"");
    }
    let after: Vec<String> = scrape(&server).into_keys().collect();
    assert_eq!(after.len(), before, "{after:#?}");
    let told = |name: &String| ids.iter().any(|id| name.contains(id)) || name.contains(".example");
    assert!(!after.iter().any(told), "{after:#?}");
}
