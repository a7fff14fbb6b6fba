//! Refusals: a status, a word for programs, a sentence for people.

use super::*;
use crate::limits::OPEN_BODY_SIZE_MAX;

/// An answer that says what is wrong.
pub(super) struct Problem {
    pub(super) status: Status,
    pub(super) code: Cow<'static, str>,
    pub(super) sentence: String,
    pub(super) fields: Vec<(&'static str, String)>,
    /// A member that says more, and its JSON.
    pub(super) detail: Option<(&'static str, String)>,
    /// The limit that was met, if one was.
    pub(super) limit: Option<Limit>,
}

impl Problem {
    pub(super) fn new(
        status: Status,
        code: impl Into<Cow<'static, str>>,
        sentence: impl Into<String>,
    ) -> Problem {
        let (code, sentence) = (code.into(), sentence.into());
        Problem { status, code, sentence, fields: Vec::new(), detail: None, limit: None }
    }

    pub(super) fn bad(code: &'static str, sentence: impl Into<String>) -> Problem {
        Problem::new(Status::BAD_REQUEST, code, sentence)
    }

    pub(super) fn conflict(code: &'static str, sentence: impl Into<String>) -> Problem {
        Problem::new(Status::CONFLICT, code, sentence)
    }

    /// For a limit that was met.
    pub(super) fn limited(limit: Limit, sentence: impl Into<String>) -> Problem {
        let mut problem = Problem::new(limit.status(), limit.code(), sentence);
        problem.fields.push(("Retry-After", RETRY_AFTER_S.to_owned()));
        problem.limit = Some(limit);
        problem
    }

    /// The same where it is known in how many seconds it is worth another try.
    pub(super) fn limited_for(limit: Limit, wait_s: u64, sentence: &str) -> Problem {
        let mut problem = Problem::limited(limit, sentence);
        problem.fields = vec![("Retry-After", wait_s.to_string())];
        problem
    }

    /// For what cannot be done now, by anybody.
    pub(super) fn unavailable(code: &'static str, sentence: impl Into<String>) -> Problem {
        let mut problem = Problem::new(Status::SERVICE_UNAVAILABLE, code, sentence);
        problem.fields.push(("Retry-After", RETRY_AFTER_S.to_owned()));
        problem
    }

    pub(super) fn open_body_too_large() -> Problem {
        let mut problem = Problem::from(BadRequest::BodyTooLarge);
        problem.sentence =
            format!("a request for this may have a body of {OPEN_BODY_SIZE_MAX} bytes at the most");
        problem
    }

    pub(super) fn session_stopping() -> Problem {
        Problem::conflict("session_stopping", "the session is being deleted")
    }

    pub(super) fn draining() -> Problem {
        Problem::unavailable("draining", "the server is shutting down")
    }

    pub(super) fn session_not_found(id: &str) -> Problem {
        let shown: String = id.chars().take(80).collect();
        let sentence = format!("there is no session \"{shown}\"");
        Problem::new(Status::NOT_FOUND, "session_not_found", sentence)
    }
}

impl From<BadRequest> for Problem {
    fn from(bad: BadRequest) -> Problem {
        let mut problem = Problem::new(bad.status(), bad.code(), bad.sentence());
        problem.limit = match bad {
            BadRequest::RequestLineTooLong | BadRequest::HeadTooLarge => Some(Limit::HeadSize),
            BadRequest::TooManyFields => Some(Limit::HeadFields),
            BadRequest::BodyTooLarge => Some(Limit::BodySize),
            _ => None,
        };
        if bad.status() == Status::METHOD_NOT_ALLOWED {
            problem.fields.push(("Allow", head::ALLOW.to_owned()));
        }
        problem
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        let mut problem = Problem::new(refusal.status, refusal.code, refusal.sentence);
        if let Some(challenge) = refusal.challenge {
            problem.fields.push(("WWW-Authenticate", challenge));
        }
        problem
    }
}
