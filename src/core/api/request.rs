//! A request, taken apart: its parameters, and its body as JSON.

use super::*;
use crate::limits::{BODY_VALUES_MAX, NAME_LENGTH_MAX};
use crate::wire::json::Members;

/// What a `PATCH` may be written in (RFC 5789 §3.1).
pub(super) const ACCEPT_PATCH: (&str, &str) = ("Accept-Patch", "application/json");

/// A request, taken apart.
pub(super) struct Request<'a> {
    pub(super) connection: Key,
    pub(super) head: Head,
    pub(super) input: &'a [u8],
    pub(super) body: &'a [u8],
    pub(super) target: Target<'a>,
    pub(super) peer: Peer,
    /// Who asks, by name.
    pub(super) by: Cow<'static, str>,
    /// How far they may go.
    pub(super) scope: Scope,
    /// What the kernel says about that, if it was asked.
    pub(super) asker: Asking,
}

/// A number as it is written in a query: digits alone.
pub(super) fn whole_number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

impl<'a> Request<'a> {
    pub(super) fn text(&self, span: Option<Span>) -> Option<&'a str> {
        span.and_then(|span| span.text(self.input))
    }

    /// A whole number of the query, within bounds.
    pub(super) fn number(
        &self,
        name: &'static str,
        bounds: std::ops::RangeInclusive<u64>,
    ) -> Result<Option<u64>, Problem> {
        let Some(text) = self.parameter(name)? else { return Ok(None) };
        let number = whole_number(&text).filter(|number| bounds.contains(number));
        number.map(Some).ok_or_else(|| {
            let (least, most) = (bounds.start(), bounds.end());
            let sentence = format!("\"{name}\" must be a number from {least} to {most}");
            Problem::bad("invalid_value", sentence)
        })
    }

    /// A cursor of the query, if there is one. What cannot be read is a cursor that nobody knows:
    /// any other answer than a stream that says so would end a browser's for good.
    pub(super) fn cursor(&self, name: &str) -> Result<Option<Vec<u8>>, Problem> {
        match self.target.parameter(name) {
            Ok(text) => {
                Ok(text.filter(|text| !text.is_empty()).map(|text| text.as_bytes().to_vec()))
            }
            Err(BadRequest::Parameter) => Ok(Some(Vec::new())),
            Err(bad) => Err(bad.into()),
        }
    }

    pub(super) fn parameter(&self, name: &str) -> Result<Option<Cow<'a, str>>, Problem> {
        self.target.parameter(name).map_err(Problem::from)
    }

    /// Refuses a change whose body is anything but JSON as it stands: only that makes a browser ask
    /// first on behalf of a page of another origin. By the head alone, before the body is read.
    pub(super) fn check_media_type(&self) -> Result<(), Problem> {
        let bare = matches!(self.head.framing, Framing::None | Framing::Length(0));
        if bare && self.head.content_type.is_none() {
            return Ok(());
        }
        let media_type = self.text(self.head.content_type).unwrap_or_default();
        let essence = media_type.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            let sentence = "the body must be sent as Content-Type: application/json";
            let mut problem = Problem::new(Status::UNSUPPORTED_MEDIA_TYPE, "not_json", sentence);
            let (name, value) = match self.head.method {
                Method::Patch => ACCEPT_PATCH,
                _ => ("Accept", "application/json"), // RFC 9110 §12.5.1.
            };
            problem.fields.push((name, value.to_owned()));
            return Err(problem);
        }
        let coding = self.head.content_encoding;
        let coding = coding.map_or("identity", |span| span.text(self.input).unwrap_or("?"));
        if !coding.eq_ignore_ascii_case("identity") {
            let sentence = "the body must be sent without a Content-Encoding";
            let mut problem =
                Problem::new(Status::UNSUPPORTED_MEDIA_TYPE, "unknown_content_encoding", sentence);
            problem.fields.push(("Accept-Encoding", "identity".to_owned())); // RFC 9110 §12.5.3.
            return Err(problem);
        }
        Ok(())
    }

    /// The body as a JSON object. An empty body is an empty object.
    pub(super) fn json(&self) -> Result<Value, Problem> {
        if self.body.is_empty() {
            return Ok(Value::Object(serde_json::Map::new()));
        }
        if json::count_values(self.body) > BODY_VALUES_MAX {
            let sentence = format!("the body holds more than {BODY_VALUES_MAX} values");
            return Err(Problem::bad("too_many_values", sentence));
        }
        let invalid = |sentence| Problem::bad("invalid_body", sentence);
        match json::object_of(self.body) {
            Ok(Members::Once(object)) => Ok(Value::Object(object)),
            Ok(Members::Doubled(name)) => {
                let name: String = name.chars().take(NAME_LENGTH_MAX).collect();
                Err(invalid(format!(
                    "the body has two members \"{name}\", and only one can be meant"
                )))
            }
            Ok(Members::None) => Err(invalid("the body must be a JSON object".to_owned())),
            Err(error) => {
                let sentence = format!("the body is not JSON: {error}");
                Err(Problem::bad("invalid_json", sentence))
            }
        }
    }
}
