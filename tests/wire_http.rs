//! The strict HTTP/1.1 layer as tables: raw bytes, the section that decides, the verdict.
//!
//! Every row is also fed in two pieces at every cut and byte by byte; the verdict must not move.

use sidestream::wire::body::BodyDecoder;
use sidestream::wire::head::{self, BadRequest, Framing, Head, HeadLimits, Method, Version};
use sidestream::wire::reply::{self, ReplyHead, Status};
use sidestream::wire::target;

#[path = "../fuzz/src/reference.rs"]
mod reference;
#[path = "tables/http.rs"]
mod tables;

use reference::{chunked, stands, target_stands};
use tables::{BODIES, FIELDS, HEADS, HOSTS, TARGETS};

const LIMITS: HeadLimits = HeadLimits { size_max: 512, fields_max: 8 };

/// A verdict in words: `501 unknown_method`, `more`, or what the head says.
fn verdict(result: &Result<Option<Head>, BadRequest>, input: &[u8]) -> String {
    let head = match result {
        Err(bad) => return refusal(*bad),
        Ok(None) => return "more".into(),
        Ok(Some(head)) => head,
    };
    let version = if head.version == Version::Http10 { "1.0" } else { "1.1" };
    let target = String::from_utf8_lossy(head.target.of(input)).into_owned();
    let framing = match head.framing {
        Framing::None => "none".into(),
        Framing::Length(length) => format!("length={length}"),
        Framing::Chunked => "chunked".into(),
    };
    let end = if head.keep_alive { "keep" } else { "close" };
    let mut words = format!("{} {target} {version} {framing} {end}", head.method.as_str());
    for (name, set) in [(" expect", head.expect_continue), (" forwarded", head.forwarded)] {
        words += if set { name } else { "" };
    }
    let rest = input.len() - head.length;
    if rest > 0 { words + &format!(" rest={rest}") } else { words }
}

fn refusal(bad: BadRequest) -> String {
    format!("{} {}", bad.status().0, bad.code())
}

fn whole(input: &[u8]) -> Result<Option<Head>, BadRequest> {
    head::parse(input, &mut 0, &LIMITS)
}

/// Parses the pieces that end at `cuts` as a connection would, to the first verdict.
fn in_pieces(input: &[u8], cuts: impl Iterator<Item = usize>) -> Result<Option<Head>, BadRequest> {
    let mut scanned = 0;
    for cut in cuts.chain([input.len()]) {
        let result = head::parse(&input[..cut], &mut scanned, &LIMITS);
        if !matches!(result, Ok(None)) {
            return result;
        }
        assert!(scanned + 2 >= cut, "what was searched is not searched again");
    }
    Ok(None)
}

fn check_head(section: &str, input: &[u8], want: &str) {
    let row = format!("{section}: {}", input.escape_ascii());
    let result = whole(input);
    assert_eq!(verdict(&result, input), want, "{row}");
    for cut in 0..=input.len() {
        assert_eq!(in_pieces(input, [cut].into_iter()), result, "cut={cut} {row}");
    }
    assert_eq!(in_pieces(input, 0..input.len()), result, "byte by byte {row}");
}

/// What each field line of [`FIELDS`] is wrapped in.
fn with_fields(fields: &[u8]) -> Vec<u8> {
    [b"POST / HTTP/1.1\r\nHost: a\r\n", fields, b"\r\n"].concat()
}

fn with_host(host: &[u8]) -> Vec<u8> {
    [b"GET / HTTP/1.1\r\nHost: ", host, b"\r\n\r\n"].concat()
}

#[test]
fn every_head_gets_the_verdict_of_its_rfc_however_it_is_cut() {
    for (section, input, want) in HEADS {
        check_head(section, input, want);
    }
    for (section, fields, want) in FIELDS {
        check_head(section, &with_fields(fields), want);
    }
    for (section, host, stands) in HOSTS {
        let want = if *stands { "GET / 1.1 none keep" } else { "400 bad_host" };
        check_head(section, &with_host(host), want);
    }
}

