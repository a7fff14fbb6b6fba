//! Many who wait for one thing: their answers take the room that there is for answers and no more,
//! and everybody has his turn.

mod support;

use serde_json::{Value, json};
use sidestream::limits::MIB;
use support::http::{Connection, Response, encode};
use support::{Server, eventually};

/// What there is room for.
const ROOM: usize = 4 * MIB;
const CLIENTS: usize = 200;
const WORDS: usize = 200_000;

fn server() -> Server {
    let room = ROOM.to_string();
    let flags = ["--requests-size-max", &room, "--write-stall", "10m", "--delta-hold", "0"];
    Server::demo(&flags)
}

#[test]
fn a_prompt_that_waits_for_its_end_keeps_no_body() {
    let server = Server::demo(&["--body-size-max", "2MiB", "--bodies-size-max", "4MiB"]);
    let session = server.create();
    server.prompt(&session, "slow 100000 1000");
    let path = format!("/api/session/{session}/prompt?wait=60");
    // Most of it is nothing that is kept.
    let body = json!({"command": "say: hello", "unknown": "x".repeat(1_500_000)}).to_string();
    let kind = [("Content-Type", "application/json")];
    let clients: Vec<Connection> = (1..=5)
        .map(|count| {
            let mut client = Connection::open(server.address);
            client.send(encode(server.address, "POST", &path, &kind, body.as_bytes()));
            eventually("it waits", || gauge(&server, "sidestream_requests_waiting") == count);
            client
        })
        .collect();
    assert_eq!(server.metrics()["memory"]["bodyBytes"], 0, "five that have come, and wait");
    let bytes = gauge(&server, "sidestream_requests_bytes");
    assert!(bytes < 200 * 1024, "{bytes} bytes of requests");
    drop(clients);
}

/// A gauge of the server's own.
#[track_caller]
fn gauge(server: &Server, name: &str) -> usize {
    let text = server.get("/metrics").expect(200).text();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no {name}: {text}")).parse().expect("a number")
}

/// The cursor behind what was said so far.
fn newest(server: &Server, session: &str) -> String {
    let told = server.told(&format!("/api/session/{session}"));
    told["lastEventId"].as_str().unwrap().to_owned()
}

/// So many clients that send this, wait, and read nothing.
fn crowd(server: &Server, request: &[u8]) -> Vec<Connection> {
    let clients = (0..CLIENTS).map(|_| {
        let mut client = Connection::open(server.address);
        client.send(request);
        client
    });
    let clients = clients.collect();
    eventually("all of them wait", || gauge(server, "sidestream_requests_waiting") >= CLIENTS);
    clients
}

/// With all answers due, the server holds no more than there is room for, serves others, and gives
/// everybody his answer as the others take theirs.
fn expect_turns(server: &Server, before: usize, clients: Vec<Connection>, check: fn(&Value)) {
    let taken = server.memory("VmRSS").saturating_sub(before);
    assert!(taken < ROOM + 12 * MIB, "{taken} bytes are taken for answers that nobody reads");
    let counted = gauge(server, "sidestream_requests_bytes");
    assert!(counted > ROOM / 2, "{counted} bytes: there is room for more");
    assert!(counted < ROOM + MIB, "{counted} bytes are counted, and there is room for {ROOM}");
    assert!(gauge(server, "sidestream_requests_waiting") > CLIENTS / 2, "most stand in line");
    server.get("/health").expect(200);
    for response in answers(clients) {
        let response = response.expect(200);
        assert!(response.body.len() > WORDS, "all of it: {}", response.body.len());
        check(&response.json());
    }
}

/// What each is answered, now that all of them read. Whose turn is first nobody knows.
fn answers(clients: Vec<Connection>) -> Vec<Response> {
    let read = |mut client: Connection| std::thread::spawn(move || client.response("GET"));
    let readers: Vec<_> = clients.into_iter().map(read).collect();
    readers.into_iter().map(|reader| reader.join().expect("an answer")).collect()
}

#[test]
fn polls_that_nobody_reads_take_no_more_than_there_is_room_for_and_each_has_its_turn() {
    let server = server();
    let session = server.create();
    server.post(&format!("/api/session/{session}/prompt?wait=60"), json!({"command": "say: hi"}));
    let after = newest(&server, &session);
    let path =
        format!("/api/session/{session}/events/poll?after={after}&wait=60&types=message-block");
    let clients = crowd(&server, &encode(server.address, "GET", &path, &[], b""));
    let before = server.memory("VmRSS");
    server.prompt(&session, &format!("say: {}", "x".repeat(WORDS)));
    eventually("the turn is over", || server.status(&session) == "idle");
    expect_turns(&server, before, clients, |page| {
        assert_eq!(page["resume"], "ok");
        assert_eq!(page["events"].as_array().map(Vec::len), Some(1));
        assert_eq!(page["events"][0]["id"], page["next"]);
    });
}

