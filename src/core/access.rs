//! Who may ask: the walls between this server and everybody who is not its user.
//!
//! Without a token, a request is served only if the kernel says that it comes from a process of
//! our own user, if it names this machine as its host (which ends DNS rebinding), and if no
//! foreign web page and no proxy stands behind it. With tokens, whoever brings one is served as
//! far as it reaches, from anywhere; the walls against foreign hosts and pages stand. What is
//! asked for does not matter here.

pub mod tokens;

use crate::core::connection::Peer;
use crate::limits::COOKIES_TRIED_MAX;
use crate::wire::head::{Head, Method, Span};
use crate::wire::reply::Status;
use crate::wire::target::{self, Target};
use ::core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokens::{Scope, Tokens};

/// Who is said to have acted where no token names anybody.
pub const LOCAL: &str = "local";

/// What decides, beside the request itself.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Our own user id.
    pub own_uid: u32,
    /// Other users who are let in.
    pub trusted_uids: Vec<u32>,
    /// Who has a token, if anybody is asked for one.
    pub tokens: Tokens,
    /// Where people find us, if that is another place than where we listen.
    pub public: Option<PublicUrl>,
    /// Origins whose pages may use us, as browsers write them.
    pub allowed_origins: Vec<String>,
    /// A login is given a cookie for reading as well.
    pub read_cookie: bool,
    /// Agents may do what their users may.
    pub allow_agent_access: bool,
    /// Proxies whose word for a client's address is taken.
    pub trusted_proxies: Vec<IpAddr>,
}

/// The parts of `--public-url`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl {
    /// Scheme and authority, as browsers write an origin: lower case, no default port.
    pub origin: String,
    /// The name of the host, without a port.
    pub host: String,
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
    /// What `WWW-Authenticate` says, where a token would help.
    pub challenge: Option<String>,
}

fn refusal(status: Status, code: &'static str, sentence: impl Into<String>) -> Refusal {
    let challenge = (status == Status::UNAUTHORIZED).then(|| CHALLENGE.to_owned());
    Refusal { status, code, sentence: sentence.into(), challenge }
}

/// What `WWW-Authenticate` says where a token is wanted (RFC 6750 §3).
pub const CHALLENGE: &str = "Bearer realm=\"sidestream\"";

/// Who asks, once that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller<'a> {
    /// The name that stands on what is done.
    pub by: &'a str,
    /// How far it may go.
    pub scope: Scope,
    /// The number of its token; 0 where there are none.
    pub token: u16,
}

impl Access {
    /// Whether a request may be looked at: the walls that stand whatever is asked for.
    ///
    /// # Errors
    /// [`Refusal`] with the status: 421 for a foreign host, 403 for a foreign page, 401 for a
    /// foreign process or a proxy where there are no tokens.
    pub fn admit(
        &self,
        head: &Head,
        input: &[u8],
        target: &Target<'_>,
        peer: Peer,
    ) -> Result<(), Refusal> {
        let host = self.host(head, input, target)?;
        let open = !self.tokens.are_wanted();
        if open && head.forwarded {
            let sentence = "this request came through a proxy, which hides who sent it: give its \
                user a token and start with --token-file, or connect directly";
            return Err(refusal(Status::UNAUTHORIZED, "proxy_without_token", sentence));
        }
        self.origin(head, input, host)?;
        if open { self.peer(peer) } else { Ok(()) }
    }

    /// The allowed origin that a request comes from, as its number: its page may read the answer.
    pub fn allowed_origin(&self, head: &Head, input: &[u8]) -> Option<usize> {
        let origin = head.origin?.text(input)?;
        self.allowed_origins.iter().position(|allowed| allowed == origin)
    }