#[test]
fn a_head_is_bounded_in_size_and_in_fields() {
    let sized = |size: usize| {
        let rest = b"GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len();
        let padding = "x".repeat(size - rest);
        format!("GET / HTTP/1.1\r\nHost: a\r\nX: {padding}\r\n\r\n").into_bytes()
    };
    let counted = |count: usize| {
        let more = "X: y\r\n".repeat(count - 1);
        format!("GET / HTTP/1.1\r\nHost: a\r\n{more}\r\n").into_bytes()
    };
    let long_target = |size: usize| format!("GET /{}", "x".repeat(size - 5)).into_bytes();
    check_head("6585 §5", &sized(512), "GET / 1.1 none keep");
    check_head("6585 §5", &sized(513), "431 headers_too_large");
    check_head("6585 §5", &sized(700), "431 headers_too_large");
    check_head("6585 §5", &counted(8), "GET / 1.1 none keep");
    check_head("6585 §5", &counted(9), "431 too_many_headers");
    check_head("9112 §3", &long_target(511), "more");
    check_head("9112 §3", &long_target(512), "414 target_too_long");
    check_head("9112 §3", "A".repeat(512).as_bytes(), "501 unknown_method");
    let roomy = HeadLimits { size_max: 16 * 1024, fields_max: 100 };
    for (count, want) in [(100, "GET / 1.1 none keep"), (101, "431 too_many_headers")] {
        let input = counted(count);
        assert_eq!(verdict(&head::parse(&input, &mut 0, &roomy), &input), want);
    }
    let input = counted(400);
    assert_eq!(verdict(&head::parse(&input, &mut 0, &roomy), &input), "431 too_many_headers");
    // RFC 9112 §3 wants request lines of 8,000 octets to pass.
    let line = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(8000)).into_bytes();
    assert!(matches!(head::parse(&line, &mut 0, &roomy), Ok(Some(_))));
    // A limit beyond what a span can tell is no limit: the head ends at 65,535 bytes.
    let endless = HeadLimits { size_max: usize::MAX, fields_max: 100 };
    let long = [&b"GET / HTTP/1.1\r\nX: "[..], &[b'x'; 70_000], b"\r\n\r\n"].concat();
    assert_eq!(head::parse(&long, &mut 0, &endless), Err(BadRequest::HeadTooLarge));
}

#[test]
fn every_field_of_interest_is_found_under_any_case_and_trimmed() {
    let input = b"OPTIONS /x?y HTTP/1.1\r\nhOST: a:1\r\nORIGIN: \t null \r\nsec-fetch-site: none\r\n\
        Sec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\nauthorization: Bearer  x\r\n\
        Content-type: a/b\r\nlast-event-id: \xc3\xa9\xff\r\nIf-None-Match: \"e\"\r\nX-REQUEST-ID: r\r\n\
        Idempotency-Key: k\r\nCookie: c=d\r\nAccess-Control-Request-Method: PUT\r\n\
        Access-Control-Request-Headers: x, y\r\n\r\n";
    let limits = HeadLimits { size_max: 16 * 1024, fields_max: 100 };
    let head = head::parse(input, &mut 0, &limits).unwrap().unwrap();
    let rows: [(_, &[u8]); 14] = [
        (head.host, b"a:1"),
        (head.origin, b"null"),
        (head.fetch_site, b"none"),
        (head.fetch_mode, b"cors"),
        (head.fetch_dest, b"empty"),
        (head.authorization, b"Bearer  x"),
        (head.content_type, b"a/b"),
        (head.last_event_id, b"\xc3\xa9\xff"),
        (head.if_none_match, b"\"e\""),
        (head.request_id, b"r"),
        (head.idempotency_key, b"k"),
        (head.cookie, b"c=d"),
        (head.preflight_method, b"PUT"),
        (head.preflight_headers, b"x, y"),
    ];
    for (row, (span, want)) in rows.into_iter().enumerate() {
        assert_eq!(span.map(|span| span.of(input)), Some(want), "row {row}");
    }
    assert_eq!(head.target.of(input), b"/x?y");
    assert_eq!(head.last_event_id.unwrap().text(input), None);
    assert_eq!(head.length, input.len());
}

