//! The pages that the binary carries: their paths, types and tags.

/// A page or script.
pub struct Page {
    /// The path that serves it.
    pub path: &'static str,
    /// Its media type.
    pub content_type: &'static str,
    /// Its bytes.
    pub bytes: &'static [u8],
    /// Its entity tag (RFC 9110, section 8.8.3), a hash of its bytes.
    pub etag: u64,
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const PICTURE: &str = "image/svg+xml";
const SCHEMA: &str = "application/json";
const STYLE: &str = "text/css; charset=utf-8";

macro_rules! pages {
    ($($path:literal $content_type:ident $file:literal)*) => {
        [$(page($path, $content_type, include_bytes!(concat!("../pages/", $file)))),*]
    };
}

/// All of them.
pub static PAGES: [Page; 14] = pages! {
    "/" HTML "index.html"
    "/sessions" HTML "index.html"
    "/session" HTML "index.html"
    "/login" HTML "login.html"
    "/test-sse.html" HTML "test-sse.html"
    "/js/app.js" SCRIPT "app.js"
    "/js/login.js" SCRIPT "login.js"
    "/js/test-sse.js" SCRIPT "test-sse.js"
    "/js/ui.js" SCRIPT "ui.js"
    "/js/session-event-stream.js" SCRIPT "session-event-stream.js"
    "/js/session-event-stream.mjs" SCRIPT "session-event-stream.mjs"
    "/style.css" STYLE "style.css"
    "/favicon.svg" PICTURE "favicon.svg"
    "/api/events.schema.json" SCHEMA "events.schema.json"
};

/// The page at a path. `/session/…` is one page for all sessions.
pub fn find(path: &str) -> Option<&'static Page> {
    let path = if path.strip_prefix("/session/").is_some_and(|id| !id.contains('/')) {
        "/session"
    } else {
        path
    };
    PAGES.iter().find(|page| page.path == path)
}

const fn page(path: &'static str, content_type: &'static str, bytes: &'static [u8]) -> Page {
    Page { path, content_type, bytes, etag: hash(bytes) }
}

/// FNV-1a: enough to tell one version of a page from the next.
const fn hash(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::event::NAMES;

    #[test]
    fn the_schema_describes_every_event_and_no_other() {
        let page = find("/api/events.schema.json").unwrap();
        let schema: serde_json::Value = serde_json::from_slice(page.bytes).unwrap();
        let described = schema["$defs"].as_object().unwrap();
        let mut names: Vec<&str> = NAMES.to_vec();
        names.push("large");
        names.sort_unstable();
        assert_eq!(described.keys().collect::<Vec<_>>(), names);
        for name in NAMES {
            assert_eq!(schema["$defs"][name]["properties"]["_eventType"]["const"], name);
        }
    }
}