#[test]
fn so_do_those_who_wait_for_one_prompt() {
    let server = server();
    let session = server.create();
    let path = format!("/api/session/{session}/prompt?wait=60");
    server.post(&path, json!({"command": "say: hi"})).expect(200);
    server.prompt(&session, "slow 1 2000");
    let body = json!({"command": format!("big {WORDS}"), "promptId": "p"}).to_string();
    let clients = crowd(&server, &encode(server.address, "POST", &path, &[], body.as_bytes()));
    let before = server.memory("VmRSS");
    eventually("the turn is over", || server.status(&session) == "idle");
    expect_turns(&server, before, clients, |answer| {
        assert_eq!(answer["event"], "prompt-completed");
        assert_eq!(answer["data"]["promptId"], "p");
    });
}

#[test]
fn one_whose_event_the_ring_has_lost_while_it_stood_in_line_is_given_it_from_the_journal() {
    let server = Server::demo(&["--requests-size-max", "512KiB", "--write-stall", "10m"]);
    let session = server.create();
    let prompt = format!("/api/session/{session}/prompt?wait=60");
    server.post(&prompt, json!({"command": "say: hi"})).expect(200);
    let after = newest(&server, &session);
    let path =
        format!("/api/session/{session}/events/poll?after={after}&wait=60&types=message-block");
    let request = encode(server.address, "GET", &path, &[], b"");
    let clients: Vec<Connection> = (0..40)
        .map(|_| {
            let mut client = Connection::open(server.address);
            client.send(&request);
            client
        })
        .collect();
    eventually("all of them wait", || gauge(&server, "sidestream_requests_waiting") >= 40);
    // More than the ring holds comes behind what they wait for.
    for _ in 0..8 {
        server.prompt(&session, &format!("say: {}", "x".repeat(WORDS)));
    }
    eventually("the turns are over", || server.status(&session) == "idle");
    for response in answers(clients) {
        let page = response.expect(200).json();
        assert_eq!(page["resume"], "ok", "nothing is lost");
        let mut next = page["next"].as_str().unwrap().to_owned();
        let mut events = page["events"].as_array().unwrap().clone();
        // A page may end before the first that is wanted; the cursor leads on.
        while events.is_empty() {
            let path = format!(
                "/api/session/{session}/events/poll?after={next}&wait=60&types=message-block"
            );
            let page = server.told(&path);
            next = page["next"].as_str().unwrap().to_owned();
            events = page["events"].as_array().unwrap().clone();
        }
        let first = events[0]["data"]["turnId"].as_str().unwrap().to_owned();
        assert_eq!(first, "turn-2", "the first of them");
    }
}

#[test]
fn a_request_behind_one_that_waited_is_refused_where_there_is_no_room_for_its_answer() {
    let server = Server::demo(&["--requests-size-max", "1MiB", "--write-stall", "10m"]);
    let session = server.create();
    let prompt = format!("/api/session/{session}/prompt?wait=60");
    for _ in 0..2 {
        let words = format!("say: {}", "x".repeat(WORDS / 2));
        server.post(&prompt, json!({"command": words})).expect(200);
    }
    // Each change is answered once it is durable, many of them together.
    let path = format!("/api/session/{session}");
    let body = json!({"name": "news"}).to_string();
    let mut requests = encode(server.address, "PATCH", &path, &[], body.as_bytes());
    let history = format!("{path}/history?limit=1000&types=message-block");
    requests.extend(encode(server.address, "GET", &history, &[], b""));
    let mut clients: Vec<Connection> =
        (0..CLIENTS).map(|_| Connection::open(server.address)).collect();
    let before = server.memory("VmRSS");
    clients.iter_mut().for_each(|client| client.send(&requests));
    let read = |mut client: Connection| {
        std::thread::spawn(move || [client.response("PATCH"), client.response("GET")])
    };
    let readers: Vec<_> = clients.into_iter().map(read).collect();
    let mut refused = 0;
    for reader in readers {
        let [changed, page] = reader.join().expect("both answers");
        changed.expect(200);
        match page.status {
            200 => assert!(page.body.len() > WORDS / 2),
            _ => {
                assert_eq!(page.expect_error(503).1, "requests_max");
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "all were answered");
    let taken = server.memory("VmRSS").saturating_sub(before);
    assert!(taken < 16 * MIB, "{taken} bytes were taken, and there is room for 1 MiB");
}