    /// Who asks, behind [`Access::admit`].
    ///
    /// # Errors
    /// 401, the same one whatever is wrong with the token.
    pub fn caller(
        &self,
        head: &Head,
        input: &[u8],
        target: &Target<'_>,
    ) -> Result<Caller<'_>, Refusal> {
        if !self.tokens.are_wanted() {
            return Ok(Caller { by: LOCAL, scope: Scope::Full, token: 0 });
        }
        // Another scheme is a proxy's own: its client may have our cookie as well.
        let authorization = head.authorization.map(|field| field.of(input));
        let entry = match authorization.filter(|field| tokens::is_bearer(field)) {
            Some(field) => {
                let token = tokens::bearer(field).unwrap_or_default();
                let entry = self.tokens.find(token).and_then(|index| self.tokens.get(index));
                entry.map(|entry| (entry, entry.scope))
            }
            None => {
                let index = self.by_cookie(head, input, target);
                index.and_then(|index| self.tokens.get(index)).map(|entry| (entry, Scope::Read))
            }
        };
        let caller =
            entry.map(|(entry, scope)| Caller { by: &entry.name, scope, token: entry.number });
        caller.ok_or_else(|| {
            let sentence = "this server wants a token: log in at /login, or send Authorization: \
                Bearer with one that `sidestream token add` has made";
            refusal(Status::UNAUTHORIZED, "token_needed", sentence)
        })
    }

    fn by_cookie(&self, head: &Head, input: &[u8], target: &Target<'_>) -> Option<usize> {
        if !self.read_cookie {
            return None;
        }
        let name = cookie_name(authority(head, input, target));
        let values = tokens::cookie_values(head.cookie?.of(input), &name);
        values.take(COOKIES_TRIED_MAX).find_map(|value| self.tokens.find_cookie(value))
    }

    /// `Set-Cookie` for who has just logged in with this token, or, without one, logs out; if
    /// there are such cookies.
    pub fn set_cookie(
        &self,
        token: Option<&[u8]>,
        head: &Head,
        input: &[u8],
        target: &Target<'_>,
    ) -> Option<String> {
        if !self.read_cookie {
            return None;
        }
        let name = cookie_name(authority(head, input, target));
        let value = token.map(tokens::cookie).unwrap_or_default();
        let gone = if token.is_none() { "; Max-Age=0" } else { "" };
        let secure = if self.is_tls() { "; Secure" } else { "" };
        Some(format!("{name}={value}; HttpOnly; SameSite=Strict; Path=/{gone}{secure}"))
    }

    /// Whether a scope suffices.
    ///
    /// # Errors
    /// 403 with the scope that would (RFC 6750 §3.1).
    pub fn reach(caller: Caller<'_>, needed: Scope) -> Result<(), Refusal> {
        if caller.scope >= needed {
            return Ok(());
        }
        let (name, has, wants) = (caller.by, caller.scope.as_str(), needed.as_str());
        let sentence = format!(
            "the token of {name} has the scope {has}, and this needs {wants}: \
             `sidestream token add NAME {wants}` makes one"
        );
        let mut refusal = refusal(Status::FORBIDDEN, "scope_too_small", sentence);
        refusal.challenge =
            Some(format!("{CHALLENGE}, error=\"insufficient_scope\", scope=\"{wants}\""));
        Err(refusal)
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
                     start with --token-file, or with --trust-uid {uid}",
                    self.own_uid
                );
                Err(refusal(Status::UNAUTHORIZED, "foreign_user", sentence))
            }
            Peer::Remote { .. } | Peer::Unknown => {
                let sentence = "the kernel does not say which user this connection comes from: \
                    start with --token-file";
                Err(refusal(Status::UNAUTHORIZED, "unknown_user", sentence))
            }
        }
    }

    /// The host that the request names, if it is this machine.
    fn host<'a>(
        &self,
        head: &Head,
        input: &'a [u8],
        target: &Target<'a>,
    ) -> Result<&'a str, Refusal> {
        let authority = authority(head, input, target);
        let name = target::host_name(authority);
        if target.is_https && !self.is_tls() {
            let sentence = "an https URL does not lead to this server, which speaks plain HTTP: \
                start with --public-url where TLS ends before it";
            return Err(refusal(Status::MISDIRECTED_REQUEST, "foreign_scheme", sentence));
        }
        // Exactly these: no trailing dot, no decimal address, no name that resolves here today.
        let local =
            ["localhost", "127.0.0.1", "[::1]"].iter().any(|ours| name.eq_ignore_ascii_case(ours));
        let public = self.is_public_host(authority);
        // With tokens we may be reached by address. One cannot be rebound: only names can.
        // Nor can none at all, which HTTP/1.0 allows, as the health checks of proxies speak it.
        let address = self.tokens.are_wanted() && (is_address(name) || name.is_empty());
        if local || public || address {
            return Ok(authority);
        }
        let shown: String = name.chars().filter(|c| c.is_ascii_graphic()).take(100).collect();
        let sentence = format!(
            "the host \"{shown}\" is not this server: use localhost, 127.0.0.1 or [::1], or \
             start with --public-url and a token"
        );
        Err(refusal(Status::MISDIRECTED_REQUEST, "foreign_host", sentence))
    }

    /// Refuses what a page of another origin makes a browser send.
    fn origin(&self, head: &Head, input: &[u8], host: &str) -> Result<(), Refusal> {
        let text = |span: Option<Span>| span.map(|span| span.text(input).unwrap_or("?"));
        let site = text(head.fetch_site);
        if let Some(origin) = text(head.origin) {
            // Before what the browser says of the site: an allowed page is of another one.
            if self.allowed_origin(head, input).is_some() || self.is_public(origin) {
                return Ok(());
            }
            // Where people find us under another scheme than this page's, it is another origin.
            let ours = !self.is_public_host(host)
                && origin
                    .strip_prefix("http://")
                    .or_else(|| origin.strip_prefix("https://"))
                    .is_some_and(|authority| authority.eq_ignore_ascii_case(host));
            if !ours && site != Some("same-origin") {
                let sentence = "this page is of another origin and may not use this server: \
                    start with --allow-origin and a token";
                return Err(refusal(Status::FORBIDDEN, "foreign_origin", sentence));
            }
        }
        if let Some("cross-site" | "same-site") = site {
            let navigation = text(head.fetch_mode) == Some("navigate")
                && matches!(text(head.fetch_dest), None | Some("document"))
                && matches!(head.method, Method::Get | Method::Head);
            if !navigation {
                let sentence = "a page of another site made this request: \
                    start with --allow-origin and a token";
                return Err(refusal(Status::FORBIDDEN, "foreign_site", sentence));
            }
        }
        Ok(())
    }

    /// Whether people reach us by `https`, by way of a proxy.
    fn is_tls(&self) -> bool {
        self.public.as_ref().is_some_and(|url| url.origin.starts_with("https:"))
    }

    fn is_public_host(&self, authority: &str) -> bool {
        let name = target::host_name(authority);
        self.public.as_ref().is_some_and(|url| url.host.eq_ignore_ascii_case(name))
    }

    fn is_public(&self, origin: &str) -> bool {
        self.public.as_ref().is_some_and(|url| url.origin == origin)
    }

    /// The client's address as a proxy that we trust tells it: what it added last itself.
    pub fn reported_address(&self, head: &Head, input: &[u8], peer: Peer) -> Option<IpAddr> {
        let proxy = match peer {
            Peer::Remote { address } => self.trusted_proxies.contains(&address),
            // On this machine: it is trusted under any of its names.
            Peer::Local { .. } => self.trusted_proxies.iter().any(IpAddr::is_loopback),
            Peer::Unknown => false,
        };
        let field = head.forwarded_for.filter(|_| proxy)?.text(input)?;
        let last = field.rsplit(',').next()?.trim();
        // Some proxies write the port as well, and some a v4 address as a v6 one.
        let address = match last.parse::<SocketAddr>() {
            Ok(with_port) => with_port.ip(),
            Err(_) => last.trim_matches(['[', ']']).parse().ok()?,
        };
        Some(address.to_canonical())
    }
}

