//! The documents tell the truth: every command on every page runs here as it stands, in the order in
//! which a reader comes to it, against a real server, and prints what the page says.
//!
//! [`page`] finds the commands, [`walk`] runs them, [`special`] lists the few that cannot be run and
//! what is looked at instead. A page with commands that nobody walks fails, and so does an entry of
//! that list which no page has. What stands in running text is looked at too: options, targets of
//! `make`, files and links have to be there.

#[path = "../support/mod.rs"]
mod support;

mod page;
mod shell;
mod special;
mod walk;

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::{Value, json};
use support::proxy::{Proxy, Whose, certificate, free_port};
use support::{Api, Options, Scratch, Server, claude, eventually, need, request};
use walk::Walk;

/// The pages that have commands, and the test that walks each.
macro_rules! walks {
    ($($test:ident, $page:literal, $walk:expr;)*) => {
        const WALKED: &[&str] = &[$($page),*];
        $(
            #[test]
            fn $test() {
                let walk: fn(&str) = $walk;
                walk($page);
            }
        )*
    };
}

walks! {
    the_readme_with_the_real_cli, "README.md", readme;
    contributing, "CONTRIBUTING.md", |page| Walk::new(page, Scratch::new(), &[]).finish();
    the_api, "docs/api.md", api;
    the_benchmarks, "docs/benchmarks.md", |page| Walk::new(page, Scratch::new(), &[]).finish();
    the_command_line, "docs/cli.md", command_line;
    the_migration, "docs/migration.md", migration;
    the_operations, "docs/operations.md", operations;
    the_proxies, "docs/proxies.md", proxies;
    the_service, "deploy/sidestream.service", service;
    the_socket, "deploy/sidestream.socket", service;
    the_image, "deploy/Dockerfile", image;
    the_image_with_the_agent, "deploy/Dockerfile.agent", image;
    beside_nginx, "deploy/nginx.conf", beside_a_proxy;
    beside_nginx_below_a_path, "deploy/nginx-base-path.conf", beside_a_proxy;
    beside_caddy, "deploy/Caddyfile", beside_a_proxy;
    beside_gotify, "deploy/hooks/gotify.py", beside_a_hook;
    beside_ntfy, "deploy/hooks/ntfy.py", beside_a_hook;
    beside_telegram, "deploy/hooks/telegram.py", beside_a_hook;
}

#[test]
fn every_page_with_commands_is_walked_and_every_exception_is_one() {
    let mut used = BTreeSet::new();
    let mut with_commands = BTreeSet::new();
    for page in page::pages() {
        for command in page::blocks(&page).iter().flat_map(|block| &block.commands) {
            with_commands.insert(page.clone());
            used.extend(special::place(&page, command));
        }
    }
    let walked: BTreeSet<String> = WALKED.iter().map(|page| (*page).to_owned()).collect();
    assert_eq!(with_commands, walked);
    for (number, (page, start, how)) in special::SPECIAL.iter().enumerate() {
        assert!(used.contains(&number), "no command on {page} begins with `{start}`");
        if let special::How::Instead(reason, _) = how {
            assert!(!reason.is_empty(), "{start}");
        }
    }
}

/// A walk beside a server with the demo, which the page knows as port 3010 of this machine. The
/// reader's home is the server's root.
fn beside_a_demo(page: &str, flags: &[&str]) -> (Server, Walk) {
    need("curl");
    let server = Server::demo(flags);
    let url = format!("http://{}", server.address);
    let more = [("HOME", &*server.root()), ("SIDESTREAM_URL", &url)];
    let walk = Walk::new(page, Scratch::new(), &more);
    (server, walk)
}

