//! The door in a real Chromium: what `tests/browser/door.mjs` tries from other origins, from a
//! rebound name and at the login page must come to what it says.

mod support;

use support::{Options, Server, browser};

#[test]
fn no_page_of_another_origin_reaches_anything_and_the_login_page_keeps_its_promises() {
    let open = Server::demo(&[]);
    let session = open.create();
    let options = Options::new();
    let file = options.scratch().join("tokens");
    let token = support::add_token(&file, "me", "full");
    // Switches stand in the environment: a flag here takes a value.
    let guarded = options
        .flags(&["--agent", "demo", "--token-file", &file])
        .env("SIDESTREAM_READ_COOKIE", "1")
        .start();
    let url = |server: &Server| format!("http://127.0.0.1:{}", server.address.port());
    let (open_url, guarded_url, root) = (url(&open), url(&guarded), open.root());
    let servers = ["--open", &open_url, "--guarded", &guarded_url, "--session", &session];
    let rest = ["--token", &token, "--working-dir", &root];
    browser::run("door.mjs", &[&servers[..], &rest].concat());
    // Whatever was refused was seen and counted, by the reason for it.
    let page = open.get("/metrics").expect(200).text();
    for code in ["foreign_origin", "foreign_site", "foreign_host"] {
        let line = format!("sidestream_requests_refused_total{{code=\"{code}\"}} ");
        let at = page.find(&line).unwrap_or_else(|| panic!("{code}: {page}")) + line.len();
        assert!(!page[at..].starts_with('0'), "{code} was never met");
    }
    assert_eq!(open.get("/api/sessions").json()["sessions"].as_array().unwrap().len(), 2);
    assert!(!guarded.stderr().contains(&token) && !open.stderr().contains(&token));
    open.await_streams(0);
}
