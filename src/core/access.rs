//! Who may ask: the walls between this server and everybody who is not its user.
//!
//! Without a token, a request is served only if the kernel says that it comes from a process of
//! our own user, if it names this machine as its host (which ends DNS rebinding), and if no
//! foreign web page and no proxy stands behind it. What is asked for does not matter here.

use crate::core::connection::Peer;
use crate::wire::head::{Head, Method, Span};
use crate::wire::reply::Status;
use crate::wire::target::{self, Target};

/// What decides, beside the request itself.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Our own user id.
    pub own_uid: u32,
    /// Other users who are let in.
    pub trusted_uids: Vec<u32>,
}

/// Why a request is not served. The sentence ends with the cure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status.
    pub status: Status,
    /// The machine's word.
    pub code: &'static str,
    /// The human's.
    pub sentence: String,
}

fn refusal(status: Status, code: &'static str, sentence: impl Into<String>) -> Refusal {
    Refusal { status, code, sentence: sentence.into() }
}

impl Access {
    /// Whether a request may be looked at.
    ///
    /// # Errors
    /// [`Refusal`] with the status: 421 for a foreign host, 403 for a foreign page, 401 for a
    /// foreign process or a proxy.
    pub fn admit(
        &self,
        head: &Head,
        input: &[u8],
        target: &Target<'_>,
        peer: Peer,
    ) -> Result<(), Refusal> {
        let host = host(head, input, target)?;
        if head.forwarded {
            let sentence = "this request came through a proxy, which hides who sent it; \
                let the proxy's user in by tokens, or connect directly";
            return Err(refusal(Status::UNAUTHORIZED, "proxy_without_token", sentence));
        }
        origin(head, input, host)?;
        self.peer(peer)
    }

    /// Whether the process at the other end is one of ours.
    fn peer(&self, peer: Peer) -> Result<(), Refusal> {
        match peer {
            Peer::Local { uid } if uid == self.own_uid || self.trusted_uids.contains(&uid) => {
                Ok(())
            }
            Peer::Local { uid } => {
                let sentence = format!(
                    "this connection comes from uid {uid}, not from ours ({}), a proxy? \
                     start with --trust-uid {uid}",
                    self.own_uid
                );
                Err(refusal(Status::UNAUTHORIZED, "foreign_user", sentence))
            }
            Peer::Unknown => {
                let sentence = "the kernel does not say which user this connection comes from";
                Err(refusal(Status::UNAUTHORIZED, "unknown_user", sentence))
            }
        }
    }
}

/// The host that the request names, if it is this machine.
fn host<'a>(head: &Head, input: &'a [u8], target: &Target<'a>) -> Result<&'a str, Refusal> {
    let field = head.host.and_then(|span| span.text(input)).unwrap_or_default();
    let authority = target.authority.unwrap_or(field);
    let name = target::host_name(authority);
    // Exactly these: no trailing dot, no decimal address, no name that resolves here today.
    if ["localhost", "127.0.0.1", "[::1]"].iter().any(|ours| name.eq_ignore_ascii_case(ours)) {
        return Ok(authority);
    }
    let shown: String = name.chars().filter(|c| c.is_ascii_graphic()).take(100).collect();
    let sentence =
        format!("the host \"{shown}\" is not this server; use localhost, 127.0.0.1 or [::1]");
    Err(refusal(Status::MISDIRECTED_REQUEST, "foreign_host", sentence))
}

