//! The server is killed at random moments, hundreds of times, and the power fails: what subscribers
//! received is what the journal holds, in order, with no hole and no repeat.

mod support;

use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering::SeqCst};
use std::time::{Duration, Instant};
use support::reader::parse_frame;
use support::rig::check_ends;
use support::{Api, Event, PATIENCE, Rig, Subscriber, eventually, fixture, ids_of, segments};

/// How a storm goes.
struct Storm<'a> {
    kills: u32,
    /// A kill comes once something was said, after this time at most, in milliseconds.
    pause_ms: u64,
    /// An agent that takes its time to start is waited for until it has said something.
    waits: bool,
    /// What each session is told after each start.
    prompt: &'a dyn Fn(u32) -> String,
    /// How many events there must be at least, so that it is one.
    events_min: usize,
}

/// Kills the server again and again under output, with six subscribers of two sessions and of both
/// together, three of them slow; then compares what each received with the journal.
fn storm(mut rig: Rig, storm: &Storm<'_>) -> Rig {
    let sessions = [rig.create(), rig.create()];
    let port = Arc::new(AtomicU16::new(rig.address.port()));
    let over = Arc::new(AtomicBool::new(false));
    let paths: Vec<String> = sessions
        .iter()
        .map(|id| format!("/api/session/{id}/events?replay=all"))
        .chain(["/api/events?replay=all".to_owned()])
        .collect();
    let subscribers: Vec<(usize, Subscriber)> = (0..6)
        .map(|n| {
            let path = paths[n % 3].clone();
            (n % 3, Subscriber::start(path, port.clone(), over.clone(), n >= 3))
        })
        .collect();
    let start = Instant::now();
    let mut seed = std::process::id();
    for round in 0..storm.kills {
        for session in &sessions {
            let body =
                json!({"command": (storm.prompt)(round), "promptId": format!("round-{round}")});
            let answer = rig.post(&format!("/api/session/{session}/prompt"), body);
            assert!(matches!(answer.status, 202 | 429), "{answer}");
        }
        let said = |rig: &Rig| {
            let said = |id: &String| {
                memchr::memmem::find_iter(&rig.journal(id), b"\nevent: session-output\n").count()
            };
            sessions.iter().map(said).sum::<usize>()
        };
        let before = said(&rig);
        if storm.waits {
            eventually("an agent speaks", || said(&rig) > before);
        }
        seed = seed.wrapping_mul(1_103_515_245).wrapping_add(12345);
        std::thread::sleep(Duration::from_micros(u64::from(seed) % (storm.pause_ms * 1000 + 1)));
        rig.kill();
        rig.again();
        port.store(rig.address.port(), SeqCst);
        assert!(start.elapsed() < 6 * PATIENCE, "{round} rounds took {:?}", start.elapsed());
    }
    println!("{} kills in {:?}", storm.kills, start.elapsed());
    // Whoever is asked gets an answer, so that all turns end; what is queued runs out.
    for session in &sessions {
        let path = format!("/api/session/{session}/interrupt");
        rig.post(&path, json!({"clearQueue": true})).expect(200);
    }
    eventually("an end of all turns", || {
        let rows = rig.get("/api/sessions").expect(200).json();
        let rows = rows["sessions"].as_array().unwrap().clone();
        rows.iter().all(|row| {
            row["queueLength"] == 0
                && ["idle", "suspended"].contains(&row["status"].as_str().unwrap())
        })
    });
    let mut all: Vec<Vec<String>> =
        sessions.iter().map(|session| ids_of(&rig.journal(session))).collect();
    let mut both: Vec<String> = all.concat();
    both.sort_by_key(|id| number(id));
    all.push(both);
    eventually("everybody to have everything", || {
        subscribers.iter().all(|(n, one)| {
            let last = one.frames.lock().unwrap().last().map(|frame| frame.0.clone());
            last.as_ref() == all[*n].last()
        })
    });
    over.store(true, SeqCst);
    let mut resumed = 0;
    for (n, one) in subscribers {
        resumed += one.thread.join().expect("a subscriber met no surprise");
        let frames = one.frames.lock().unwrap();
        let told: Vec<String> = frames.iter().map(|frame| frame.0.clone()).collect();
        let first = told.iter().zip(&all[n]).position(|(told, want)| told != want);
        assert_eq!(first, None, "{} of {}", told.len(), all[n].len());
        assert_eq!(told.len(), all[n].len());
        if n < 2 {
            let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.1.clone()).collect();
            assert!(bytes == rig.journal(&sessions[n]), "the wire and the journal hold one thing");
            let events: Vec<Event> =
                frames.iter().filter_map(|frame| parse_frame(frame.1.clone())).collect();
            check_ends(&events, false);
        }
    }
    assert!(resumed > 3 * storm.kills, "only {resumed} streams were gone on with");
    assert!(all[2].len() > storm.events_min, "only {} events", all[2].len());
    rig
}