#[test]
fn an_empty_cursor_or_request_id_counts_as_none_and_an_empty_origin_does_not() {
    let input = with_fields(b"Last-Event-ID: \r\nX-Request-Id:\r\nOrigin:\r\n");
    let head = whole(&input).unwrap().unwrap();
    assert_eq!((head.last_event_id, head.request_id), (None, None));
    assert!(head.origin.unwrap().of(&input).is_empty());
}

/// All inputs of the tables.
fn corpus() -> Vec<Vec<u8>> {
    let heads = HEADS.iter().map(|row| row.1.to_vec());
    let fields = FIELDS.iter().map(|row| with_fields(row.1));
    heads.chain(fields).chain(HOSTS.iter().map(|row| with_host(row.1))).collect()
}

/// A small random sequence, printed as its seed by the asserts.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }
}

/// Overwrites, inserts, removes or doubles a few bytes, with a liking for the dangerous ones.
fn mutate(random: &mut Random, input: &mut Vec<u8>) {
    const NASTY: &[u8] = b"\r\n\r\n \t:,;\0\x7f\x80+-/%0159aA\"\\*?#@[]";
    for _ in 0..=random.below(3) {
        let at = random.below(input.len() + 1);
        let byte = NASTY[random.below(NASTY.len())];
        match random.below(4) {
            0 => input.insert(at, byte),
            1 if at < input.len() => input[at] = byte,
            2 if at < input.len() => drop(input.remove(at)),
            _ => {
                let end = (at + random.below(30)).min(input.len());
                let copy = input[at..end].to_vec();
                input.splice(at..at, copy);
            }
        }
    }
}

#[test]
fn random_damage_changes_neither_the_agreement_of_cuts_nor_that_with_the_naive_twin() {
    let corpus = corpus();
    let (mut accepted, mut refused) = (0, 0);
    for seed in 1..=20_000 {
        let mut random = Random::new(seed);
        let mut input = corpus[random.below(corpus.len())].clone();
        mutate(&mut random, &mut input);
        let result = whole(&input);
        let shown = input.escape_ascii();
        assert_eq!(in_pieces(&input, 0..input.len()), result, "seed={seed} {shown}");
        let twin = stands(&input);
        match result {
            Ok(Some(_)) => assert_eq!(twin, Some(true), "seed={seed} {shown}"),
            Ok(None) => {}
            // The twin does not know these.
            Err(BadRequest::FieldDoubled | BadRequest::Expectation) => {}
            Err(BadRequest::TooManyFields | BadRequest::HeadTooLarge) => {}
            Err(bad) => assert_ne!(twin, Some(true), "seed={seed} {bad:?} {shown}"),
        }
        accepted += u32::from(matches!(result, Ok(Some(_))));
        refused += u32::from(result.is_err());
    }
    assert!(accepted > 1_000 && refused > 10_000, "accepted={accepted} refused={refused}");
}

