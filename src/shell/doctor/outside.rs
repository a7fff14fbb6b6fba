//! The doctor's look from outside: the way from a browser through every proxy to the server.
//!
//! It asks as a browser would and watches the clock: whether `Host` arrives, whether a stream arrives
//! as it is written or in lumps, whether it lives while it is quiet. What a proxy is called is not
//! known here; the cures are written for nginx, whose words the others' manuals use too.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Finding, bad, good, warning};
use crate::arguments::client::{Outside, Place};
use crate::shell::client::http::{self, Answer, Client, Failure, Request, escaped};
use crate::wire::event_stream::EventParser;
use crate::wire::json;

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// A stream's first event comes at once; later than this somebody holds it back.
const AT_ONCE: Duration = Duration::from_secs(2);
/// The heartbeat that is asked for: the shortest.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// The shape of a token, and nobody's.
const WRONG_TOKEN: &str = "sst_0000000000000000000000000000000000000000000000000000000000000000";
/// What makes most buffers run over.
const PAD: usize = 65_536;
/// The longest silence that a heartbeat can be asked to keep.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const PROXY_CURE: &str = "in the proxy's location: proxy_buffering off; gzip off; \
    proxy_http_version 1.1; proxy_set_header Connection ''; and let the X-Accel-Buffering field of \
    our answers through";

/// Looks at the way to a server.
pub fn look(outside: &Outside, token: Option<String>) -> Vec<Finding> {
    let client = Client { server: outside.server.clone(), token };
    let mut found = Vec::new();
    if !reach(&client, &mut found) {
        return found;
    }
    foreign_host(&client, &mut found);
    let known = login(&client, &mut found);
    let open = who(&client, known, &mut found);
    http_version(&client, &mut found);
    if open {
        stream(&client, &mut found);
        if outside.idle_ms > 0 {
            idle(&client, Duration::from_millis(outside.idle_ms), &mut found);
        }
    }
    found
}

fn get<'a>(path: &'a str, fields: &'a [(&'a str, &'a str)]) -> Request<'a> {
    Request { method: "GET", path, fields, body: None, silence: ANSWER_TIMEOUT }
}

/// Whether there is a sidestream at the other end that answers.
fn reach(client: &Client, found: &mut Vec<Finding>) -> bool {
    let start = Instant::now();
    match client.whole(get("/health", &[])) {
        Ok((answer, body)) => {
            let text = String::from_utf8_lossy(&body);
            if !text.contains("\"status\":\"ok\"") {
                let cure = "look at the URL, its base path, and where the proxy passes it";
                found.push(bad("reach", "something answers, but no sidestream", cure));
                return false;
            }
            let took = start.elapsed().as_millis();
            let by = proxies(&answer).map_or(String::new(), |by| format!(", by way of {by}"));
            found.push(good("reach", format!("a sidestream answers in {took} ms{by}")));
            true
        }
        Err(failure) => {
            found.push(unreachable(&failure));
            false
        }
    }
}

/// Proxies that name themselves.
fn proxies(answer: &Answer) -> Option<String> {
    let names: Vec<&str> =
        [answer.field("via"), answer.field("server")].into_iter().flatten().collect();
    (!names.is_empty()).then(|| names.join(", "))
}

fn unreachable(failure: &Failure) -> Finding {
    let text = failure.to_string();
    match failure {
        Failure::Refused { code, .. } if code == "foreign_host" => bad(
            "Host",
            text,
            "have the proxy pass on the name that the browser used, proxy_set_header Host $host, \
             and start with --public-url and that name",
        ),
        Failure::Refused { code, .. } if !code.is_empty() => {
            bad("reach", text, "as the sentence says")
        }
        Failure::Refused { status: 502..=504, .. } => {
            let cure = "start sidestream, or correct the address in proxy_pass; its user must be let \
                in: a Unix socket's mode, --trust-uid or --token-file";
            bad("reach", text, cure)
        }
        Failure::Refused { .. } => {
            bad("reach", text, "look at the URL, its base path, and where the proxy passes it")
        }
        Failure::Unreachable(_) | Failure::Broken(_) => {
            bad("reach", text, "is it running, and does a firewall stand between?")
        }
    }
}