/// The five minutes, as somebody would spend them who has the CLI: `make run` and all.
fn readme(page: &str) {
    need("curl");
    need("make");
    let api = Api::start();
    let scratch = Scratch::new();
    // What `make` calls to build: here everything is built.
    let cargo = format!(
        "#!/bin/sh\n[ \"$1 $2 $3\" = 'run --release --' ] || exit 64\nshift 3\nexec '{}' \"$@\"\n",
        env!("CARGO_BIN_EXE_sidestream")
    );
    scratch.directory("bin");
    executable(&scratch.join("bin/cargo"), &cargo);
    std::os::unix::fs::symlink(claude::command(), scratch.join("bin/claude")).unwrap();
    let base = format!("http://127.0.0.1:{}", api.port);
    let mut variables = vec![("SIDESTREAM_LISTEN", "127.0.0.1:0")];
    variables.extend(claude::variables(&base));
    let mut walk = Walk::new(page, scratch, &variables);
    walk.bring("Makefile");
    let banner = walk.through("make run");
    let address = banner.split("listening on http://").nth(1).unwrap().trim().to_owned();
    let claude = walk.scratch.join("bin/claude");
    assert!(banner.contains(&format!("agent claude (default): {claude}\n")), "{banner}");
    walk.name("127.0.0.1:3010", &address);
    walk.name("localhost:3010", &address);
    walk.name("/home/you", &walk.scratch.join("home"));

    let created: Value = serde_json::from_str(&walk.through("curl -X POST")).unwrap();
    let session = created["sessionId"].as_str().expect("a session").to_owned();
    walk.name("SESSION_ID", &session);
    walk.through("curl -N");
    let sent: Value = serde_json::from_str(&walk.through("curl -X POST")).unwrap();
    assert_eq!(sent["success"], true, "{sent}");
    let history = |walk: &mut Walk| {
        walk.aside("curl -s 'http://localhost:3010/api/session/SESSION_ID/history?limit=500'")
    };
    eventually("the answer is there", || {
        let told = history(&mut walk);
        told.contains("prompt-completed") && told.contains("You said: ls -la")
    });
    let metrics: Value = serde_json::from_str(&walk.through("curl http")).unwrap();
    assert_eq!(metrics["sse"]["totalConnections"], 1, "the stream is open: {metrics}");
    assert!(metrics["eventBus"]["eventsEmitted"].as_u64() > Some(4), "{metrics}");

    // The page goes on where the agent asks for something.
    let ask = json!({"command": "run tool: touch asked-for ;; say: made"});
    walk.aside(&format!(
        "curl -s -X POST http://localhost:3010/api/session/SESSION_ID/prompt \
         -H 'Content-Type: application/json' -d '{ask}'"
    ));
    let mut approval = Value::Null;
    eventually("it asks", || {
        let told = walk.aside("curl -s http://localhost:3010/api/session/SESSION_ID/approvals");
        let told: Value = serde_json::from_str(&told).unwrap();
        approval = told["approvals"][0].clone();
        approval.is_object()
    });
    walk.name("APPROVAL_ID", approval["approvalId"].as_str().unwrap());
    walk.name("HASH", approval["inputHash"].as_str().unwrap());
    let made = walk.path("home/asked-for");
    assert!(!made.exists());
    let answered: Value = serde_json::from_str(&walk.through("curl -X POST")).unwrap();
    assert_eq!(answered["success"], true, "{answered}");
    eventually("it is done", || made.exists() && history(&mut walk).contains("\"made"));
    walk.finish();
}

