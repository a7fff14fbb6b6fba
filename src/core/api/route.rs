//! What there is: every path, what may be done with it, and how far a token must reach for that.
//!
//! One table. `docs/openapi.yaml` describes the same paths, and a test holds the two together.

use super::*;
use crate::limits::OPEN_BODY_SIZE_MAX;

/// Methods of what is only read.
const GET: &[Method] = &[Method::Get, Method::Head];
const POST: &[Method] = &[Method::Post];

/// What a request names.
pub(super) enum Route<'a> {
    Sessions,
    Session(&'a str),
    Fork(&'a str),
    Archive(&'a str, bool),
    Directories,
    Status(&'a str),
    Context(&'a str),
    Events(&'a str),
    EventsStatus(&'a str),
    Poll(&'a str),
    AllPoll,
    History(&'a str),
    Event(&'a str, &'a str),
    Prompt(&'a str),
    Interrupt(&'a str),
    Queue(&'a str),
    Queued(&'a str, &'a str),
    Approvals(&'a str),
    Approval(&'a str, &'a str),
    ApprovalInput(&'a str, &'a str),
    AllEvents,
    Metrics,
    Scrape,
    Stats,
    Capabilities,
    Agents,
    Health,
    Ready,
    Login,
    Ticket,
    OldWebSocket,
    /// The base path without its slash, where relative links would lead beside it.
    Base,
    Page(&'static Document),
}

/// The ids that a path names, in their order; those that it does not have are empty.
type Ids<'a> = [&'a str; 2];

/// One path: its segments, `{}` for an id, what may be done with it, and what it is.
struct Entry {
    path: &'static [&'static str],
    methods: &'static [Method],
    route: for<'a> fn(Ids<'a>) -> Route<'a>,
}

const fn entry(
    path: &'static [&'static str],
    methods: &'static [Method],
    route: for<'a> fn(Ids<'a>) -> Route<'a>,
) -> Entry {
    Entry { path, methods, route }
}

/// All paths but those of pages. `session` is also spelled `sessions`.
static ROUTES: [Entry; 33] = [
    entry(&["health"], GET, |_| Route::Health),
    entry(&["ready"], GET, |_| Route::Ready),
    entry(&["metrics"], GET, |_| Route::Scrape),
    entry(&["ticket"], &[Method::Get, Method::Head, Method::Post], |_| Route::Ticket),
    // The seed's spelling, which only creates.
    entry(&["claude", "api", "claude", "sessions"], POST, |_| Route::Sessions),
    entry(&["claude", "api", "claude", "chat"], GET, |_| Route::OldWebSocket),
    entry(&["api", "session"], &[Method::Get, Method::Head, Method::Post], |_| Route::Sessions),
    entry(
        &["api", "session", "{}"],
        &[Method::Get, Method::Head, Method::Patch, Method::Delete],
        |[id, _]| Route::Session(id),
    ),
    entry(&["api", "session", "{}", "prompt"], POST, |[id, _]| Route::Prompt(id)),
    entry(&["api", "session", "{}", "events"], GET, |[id, _]| Route::Events(id)),
    entry(&["api", "session", "{}", "events", "status"], GET, |[id, _]| Route::EventsStatus(id)),
    entry(&["api", "session", "{}", "events", "poll"], GET, |[id, _]| Route::Poll(id)),
    entry(&["api", "session", "{}", "events", "{}"], GET, |[id, event]| Route::Event(id, event)),
    entry(&["api", "session", "{}", "history"], GET, |[id, _]| Route::History(id)),
    entry(&["api", "session", "{}", "status"], GET, |[id, _]| Route::Status(id)),
    entry(&["api", "session", "{}", "context"], GET, |[id, _]| Route::Context(id)),
    entry(&["api", "session", "{}", "queue"], GET, |[id, _]| Route::Queue(id)),
    entry(&["api", "session", "{}", "queue", "{}"], &[Method::Delete], |[id, prompt]| {
        Route::Queued(id, prompt)
    }),
    entry(&["api", "session", "{}", "interrupt"], POST, |[id, _]| Route::Interrupt(id)),
    entry(&["api", "session", "{}", "approvals"], GET, |[id, _]| Route::Approvals(id)),
    entry(&["api", "session", "{}", "approvals", "{}"], POST, |[id, approval]| {
        Route::Approval(id, approval)
    }),
    entry(&["api", "session", "{}", "approvals", "{}", "input"], GET, |[id, approval]| {
        Route::ApprovalInput(id, approval)
    }),
    entry(&["api", "session", "{}", "fork"], POST, |[id, _]| Route::Fork(id)),
    entry(&["api", "session", "{}", "archive"], POST, |[id, _]| Route::Archive(id, true)),
    entry(&["api", "session", "{}", "unarchive"], POST, |[id, _]| Route::Archive(id, false)),
    entry(&["api", "events"], GET, |_| Route::AllEvents),
    entry(&["api", "events", "poll"], GET, |_| Route::AllPoll),
    entry(&["api", "debug", "metrics"], GET, |_| Route::Metrics),
    entry(&["api", "sse", "stats"], GET, |_| Route::Stats),
    entry(&["api", "capabilities"], GET, |_| Route::Capabilities),
    entry(&["api", "agents"], GET, |_| Route::Agents),
    entry(&["api", "directories"], GET, |_| Route::Directories),
    entry(&["api", "login"], &[Method::Post, Method::Delete], |_| Route::Login),
];

impl Entry {
    /// The ids, if the segments are this path's.
    fn matches<'a>(&self, segments: &[&'a str]) -> Option<Ids<'a>> {
        if segments.len() != self.path.len() {
            return None;
        }
        let (mut ids, mut count) = ([""; 2], 0);
        for (&segment, &expected) in segments.iter().zip(self.path) {
            if expected == "{}" {
                ids[count] = segment;
                count += 1;
            } else if segment != expected && (expected, segment) != ("session", "sessions") {
                return None;
            }
        }
        Some(ids)
    }
}

impl<'a> Route<'a> {
    /// What a path names, given by its decoded segments, and what may be done with it.
    pub(super) fn find(segments: &[&'a str]) -> Option<Found<'a>> {
        for entry in &ROUTES {
            if let Some(ids) = entry.matches(segments) {
                return Some(Found { route: (entry.route)(ids), methods: entry.methods });
            }
        }
        let page = pages::find(&format!("/{}", segments.join("/")))?;
        Some(Found { route: Route::Page(page), methods: GET })
    }

    /// The session that it is about, if it is about one.
    pub(super) fn session(&self) -> Option<&'a str> {
        match self {
            Route::Session(id)
            | Route::Fork(id)
            | Route::Archive(id, _)
            | Route::Status(id)
            | Route::Context(id)
            | Route::Events(id)
            | Route::EventsStatus(id)
            | Route::Poll(id)
            | Route::History(id)
            | Route::Event(id, _)
            | Route::Prompt(id)
            | Route::Interrupt(id)
            | Route::Queue(id)
            | Route::Queued(id, _)
            | Route::Approvals(id)
            | Route::Approval(id, _)
            | Route::ApprovalInput(id, _) => Some(id),
            _ => None,
        }
    }

    /// How far a token must reach; none where nobody is asked for one.
    pub(super) fn scope(&self, method: Method) -> Option<Scope> {
        match (self, method) {
            (Route::Health | Route::Ready | Route::Login | Route::Base | Route::Page(_), _) => None,
            (Route::Ticket, _) => None, // It is its own authority.
            (_, Method::Get | Method::Head | Method::Options) => Some(Scope::Read),
            (Route::Approval(..), _) => Some(Scope::Answer),
            _ => Some(Scope::Full),
        }
    }

    /// The largest body that it takes, in bytes, where that is less than what others may be: whoever has
    /// not shown a token holds no room that others need.
    pub(super) fn body_size_max(&self, method: Method) -> Option<usize> {
        self.scope(method).is_none().then_some(OPEN_BODY_SIZE_MAX)
    }

    pub(super) fn is_stream(&self) -> bool {
        matches!(self, Route::Events(_) | Route::AllEvents)
    }
}

/// What a path names, and the methods that it takes.
pub(super) struct Found<'a> {
    pub(super) route: Route<'a>,
    pub(super) methods: &'static [Method],
}

impl Found<'_> {
    /// The base path without its slash.
    pub(super) const BASE: Found<'static> = Found { route: Route::Base, methods: GET };
}

/// Every path with the methods that it takes, ids written as `{}`: what the description of the API
/// is held against. Pages come last.
pub fn paths() -> impl Iterator<Item = (String, &'static [Method])> {
    let routes = ROUTES.iter().map(|entry| (format!("/{}", entry.path.join("/")), entry.methods));
    routes.chain(pages::PAGES.iter().map(|page| (page.path.to_owned(), GET)))
}

/// A page of ours that would be hidden below this base path: with it before its name, it is a path of
/// ours as well, and another one. Every path that can hide anything hides one of these.
pub fn hidden_below(base: &str) -> Option<&'static str> {
    ["health", "login", "sessions"].into_iter().find(|page| {
        let segments: Vec<&str> = base.split('/').skip(1).chain([*page]).collect();
        !base.is_empty() && Route::find(&segments).is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_path_below_which_something_is_hidden_is_known() {
        for (base, hidden) in [
            ("", None),
            ("/claude", None),
            ("/tools/claude", None),
            ("/js", None),
            ("/session", Some("health")),
            ("/api", Some("login")),
            ("/api/session", Some("health")),
            ("/api/session/a/events", Some("health")),
            ("/api/session/a", None),
            ("/claude/api/claude", Some("sessions")),
            ("/api/v2", None),
        ] {
            assert_eq!(hidden_below(base), hidden, "{base}");
            // Not one of the paths that there are says otherwise.
            let of_any = paths().map(|(path, _)| path).filter(|path| path != "/").any(|path| {
                let whole = format!("{base}{path}");
                Route::find(&whole.split('/').skip(1).collect::<Vec<_>>()).is_some()
            });
            assert!(base.is_empty() || of_any == hidden.is_some(), "{base}");
        }
    }

    #[test]
    fn no_path_hides_another() {
        for (at, entry) in ROUTES.iter().enumerate() {
            let first = ROUTES.iter().position(|other| other.matches(entry.path).is_some());
            assert_eq!(first, Some(at), "{:?}", entry.path);
        }
    }

    #[test]
    fn both_spellings_of_session_are_one_and_no_other_word_is() {
        for (path, named) in [
            (&["api", "session", "a", "queue", "b"][..], true),
            (&["api", "sessions", "a", "queue", "b"], true),
            (&["api", "sessions"], true),
            (&["api", "sessionss"], false),
            (&["API", "session"], false),
            (&["api", "session", "a", "queue", "b", "c"], false),
            (&[], false),
        ] {
            let found = Route::find(path).map(|found| found.route);
            let is_page = matches!(found, None | Some(Route::Page(_)));
            assert_eq!(!is_page, named, "{path:?}");
        }
        let Some(found) = Route::find(&["api", "sessions", "a", "queue", "b"]) else {
            panic!("it is named");
        };
        assert!(matches!(found.route, Route::Queued("a", "b")));
    }
}