/// Writes a head anew from what was understood of it.
fn encode(head: &Head, input: &[u8]) -> Vec<u8> {
    let minor = if head.version == Version::Http10 { "0" } else { "1" };
    let mut out = [head.method.as_str().as_bytes(), b" ", head.target.of(input)].concat();
    out.extend_from_slice(format!(" HTTP/1.{minor}\r\n").as_bytes());
    let mut field = |name: &str, value: Option<&[u8]>| {
        if let Some(value) = value {
            out.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
    };
    field("Host", head.host.map(|span| span.of(input)));
    field("Last-Event-ID", head.last_event_id.map(|span| span.of(input)));
    field("Connection", Some(if head.keep_alive { b"keep-alive" } else { b"close" }));
    field("Expect", head.expect_continue.then_some(b"100-continue"));
    field("Via", head.forwarded.then_some(b"1.1 x"));
    match head.framing {
        Framing::None => {}
        Framing::Length(length) => field("Content-Length", Some(length.to_string().as_bytes())),
        Framing::Chunked => field("Transfer-Encoding", Some(b"chunked")),
    }
    out.extend_from_slice(b"\r\n");
    out
}

#[test]
fn an_accepted_head_written_anew_means_the_same() {
    let mut count = 0;
    for input in corpus() {
        let Ok(Some(head)) = whole(&input) else { continue };
        let again = encode(&head, &input);
        let second = head::parse(&again, &mut 0, &LIMITS).unwrap().unwrap();
        let meaning =
            |result: Head, input: &[u8]| verdict(&Ok(Some(result)), &input[..result.length]);
        assert_eq!(meaning(second, &again), meaning(head, &input), "{}", input.escape_ascii());
        assert_eq!(encode(&second, &again), again);
        count += 1;
    }
    assert!(count > 50, "{count}");
}

#[test]
fn every_refusal_has_a_client_status_a_code_and_a_sentence_and_doubtful_framing_closes() {
    for (section, input, want) in HEADS.iter().chain(FIELDS) {
        let input = if HEADS.iter().any(|row| row.1 == *input) {
            input.to_vec()
        } else {
            with_fields(input)
        };
        if let Err(bad) = whole(&input) {
            assert!(matches!(bad.status().0, 400..=431 | 501 | 505), "{section} {want}: {bad:?}");
            assert!(
                bad.code()
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit())
            );
            assert!(bad.sentence().len() > 20 && !bad.sentence().ends_with('.'), "{bad}");
        }
    }
}

// Bodies.

const BODY_MAX: u64 = 40;

/// Decodes pieces that end at `cuts`: verdict, decoded bytes, bytes consumed.
fn decode(input: &[u8], cuts: impl Iterator<Item = usize>) -> (String, Vec<u8>, usize) {
    let mut decoder = BodyDecoder::new(Framing::Chunked, BODY_MAX).unwrap();
    let (mut out, mut consumed) = (Vec::new(), 0);
    for cut in cuts.chain([input.len()]) {
        match decoder.decode(&input[consumed..cut], &mut out) {
            Err(bad) => return (refusal(bad), out, 0),
            Ok(decoded) => {
                consumed += decoded.consumed;
                assert_eq!(decoder.received(), out.len() as u64);
                if decoded.done {
                    return ("done".into(), out, consumed);
                }
                assert_eq!(consumed, cut, "took all that there was");
            }
        }
    }
    ("more".into(), out, consumed)
}

#[test]
fn every_chunked_body_gets_the_verdict_of_its_rfc_however_it_is_cut() {
    for (section, input, want, text) in BODIES {
        let row = format!("{section}: {}", input.escape_ascii());
        let once = decode(input, [].into_iter());
        assert_eq!((once.0.as_str(), once.1.as_slice()), (*want, text.as_bytes()), "{row}");
        for cut in 0..=input.len() {
            assert_eq!(decode(input, [cut].into_iter()), once, "cut={cut} {row}");
        }
        assert_eq!(decode(input, 0..input.len()), once, "byte by byte {row}");
        let rest = if input.ends_with(b"GET") { 3 } else { 0 };
        assert!(*want != "done" || once.2 + rest == input.len(), "{row}");
    }
}