fn number(id: &str) -> u64 {
    id.rsplit_once('-').unwrap().1.parse().unwrap()
}

/// A small ring, so that those who come back are mostly behind it.
const SMALL: [&str; 6] =
    ["--ring-size", "64KiB", "--all-ring-size", "64KiB", "--delta-hold", "1ms"];

#[test]
fn a_hundred_and_fifty_kills_at_random_moments_lose_nothing_and_repeat_nothing() {
    let prompt = |_| "count 300".to_owned();
    storm(
        Rig::lines(&SMALL),
        &Storm { kills: 150, pause_ms: 60, waits: false, prompt: &prompt, events_min: 1000 },
    );
}

#[test]
fn fifty_kills_of_one_that_syncs_lose_nothing_either() {
    let prompt = |_| "count 300".to_owned();
    let rig = Rig::lines(&[&SMALL[..], &["--durability", "sync"]].concat());
    storm(rig, &Storm { kills: 50, pause_ms: 60, waits: false, prompt: &prompt, events_min: 300 });
}

#[test]
fn forty_kills_under_messages_tools_and_questions_leave_nothing_open() {
    support::need("python3");
    let agent = format!("claude:{}", fixture("fake_agent.py"));
    let rig = Rig::start(&[&SMALL[..], &["--agent", &agent, "--ladder-eof", "300ms"]].concat());
    let scripts = [
        "think: hm ;; slow 30 3 ;; tool Bash {\"command\":\"ls\"} ;; say: done",
        "say: may I? ;; approve Bash {\"command\":\"ls\"} ;; say: thanks",
        "subagent-bg works ;; slow 10 3 ;; tool-open Bash {}",
        "flood 300 60 ;; tools 5 ;; slow 20 5",
    ];
    let prompt = |round: u32| scripts[round as usize % scripts.len()].to_owned();
    storm(rig, &Storm { kills: 40, pause_ms: 700, waits: false, prompt: &prompt, events_min: 300 });
}

#[test]
fn kills_under_the_real_cli_lose_nothing_and_its_conversation_goes_on() {
    let api = Api::start_with(&["--full"]);
    let options = api.options().flags(&["--delta-hold", "5ms"]);
    let scripts =
        ["say: remember this ;; slow 100 20", "say: a tool ;; run tool: touch x ;; say: touched"];
    let prompt = |round: u32| scripts[round as usize % scripts.len()].to_owned();
    let mut rig = storm(
        Rig::start_with(options),
        &Storm { kills: 6, pause_ms: 1500, waits: true, prompt: &prompt, events_min: 60 },
    );
    let rows = rig.get("/api/sessions").expect(200).json();
    let session = rows["sessions"][0]["sessionId"].as_str().unwrap().to_owned();
    let mut reader = rig.stream(&session, "", None);
    for words in ["and this", "how it ends"] {
        let prompt = rig.prompt(&session, &format!("say: {words}"))["promptId"].clone();
        assert!(reader.answer(prompt.as_str().unwrap()).contains(words));
        rig.kill();
        rig.again();
        reader = rig.stream(&session, "", None);
    }
    let log = api.log();
    let mut bodies = log.lines().filter(|line| line.contains("\"kind\": \"body\""));
    let last = bodies.rfind(|line| line.contains("say: how it ends")).expect("the last request");
    assert!(last.contains("say: and this"), "{}", &last[last.len() - 2000..]);
}