/// Whether another name gets through to us: a proxy that writes its own `Host` hides it.
fn foreign_host(client: &Client, found: &mut Vec<Finding>) {
    if matches!(client.server.place, Place::Unix(_)) {
        return; // No page gets there.
    }
    let fields = [("Host", "doctor.invalid")];
    found.push(match client.whole(get("/health", &fields)) {
        Ok(_) => warning(
            "Host",
            "a request for the name doctor.invalid was served, as if it were ours",
            "have the proxy pass on the name that the browser used, proxy_set_header Host $host, and \
             answer other names with 404",
        ),
        Err(_) => good("Host", "another name is not served"),
    });
}

/// Logs in as a page does: once with a token that is none, which must be refused, and once with our
/// own. Returns whether the server knows ours, where that could be tried.
fn login(client: &Client, found: &mut Vec<Finding>) -> Option<bool> {
    let log_in = |token: &str| {
        let body = json::text(&json!({"token": token}));
        client.whole(Request {
            method: "POST",
            path: "/api/login",
            fields: &[],
            body: Some(&body),
            silence: ANSWER_TIMEOUT,
        })
    };
    let code = |failure: &Failure| match failure {
        Failure::Refused { code, .. } => code.clone(),
        _ => String::new(),
    };
    match log_in(WRONG_TOKEN) {
        Err(failure) if code(&failure) == "token_unknown" => {
            found.push(good("login", "a token that is none is refused"));
        }
        // Without tokens there is nothing to log in to; who is let in then is looked at next.
        Err(failure) if code(&failure) == "tokens_off" => return None,
        Err(failure) if code(&failure) == "login_failures_max" => {
            let cure = "wait a minute; if that was not you, look who tries: the log names them";
            found.push(warning("login", failure.to_string(), cure));
            return None;
        }
        Err(failure) => {
            let cure = "let POST /api/login through, with its body and its answer";
            found.push(bad("login", failure.to_string(), cure));
            return None;
        }
        Ok(_) => {
            let what = "a token that nobody made is taken: it is not the server that answers";
            found.push(bad("login", what, "let POST /api/login through to the server"));
            return None;
        }
    }
    match log_in(client.token.as_ref()?) {
        Ok(_) => {
            found.push(good("login", "this token is known"));
            Some(true)
        }
        Err(failure) if code(&failure) == "token_unknown" => {
            let cure = "make one with `sidestream token add NAME SCOPE` in the file of the server's \
                --token-file, and have it read again: SIGHUP, systemctl reload";
            found.push(bad("login", format!("this token: {failure}"), cure));
            Some(false)
        }
        Err(failure) => {
            found.push(bad("login", format!("this token: {failure}"), "as the sentence says"));
            None
        }
    }
}