fn executable(path: &str, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

fn api(page: &str) {
    let (server, mut walk) = beside_a_demo(page, &[]);
    walk.name("localhost:3010", &format!("localhost:{}", server.address.port()));
    walk.finish();
    assert!(server.rows().is_empty(), "it deletes what it made");
}

fn migration(page: &str) {
    let (server, mut walk) = beside_a_demo(page, &[]);
    walk.name("localhost:3010", &format!("localhost:{}", server.address.port()));
    walk.finish();
}

fn command_line(page: &str) {
    let (server, mut walk) = beside_a_demo(page, &[]);
    std::fs::create_dir(format!("{}/project", server.root())).unwrap();
    let id = walk.through("sidestream new").trim().to_owned();
    assert!(id.starts_with("session-"), "{id}");
    let answer = walk.through("sidestream prompt");
    assert!(!answer.trim().is_empty());
    walk.through("sidestream tail");
    let list = walk.through("sidestream sessions");
    assert!(list.contains(&id) && list.contains("demo"), "{list}");
    // Something waits when the page asks what does.
    server.prompt(&id, "run tool: ls");
    eventually("it asks", || server.status(&id) == "waiting");
    let waits = walk.through("sidestream approve");
    assert!(waits.contains(&format!("sidestream approve {id} ")), "{waits}");
    let stopped = walk.through("sidestream interrupt");
    assert_eq!(stopped, "interrupted\n");

    // The second block starts a server of its own, with hooks.
    let settings = settings(&walk);
    walk.name("/usr/share/sidestream/hooks", concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/hooks"));
    walk.name("/etc/sidestream/ntfy", &settings);
    walk.aside("sidestream token add me full --token-file ~/tokens");
    let elsewhere = walk.scratch.join("state");
    walk.aside(&format!(
        "export SIDESTREAM_LISTEN=127.0.0.1:0 SIDESTREAM_AGENT=demo SIDESTREAM_DATA_DIR='{elsewhere}'"
    ));
    walk.finish();
}

/// A settings file as hooks want it.
fn settings(walk: &Walk) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = walk.scratch.join("settings");
    std::fs::write(&path, "url = http://127.0.0.1:9\ntopic = t\ntoken = x\n").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    path
}

/// Variables for servers that a page starts: a free port, the demo.
const STARTS: [(&str, &str); 2] =
    [("SIDESTREAM_LISTEN", "127.0.0.1:0"), ("SIDESTREAM_AGENT", "demo")];

fn proxies(page: &str) {
    let mut walk = Walk::new(page, Scratch::new(), &STARTS);
    let tokens = walk.scratch.join("tokens");
    walk.name("/etc/sidestream/tokens", &tokens);
    let token = walk.through("sidestream token add");
    assert!(token.starts_with("sst_"), "{token}");
    walk.finish();
}

fn beside_a_proxy(page: &str) {
    let mut walk = Walk::new(page, Scratch::new(), &STARTS);
    let tokens = walk.scratch.join("tokens");
    walk.name("/etc/sidestream/tokens", &tokens);
    walk.aside("sidestream token add me full --token-file /etc/sidestream/tokens");
    walk.finish();
}

fn beside_a_hook(page: &str) {
    let mut walk = Walk::new(page, Scratch::new(), &STARTS);
    let (name, settings) = (page.rsplit('/').next().unwrap(), settings(&walk));
    walk.name("/usr/share/sidestream/hooks", concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/hooks"));
    walk.name(&format!("/etc/sidestream/{}", name.trim_end_matches(".py")), &settings);
    walk.finish();
}

/// The places of a machine that units are installed on.
fn host(walk: &mut Walk) {
    for (place, bare) in
        [("/usr/local/bin/", "usr/local/bin"), ("/etc/systemd/system/", "etc/systemd/system")]
    {
        let ours = walk.scratch.directory(&format!("host/{bare}"));
        walk.name(place, &format!("{ours}/"));
    }
}

fn service(page: &str) {
    let mut walk = Walk::new(page, Scratch::new(), &[]);
    need("systemctl");
    let work = walk.path("work");
    std::fs::copy(env!("CARGO_BIN_EXE_sidestream"), work.join("sidestream")).unwrap();
    for unit in ["sidestream.service", "sidestream.socket"] {
        std::fs::write(work.join(unit), page::text(&format!("deploy/{unit}"))).unwrap();
        if page.ends_with(".socket") {
            let installed = walk.scratch.directory("host/etc/systemd/system");
            std::fs::copy(work.join(unit), format!("{installed}/{unit}")).unwrap();
        }
    }
    if page.ends_with(".socket") {
        let host = walk.scratch.join("host");
        walk.aside(&format!("systemctl --root='{host}' enable sidestream.service"));
    } else {
        host(&mut walk);
    }
    walk.finish();
}

fn image(page: &str) {
    let mut walk = Walk::new(page, Scratch::new(), &[]);
    if page.ends_with(".agent") {
        let home = walk.scratch.join("home");
        walk.name("/home/agent/tokens", &format!("{home}/tokens"));
    }
    walk.finish();
}

fn operations(page: &str) {
    need("systemctl");
    need("journalctl");
    let scratch = Scratch::new();
    scratch.directory("bin");
    std::os::unix::fs::symlink(claude::command(), scratch.join("bin/claude")).unwrap();
    let login =
        [("ANTHROPIC_API_KEY", "fake-key-for-loopback"), ("SIDESTREAM_LISTEN", "127.0.0.1:0")];
    let mut walk = Walk::new(page, scratch, &login);
    host(&mut walk);
    let state = walk.scratch.directory("host/var/lib/sidestream");
    walk.name("/var/lib/sidestream", &state);
    let settings = walk.scratch.join("host/etc/sidestream");
    walk.name("/etc/sidestream", &settings);
    walk.bring("deploy");
    // As `make dist` leaves it; tests/dist.rs looks at what it really makes.
    let dist = walk.path("work").join("dist");
    std::fs::create_dir(&dist).unwrap();
    let name = format!("sidestream-{}-x86_64", env!("CARGO_PKG_VERSION"));
    std::fs::copy(env!("CARGO_BIN_EXE_sidestream"), dist.join(name)).unwrap();
    walk.aside("cd dist; sha256sum -- * > SHA256SUMS; cd ..");
    let report = walk.through("sidestream doctor");
    assert!(report.contains("ok    claude: ") && report.contains("ok    login: "), "{report}");
    assert!(walk.path("host/usr/local/bin/sidestream").exists(), "it is installed");
    walk.through("systemctl reload");

    // What the service is told beside its unit lets in who has the token, and nobody else.
    let token = walk.through("runuser -u sidestream -- sidestream token add");
    walk.through("systemctl restart");
    let told = std::fs::read_to_string(format!("{settings}/environment")).unwrap();
    let mut options = Options::new().flags(&["--agent", "demo"]);
    for (name, value) in told.lines().filter_map(|line| line.split_once('=')) {
        options = options.env(name, value);
    }
    let served = options.start();
    served.get("/api/sessions").expect(401);
    let bearer = format!("Bearer {}", token.lines().next().unwrap());
    let headers = [("Authorization", &*bearer)];
    request(served.address, "GET", "/api/sessions", &headers, b"").expect(200);
    drop(served);

    // From outside: behind a proxy with a certificate, below a path.
    let (place, port) = (Scratch::new(), free_port());
    let (certificate, key) = certificate(&place, &["localhost"]);
    let public = format!("https://localhost:{port}/base");
    let options = Options::new();
    let tokens = options.scratch().join("tokens");
    let token = walk.aside(&format!("sidestream token add me read --token-file '{tokens}'"));
    let token = token.lines().next().unwrap();
    let behind = ["--agent", "demo", "--token-file", &tokens, "--public-url", &public];
    let server = options.flags(&behind).flags(&["--trusted-proxy", "127.0.0.1"]).start();
    let site = format!(
        "server {{ listen 127.0.0.1:{port} ssl http2;
           ssl_certificate {certificate}; ssl_certificate_key {key};
           location /base/ {{ proxy_pass http://{}; proxy_http_version 1.1;
             proxy_set_header Connection ''; proxy_set_header Host $http_host;
             proxy_set_header X-Forwarded-For $remote_addr; }} }}",
        server.address
    );
    let _proxy = Proxy::nginx(place, port, Whose::Nobodys, &[&site]);
    walk.aside(&format!("export SIDESTREAM_TOKEN={token} CURL_CA_BUNDLE='{certificate}'"));
    walk.name("https://host/base", &public);
    let report = walk.through("sidestream doctor --url");
    assert!(report.contains("ok    stream: arrives as it is written"), "{report}");

    // A backup of what a server left, and what another makes of it.
    let mut before = Server::demo(&["--data-dir", &format!("{state}/data")]);
    let session = before.create();
    before.prompt(&session, "say: kept");
    eventually("it is said", || before.status(&session) == "idle");
    assert!(before.stop().success());
    walk.through("tar ");
    let restored = walk.scratch.directory("restored");
    walk.aside(&format!("tar -C '{restored}' -xzf sidestream-backup.tgz"));
    let root = before.root();
    let after = Server::demo(&["--data-dir", &format!("{restored}/data"), "--root", &root]);
    let history = after.get(&format!("/api/session/{session}/history")).expect(200).to_string();
    assert!(history.contains("kept"), "{history}");
    drop(after);
    walk.finish();
}

