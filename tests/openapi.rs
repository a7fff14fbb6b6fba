//! `docs/openapi.yaml` and the server are held together, in both directions: what is there is
//! described, what is described is there, every example is what it is an example of, and schemathesis
//! finds nothing that the description does not say.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};

use serde_json::Value;
use sidestream::core::api::paths;
use support::{Options, Server, need};

const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/.tools/python/bin");
const DESCRIPTION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.yaml");
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// The description, as a stranger's YAML reader sees it.
fn description() -> Value {
    let python = format!("{PYTHON}/python");
    need(&python);
    let code = "import json, sys, yaml; json.dump(yaml.safe_load(open(sys.argv[1])), sys.stdout)";
    let output = Command::new(python).args(["-c", code, DESCRIPTION]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
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
