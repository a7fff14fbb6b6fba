//! Answers as bytes: JSON, pages, problems, and what every answer carries.

use super::*;

impl Server {
    pub(super) fn write_reply(
        &mut self,
        exchange: &mut Exchange,
        status: Status,
        content_type: Option<&str>,
        fields: &[(&str, &str)],
        body: &[u8],
    ) {
        if self.write_head(exchange, status, content_type, fields, body.len()) {
            exchange.out.extend_from_slice(body);
        }
    }

    /// Writes the head of a body that is too large to be held, and lets that follow.
    pub(in crate::core) fn write_large(
        &mut self,
        exchange: &mut Exchange,
        content_type: &str,
        body: Box<Tail>,
    ) {
        let fields = match body.what {
            Large::Event(_) => [("Cache-Control", "private, max-age=31536000, immutable")],
            Large::Input { .. } => [("Cache-Control", "no-store")],
        };
        let length = body.length() as usize;
        if self.write_head(exchange, Status::OK, Some(content_type), &fields, length) {
            exchange.set_tail(body);
        } else if body.holds_piece() {
            self.tails.release();
        }
    }

    /// Appends the head of a reply. Returns whether its body is to follow.
    fn write_head(
        &mut self,
        exchange: &mut Exchange,
        status: Status,
        content_type: Option<&str>,
        fields: &[(&str, &str)],
        length: usize,
    ) -> bool {
        let (version, is_head) = match exchange.has_head() {
            Some(head) => (head.version, head.method == Method::Head),
            None => (head::Version::Http11, head::begins_with_head(&exchange.input)),
        };
        let cors = self.cors_fields(exchange.origin);
        let usual = [
            ("X-Content-Type-Options", "nosniff"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("X-Request-Id", &*exchange.request_id),
        ];
        let mut all = [("", ""); FIELDS_MAX + CORS_FIELDS_MAX + 3];
        let all = gather(&mut all, &[fields, cors.as_slice(), &usual]);
        let head = ReplyHead {
            status,
            date: self.date.1.as_str(),
            content_type,
            content_length: (status != Status::NOT_MODIFIED).then_some(length as u64),
            keep_alive: !exchange.close,
            version,
            fields: all,
        };
        reply::write_head(&mut exchange.out, &head);
        self.answered(exchange, status);
        !is_head
    }

    /// Counts an answer, and tells the log of it.
    fn answered(&mut self, exchange: &Exchange, status: Status) {
        self.count_answer(status);
        if self.config.log_level >= Level::Debug {
            let mut told = request_fields(exchange);
            told.push(("status", status.0.to_string()));
            self.log(Level::Debug, "http", "answered", told);
        }
    }

    /// Counts an answer by the class of its status.
    pub(in crate::core) fn count_answer(&mut self, status: Status) {
        let class = usize::from(status.0 / 100).saturating_sub(1);
        if let Some(count) = self.counters.answers.get_mut(class) {
            *count += 1;
        }
    }

    /// What lets a page of an allowed origin read an answer, and caches tell it from the others'.
    pub(in crate::core) fn cors_fields(&self, origin: Option<usize>) -> CorsFields<'_> {
        let allowed = &self.config.access.allowed_origins;
        let vary = ("Vary", "Origin");
        match origin.and_then(|number| allowed.get(number)) {
            _ if allowed.is_empty() => CorsFields { fields: [("", ""); 3], count: 0 },
            None => CorsFields { fields: [vary, ("", ""), ("", "")], count: 1 },
            Some(origin) => {
                let exposed = "Location, Retry-After, X-Request-Id";
                let origin = ("Access-Control-Allow-Origin", &**origin);
                let fields = [vary, origin, ("Access-Control-Expose-Headers", exposed)];
                CorsFields { fields, count: 3 }
            }
        }
    }