/// Copies a directory as it is.
fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

#[test]
fn after_a_power_loss_whole_frames_are_served_and_the_cut_is_told() {
    let mut rig = Rig::lines(&["--delta-hold", "0ms"]);
    let session = rig.create();
    let mut reader = rig.stream(&session, "", None);
    let prompt = rig.prompt(&session, "count 20")["promptId"].as_str().unwrap().to_owned();
    reader.turn_end(&prompt);
    rig.kill();
    // Another boot: what was only written, and not synced, may be gone.
    let epochs = rig.data("epochs");
    let text = std::fs::read_to_string(&epochs).unwrap();
    let (line, _) = text.trim_end().rsplit_once(' ').unwrap();
    std::fs::write(&epochs, format!("{line} another-boot\n")).unwrap();
    let (data, saved) = (rig.data(""), Path::new(&rig.options.scratch().join("saved")).to_owned());
    copy(&data, &saved);
    let whole = rig.journal(&session);
    let ids = ids_of(&whole);
    let file = segments(&rig.data("sessions").join(&session)).pop().unwrap();
    let frames = whole.windows(2).enumerate().filter(|(_, two)| two == b"\n\n");
    let ends: Vec<usize> = frames.map(|(at, _)| at + 2).collect();
    let (last, before) = (ends[ends.len() - 1], ends[ends.len() - 2]);
    let mut cuts = vec![0, 1, 3, 40, ends[0] - 1, ends[0], ends[0] + 1, whole.len() / 2];
    cuts.extend([before - 1, before, before + 1, before + 5, last - 2, last - 1]);
    for (n, cut) in cuts.into_iter().enumerate() {
        copy(&saved, &data);
        let zeros = n % 2 == 0;
        let mut torn = whole[..cut].to_vec();
        if zeros {
            torn.resize(whole.len(), 0);
        }
        std::fs::write(&file, &torn).unwrap();
        let kept = ends.iter().filter(|end| **end <= cut).count();
        rig.again();
        let what = format!("cut at {cut}, zeros: {zeros}, {kept} kept");
        let mut again = rig.stream(&session, "?replay=all", None);
        let prompt = rig.prompt(&session, "more")["promptId"].as_str().unwrap().to_owned();
        again.turn_end(&prompt); // Whatever there is to be told is told before.
        let told = again.ids();
        assert_eq!(told[..kept], ids[..kept], "{what}");
        let news = again.seen.iter().filter(|event| event.is_logged()).nth(kept).cloned();
        let is_torn =
            torn.len() > ends.iter().copied().filter(|end| *end <= cut).max().unwrap_or(0);
        if is_torn {
            let news = news.unwrap_or_else(|| panic!("{what}: {}", again.story()));
            assert_eq!((&*news.name, news.text("reason")), ("events-lost", "tail_cut"), "{what}");
            let (from, to) = (number(news.text("from")), number(news.text("to")));
            assert!(from <= to && to < number(&told[kept]), "{what}: {}", news.data);
            assert!(kept == 0 || from > number(&ids[kept - 1]), "{what}: {}", news.data);
            let mut after = rig.stream(&session, "", Some(news.text("to")));
            assert_eq!(after.joined().data["resume"], "ok", "{what}");
            assert_eq!(after.ids()[0], told[kept], "{what}: evicted is the hole's end");
        }
        assert_eq!(again.count("events-lost"), usize::from(is_torn), "{what}");
        check_ends(&again.seen, false);
        for cursor in [&ids[0], ids.last().unwrap()] {
            let mut stale = rig.stream(&session, "", Some(cursor));
            assert_eq!(stale.joined().data["resume"], "gap", "{what}");
        }
        rig.kill();
    }
}
