//! The pages that the binary carries: their paths, types and tags.
//!
//! They are carried packed, and sent so to whoever takes it: a phone loads a fifth of the bytes. Who
//! does not say that it takes gzip gets them unpacked.

use std::sync::OnceLock;

/// A page or script.
pub struct Page {
    /// The path that serves it.
    pub path: &'static str,
    /// Its media type.
    pub content_type: &'static str,
    /// Its bytes, as one gzip member (RFC 1952).
    pub packed: &'static [u8],
    /// What its entity tags begin with (RFC 9110, section 8.8.3): a hash of its bytes.
    pub etag: u64,
    /// Its bytes unpacked, once somebody has wanted them so.
    plain: OnceLock<Box<[u8]>>,
}

/// A gzip member's header and trailer, in bytes: ours have neither a name nor anything else.
const GZIP_HEADER_SIZE: usize = 10;
const GZIP_TRAILER_SIZE: usize = 8;

impl Page {
    /// Its bytes, unpacked.
    pub fn plain(&self) -> &[u8] {
        self.plain.get_or_init(|| {
            let deflated = &self.packed[GZIP_HEADER_SIZE..self.packed.len() - GZIP_TRAILER_SIZE];
            let plain = miniz_oxide::inflate::decompress_to_vec(deflated);
            plain.expect("what the build packed is whole").into()
        })
    }
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const PICTURE: &str = "image/svg+xml";
const SCHEMA: &str = "application/json";
const YAML: &str = "application/yaml";
const STYLE: &str = "text/css; charset=utf-8";

macro_rules! pages {
    ($($path:literal $content_type:ident $file:literal)*) => {
        [$(page($path, $content_type, include_bytes!(concat!(env!("OUT_DIR"), "/", $file)))),*]
    };
}

/// All of them.
pub static PAGES: [Page; 29] = pages! {
    "/" HTML "index.html"
    "/sessions" HTML "index.html"
    "/session" HTML "session.html"
    "/login" HTML "login.html"
    "/test-sse.html" HTML "test-sse.html"
    "/js/app.js" SCRIPT "app.js"
    "/js/approvals.js" SCRIPT "approvals.js"
    "/js/composer.js" SCRIPT "composer.js"
    "/js/diff.js" SCRIPT "diff.js"
    "/js/dom.js" SCRIPT "dom.js"
    "/js/login.js" SCRIPT "login.js"
    "/js/markdown.js" SCRIPT "markdown.js"
    "/js/notify.js" SCRIPT "notify.js"
    "/js/pieces.js" SCRIPT "pieces.js"
    "/js/pump.js" SCRIPT "pump.js"
    "/js/words.js" SCRIPT "words.js"
    "/js/server.js" SCRIPT "server.js"
    "/js/session.js" SCRIPT "session.js"
    "/js/sessions.js" SCRIPT "sessions.js"
    "/js/test-sse.js" SCRIPT "test-sse.js"
    "/js/timeline.js" SCRIPT "timeline.js"
    "/js/tools.js" SCRIPT "tools.js"
    "/js/visible.js" SCRIPT "visible.js"
    "/js/session-event-stream.js" SCRIPT "session-event-stream.js"
    "/js/session-event-stream.mjs" SCRIPT "session-event-stream.mjs"
    "/style.css" STYLE "style.css"
    "/favicon.svg" PICTURE "favicon.svg"
    "/api/events.schema.json" SCHEMA "events.schema.json"
    "/openapi.yaml" YAML "openapi.yaml"
};

/// The page at a path. `/session/…` is one page for all sessions; it lies a step deeper than the
/// others, so its links begin with `../`. All links are relative: whatever path a proxy puts before
/// ours, they hold.
pub fn find(path: &str) -> Option<&'static Page> {
    let path = if path.strip_prefix("/session/").is_some_and(|id| !id.contains('/')) {
        "/session"
    } else {
        path
    };
    PAGES.iter().find(|page| page.path == path)
}

impl Page {
    /// Its entity tag, plain or packed: two codings are two representations (RFC 9110 §8.8.3).
    pub fn tag(&self, packed: bool) -> String {
        format!("\"{:016x}{}\"", self.etag, if packed { "-gzip" } else { "" })
    }

    /// Whether an `If-Match` names one of its tags, by the strong comparison (RFC 9110 §8.8.3.2).
    pub fn is_among(&self, tags: &[u8]) -> bool {
        let own = [self.tag(false), self.tag(true)];
        tags.split(|&byte| byte == b',')
            .map(<[u8]>::trim_ascii)
            .any(|tag| own.iter().any(|own| own.as_bytes() == tag))
    }
}

const fn page(path: &'static str, content_type: &'static str, packed: &'static [u8]) -> Page {
    Page { path, content_type, packed, etag: hash(packed), plain: OnceLock::new() }
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

    /// The pages are read by people and carried by every binary.
    const PAGES_SIZE_MAX: usize = 100 * 1024;

    #[test]
    fn every_link_of_a_page_leads_to_a_page_from_where_it_stands() {
        for (at, depth) in [("/", 0), ("/session/session-1", 1), ("/login", 0)] {
            let text = String::from_utf8(find(at).unwrap().plain().to_vec()).unwrap();
            let links = ["href=\"", "src=\""].map(|name| text.split(name).skip(1)).into_iter();
            let links: Vec<&str> =
                links.flatten().map(|rest| rest.split('"').next().unwrap()).collect();
            assert!(!links.is_empty(), "{at}");
            for link in links.into_iter().filter(|link| !link.starts_with('#')) {
                let (link, _) = link.split_once('#').unwrap_or((link, ""));
                let steps = link.matches("../").count();
                let file = link.trim_start_matches("../").trim_start_matches("./");
                assert_eq!(steps, depth, "{at}: {link}");
                assert!(find(&format!("/{file}")).is_some(), "{at}: {link}");
            }
        }
    }

    #[test]
    fn no_page_links_to_an_absolute_path_or_another_host() {
        for page in PAGES.iter().filter(|page| page.content_type == HTML) {
            let text = String::from_utf8(page.plain().to_vec()).unwrap();
            for start in
                ["href=\"/", "src=\"/", "=\"http", "<style", " style=", "<script>", " onclick"]
            {
                assert!(!text.contains(start), "{}: {start}", page.path);
            }
        }
    }

    #[test]
    fn every_module_that_a_script_imports_is_served() {
        for page in PAGES.iter().filter(|page| page.content_type == SCRIPT) {
            let text = String::from_utf8(page.plain().to_vec()).unwrap();
            for part in text.split("from './").skip(1) {
                let name = part.split('\'').next().unwrap();
                assert!(find(&format!("/js/{name}")).is_some(), "{}: {name}", page.path);
            }
        }
    }

    #[test]
    fn the_pages_stay_small() {
        let size: usize = PAGES.iter().map(|page| page.packed.len()).sum();
        assert!(size < PAGES_SIZE_MAX, "{size} bytes of pages");
    }

    #[test]
    fn the_schema_describes_every_event_and_no_other() {
        let page = find("/api/events.schema.json").unwrap();
        let schema: serde_json::Value = serde_json::from_slice(page.plain()).unwrap();
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
