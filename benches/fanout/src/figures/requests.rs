//! Figure 7: requests per second and processor time per request, on connections that stay, one
//! request under way on each; beside nginx with a constant answer.

use crate::http;
use crate::results::Results;
use crate::servers::{self, Kind, Places, Running};
use rustix::event::epoll;
use rustix::fs::{OFlags, fcntl_setfl};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// The name of the figure.
pub const FIGURE: &str = "requests";
/// Connections at one time.
const CONNECTIONS: usize = 64;

/// Measures each kind of request for so long.
pub fn measure(round: u32, places: &Places, time: Duration, results: &mut Results) {
    let nginx = servers::start_constant(places);
    let health = http::get("/health");
    if let Err(sentence) = nginx
        .and_then(|server| drive(&server, &[health.clone()], CONNECTIONS, time))
        .map(|load| add(round, "nginx, constant", &load, results))
    {
        results.miss(format!("nginx with a constant answer: {sentence}"));
    }
    if let Err(sentence) = ours(round, places, time, results) {
        results.miss(format!("requests to sidestream: {sentence}"));
    }
}

fn ours(round: u32, places: &Places, time: Duration, results: &mut Results) -> Result<(), String> {
    let server = servers::sidestream(Kind::Sidestream, places, &[])?;
    let load = drive(&server, &[http::get("/health")], CONNECTIONS, time)?;
    add(round, "/health", &load, results);
    let load = drive(&server, &[http::get("/api/debug/metrics")], CONNECTIONS, time)?;
    add(round, "/api/debug/metrics", &load, results);
    // A session each, since one runs one prompt at a time. Each answer waits for its turn's end.
    let mut prompts = Vec::new();
    for _ in 0..8 {
        let target = format!("/api/session/{}/prompt?wait=30", server.create_session()?);
        prompts.push(http::post_bytes(&target, r#"{"command":"nothing"}"#));
    }
    drive(&server, &prompts, prompts.len(), Duration::from_millis(500))?; // The agents start.
    let load = drive(&server, &prompts, prompts.len(), time)?;
    add(round, "prompt, to its end", &load, results);
    Ok(())
}

/// What came of it.
struct Load {
    requests: u64,
    seconds: f64,
    cpu_ns: u64,
}

fn add(round: u32, name: &str, load: &Load, results: &mut Results) {
    let requests = load.requests as f64;
    results.add(round, FIGURE, name, 1, "requests_per_s", requests / load.seconds);
    results.add(round, FIGURE, name, 1, "cpu_ns_per_request", load.cpu_ns as f64 / requests);
}

struct Client {
    stream: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

/// Sends these requests, in turn one per connection, each again when it is answered.
fn drive(
    server: &Running,
    requests: &[Vec<u8>],
    connections: usize,
    time: Duration,
) -> Result<Load, String> {
    let told = |error: std::io::Error| error.to_string();
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|error| error.to_string())?;
    let mut clients = Vec::new();
    for index in 0..connections {
        let stream = TcpStream::connect(("127.0.0.1", server.port)).map_err(told)?;
        stream.set_nodelay(true).map_err(told)?;
        fcntl_setfl(&stream, OFlags::NONBLOCK).map_err(|error| error.to_string())?;
        let (data, interest) = (epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN);
        epoll::add(&epoll, &stream, data, interest).map_err(|error| error.to_string())?;
        let request = requests[index % requests.len()].clone();
        clients.push(Client { stream, request, answer: Vec::new() });
    }
    for client in &mut clients {
        client.stream.write_all(&client.request).map_err(told)?;
    }
    let (start, cpu) = (Instant::now(), server.cpu_ns());
    let mut count = 0;
    let mut events = Vec::with_capacity(256);
    let mut chunk = vec![0; 64 * 1024];
    while start.elapsed() < time {
        events.clear();
        let second = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
        let room = rustix::buffer::spare_capacity(&mut events);
        epoll::wait(&epoll, room, Some(&second)).map_err(|error| error.to_string())?;
        for event in &events {
            let client = &mut clients[event.data.u64() as usize];
            match client.stream.read(&mut chunk).map_err(told)? {
                0 => return Err("hung up".into()),
                size => client.answer.extend_from_slice(&chunk[..size]),
            }
            if http::is_whole(&client.answer)? {
                count += 1;
                client.answer.clear();
                client.stream.write_all(&client.request).map_err(told)?;
            }
        }
    }
    let (seconds, cpu_ns) = (start.elapsed().as_secs_f64(), server.cpu_ns() - cpu);
    if count == 0 {
        return Err("nothing was answered".into());
    }
    Ok(Load { requests: count, seconds, cpu_ns })
}
