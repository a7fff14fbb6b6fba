//! Large fields: whoever takes one slowly, or not at all, holds up nobody else, and nothing in the
//! server's memory.

mod support;

use serde_json::{Value, json};
use sidestream::limits::MIB;
use support::Server;
use support::http::{Connection, encode};

const SIZE: usize = 8_000_000;

/// Where a session's large field is.
#[track_caller]
fn large(server: &Server, session: &str) -> String {
    let path = format!("/api/session/{session}/prompt?wait=60");
    server.post(&path, json!({"command": format!("big {SIZE}")})).expect(200);
    let page = server.told(&format!("/api/session/{session}/history?limit=1000"));
    let events = page["events"].as_array().unwrap();
    let large = events.iter().rev().map(|event| &event["data"]["large"]).find(|it| !it.is_null());
    let large = large.unwrap_or_else(|| panic!("nothing is large: {page}"));
    assert_eq!(large["bytes"], SIZE as u64);
    large["href"].as_str().unwrap().to_owned()
}

fn slow_ones_hold_up_nobody(durability: &str) {
    let server = Server::demo(&["--durability", durability, "--write-stall", "10m"]);
    let session = server.create();
    let href = large(&server, &session);
    let first = server.get(&href).expect(200).body;
    assert_eq!(first.len(), SIZE);
    let before = server.memory("VmRSS");
    let request = encode(server.address, "GET", &href, &[], b"");
    let mut slow: Vec<Connection> = (0..50)
        .map(|_| {
            let mut client = Connection::open(server.address);
            client.send(&request);
            client
        })
        .collect();
    // They take nothing, and this one is served.
    for _ in 0..3 {
        let response = server.get(&href).expect(200);
        assert!(response.body == first, "all of it, as it is");
    }
    let taken = server.memory("VmRSS").saturating_sub(before);
    assert!(taken < 8 * MIB, "{taken} bytes are held for clients that take nothing");
    // Nor have they lost anything.
    let response = slow.swap_remove(20).response("GET").expect(200);
    assert!(response.body == first, "all of it, as it is");
    let head = server.send("HEAD", &href).expect(200);
    assert_eq!(head.header("content-length"), Some(&*SIZE.to_string()));
    // One behind it on the same connection follows.
    let mut client = Connection::open(server.address);
    client.send([request.clone(), request].concat());
    for _ in 0..2 {
        assert!(client.response("GET").expect(200).body == first);
    }
}

#[test]
fn slow_ones_hold_up_nobody_where_fields_are_on_disk() {
    slow_ones_hold_up_nobody("write");
}

#[test]
fn slow_ones_hold_up_nobody_where_fields_are_in_memory() {
    slow_ones_hold_up_nobody("memory");
}

#[test]
fn a_body_that_goes_away_while_it_is_sent_ends_within() {
    let server = Server::demo(&["--write-stall", "10m", "--closed-sessions-max", "1"]);
    let (session, other) = (server.create(), server.create());
    let href = large(&server, &session);
    let request = encode(server.address, "GET", &href, &[], b"");
    let mut client = Connection::open(server.address);
    client.send(&request);
    // The head is there, so that it is on its way.
    let told = client.head();
    assert_eq!(told.header("content-length"), Some(&*SIZE.to_string()));
    server.close(&session);
    server.close(&other); // There is room for the end of one.
    support::eventually("it is gone from the disk", || {
        !std::path::Path::new(&server.scratch.join("data/sessions")).join(&session).exists()
    });
    let left = client.rest().len();
    assert!(left < SIZE, "{left} bytes came of a field that is gone");
    let _: Value = server.told("/api/sessions");
}
