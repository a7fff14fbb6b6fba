//! The page behind a notification's link: it shows one approval, and its button answers it.
//!
//! The ticket is the authority, so no token is asked for; the walls about hosts and origins stand, and
//! so does the one that keeps agents from answering themselves. Looking answers nothing: what fetches
//! links to make previews of them decides nothing. Only a POST does, once.

use super::*;
use crate::core::tickets::{Miss, Ticket};

/// Who is said to have decided.
const BY: &str = "ticket";
/// The largest approval that the page shows, in bytes: what is made visible may take six times that.
const SHOWN_MAX: usize = crate::limits::LIST_SIZE / 6;

impl Server {
    pub(super) fn answer_by_ticket(&mut self, request: &Request<'_>) -> Outcome {
        let text = request.parameter("t")?.unwrap_or_default();
        let most = self.limits.ticket_misses_max as usize;
        let ticket = self.tickets.find(&text, self.now_ms, most).map_err(missed)?;
        let key = self.by_id.find(&self.sessions, &ticket.session_id);
        let session = key.and_then(|key| self.sessions.get(key));
        let Some((key, session)) = key.zip(session) else {
            return Ok(over("the session is closed"));
        };
        let open = session.approvals.find(&ticket.approval_id);
        if open.is_none_or(|open| open.input_hash != ticket.input_hash) {
            let decided = session.approvals.decided(&ticket.approval_id);
            return Ok(over(match decided.map(|decided| decided.decision) {
                Some("allow") => "this was allowed",
                Some("deny") => "this was denied",
                _ => "the agent no longer asks",
            }));
        }
        if open.is_some_and(|open| open.size() > SHOWN_MAX) {
            // Nobody answers what he was not shown.
            let sentence = "<p>This is too large for this page: answer it in the session.</p>";
            let body = html("too large", sentence);
            return Ok(Reply::Html { status: Status::OK, after: None, body });
        }
        if !matches!(request.head.method, Method::Post) {
            let name = session.unusual.name.as_deref().unwrap_or(session.id());
            let dir = session.working_dir.to_string_lossy();
            let page = open.map(|open| page(&ticket, name, &dir, open)).unwrap_or_default();
            return Ok(Reply::Html { status: Status::OK, after: None, body: page });
        }
        let answer = Answer { allow: ticket.allow, ..Answer::default() };
        self.decide(key, &ticket.approval_id, &answer, Some(&ticket.input_hash), BY)?;
        let told = if ticket.allow { "allowed" } else { "denied" };
        let body = html(told, &format!("<p>This was {told}.</p>"));
        Ok(Reply::Html { status: Status::OK, after: Some(self.publisher.seq()), body })
    }
}

fn missed(miss: Miss) -> Problem {
    match miss {
        Miss::Unknown => {
            let sentence = "this link answers nothing: it is too old, or was never one";
            Problem::new(Status::NOT_FOUND, "ticket_unknown", sentence)
        }
        Miss::TooMany(wait_s) => {
            let sentence = "too many links were wrong; try again in a minute";
            Problem::limited_for(Limit::TicketMisses, wait_s, sentence)
        }
    }
}

/// For an approval that is no longer open.
fn over(sentence: &str) -> Reply {
    let body =
        html("nothing to answer", &format!("<p>There is nothing to answer: {sentence}.</p>"));
    Reply::Html { status: Status::GONE, after: None, body }
}

/// The approval, and the one button that the ticket is for.
fn page(
    ticket: &Ticket,
    session: &str,
    dir: &str,
    open: &crate::core::approvals::Approval,
) -> String {
    let input = match serde_json::from_str::<Value>(&open.input) {
        Ok(input) => input,
        Err(_) => Value::String(open.input.clone()),
    };
    let mut members = String::new();
    match &input {
        Value::Object(object) => {
            for (name, value) in object {
                let shown = value.as_str().map_or_else(|| json::text(value), str::to_owned);
                members += &format!("<dt>{}</dt><dd><pre>{}</pre></dd>", fit(name), fit(&shown));
            }
        }
        other => members += &format!("<dd><pre>{}</pre></dd>", fit(&json::text(other))),
    }
    let word = if ticket.allow { "Allow" } else { "Deny" };
    let body = format!(
        "<p>{} in {}</p><h1>{}</h1><p>{}</p><dl>{members}</dl><p>Input {}</p>\
         <form method=\"post\"><button>{word}</button></form>",
        fit(session),
        fit(dir),
        fit(&open.tool),
        fit(&open.title),
        fit(&open.input_hash),
    );
    html(word, &body)
}

/// Text of strangers between tags: markup escaped, what cannot be seen made visible.
fn fit(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    visible::text(&mut shown, text);
    shown.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn html(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <meta name=\"robots\" content=\"noindex\"><title>sidestream: {title}</title></head>\
         <body>{body}</body></html>\n"
    )
}

/// What goes with every such page: it is kept nowhere, tells no other site where it was, runs
/// nothing, and sends its form to nobody but us. To us a browser must say where the form was: without
/// a referrer it says that its origin is `null`, and we refuse that.
pub(super) const FIELDS: [(&str, &str); 4] = [
    ("Cache-Control", "no-store"),
    ("Referrer-Policy", "same-origin"),
    ("X-Robots-Tag", "noindex"),
    (
        "Content-Security-Policy",
        "default-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_of_a_stranger_becomes_markup_or_hides() {
        assert_eq!(fit("<b a=\"x\">&amp;"), "&lt;b a=&quot;x&quot;&gt;&amp;amp;");
        assert_eq!(fit("a\u{202e}\x1bb\nc"), "a\\u{202e}\\x1bb\nc");
    }
}