#[test]
fn a_randomly_damaged_body_is_judged_alike_at_every_cut_and_never_outgrows_its_bound() {
    for seed in 1..=10_000 {
        let mut random = Random::new(seed);
        let mut input = BODIES[random.below(BODIES.len())].1.to_vec();
        mutate(&mut random, &mut input);
        let once = decode(&input, [].into_iter());
        assert_eq!(decode(&input, 0..input.len()), once, "seed={seed} {}", input.escape_ascii());
        assert!(once.1.len() as u64 <= BODY_MAX, "seed={seed}");
        let bounds = ["413 body_too_large", "400 chunk_extension_too_long"];
        if !bounds.contains(&once.0.as_str()) {
            let twin = chunked(&input);
            let whole = (once.0 == "done").then_some((once.2, once.1));
            assert_eq!(twin, whole, "seed={seed} {}", input.escape_ascii());
        }
    }
}

#[test]
fn extensions_and_trailers_are_bounded_each_and_in_sum() {
    let verdict = |input: &[u8]| decode(input, [].into_iter()).0;
    let extended = |size: usize| format!("1;{}\r\nx\r\n", "e".repeat(size - 1));
    assert_eq!(verdict(extended(256).as_bytes()), "more");
    assert_eq!(verdict(extended(257).as_bytes()), "400 chunk_extension_too_long");
    let many = |count: usize| extended(256).repeat(count).into_bytes();
    let mut decoder = BodyDecoder::new(Framing::Chunked, 1000).unwrap();
    assert!(decoder.decode(&many(64), &mut Vec::new()).is_ok());
    let mut decoder = BodyDecoder::new(Framing::Chunked, 1000).unwrap();
    let result = decoder.decode(&many(65), &mut Vec::new());
    assert_eq!(result, Err(BadRequest::ChunkExtensionTooLong));
    let trailed = |size: usize| format!("0\r\nX:{}\r\n\r\n", "y".repeat(size));
    assert_eq!(verdict(trailed(4000).as_bytes()), "done");
    assert_eq!(verdict(trailed(4096).as_bytes()), "431 trailers_too_large");
    let endless = format!("0\r\n{}", "X: y\r\n".repeat(1000));
    assert_eq!(verdict(endless.as_bytes()), "431 trailers_too_large");
}

#[test]
fn a_body_of_known_length_ends_exactly_there_and_a_greater_one_is_refused_at_once() {
    let mut out = Vec::new();
    let mut decoder = BodyDecoder::new(Framing::Length(5), 5).unwrap();
    let first = decoder.decode(b"hel", &mut out).unwrap();
    let second = decoder.decode(b"loGET /", &mut out).unwrap();
    let third = decoder.decode(b"GET /", &mut out).unwrap();
    assert_eq!((first.consumed, first.done), (3, false));
    assert_eq!((second.consumed, second.done), (2, true));
    assert_eq!((third.consumed, third.done), (0, true));
    assert_eq!((out.as_slice(), decoder.received()), (&b"hello"[..], 5));
    assert_eq!(BodyDecoder::new(Framing::Length(6), 5).unwrap_err(), BadRequest::BodyTooLarge);
    for framing in [Framing::None, Framing::Length(0)] {
        let mut decoder = BodyDecoder::new(framing, 5).unwrap();
        let decoded = decoder.decode(b"", &mut out).unwrap();
        assert_eq!((decoded.consumed, decoded.done), (0, true));
    }
}

// Targets.

fn target_verdict(method: Method, raw: &[u8]) -> Result<String, BadRequest> {
    let target = target::parse(method, raw)?;
    let segments: Result<Vec<_>, _> = target.segments().collect();
    let joined = segments.as_ref().map(|segments| segments.join("/"));
    let decoded = target.decoded_path();
    let decoded = decoded.as_ref().map(|path| path.to_string());
    assert_eq!(joined.as_ref(), decoded.as_ref(), "{}", raw.escape_ascii());
    let star = if target.asterisk { "* " } else { "" };
    let authority = target.authority.unwrap_or("-");
    Ok(format!("{star}{authority} [{}] {}", segments?.join("|"), target.query))
}

