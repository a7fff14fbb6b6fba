//! The pages in a real Chromium: what `tests/browser/run.mjs` sees must hold.

mod support;

use support::{Server, browser};

#[test]
fn the_pages_and_the_client_library_work_in_a_real_browser() {
    let server = Server::demo(&[]);
    let (url, root) = (format!("http://127.0.0.1:{}", server.address.port()), server.root());
    let binary = env!("CARGO_BIN_EXE_sidestream");
    let arguments = ["--base-url", &url, "--working-dir", &root, "--binary", binary];
    browser::run("run.mjs", &arguments);
    server.await_streams(0);
}
