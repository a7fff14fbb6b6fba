//! Real proxies in front of the server: how nginx is started, and how any of them ends.

use super::users::{as_root, is_root};
use super::{Scratch, eventually, need};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

/// A port that nothing listens on. Others may take it before we do; then the proxy says so.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Makes a certificate for these names, which vouches for itself, and its key: the files
/// `certificate.pem` and `key.pem` there. Returns their paths.
#[track_caller]
pub fn certificate(directory: &Scratch, names: &[&str]) -> (String, String) {
    need("openssl");
    let (certificate, key) = (directory.join("certificate.pem"), directory.join("key.pem"));
    let subject = format!("/CN={}", names[0]);
    let all: Vec<String> = names.iter().map(|name| format!("DNS:{name}")).collect();
    let status = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-days", "2", "-subj", &subject])
        .args(["-addext", &format!("subjectAltName={}", all.join(","))])
        .args(["-keyout", &key, "-out", &certificate])
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "openssl made no certificate");
    (certificate, key)
}

/// A running proxy, and the port it is found under.
pub struct Proxy {
    pub child: Child,
    /// Its files; `error` is its log.
    pub scratch: Scratch,
    pub port: u16,
}

/// Whose nginx is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// Its workers are ours: it is served like we are.
    Ours,
    /// Its workers are nobody's, as on hosts that have it in a user of its own. Where we cannot
    /// become somebody else they are ours: see [`super::users::can_be_others`].
    Nobodys,
}

impl Proxy {
    /// Takes over a program that was started; waits until it listens.
    #[track_caller]
    pub fn of(child: Child, scratch: Scratch, port: u16) -> Proxy {
        let mut proxy = Proxy { child, scratch, port };
        eventually("the proxy listens", || {
            if let Some(status) = proxy.child.try_wait().unwrap() {
                panic!("the proxy ended with {status}:\n{}", proxy.log());
            }
            TcpStream::connect(proxy.address()).is_ok()
        });
        proxy
    }

    /// nginx with these parts inside its `http`.
    #[track_caller]
    pub fn nginx(scratch: Scratch, port: u16, whose: Whose, parts: &[&str]) -> Proxy {
        need("nginx");
        let directory = scratch.path().display();
        let mut includes = String::new();
        for (number, text) in parts.iter().enumerate() {
            let path = scratch.join(&format!("part-{number}.conf"));
            std::fs::write(&path, text).unwrap();
            includes.push_str(&format!("include {path};\n"));
        }
        let other = (whose == Whose::Nobodys).then(|| as_root("nginx")).flatten();
        let user = match (&other, is_root()) {
            (Some(_), _) => "user nobody nogroup;",
            (None, true) => "user root;",
            (None, false) => "",
        };
        let text = format!(
            "{user} daemon off; pid {directory}/pid; error_log {directory}/error;
             worker_processes 1; events {{ worker_connections 512; }}
             http {{ access_log off;
               client_body_temp_path {directory}/a; proxy_temp_path {directory}/b;
               fastcgi_temp_path {directory}/c; uwsgi_temp_path {directory}/d;
               scgi_temp_path {directory}/e;
               {includes} }}"
        );
        std::fs::write(scratch.join("conf"), text).unwrap();
        std::fs::set_permissions(scratch.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let child = other
            .unwrap_or_else(|| Command::new("nginx"))
            .args(["-p", scratch.path().to_str().unwrap(), "-c", &scratch.join("conf")])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Proxy::of(child, scratch, port)
    }

    /// nginx before a server, with these lines in its one location.
    #[track_caller]
    pub fn before(upstream: SocketAddr, whose: Whose, lines: &str) -> Proxy {
        let port = free_port();
        let server = format!(
            "server {{ listen 127.0.0.1:{port};
               location / {{ proxy_pass http://{upstream}; {lines} }} }}"
        );
        Proxy::nginx(Scratch::new(), port, whose, &[&server])
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Sends a signal to its first process, which passes it on to the others.
    pub fn signal(&self, name: &str) {
        // Written by nginx; what was started by sudo is sudo's child.
        let pid = std::fs::read_to_string(self.scratch.join("pid")).ok();
        let pid = pid.map_or(self.child.id().to_string(), |pid| pid.trim().to_owned());
        let mut kill = as_root("kill").unwrap_or_else(|| Command::new("kill"));
        let _ = kill.args([&format!("-{name}"), &pid]).status(); // It may have ended.
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.scratch.join("error")).unwrap_or_default()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.signal("TERM"); // It ends its workers, which a kill would leave.
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the proxy's log:\n{}", self.log());
        }
    }
}