#[test]
fn every_target_has_one_reading_or_none() {
    for (section, method, raw, want) in TARGETS {
        let method = if *method == "GET" { Method::Get } else { Method::Options };
        let got = target_verdict(method, raw.as_bytes()).unwrap_or_else(refusal);
        assert_eq!(got, *want, "{section}: {raw}");
        let parsed = target::parse(method, raw.as_bytes()).is_ok();
        let twin = target_stands(method == Method::Options, raw.as_bytes());
        assert_eq!(twin, parsed, "{section}: {raw}");
    }
    for raw in [&b"/\xff"[..], b"/\xc3\xa9", b"/ ", b"/\t", b"/\0", b""] {
        assert!(target_verdict(Method::Get, raw).is_err(), "{}", raw.escape_ascii());
    }
}

#[test]
fn a_randomly_damaged_target_never_yields_a_segment_that_changes_the_shape_of_a_path() {
    for seed in 1..=10_000 {
        let mut random = Random::new(seed);
        let mut raw = TARGETS[random.below(TARGETS.len())].2.as_bytes().to_vec();
        mutate(&mut random, &mut raw);
        let Ok(target) = target::parse(Method::Get, &raw) else { continue };
        for segment in target.segments().flatten() {
            let bad = segment.contains(['/', '\\', '\0', '\r', '\n']) || segment == "..";
            assert!(!bad, "seed={seed} {}", raw.escape_ascii());
        }
        let _ = target.parameter("x");
    }
}

#[test]
fn a_query_parameter_is_decoded_once_and_refused_when_doubled() {
    #[rustfmt::skip]
    let rows = [
        ("/?x=1", Ok(Some("1"))),
        ("/", Ok(None)),
        ("/?", Ok(None)),
        ("/?y=1&&x=a+b%2B%20c", Ok(Some("a b+ c"))),
        ("/?x", Ok(Some(""))),
        ("/?x=", Ok(Some(""))),
        ("/?x=a=b", Ok(Some("a=b"))),
        ("/?X=1", Ok(None)),
        ("/?%78=1", Ok(Some("1"))),
        ("/?x=%2541", Ok(Some("%41"))),
        ("/?x=%2Fetc%2F%C3%A9", Ok(Some("/etc/\u{e9}"))),
        ("/?x=1&x=1", Err("400 doubled_parameter")),
        ("/?x=1&%78=2", Err("400 doubled_parameter")),
        ("/?y=1&y=2", Ok(None)),
        ("/?x=%00", Err("400 bad_parameter")),
        ("/?x=a%0Ab", Err("400 bad_parameter")),
        ("/?x=%ff", Err("400 bad_parameter")),
        ("/?x=1&y=%ff", Ok(Some("1"))),
        ("/?x=1&%ff=y", Err("400 bad_parameter")),
    ];
    for (raw, want) in rows {
        let target = target::parse(Method::Get, raw.as_bytes()).unwrap();
        let got = target.parameter("x");
        let got = got.as_ref().map(|value| value.as_deref()).map_err(|bad| refusal(*bad));
        assert_eq!(got, want.map_err(String::from), "{raw}");
    }
}

#[test]
fn a_host_name_is_what_stands_before_the_port() {
    for (authority, name, port) in [
        ("a", "a", None),
        ("a:80", "a", Some(80)),
        ("a:", "a", None),
        ("[::1]", "[::1]", None),
        ("[::1]:3010", "[::1]", Some(3010)),
        ("A.b:00080", "A.b", Some(80)),
    ] {
        assert_eq!(target::host_name(authority), name);
        assert_eq!(target::split_authority(authority.as_bytes()), Some((name, port)));
    }
}

// Replies.

fn written(head: &ReplyHead<'_>) -> String {
    let mut out = Vec::new();
    reply::write_head(&mut out, head);
    String::from_utf8(out).unwrap()
}

const REPLY: ReplyHead<'static> = ReplyHead {
    status: Status::OK,
    date: "Thu, 01 Jan 1970 00:00:00 GMT",
    content_type: Some("text/plain"),
    content_length: Some(12),
    keep_alive: true,
    version: Version::Http11,
    fields: &[("X-A", "b"), ("X-C", "")],
};