/// What stands in running text between backquotes, with its page.
fn quoted() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for page in page::pages().into_iter().filter(|page| page.ends_with(".md")) {
        let text = page::text(&page);
        let outside: Vec<&str> = text.split("```").step_by(2).collect();
        for part in outside {
            let spans = part.split('`').skip(1).step_by(2);
            found.extend(spans.map(|span| (page.clone(), span.to_owned())));
        }
    }
    assert!(found.len() > 300, "{}", found.len());
    found
}

#[test]
fn options_targets_and_files_in_running_text_are_there() {
    /// Options of other programs.
    const FOREIGN: [&str; 4] = ["--nocapture", "--release", "--test", "--user"];
    let help = Command::new(env!("CARGO_BIN_EXE_sidestream")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let known: BTreeSet<&str> = help
        .split(|char: char| !(char.is_ascii_alphanumeric() || char == '-'))
        .filter(|word| word.starts_with("--"))
        .collect();
    let makefile = page::text("Makefile");
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut wrong = Vec::new();
    let mut foreign = BTreeSet::new();
    for (page, span) in quoted() {
        let words = span.split(|char: char| char.is_whitespace() || "=,()[]\"'".contains(char));
        for word in words.filter(|word| word.starts_with("--") && word.len() > 2) {
            match FOREIGN.iter().find(|name| **name == word) {
                Some(name) => drop(foreign.insert(*name)),
                None if known.contains(word) => {}
                None => wrong.push(format!("{page}: no option {word} (`{span}`)")),
            }
        }
        if let Some(target) = span.strip_prefix("make ").and_then(|it| it.split(' ').next())
            && !makefile.lines().any(|line| line.starts_with(&format!("{target}:")))
        {
            wrong.push(format!("{page}: no target {target} (`{span}`)"));
        }
        let file = span.split([' ', '#']).find(|word| {
            let places = ["src/", "tests/", "docs/", "deploy/", "scripts/", "benches/", "fuzz/"];
            places.iter().any(|place| word.starts_with(place))
        });
        if let Some(file) = file.filter(|file| !file.contains('*') && !root.join(file).exists()) {
            wrong.push(format!("{page}: no file {file}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(foreign.len(), FOREIGN.len(), "only {foreign:?} are spoken of");
}

#[test]
fn links_lead_somewhere() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut wrong, mut count) = (Vec::new(), 0);
    for page in page::pages().into_iter().filter(|page| page.ends_with(".md")) {
        let here = root.join(&page).parent().unwrap().to_owned();
        let text = page::text(&page);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.contains(' ') {
                continue;
            }
            count += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { root.join(&page) } else { here.join(file) };
            let there = target.exists() && (anchor.is_empty() || has_heading(&target, anchor));
            if !there {
                wrong.push(format!("{page}: {link}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 20, "{count}");
}

/// Whether a page has a heading of this anchor's name.
fn has_heading(path: &std::path::Path, anchor: &str) -> bool {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().filter_map(|line| line.strip_prefix('#')).any(|line| {
        let line = line.trim_start_matches('#').trim().to_lowercase();
        let kept: String = line
            .chars()
            .filter(|char| char.is_alphanumeric() || " -_".contains(*char))
            .map(|char| if char == ' ' { '-' } else { char })
            .collect();
        kept == anchor
    })
}

/// What the metrics page says that Prometheus is told, Prometheus understands.
#[test]
fn the_scrape_configuration_is_one() {
    need("promtool");
    let text = page::text("docs/metrics.md");
    let config = text.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let scratch = Scratch::new();
    let token = scratch.join("token");
    std::fs::write(&token, "sst_x\n").unwrap();
    let named = "/etc/prometheus/sidestream.token";
    assert!(config.contains(named));
    std::fs::write(scratch.join("prometheus.yml"), config.replace(named, &token)).unwrap();
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "config", &scratch.join("prometheus.yml")]);
    let output = promtool.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// The configuration of a server for a small host, as the table in the guide has it, can be run with.
#[test]
fn the_suggestions_for_small_hosts_are_good_options() {
    let text = page::text("docs/operations.md");
    let rows =
        text.lines().filter(|line| line.starts_with("| ") && line.contains(" | `--agents-max"));
    let mut count = 0;
    for row in rows {
        let words = row.split('`').nth(1).unwrap().split(' ');
        let options = Options::new().flags(&["--agent", "demo"]);
        let mut command = options.command();
        let output = command.args(words).arg("--check-config").output().unwrap();
        assert!(output.status.success(), "{row}: {output:?}");
        count += 1;
    }
    assert!(count >= 3, "{count}");
}
