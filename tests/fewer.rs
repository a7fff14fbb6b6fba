//! A start with a lower bound on sessions than there are: none is lost, and none is added.

mod support;

use serde_json::json;
use support::{Options, Server};

fn options(first: &Server) -> Options {
    let (data, root) = (first.scratch.join("data"), first.scratch.join("root"));
    Options::new().flags(&["--agent", "demo", "--data-dir", &data, "--root", &root])
}

fn bound(server: &Server) -> u64 {
    let told = server.stdout();
    let (_, rest) = told.split_once("memory bound: ").expect("the bound is printed");
    rest.split_once(" MiB").unwrap().0.parse().expect("a number")
}

#[test]
fn sessions_beyond_a_lower_bound_are_served_and_counted_until_they_are_fewer() {
    let mut first = Server::demo(&["--durability", "write"]);
    let mut ids: Vec<String> = (0..6).map(|_| first.create()).collect();
    assert!(first.stop().success());
    let flags = ["--sessions-max", "2", "--closed-sessions-max", "1"];
    let second = options(&first).flags(&flags).start();
    let mut told: Vec<String> =
        second.rows().iter().map(|row| row["sessionId"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    told.sort();
    assert_eq!(told, ids, "all of them are there");
    assert!(second.stdout().contains("there are 6 sessions"), "{}", second.stdout());
    for id in &ids {
        second
            .post(&format!("/api/session/{id}/prompt?wait=60"), json!({"command": "say: hi"}))
            .expect(200);
    }
    let body = json!({"workingDir": second.root()});
    assert_eq!(second.post("/api/sessions", body.clone()).expect_error(429).1, "sessions_max");
    for id in &ids[1..] {
        second.close(id);
    }
    second.post("/api/sessions", json!({"workingDir": first.root()})).expect(201);
    // Their memory is in the sum.
    let fewer = Server::demo(&[
        "--sessions-max",
        "2",
        "--closed-sessions-max",
        "1",
        "--durability",
        "memory",
    ]);
    let many = Server::demo(&[
        "--sessions-max",
        "6",
        "--closed-sessions-max",
        "1",
        "--durability",
        "memory",
    ]);
    assert!(bound(&fewer) < bound(&many));
}
