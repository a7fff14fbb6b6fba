//! `docs/openapi.yaml` and the server are held together, in both directions: what is there is
//! described, what is described is there, every example is what it is an example of, and schemathesis
//! finds nothing that the description does not say.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;
use sidestream::core::api::paths;
use support::{Options, Reader, Scratch, Server, need};

const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/.tools/python/bin");
const DESCRIPTION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.yaml");
const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/pages/events.schema.json");
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// A stranger's YAML reader and JSON Schema validator at work: `tests/fixtures/openapi.py`.
#[track_caller]
fn stranger(words: &[&str], input: &[u8]) -> String {
    let python = format!("{PYTHON}/python");
    need(&python);
    let mut child = Command::new(python)
        .arg(support::fixture("openapi.py"))
        .args(words)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The description, as that reader sees it.
fn description() -> Value {
    serde_json::from_str(&stranger(&["json", DESCRIPTION], b"")).unwrap()
}

/// Paths with the methods that they take, ids as `{}`, one spelling for one thing.
fn described(description: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let mut all = BTreeMap::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        let path: Vec<&str> = path
            .split('/')
            .map(|segment| if segment.starts_with('{') { "{}" } else { segment })
            .collect();
        let path = path.join("/").replace("/api/sessions", "/api/session");
        let methods = METHODS.into_iter().filter(|method| item.get(method).is_some());
        assert!(all.insert(path, methods.map(str::to_owned).collect()).is_none());
    }
    all
}

/// The same of the server.
fn served() -> BTreeMap<String, BTreeSet<String>> {
    let mut all = BTreeMap::new();
    for (path, methods) in paths() {
        // One page for every session, and one description for every script.
        let path = match path.as_str() {
            "/session" => "/session/{}".to_owned(),
            script if script.starts_with("/js/") => "/js/{}".to_owned(),
            other => other.to_owned(),
        };
        // Whatever takes GET takes HEAD (RFC 9110, section 9.3.2); it is not described again.
        let methods = methods.iter().map(|method| method.as_str().to_lowercase());
        let methods: BTreeSet<String> = methods.filter(|method| method != "head").collect();
        all.insert(path, methods);
    }
    all
}

#[test]
fn every_path_is_described_and_every_description_has_a_path() {
    assert_eq!(described(&description()), served());
}

#[test]
fn the_server_gives_its_description() {
    let server = Server::demo(&[]);
    let answer = server.get("/openapi.yaml").expect(200);
    assert_eq!(answer.header("content-type"), Some("application/yaml"));
    assert_eq!(answer.body, std::fs::read(DESCRIPTION).unwrap());
    let description = description();
    assert_eq!(description["info"]["version"], env!("CARGO_PKG_VERSION"));
    let health = server.get("/health").expect(200).json();
    assert_eq!(health["version"], description["info"]["version"]);
}

#[test]
fn every_answer_that_is_described_has_a_body_and_every_json_has_an_example() {
    let description = description();
    let lookup = |reference: &Value| -> Value {
        let pointer = reference["$ref"].as_str().map(|text| text.trim_start_matches('#'));
        pointer.map_or(reference.clone(), |pointer| description.pointer(pointer).unwrap().clone())
    };
    for (path, item) in description["paths"].as_object().unwrap() {
        for method in METHODS.into_iter().filter(|method| item.get(method).is_some()) {
            let operation = &item[method];
            let scope = operation["x-scope"].as_str();
            assert!(
                matches!(scope, Some("none" | "read" | "answer" | "full")),
                "{method} {path}: x-scope {scope:?}"
            );
            for (status, response) in operation["responses"].as_object().unwrap() {
                let response = lookup(response);
                assert!(response["description"].is_string(), "{method} {path} {status}");
                let content = response["content"].as_object();
                assert!(content.is_some() || status == "204", "{method} {path} {status}");
                let json = content.and_then(|content| content.get("application/json"));
                if let Some(json) = json.filter(|_| !path.ends_with(".json")) {
                    assert!(json.get("example").is_some(), "{method} {path} {status}: no example");
                }
            }
        }
    }
}

#[test]
fn every_example_fits_and_every_event_parameter_and_answer_has_one() {
    let told = stranger(&["examples", DESCRIPTION, SCHEMA], b"");
    let count: u32 = told.trim().strip_suffix(" examples").expect(&told).parse().unwrap();
    assert!(count > 250, "{told}");
}

#[test]
fn the_readers_of_descriptions_see_what_is_wrong() {
    let refused = |description: &str, words: &str| {
        let scratch = Scratch::new();
        let file = scratch.join("openapi.yaml");
        std::fs::write(&file, description).unwrap();
        let mut python = Command::new(format!("{PYTHON}/python"));
        python.args([&support::fixture("openapi.py"), "examples", &file, SCHEMA]);
        let output = python.output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && told.contains(words), "{words}: {told}");
    };
    let text = std::fs::read_to_string(DESCRIPTION).unwrap();
    refused(&format!("{text}\ninfo: {{title: again}}\n"), "'info' stands twice");
    for (good, bad, words) in [
        ("example: compact", "example: dense", "dense"),
        ("      example: 15\n", "", "heartbeat: no example"),
        ("\"offset\":0}", "\"offset\":\"0\"}", "session-output"),
        ("\"count\":1}", "\"count\":1,\"more\":2}", "more is not described"),
    ] {
        assert!(text.contains(good), "{good}");
        refused(&text.replacen(good, bad, 1), words);
    }
}