    pub(super) fn write_json(
        &mut self,
        exchange: &mut Exchange,
        status: Status,
        fields: &[(&'static str, String)],
    ) {
        let mut json = std::mem::take(&mut self.json);
        self.write_json_of(exchange, status, fields, &json);
        json.clear();
        json.shrink_to(64 * 1024);
        self.json = json;
    }

    /// The same with this object.
    pub(super) fn write_json_of(
        &mut self,
        exchange: &mut Exchange,
        status: Status,
        fields: &[(&'static str, String)],
        json: &[u8],
    ) {
        if self.is_usual(exchange, status, fields) {
            let (date, length) = (&self.date.1, json.len() as u64);
            reply::write_usual_head(&mut exchange.out, date, length, &exchange.request_id);
            exchange.out.extend_from_slice(json);
            return self.answered(exchange, status);
        }
        // What has no entity tag is changed, but for one who wants it only if it is not there at all.
        let head = exchange.has_head().filter(|head| status == Status::OK && !changes(head.method));
        if head.is_some_and(|head| head.is_if_none_exists(&exchange.input)) {
            let fields = [("Cache-Control", "no-store")];
            return self.write_reply(exchange, Status::NOT_MODIFIED, None, &fields, &[]);
        }
        let mut all = [("Cache-Control", "no-store"); FIELDS_MAX];
        for (place, (name, value)) in all[1..].iter_mut().zip(fields) {
            *place = (*name, &**value);
        }
        let all = &all[..=fields.len()];
        self.write_reply(exchange, status, Some("application/json"), all, json);
    }

    /// Whether an answer's head is that of most.
    fn is_usual(&self, exchange: &Exchange, status: Status, fields: &[(&str, String)]) -> bool {
        let head = exchange.has_head();
        let usual = head.is_some_and(|head| {
            head.version == head::Version::Http11
                && head.method != Method::Head
                && head.if_none_match.is_none()
        });
        let open = self.config.access.allowed_origins.is_empty();
        usual && open && status == Status::OK && fields.is_empty() && !exchange.close
    }

    pub(super) fn write_problem(&mut self, exchange: &mut Exchange, problem: &Problem) {
        if let Some(limit) = problem.limit {
            self.counters.limits.hit(limit);
        }
        match problem.status {
            Status::TOO_MANY_REQUESTS | Status::SERVICE_UNAVAILABLE => self.counters.limited += 1,
            Status::UNAUTHORIZED | Status::FORBIDDEN | Status::MISDIRECTED_REQUEST => {
                self.counters.requests_refused += 1;
                self.counters.refusals.count(&problem.code);
            }
            _ => {}
        }
        self.json.clear();
        let request_id = &exchange.request_id;
        json::object(&mut self.json, |object| {
            object.bool("success", false);
            object.string("error", &problem.sentence);
            object.string("code", &problem.code);
            if let Some((name, json)) = &problem.detail {
                object.raw(name, json);
            }
            object.string("requestId", request_id);
        });
        self.write_json(exchange, problem.status, &problem.fields);
    }

    /// Tells the operator of a request that was refused or met a limit. What it asks for is told
    /// by its path alone: a query may hold what is nobody's business, and so may a body.
    pub(super) fn log_problem(&mut self, exchange: &Exchange, problem: &Problem) {
        let peer = exchange.peer;
        let (level, message) = match problem.status {
            Status::UNAUTHORIZED | Status::FORBIDDEN | Status::MISDIRECTED_REQUEST => {
                (Level::Warn, "a request was not let in")
            }
            _ if problem.limit.is_some() => (Level::Warn, "a request met a limit"),
            Status::SERVICE_UNAVAILABLE => (Level::Info, "a request came at a bad time"),
            _ => return,
        };
        if self.config.log_level >= level {
            let mut fields = request_fields(exchange);
            fields.push(match peer {
                Peer::Local { uid } => ("uid", uid.to_string()),
                Peer::Remote { address } => ("address", address.to_string()),
                Peer::Unknown => ("uid", "unknown".to_owned()),
            });
            fields.push(("status", problem.status.0.to_string()));
            fields.push(("code", problem.code.to_string()));
            fields.extend(problem.limit.map(|limit| ("limit", limit.flag().to_owned())));
            self.log(level, "http", message, fields);
        }
    }

    pub(super) fn write_page(
        &mut self,
        exchange: &mut Exchange,
        page: &'static Document,
        etag: Option<&str>,
    ) {
        let accepted = exchange.has_head().and_then(|head| head.accept_encoding);
        let accepted = accepted.and_then(|span| span.text(&exchange.input));
        let packed = accepted.is_some_and(reply::takes_gzip);
        let tag = page.tag(packed);
        let csp = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
            img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
        let mut fields =
            vec![("Cache-Control", "no-cache"), ("ETag", &*tag), ("Vary", "Accept-Encoding")];
        let matches = |etag: &str| {
            let is_ours = |one: &str| one.strip_prefix("W/").unwrap_or(one) == tag;
            etag == "*" || etag.split(',').any(|one| is_ours(one.trim()))
        };
        if etag.is_some_and(matches) {
            return self.write_reply(exchange, Status::NOT_MODIFIED, None, &fields, &[]);
        }
        fields.push(("Content-Security-Policy", csp));
        fields.push(("Referrer-Policy", "no-referrer"));
        let content_type = Some(page.content_type);
        if packed {
            fields.push(("Content-Encoding", "gzip"));
        }
        // From where it stands: strangers may ask for pages, and take them as slowly as they like.
        let body = if packed { page.packed } else { page.plain() };
        if self.write_head(exchange, Status::OK, content_type, &fields, body.len()) {
            exchange.set_page(body);
        }
    }

    /// Answers what was no request.
    pub(in crate::core) fn answer_bad(&mut self, exchange: &mut Exchange, bad: BadRequest) {
        self.note_request(exchange);
        exchange.close = true;
        let mut problem = Problem::from(bad);
        self.count_bad(problem.status);
        if bad == BadRequest::BodyTooLarge {
            let size_max = self.limits.body_size_max;
            problem.sentence =
                format!("the request body is larger than {size_max} bytes, --body-size-max");
        }
        self.write_problem(exchange, &problem);
    }

    /// Answers a request that did not come in time.
    pub(in crate::core) fn answer_late(&mut self, exchange: &mut Exchange) {
        self.note_request(exchange);
        exchange.close = true;
        let sentence = "the request did not arrive in time";
        let mut problem = Problem::new(Status::REQUEST_TIMEOUT, "request_timeout", sentence);
        problem.limit = Some(match (exchange.stage, exchange.body_due) {
            (Stage::Body, Some(due)) if self.now_ms >= due => Limit::BodyTime,
            (Stage::Body, _) => Limit::BodyRate,
            _ => Limit::HeadTime,
        });
        self.count_bad(problem.status);
        self.write_problem(exchange, &problem);
    }

    /// Answers a request that has begun and for the rest of which there is no room now.
    pub(in crate::core) fn refuse_request(&mut self, exchange: &mut Exchange) {
        let sentence = "too many requests are on their way, --requests-size-max; try again soon";
        self.refuse_rest(exchange, &Problem::limited(Limit::Requests, sentence));
    }

    /// Answers a request whose answer there is no room for now.
    pub(in crate::core) fn answer_no_room(&mut self, key: Key) {
        self.resume_answer(key, |server, exchange| {
            let sentence = "too many answers are on their way, --requests-size-max; try again soon";
            let problem = match server.is_draining() {
                true => Problem::draining(),
                false => Problem::limited(Limit::Requests, sentence),
            };
            server.write_problem(exchange, &problem);
            None
        });
    }

    /// Answers a body for which there is no room now.
    pub(in crate::core) fn refuse_body(&mut self, exchange: &mut Exchange) {
        let sentence = "too many request bodies are on their way; try again soon";
        self.refuse_rest(exchange, &Problem::limited(Limit::Bodies, sentence));
    }

    /// Answers a request that is not whole, and ends its connection with that.
    fn refuse_rest(&mut self, exchange: &mut Exchange, problem: &Problem) {
        self.note_request(exchange);
        exchange.close = true;
        exchange.stage = Stage::Ending;
        self.write_problem(exchange, problem);
    }

    /// Counts what was no request.
    fn count_bad(&mut self, status: Status) {
        self.counters.requests_bad += 1;
        self.counters.bad.count(&status.0.to_string());
    }
}