/// The authority that a request names: that of an absolute target wins (RFC 9112 §3.2.2).
fn authority<'a>(head: &Head, input: &'a [u8], target: &Target<'a>) -> &'a str {
    let field = head.host.and_then(|span| span.text(input)).unwrap_or_default();
    target.authority.unwrap_or(field)
}

fn is_address(name: &str) -> bool {
    let six = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    match six {
        Some(six) => six.parse::<Ipv6Addr>().is_ok(),
        None => name.parse::<Ipv4Addr>().is_ok(),
    }
}

/// Cookies ignore ports (RFC 6265 §8.5), so the port is part of the name.
fn cookie_name(authority: &str) -> String {
    let port = authority[target::host_name(authority).len()..].trim_start_matches(':');
    format!("sidestream-read-{}", if port.is_empty() { "default" } else { port })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::head::{self, HeadLimits};

    const OURS: Peer = Peer::Local { uid: 1000 };

    fn admit(request: &str, peer: Peer) -> u16 {
        let access = Access { own_uid: 1000, trusted_uids: vec![33], ..Access::default() };
        ask(&access, request, |access, head, input, target| {
            access.admit(head, input, target, peer).map_or_else(|no| no.status.0, |()| 200)
        })
    }

    fn ask<T>(
        access: &Access,
        request: &str,
        question: impl FnOnce(&Access, &Head, &[u8], &Target<'_>) -> T,
    ) -> T {
        let limits = HeadLimits { size_max: 16_384, fields_max: 100 };
        let input = request.replace('\n', "\r\n").into_bytes();
        let head = head::parse(&input, &mut 0, &limits).unwrap().expect("a whole head");
        let target = target::parse(head.method, head.target.of(&input)).unwrap();
        question(access, &head, &input, &target)
    }

    /// One token of each scope, a public URL and an allowed origin.
    fn guarded() -> Access {
        let line = |name, scope| tokens::line(name, scope, name).unwrap();
        let text = [line("eye", Scope::Read), line("me", Scope::Full)].concat();
        let mut tokens = Tokens::parse(&text).unwrap();
        tokens.show_cookie(1, b"me").unwrap();
        Access {
            own_uid: 1000,
            tokens,
            public: Some(PublicUrl {
                origin: "https://claude.example".into(),
                host: "claude.example".into(),
            }),
            allowed_origins: vec!["https://app.example".into()],
            read_cookie: true,
            trusted_proxies: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            ..Access::default()
        }
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
    fn where_people_find_us_only_that_scheme_is_ours() {
        for (origin, want) in [
            ("https://claude.example", 200),
            ("http://claude.example", 403),
            ("https://claude.example:8443", 403),
            ("https://app.example", 200),
        ] {
            let request = format!("POST / HTTP/1.1\nHost: claude.example\nOrigin: {origin}\n\n");
            let told = ask(&guarded(), &request, |access, head, input, target| {
                access.admit(head, input, target, OURS).map_or_else(|no| no.status.0, |()| 200)
            });
            assert_eq!(told, want, "{origin}");
        }
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

    #[test]
    fn with_tokens_the_walls_against_hosts_and_pages_stand_and_proxies_pass() {
        let access = guarded();
        for (fields, want) in [
            ("Host: claude.example", 200),
            ("Host: Claude.Example:443", 200),
            ("Host: 192.168.1.7:3010", 200),
            ("Host: [fe80::1]:3010", 200),
            ("Host: localhost\nX-Forwarded-For: 1.2.3.4\nVia: 1.1 x", 200),
            ("Host: evil.example", 421),
            ("Host: claude.example.", 421),
            ("Host: 2130706433", 421),
            ("Host: a.claude.example", 421),
            ("Host: localhost\nOrigin: https://claude.example", 200),
            ("Host: localhost\nOrigin: https://claude.example\nSec-Fetch-Site: same-site", 200),
            ("Host: localhost\nOrigin: http://claude.example", 403),
            ("Host: localhost\nOrigin: https://app.example", 200),
            ("Host: localhost\nOrigin: https://app.example\nSec-Fetch-Site: cross-site", 200),
            ("Host: localhost\nOrigin: https://app.example:8443", 403),
            ("Host: localhost\nOrigin: https://APP.example", 403),
            ("Host: localhost\nOrigin: https://app.example.evil.example", 403),
            ("Host: localhost\nOrigin: null\nSec-Fetch-Site: cross-site", 403),
            ("Host: localhost\nSec-Fetch-Site: cross-site", 403),
        ] {
            let peers = [Peer::Unknown, Peer::Local { uid: 33 }];
            for peer in peers {
                let request = format!("POST / HTTP/1.1\n{fields}\n\n");
                let told = ask(&access, &request, |access, head, input, target| {
                    access.admit(head, input, target, peer).map_or_else(|no| no.status.0, |()| 200)
                });
                assert_eq!(told, want, "{fields}");
            }
        }
    }

    #[test]
    fn a_token_names_its_caller_and_every_other_one_gets_the_same_answer() {
        let access = guarded();
        let caller = |fields: &str| {
            let request = format!("GET / HTTP/1.1\nHost: localhost:3010\n{fields}\n\n");
            ask(&access, &request, |access, head, input, target| {
                access.caller(head, input, target).map(|it| (it.by.to_owned(), it.scope))
            })
        };
        let told = |name: &str, scope| Ok((name.to_owned(), scope));
        assert_eq!(caller("Authorization: Bearer eye"), told("eye", Scope::Read));
        assert_eq!(caller("Authorization: bearer me"), told("me", Scope::Full));
        let value = tokens::cookie(b"me");
        let cookie = format!("Cookie: sidestream-read-3010={value}");
        assert_eq!(caller(&cookie), told("me", Scope::Read), "a cookie reads, whoever it is of");
        let refused = caller("X: y").unwrap_err();
        assert_eq!(refused.status, Status::UNAUTHORIZED);
        assert!(refused.challenge.as_deref().unwrap().starts_with("Bearer"));
        for fields in [
            "Authorization: Bearer you",
            "Authorization: Bearer",
            "Authorization: Basic bWU6bWU=",
            "Cookie: sidestream-read-3010=me",
            &cookie.replace("3010", "3011"),
            &format!("Authorization: Bearer no\n{cookie}"),
        ] {
            assert_eq!(caller(fields), Err(refused.clone()), "{fields}");
        }
        let reach =
            |scope, needs| Access::reach(Caller { by: "x", scope, token: 1 }, needs).is_ok();
        assert!(reach(Scope::Full, Scope::Answer) && reach(Scope::Answer, Scope::Read));
        assert!(!reach(Scope::Read, Scope::Answer) && !reach(Scope::Answer, Scope::Full));
    }

    #[test]
    fn an_address_is_taken_from_a_trusted_proxy_only_and_the_last_hop_counts() {
        let access = guarded();
        let local = Peer::Local { uid: 33 };
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        for (field, peer, want) in [
            ("1.2.3.4", local, Some("1.2.3.4")),
            ("9.9.9.9, 1.2.3.4", local, Some("1.2.3.4")),
            ("9.9.9.9, 1.2.3.4:56789", local, Some("1.2.3.4")),
            ("::ffff:1.2.3.4", local, Some("1.2.3.4")),
            ("[2001:db8::1]:443", local, Some("2001:db8::1")),
            ("evil\nX-Forwarded-For: 1.2.3.4", local, Some("1.2.3.4")),
            ("2001:db8::1", local, Some("2001:db8::1")),
            ("[2001:db8::1]", local, Some("2001:db8::1")),
            ("1.2.3.4, unknown", local, None),
            ("1.2.3.4", Peer::Unknown, None),
            ("1.2.3.4", Peer::Remote { address: address("10.0.0.1") }, None),
        ] {
            let request = format!("GET / HTTP/1.1\nHost: localhost\nX-Forwarded-For: {field}\n\n");
            let told = ask(&access, &request, |access, head, input, _| {
                access.reported_address(head, input, peer)
            });
            assert_eq!(told, want.map(address), "{field}");
        }
    }
}