/// Refuses what a page of another origin makes a browser send.
fn origin(head: &Head, input: &[u8], host: &str) -> Result<(), Refusal> {
    let text = |span: Option<Span>| span.map(|span| span.text(input).unwrap_or("?"));
    let site = text(head.fetch_site);
    if let Some(origin) = text(head.origin) {
        let ours = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"))
            .is_some_and(|authority| authority.eq_ignore_ascii_case(host));
        if !ours && site != Some("same-origin") {
            let sentence = "this page is of another origin and may not use this server";
            return Err(refusal(Status::FORBIDDEN, "foreign_origin", sentence));
        }
    }
    if let Some("cross-site" | "same-site") = site {
        let navigation = text(head.fetch_mode) == Some("navigate")
            && matches!(text(head.fetch_dest), None | Some("document"))
            && matches!(head.method, Method::Get | Method::Head);
        if !navigation {
            let sentence = "a page of another site made this request";
            return Err(refusal(Status::FORBIDDEN, "foreign_site", sentence));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::head::{self, HeadLimits};

    const OURS: Peer = Peer::Local { uid: 1000 };

    fn admit(request: &str, peer: Peer) -> u16 {
        let access = Access { own_uid: 1000, trusted_uids: vec![33] };
        let limits = HeadLimits { size_max: 16_384, fields_max: 100 };
        let input = request.replace('\n', "\r\n").into_bytes();
        let head = head::parse(&input, &mut 0, &limits).unwrap().expect("a whole head");
        let target = target::parse(head.method, head.target.of(&input)).unwrap();
        access.admit(&head, &input, &target, peer).map_or_else(|no| no.status.0, |()| 200)
    }

    #[test]
    fn only_this_machine_s_own_names_are_served() {
        for (host, want) in [
            ("localhost", 200),
            ("LocalHost:3010", 200),
            ("127.0.0.1:9", 200),
            ("[::1]:3010", 200),
            ("localhost.", 421),
            ("127.1", 421),
            ("2130706433", 421),
            ("evil.example", 421),
            ("localhost.evil.example", 421),
            ("[::ffff:127.0.0.1]", 421),
            ("0.0.0.0:3010", 421),
        ] {
            let request = format!("GET /health HTTP/1.1\nHost: {host}\n\n");
            assert_eq!(admit(&request, OURS), want, "{host}");
            let absolute = format!("GET http://{host}/health HTTP/1.1\nHost: localhost\n\n");
            assert_eq!(admit(&absolute, OURS), want, "absolute-form {host} wins over Host");
        }
    }

    #[test]
    fn foreign_pages_are_refused_and_our_own_are_not() {
        for (fields, want) in [
            ("Origin: http://localhost:3010", 200),
            ("Origin: http://LOCALHOST:3010", 200),
            ("Origin: https://localhost:3010", 200),
            ("Origin: http://localhost:3011", 403),
            ("Origin: http://127.0.0.1:3010", 403),
            ("Origin: null", 403),
            ("Origin: http://evil.example", 403),
            ("Origin: http://evil.example\nSec-Fetch-Site: same-origin", 200),
            ("Sec-Fetch-Site: same-origin", 200),
            ("Sec-Fetch-Site: none", 200),
            ("Sec-Fetch-Site: cross-site", 403),
            ("Sec-Fetch-Site: same-site", 403),
            ("Sec-Fetch-Site: cross-site\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: document", 200),
            ("Sec-Fetch-Site: cross-site\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: iframe", 403),
            ("Sec-Fetch-Site: cross-site\nSec-Fetch-Mode: no-cors", 403),
        ] {
            let request = format!("GET / HTTP/1.1\nHost: localhost:3010\n{fields}\n\n");
            assert_eq!(admit(&request, OURS), want, "{fields}");
        }
        let post = "POST / HTTP/1.1\nHost: localhost\nSec-Fetch-Site: cross-site\n\
            Sec-Fetch-Mode: navigate\n\n";
        assert_eq!(admit(post, OURS), 403, "a form of another site");
    }

    #[test]
    fn only_our_user_and_those_we_trust_are_served_and_no_proxy() {
        let plain = "GET / HTTP/1.1\nHost: localhost\n\n";
        assert_eq!(admit(plain, OURS), 200);
        assert_eq!(admit(plain, Peer::Local { uid: 33 }), 200);
        assert_eq!(admit(plain, Peer::Local { uid: 0 }), 401);
        assert_eq!(admit(plain, Peer::Unknown), 401);
        for field in ["Forwarded: for=1", "X-Forwarded-For: 1.2.3.4", "X-Real-IP: ::1", "Via: x"] {
            let request = format!("GET / HTTP/1.1\nHost: localhost\n{field}\n\n");
            assert_eq!(admit(&request, OURS), 401, "{field}");
        }
    }
}