/// Every kind of frame, as a server really sends it.
#[test]
fn the_frames_of_real_streams_are_as_described() {
    let mut server = Server::demo(&["--readers-per-session-max", "1"]);
    let session = server.create();
    let mut one = server.stream_with(&session, "?heartbeat=5", &[]);
    let mut many = Reader::open(server.address, "/api/events?heartbeat=5&sessions=none", &[]);
    let mut busy = server.stream(&session);
    busy.until_end();
    let prompt = server.prompt(&session, "think: so ;; run tool: ls ;; say: done");
    let required = one.until_name("approval-required");
    server.decide(&session, &required, "allow", serde_json::json!({})).expect(200);
    one.turn_end(&prompt);
    one.until_name("heartbeat");
    many.until_name("heartbeat");
    assert!(server.stop().success());
    one.until_end();
    many.until_end();
    let seen = one.seen.iter().chain(&many.seen).chain(&busy.seen);
    let frames: Vec<u8> = seen.flat_map(|event| event.bytes.clone()).collect();
    let told = stranger(&["frames", DESCRIPTION, SCHEMA], &frames);
    let told: BTreeSet<&str> = told.split_whitespace().collect();
    let names = [
        "connected",
        "replay-complete",
        "heartbeat",
        "server-busy",
        "server-shutdown",
        "session-output",
        "message-block",
        "tool-started",
        "tool-completed",
        "approval-required",
        "approval-resolved",
        "prompt-completed",
    ];
    let missing: Vec<&str> = names.into_iter().filter(|name| !told.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?} are not among {told:?}");
}

/// The codes of errors stand in the code where they are given, and in the description.
#[test]
fn every_code_of_an_error_is_described_and_every_described_one_is_given() {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    let given = stranger(&["codes", source], b"");
    let given: BTreeSet<&str> = given.split_whitespace().collect();
    let description = description();
    let listed = description["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]
        .as_array()
        .expect("a list of codes");
    let listed: BTreeSet<&str> = listed.iter().map(|code| code.as_str().unwrap()).collect();
    let (new, gone): (Vec<_>, Vec<_>) =
        (given.difference(&listed).collect(), listed.difference(&given).collect());
    assert!(new.is_empty() && gone.is_empty(), "not described: {new:?}; not given: {gone:?}");
}

/// The scope that each operation names is the one that is asked for.
#[test]
fn a_token_reaches_as_far_as_the_description_says() {
    let options = Options::new();
    let file = options.scratch().join("tokens");
    let make = |name: &str| support::add_token(&file, name, name);
    let tokens = [("read", make("read")), ("answer", make("answer")), ("full", make("full"))];
    let server = options.flags(&["--agent", "demo", "--token-file", &file]).start();
    let description = description();
    let rank = |scope: &str| ["none", "read", "answer", "full"].iter().position(|s| *s == scope);
    for (path, item) in description["paths"].as_object().unwrap() {
        for method in METHODS.into_iter().filter(|method| item.get(method).is_some()) {
            let scope = item[method]["x-scope"].as_str().unwrap();
            let asked = path.replace("{file}", "app.js").replace(['{', '}'], "");
            // A stream would not end; its scope is that of every other GET.
            if asked.ends_with("/events") && !asked.contains("session") {
                continue;
            }
            let asked = if asked.ends_with("/poll") { format!("{asked}?wait=0") } else { asked };
            let send = |headers: &[(&str, &str)]| {
                let method = method.to_uppercase();
                let json = [("Content-Type", "application/json")];
                let all = [headers, &json[..usize::from(method != "GET")]].concat();
                let body: &[u8] = if method == "GET" { b"" } else { b"{}" };
                support::request(server.address, &method, &asked, &all, body)
            };
            let stranger = send(&[]);
            assert_eq!(stranger.status == 401, scope != "none", "{method} {path}: {stranger}");
            for (name, token) in &tokens {
                let bearer = format!("Bearer {token}");
                let answer = send(&[("Authorization", &bearer)]);
                let reaches = rank(name) >= rank(scope);
                let refused = answer.status == 403 && answer.json()["code"] == "scope_too_small";
                assert_eq!(!refused, reaches, "{name} at {method} {path}: {answer}");
            }
        }
    }
}

#[test]
fn schemathesis_finds_nothing() {
    let program = format!("{PYTHON}/schemathesis");
    need(&program);
    // No limit of a server that is meant for people is to be met by a program.
    let many = ["--session-creations-per-s", "10000", "--sessions-max", "50000"];
    let server = Server::demo(&many);
    // Examples name a directory that this machine has.
    let text = std::fs::read_to_string(DESCRIPTION).unwrap();
    let ours = server.scratch.join("openapi.yaml");
    std::fs::write(&ours, text.replace("/home/me/project", &server.root())).unwrap();
    let output = Command::new(program)
        .args(["--config-file", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/schemathesis.toml")])
        .args(["--no-color", "run", &ours, "--max-examples", "10", "--seed", "1"])
        .args(["--url", &format!("http://{}", server.address)])
        .current_dir(server.scratch.directory("schemathesis"))
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap())
        .env("HOME", server.scratch.directory("home"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("passed"), "{told}");
    let health = server.get("/health").expect(200);
    assert_eq!(health.json()["status"], "ok");
}
