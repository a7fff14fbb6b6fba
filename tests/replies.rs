//! No answer but a large field is longer than a MiB, whatever sessions hold; what is not in it can be
//! had all the same.

mod support;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sidestream::limits::REPLY_SIZE;
use support::{Response, Server, eventually};

/// The body's JSON, once its length was looked at.
#[track_caller]
fn short(response: Response) -> Value {
    let response = response.expect(200);
    assert!(response.body.len() <= REPLY_SIZE, "{} bytes", response.body.len());
    response.json()
}

#[test]
fn a_queue_of_long_prompts_is_told_in_short_and_each_is_to_be_had() {
    let server = Server::demo(&["--queue-max", "300"]);
    let session = server.create();
    let path = format!("/api/session/{session}");
    server.prompt(&session, "slow 100000 1000");
    // Each byte takes six where it is escaped.
    let long = "\u{1}".repeat(1_300_000);
    for _ in 0..6 {
        server.prompt(&session, &long);
    }
    let middling = "\u{2}".repeat(5_000);
    let mut ids: Vec<String> = (0..200).map(|_| server.prompt(&session, &middling)).collect();
    ids.push(server.prompt(&session, "say: short"));
    let page = short(server.get(&format!("{path}/queue")));
    let first = &page["queue"][0];
    assert_eq!((&first["truncated"], &first["bytes"]), (&json!(true), &json!(long.len())));
    assert!(long.starts_with(first["command"].as_str().unwrap()));
    assert_eq!(server.get(first["href"].as_str().unwrap()).expect(200).body, long.as_bytes());
    // Page by page all of them are told, each once.
    let mut told: Vec<Value> = page["queue"].as_array().unwrap().clone();
    let mut more = page["more"] == true;
    assert!(more, "they do not fit one page");
    while more {
        let last = told.last().unwrap()["promptId"].as_str().unwrap().to_owned();
        let page = short(server.get(&format!("{path}/queue?after={last}")));
        told.extend(page["queue"].as_array().unwrap().clone());
        more = page["more"] == true;
    }
    assert_eq!(told.len(), 207);
    let positions: Vec<u64> = told.iter().map(|one| one["position"].as_u64().unwrap()).collect();
    assert!(positions.iter().copied().eq(0..207));
    let last = &told[206];
    assert_eq!((&last["command"], last.get("truncated")), (&json!("say: short"), None));
    let event = server.told(told[100]["href"].as_str().unwrap());
    assert_eq!(event["data"]["command"], middling, "one that is not large is told by its event");
    server.interrupt(&session);
    server.post(&format!("{path}/interrupt"), json!({"clearQueue": true})).expect(200);
}

#[test]
fn large_approvals_are_told_in_short_and_their_inputs_have_a_place() {
    for durability in ["write", "memory"] {
        let server = Server::fake(&["--durability", durability]);
        let session = server.create();
        let path = format!("/api/session/{session}/approvals");
        server.prompt(&session, "approves 5 600000");
        eventually("it asks", || server.told(&path)["approvals"].as_array().unwrap().len() == 5);
        let page = short(server.get(&path));
        assert_eq!(page["more"], false);
        for open in page["approvals"].as_array().unwrap() {
            let large = &open["large"];
            assert_eq!(large["field"], "input");
            let response = server.get(large["href"].as_str().unwrap()).expect(200);
            assert_eq!(response.body.len() as u64, large["bytes"].as_u64().unwrap());
            let hash: String =
                Sha256::digest(&response.body).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(open["inputHash"], hash);
            assert!(response.text().starts_with(large["preview"].as_str().unwrap()));
        }
        let gone = server.get(&format!("{path}/approval-none/input"));
        assert_eq!(gone.expect_error(404).1, "approval_not_found");
        server.interrupt(&session);
        eventually("none is open", || server.told(&path)["approvals"] == json!([]));
    }
}

#[test]
fn a_long_list_of_sessions_ends_where_its_answer_is_full_and_goes_on() {
    let server = Server::demo(&["--session-creations-per-s", "10000"]);
    let name = "\u{1F600}".repeat(200);
    for _ in 0..900 {
        server.create_as(json!({"name": name}));
    }
    let mut before = String::new();
    let mut told = 0;
    loop {
        let page = short(server.get(&format!("/api/sessions?limit=1000{before}")));
        let rows = page["sessions"].as_array().unwrap();
        told += rows.len();
        before = format!("&before={}", rows.last().unwrap()["sessionId"].as_str().unwrap());
        if page["more"] == false {
            break;
        }
    }
    assert_eq!(told, 900);
}