/// Who we are to the server, and what it saw of our way. Returns whether streams may be opened.
/// `known`: whether the token is good, as far as a login has shown it.
fn who(client: &Client, known: Option<bool>, found: &mut Vec<Finding>) -> bool {
    let (answer, json) = match client.whole(get("/api/capabilities", &[])) {
        Ok((answer, body)) => (answer, body),
        Err(failure) => {
            let cure = "give the doctor a token: SIDESTREAM_TOKEN, or --token-from FILE";
            found.push(match failure {
                Failure::Refused { status: 401, .. } if known == Some(true) => bad(
                    "access",
                    "the token is good, but requests that carry it are refused: something on the \
                     way takes their Authorization field off",
                    "proxy_set_header Authorization $http_authorization, and no password of the \
                     proxy's own in front",
                ),
                // The login has said what is wrong with it.
                Failure::Refused { status: 401, .. } if known == Some(false) => return false,
                Failure::Refused { status: 401, .. } => bad("access", failure.to_string(), cure),
                other => unreachable(&other),
            });
            return false;
        }
    };
    let json: serde_json::Value = json::value(&json).unwrap_or_default();
    let tokens = json["access"]["tokens"] == true;
    let forwarded = json["request"]["forwarded"] == true;
    let proxy = proxies(&answer);
    if tokens {
        let name = json["access"]["name"].as_str().unwrap_or_default();
        found.push(good("access", format!("tokens are asked for; this one is {name}'s")));
    } else if let Some(proxy) = &proxy {
        found.push(bad(
            "access",
            format!("{proxy} is let in without a token, and so is whoever it lets in"),
            "start with --token-file and --public-url, and make tokens with `sidestream token add`",
        ));
    } else {
        // A proxy that says whom it speaks for would have been refused; does it say so?
        let fields = [("X-Forwarded-For", "203.0.113.1")];
        match client.whole(get("/health", &fields)) {
            Err(Failure::Refused { code, .. }) if code == "proxy_without_token" => {
                found.push(good("access", "no tokens, our own user; proxies are refused"));
            }
            _ => found.push(warning(
                "access",
                "something on the way takes X-Forwarded-For off: a proxy that hides whom it serves",
                "start with --token-file; proxy_set_header X-Forwarded-For $remote_addr",
            )),
        }
    }
    if tokens && proxy.is_some() && !forwarded {
        let what = "the proxy does not say whom it serves: all its clients count as one address";
        let cure = "proxy_set_header X-Forwarded-For $remote_addr, and --trusted-proxy with the \
            proxy's address";
        found.push(warning("forwarded", what, cure));
    }
    if json["request"]["http"] == "1.0" {
        let what = "a proxy speaks HTTP/1.0 to the server: a connection for each request";
        found.push(warning("HTTP", what, "proxy_http_version 1.1; proxy_set_header Connection ''"));
    }
    true
}

/// The version that a browser would speak.
fn http_version(client: &Client, found: &mut Vec<Finding>) {
    if client.server.place != Place::Tls {
        let what = "HTTP/1.1: a browser opens six connections to a host, and a stream is one";
        found.push(good("HTTP", format!("{what}; pages of ours share theirs")));
        return;
    }
    let url = format!("https://{}{}/health", client.server.authority, client.server.base);
    let asked = ["-q", "-sS", "-o", "/dev/null", "-w", "%{http_version}", "--max-time", "15"];
    let output = Command::new("curl").args(asked).arg(&url).output();
    let version = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    found.push(match version.as_deref() {
        Ok(version @ ("2" | "3")) => good("HTTP", format!("browsers speak HTTP/{version}")),
        Ok(version) if !version.is_empty() => warning(
            "HTTP",
            format!("browsers speak HTTP/{version}, with six connections to a host"),
            "let the proxy speak HTTP/2: listen 443 ssl; http2 on",
        ),
        _ => warning("HTTP", "curl does not say which version is spoken", "look at it by hand"),
    });
}

/// What came of a stream.
struct Watched {
    /// When its head came, its first event, and the last heartbeat.
    head: Duration,
    first: Option<Duration>,
    beats: Vec<Duration>,
    /// When and how it ended by itself.
    cut: Option<(Duration, String)>,
}

/// Opens a stream and watches it until so many heartbeats came, or for so long.
fn watch(
    client: &Client,
    path: &str,
    beats: usize,
    patience: Duration,
) -> Result<(Answer, Watched), Failure> {
    let start = Instant::now();
    let fields = [("Accept", "text/event-stream")];
    let mut answer = client.open(Request {
        method: "GET",
        path,
        fields: &fields,
        body: None,
        silence: patience,
    })?;
    if answer.status != 200 {
        let body = answer.rest()?;
        return Err(http::refused(&answer, &body));
    }
    let mut watched = Watched { head: start.elapsed(), first: None, beats: Vec::new(), cut: None };
    let mut parser = EventParser::new("");
    let (mut bytes, mut messages) = (Vec::new(), Vec::new());
    while watched.beats.len() < beats && start.elapsed() < patience {
        let more = answer.read(&mut bytes);
        let at = start.elapsed();
        match more {
            Ok(true) => {}
            Ok(false) => watched.cut = Some((at, "it was ended".to_owned())),
            Err(failure) => watched.cut = Some((at, failure.to_string())),
        }
        let too_large = parser.feed(&bytes, &mut messages).is_err();
        bytes.clear();
        for message in messages.drain(..) {
            watched.first.get_or_insert(at);
            if message.event == "heartbeat" {
                watched.beats.push(at);
            }
        }
        if watched.cut.is_some() || too_large {
            break;
        }
    }
    Ok((answer, watched))
}