#[test]
fn a_reply_head_has_its_date_its_framing_and_its_fields() {
    let want = "HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Type: text/plain\r\n\
        Content-Length: 12\r\nX-A: b\r\nX-C: \r\n\r\n";
    assert_eq!(written(&REPLY), want);
    let longest = written(&ReplyHead { content_length: Some(u64::MAX), ..REPLY });
    assert!(longest.contains("\r\nContent-Length: 18446744073709551615\r\n"));
    assert!(written(&ReplyHead { content_length: Some(0), ..REPLY }).contains("-Length: 0\r\n"));
}

#[test]
fn a_reply_says_close_unless_its_end_can_be_told_without_closing() {
    let rows = [
        (Status::OK, Some(1), true, Version::Http11, ""),
        (Status::OK, Some(1), false, Version::Http11, "close"),
        (Status::OK, None, true, Version::Http11, "close"),
        (Status::OK, Some(1), true, Version::Http10, "keep-alive"),
        (Status::OK, Some(1), false, Version::Http10, "close"),
        (Status::NO_CONTENT, None, true, Version::Http11, ""),
        (Status::NOT_MODIFIED, None, true, Version::Http11, ""),
    ];
    for (status, content_length, keep_alive, version, want) in rows {
        let head = ReplyHead { status, content_length, keep_alive, version, ..REPLY };
        let text = written(&head);
        let line = text.lines().find_map(|line| line.strip_prefix("Connection: "));
        assert_eq!(line.unwrap_or(""), want, "{head:?}");
        assert_eq!(head.keeps_alive(), want != "close");
    }
    let bare = written(&ReplyHead { status: Status::NO_CONTENT, ..REPLY });
    assert!(!bare.contains("Content-Length"), "RFC 9110 §8.6: never in a 204");
}

#[test]
fn no_value_can_end_its_line() {
    let fields = [("Location", "/a\r\nSet-Cookie: x\0\x7f\x1b\tb\u{e9}")];
    let text = written(&ReplyHead { fields: &fields, content_type: Some("a\nb"), ..REPLY });
    assert!(text.contains("\r\nLocation: /a  Set-Cookie: x   \tb\u{e9}\r\n"), "{text:?}");
    assert!(text.contains("\r\nContent-Type: a b\r\n"));
    assert_eq!(text.matches("\r\n").count(), text.matches(['\r', '\n']).count() / 2);
}

#[test]
fn dates_are_those_of_httpdate() {
    let at = |wall_ms: u64| reply::http_date(wall_ms).as_str().to_owned();
    let twin = |wall_ms: u64| {
        let since = std::time::Duration::from_millis(wall_ms);
        httpdate::fmt_http_date(std::time::UNIX_EPOCH + since)
    };
    assert_eq!(at(784_111_777_000), "Sun, 06 Nov 1994 08:49:37 GMT"); // RFC 9110 §5.6.7
    let day = 86_400_000;
    // Every day of 1970 to 2500, which has every kind of leap year.
    for count in 0..193_700 {
        let wall_ms = count * day + count * 997 % day;
        assert_eq!(at(wall_ms), twin(wall_ms), "{wall_ms}");
    }
    assert_eq!(at(253_402_300_799_999), "Fri, 31 Dec 9999 23:59:59 GMT");
    assert_eq!(at(u64::MAX), "Fri, 31 Dec 9999 23:59:59 GMT");
}

#[test]
fn every_status_in_use_has_a_reason_and_the_interim_reply_is_whole() {
    for status in [Status::OK, Status::URI_TOO_LONG, Status::INSUFFICIENT_STORAGE] {
        assert!(!status.reason().is_empty());
    }
    assert_eq!(Status(299).reason(), "");
    assert!(reply::CONTINUE.ends_with(b"\r\n\r\n"));
}