/// Whether a stream arrives as it is written.
fn stream(client: &Client, found: &mut Vec<Finding>) {
    let seconds = HEARTBEAT.as_secs();
    let path = format!("/api/events?replay=none&heartbeat={seconds}");
    let patience = 3 * HEARTBEAT;
    let (answer, watched) = match watch(client, &path, 2, patience) {
        Ok(watched) => watched,
        Err(Failure::Broken(why)) => {
            found.push(held_back(client, &path, &why));
            return;
        }
        Err(failure) => {
            found.push(bad("stream", failure.to_string(), "as the sentence says"));
            return;
        }
    };
    if let Some(coding) = answer.field("content-encoding") {
        let what = format!("is compressed on the way ({coding}), which holds events back");
        found.push(bad("stream", what, PROXY_CURE));
        return;
    }
    let shown = |time: Duration| format!("{}.{} s", time.as_secs(), time.subsec_millis() / 100);
    match (watched.first, &watched.cut) {
        (Some(first), None) if first <= AT_ONCE && watched.beats.len() == 2 => {
            let gap = watched.beats[1].saturating_sub(watched.beats[0]);
            if gap + AT_ONCE < HEARTBEAT {
                let what =
                    format!("two heartbeats of {seconds} s came {} apart: in lumps", shown(gap));
                found.push(bad("stream", what, PROXY_CURE));
                return;
            }
            let (head, beat) = (shown(watched.head), shown(watched.beats[0]));
            found.push(good("stream", format!(
                "arrives as it is written: head after {head}, first event after {}, heartbeat after {beat}",
                shown(first)
            )));
        }
        (_, Some((at, why))) if watched.first.is_some() => {
            let what = format!("was cut after {} although it had heartbeats: {why}", shown(*at));
            found.push(bad("stream", what, "raise the proxy's limits: proxy_read_timeout 1h"));
        }
        _ => found.push(held_back(client, &path, "nothing came")),
    }
}

/// A stream that does not come: does it with enough in front of it?
fn held_back(client: &Client, path: &str, why: &str) -> Finding {
    let padded = format!("{path}&pad={}", escaped(&PAD.to_string()));
    let came = watch(client, &padded, 1, 2 * HEARTBEAT).is_ok_and(|(_, it)| it.first.is_some());
    let what = match came {
        true => format!(
            "is held back: with {PAD} bytes in front it comes, so somebody buffers less than that"
        ),
        false => format!("does not come ({why}), not even with {PAD} bytes in front of it"),
    };
    bad("stream", what, PROXY_CURE)
}

/// Whether a stream lives while it is quiet.
fn idle(client: &Client, time: Duration, found: &mut Vec<Finding>) {
    // The quietest stream there is: one heartbeat at its end, or one a minute.
    let silence = time.clamp(HEARTBEAT, SILENCE_MAX);
    let beats = time.as_secs().div_ceil(silence.as_secs()).max(1) as usize;
    let path = format!("/api/events?replay=none&heartbeat={}", silence.as_secs());
    let patience = time.max(silence) + ANSWER_TIMEOUT;
    let quiet = silence.as_secs();
    found.push(match watch(client, &path, beats, patience) {
        Ok((_, Watched { cut: Some((at, why)), .. })) => bad(
            "idle",
            format!(
                "a stream with {quiet} s between two heartbeats was cut after {} s: {why}",
                at.as_secs()
            ),
            "raise the proxy's limit, proxy_read_timeout 1h, or start with a shorter --heartbeat",
        ),
        Ok((_, watched)) if watched.beats.len() >= beats => {
            let lived = time.max(silence).as_secs();
            good("idle", format!("a stream lives {lived} s with {quiet} s between two heartbeats"))
        }
        Ok(_) => bad("idle", "no heartbeat came in its time", PROXY_CURE),
        Err(failure) => bad("idle", failure.to_string(), "as the sentence says"),
    });
}
