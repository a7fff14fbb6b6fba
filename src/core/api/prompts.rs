//! Endpoints about prompts: send, queue, cancel, interrupt.

use super::*;
use crate::limits::{
    IMAGE_SIZE_MAX, IMAGES_MAX, LAST_PROMPT_SIZE, LIST_SIZE, PAGE_SIZE_MAX, PROMPT_ID_SIZE_MAX,
    PROMPT_SHOWN_MAX, WAIT_S_MAX,
};

impl Server {
    pub(super) fn prompt(&mut self, request: &Request<'_>, id: &str) -> Outcome {
        let key = self.session_key(id)?;
        let body = request.json()?;
        let command = text(&body, "command")?
            .ok_or_else(|| Problem::bad("command_missing", "\"command\" is missing"))?;
        if command.is_empty() {
            return Err(Problem::bad("command_empty", "\"command\" must not be empty"));
        }
        let interrupts = match text(&body, "when")? {
            None | Some("queue") => false,
            Some("interrupt") => true,
            Some(_) => {
                let sentence = "\"when\" must be \"queue\" or \"interrupt\"";
                return Err(Problem::bad("invalid_value", sentence));
            }
        };
        let images = images(&body)?;
        let client_id = name(&body, "clientId")?.map(str::to_owned);
        let prompt_id = prompt_id(request, &body)?;
        let wait_s = request.number("wait", 0..=WAIT_S_MAX)?.unwrap_or(0);
        if wait_s > 0 {
            self.room_to_wait()?;
        }
        let Some(session) = self.sessions.get(key) else {
            return Err(Problem::session_not_found(id));
        };
        if session.archived {
            let sentence = "the session is archived; POST to its /unarchive first";
            return Err(Problem::conflict("session_archived", sentence));
        }
        if session.deleting {
            return Err(Problem::session_stopping());
        }
        if let Some(prompt_id) = &prompt_id {
            match session.prompts.known(prompt_id, command, &images) {
                Known::New => {}
                Known::Same(taken) => {
                    let (cursor, position) = (taken.cursor, taken.position);
                    let end = session.prompts.end_of(prompt_id).filter(|_| wait_s > 0);
                    if let Some(seq) = end {
                        let prompt_id = prompt_id.clone();
                        let end = PromptEnd { session: key, prompt_id, seq, cursor, position };
                        return self.prompt_end(request, end);
                    }
                    if wait_s > 0 && session.has_prompt(prompt_id) {
                        let first = (cursor, position, wait_s);
                        return self.wait_for_prompt(request, key, prompt_id, first);
                    }
                    self.say_prompt(key, prompt_id, cursor, position);
                    return accepted(self.publisher.seq());
                }
                Known::Other => {
                    let sentence = format!(
                        "the prompt id \"{prompt_id}\" was used for another command, or with other \
                         images"
                    );
                    return Err(Problem::conflict("prompt_id_reused", sentence));
                }
            }
        }
        let images_size: usize = images.iter().map(|(_, data)| data.len()).sum();
        self.room_for_prompt(key, command.len() + images_size)?;
        let prompt = Prompt {
            id: prompt_id.unwrap_or_else(|| format!("prompt-{:016x}", self.random.bits())),
            command: command.to_owned(),
            images,
            by: request.by.to_string(),
            client_id,
            queued_at: self.now_ms,
        };
        let prompt_id = prompt.id.clone();
        let (seq, cursor, position) = self.queue_prompt(key, prompt, interrupts);
        if wait_s == 0 {
            return accepted(seq);
        }
        // What an agent needs may be missing: then it has ended by now.
        let ended = self.sessions.get(key).and_then(|one| one.prompts.end_of(&prompt_id));
        if let Some(seq) = ended {
            let end = PromptEnd { session: key, prompt_id, seq, cursor, position };
            return self.prompt_end(request, end);
        }
        self.wait_for_prompt(request, key, &prompt_id, (cursor, position, wait_s))
    }

    /// Answers with the end of a prompt that has ended: from the ring, or from the journal. Where that
    /// does not hold it any more, the answer is that of no wait.
    fn prompt_end(&mut self, request: &Request<'_>, end: PromptEnd) -> Outcome {
        let session = self.sessions.get(end.session);
        if let Some(log) = session.map(|session| &session.feed.log)
            && let Some(mark) = log.ring.mark_at(log.ring.after(end.seq - 1))
            && mark.seq == end.seq
        {
            let frame = log.frame(&mark).concat();
            self.say_prompt_end((end.session, &end.prompt_id), end.seq, &frame);
            return ok_after(end.seq);
        }
        if let Some(session) = session
            && let Some(journal) = &session.feed.log.journal
            && let Some(segment) = journal.segment_at(journal.seek(end.seq - 1))
        {
            let (session_id, position) = (session.id().to_owned(), segment.0.start);
            let (segments, end_at, least_seq) = (vec![segment], segment.1, 0);
            return self.read_page(Page {
                connection: request.connection,
                source: Source { session_id, segments, position, end: end_at, least_seq },
                before: end.seq + 1,
                limit: 1,
                size_max: PAGE_SIZE_MAX,
                filter: Filter::ALL,
                open: Vec::new(),
                bytes: Vec::new(),
                more: false,
                found: 0,
                awaited: Some(Box::new(end)),
                damage: None,
            });
        }
        self.say_prompt(end.session, &end.prompt_id, end.cursor, end.position);
        accepted(self.publisher.seq())
    }

    /// The disk thread has looked for the end of a prompt.
    pub(super) fn prompt_end_read(
        &mut self,
        connection: Key,
        end: &PromptEnd,
        bytes: &[u8],
        result: Result<(), ReadFailure>,
    ) {
        self.resume_answer(connection, |server, exchange| {
            let frame = events::frames(bytes).find(|frame| frame.seq == end.seq);
            let status = match (result, frame) {
                (Err(failure @ ReadFailure::Damaged(_)), _) => {
                    let problem = server.not_read(failure);
                    server.write_problem(exchange, &problem);
                    return None;
                }
                (Ok(()), Some(frame)) => {
                    server.say_prompt_end((end.session, &end.prompt_id), end.seq, frame.bytes);
                    Status::OK
                }
                (Err(ReadFailure::Gone) | Ok(()), _) => {
                    server.say_prompt(end.session, &end.prompt_id, end.cursor, end.position);
                    Status::ACCEPTED
                }
            };
            server.write_json(exchange, status, &[]);
            Some(server.publisher.seq())
        });
    }

    /// Writes the end of a prompt, as its frame tells it, into `self.json`.
    fn say_prompt_end(&mut self, (session, prompt_id): (Key, &str), seq: u64, frame: &[u8]) {
        self.say(|server, object| {
            let Some(session) = server.sessions.get(session) else { return };
            object.bool("success", true);
            object.string("sessionId", session.id());
            object.string("promptId", prompt_id);
            object.string("status", session.status().as_str());
            if let Some((_, name, data)) = crate::wire::sse::parse_frame(frame) {
                object.string("event", name);
                object.raw("data", data);
            }
            object.display("lastEventId", server.publisher.id(seq));
        });
    }

    /// Lets a request wait for the end of its prompt.
    fn wait_for_prompt(
        &mut self,
        request: &Request<'_>,
        session: Key,
        prompt_id: &str,
        (cursor, position, wait_s): (u64, u32, u64),
    ) -> Outcome {
        let due = self.now_ms + wait_s * 1000;
        let prompt_id = prompt_id.to_owned();
        let what = Awaited::Prompt { session, prompt_id, cursor, position, end: None };
        self.wait(Wait { connection: request.connection, due, what });
        Ok(Reply::Later)
    }

    /// A prompt did not end in the time that its client had: the answer is that of no wait.
    pub(in crate::core) fn answer_prompt_wait(
        &mut self,
        connection: Key,
        (session, prompt_id): (Key, &str),
        cursor: u64,
        position: u32,
    ) {
        self.resume_answer(connection, |server, exchange| {
            server.say_prompt(session, prompt_id, cursor, position);
            server.write_json(exchange, Status::ACCEPTED, &[]);
            Some(server.publisher.seq())
        });
    }

    /// A prompt has ended with this event. What the ring has lost of it while its client stood in
    /// line is in the log behind the cursor of its first answer, which is given again.
    pub(in crate::core) fn answer_prompt_end(
        &mut self,
        connection: Key,
        (session, prompt_id): (Key, &str),
        (cursor, position): (u64, u32),
        seq: u64,
    ) {
        let Some(frame) = self.frame_in_ring(session, seq) else {
            return self.answer_prompt_wait(connection, (session, prompt_id), cursor, position);
        };
        self.resume_answer(connection, |server, exchange| {
            server.say_prompt_end((session, prompt_id), seq, &frame);
            server.write_json(exchange, Status::OK, &[]);
            // Answers are held back in their order, and others may be by now.
            (seq > server.publisher.visible()).then(|| server.publisher.seq())
        });
    }

    /// An event of a session as its ring holds it, if it does.
    fn frame_in_ring(&self, session: Key, seq: u64) -> Option<Vec<u8>> {
        let ring = &self.sessions.get(session)?.feed.log.ring;
        let start = ring.after(seq - 1);
        ring.mark_at(start).filter(|mark| mark.seq == seq)?;
        match ring.at(start, ring.after(seq)) {
            crate::base::ring::Found::Bytes(a, b) => Some([a, b].concat()),
            _ => None,
        }
    }

    pub(super) fn room_for_prompt(&mut self, key: Key, size: usize) -> Result<(), Problem> {
        if self.is_draining() {
            return Err(Problem::draining());
        }
        let Some(session) = self.sessions.get(key) else { return Ok(()) };
        if session.prompts.queue.len() >= self.limits.queue_max {
            let sentence = format!("{} prompts wait already, --queue-max", self.limits.queue_max);
            return Err(Problem::limited(Limit::Queue, sentence));
        }
        if self.queue_size + size > self.limits.queue_size_max {
            let sentence = "the waiting prompts of all sessions are too large together";
            return Err(Problem::limited(Limit::QueueSize, sentence));
        }
        Ok(())
    }

    /// Queues a prompt and sets it going if it can. Its answer is in `self.json`. Returns the
    /// number of its `prompt-queued`, the cursor before that, and its position.
    pub(super) fn queue_prompt(
        &mut self,
        key: Key,
        prompt: Prompt,
        interrupts: bool,
    ) -> (u64, u64, u32) {
        let cursor = self.publisher.seq();
        let Some(session) = self.sessions.get_mut(key) else { return (cursor, cursor, 0) };
        // Held text belongs before the prompt, so the cursor stands behind it.
        self.publisher.flush(&mut session.feed);
        let cursor = self.publisher.seq().max(cursor);
        let position = if interrupts { 0 } else { session.prompts.queue.len() as u32 };
        let shown = prompt.command.floor_char_boundary(LAST_PROMPT_SIZE);
        session.last_prompt = Some(prompt.command[..shown].into());
        session.prompts.remember(&prompt, cursor, position);
        let event_id = self.publisher.id(self.publisher.seq() + 1);
        let href = format!("/api/session/{}/events/{event_id}", session.id());
        let feed = &mut session.feed;
        let seq = self.publisher.publish_apart(feed, EventKind::PromptQueued, |object| {
            object.string("promptId", &prompt.id);
            object.number("position", position.into());
            object.string("by", &prompt.by);
            object.optional("clientId", prompt.client_id.as_deref());
            object.string("command", &prompt.command);
            if !prompt.images.is_empty() {
                object.array("images", |array| {
                    for (number, (kind, data)) in prompt.images.iter().enumerate() {
                        array.object(|object| {
                            object.string("mediaType", kind);
                            object.number("bytes", base64::decoded_size(data) as u64);
                            let href = format_args!("{href}?image={number}");
                            object.display("href", href);
                        });
                    }
                });
            }
        });
        self.publisher.keep_images(&session.feed, &prompt.images);
        for (number, (_, data)) in prompt.images.iter().enumerate() {
            let bytes = base64::decode(data).unwrap_or_default();
            self.publisher.images.keep(events::image_key(seq, number as u64), bytes, false);
        }
        self.queue_size += prompt.size();
        let id = prompt.id.clone();
        match interrupts {
            true => session.prompts.queue.push_front(prompt),
            false => session.prompts.queue.push_back(prompt),
        }
        if interrupts {
            self.interrupt_turn(key);
        }
        self.after(key, None);
        self.say_prompt(key, &id, cursor, position);
        (seq, cursor, position)
    }

    pub(super) fn say_prompt(&mut self, key: Key, prompt_id: &str, cursor: u64, position: u32) {
        self.say(|server, object| {
            let Some(session) = server.sessions.get(key) else { return };
            object.bool("success", true);
            object.string("sessionId", session.id());
            object.string("promptId", prompt_id);
            object.string("status", session.status().as_str());
            object.number("position", position.into());
            object.display("lastEventId", server.publisher.id(cursor));
        });
    }

    pub(super) fn interrupt_session(&mut self, request: &Request<'_>, id: &str) -> Outcome {
        let key = self.session_key(id)?;
        let clear = flag(&request.json()?, "clearQueue")?;
        let mut cancelled = Vec::new();
        while clear
            && let Some(session) = self.sessions.get_mut(key)
            && let Some(prompt) = session.prompts.queue.pop_front()
        {
            self.cancel_prompt(key, &prompt, &request.by, false);
            cancelled.push(prompt.id);
        }
        let interrupted = self.interrupt(key, &request.by);
        self.say(|server, object| {
            let Some(session) = server.sessions.get(key) else { return };
            object.bool("success", true);
            object.string("sessionId", session.id());
            object.bool("interrupted", interrupted);
            object.array("cancelled", |array| cancelled.iter().for_each(|id| array.string(id)));
            object.string("status", session.status().as_str());
            server.write_cursor(object);
        });
        ok_after(self.publisher.seq())
    }

    pub(super) fn queue(&mut self, request: &Request<'_>, id: &str) -> Outcome {
        let key = self.session_key(id)?;
        let after = request.parameter("after")?;
        self.say(|server, object| {
            let Some(session) = server.sessions.get(key) else { return };
            let queue = &session.prompts.queue;
            let from = behind(queue.iter().map(|prompt| &*prompt.id), after.as_deref());
            let mut more = false;
            object.bool("success", true);
            object.string("sessionId", session.id());
            object.array("queue", |array| {
                for (position, prompt) in queue.iter().enumerate().skip(from) {
                    more = array.size() > LIST_SIZE;
                    if more {
                        break;
                    }
                    array.object(|object| server.write_waiting(object, session, position, prompt));
                }
            });
            object.bool("more", more);
            server.write_cursor(object);
        });
        ok_after(self.publisher.seq())
    }

    /// Writes a prompt that waits. Of a long one its beginning, and where the rest is: the event that
    /// told that it was queued, or what is large of it.
    fn write_waiting(
        &self,
        object: &mut Object<'_>,
        session: &Session,
        position: usize,
        prompt: &Prompt,
    ) {
        let command = &prompt.command;
        let shown = command.floor_char_boundary(PROMPT_SHOWN_MAX);
        object.string("promptId", &prompt.id);
        object.number("position", position as u64);
        object.string("command", &command[..shown]);
        if shown < command.len() {
            object.bool("truncated", true);
            object.number("bytes", command.len() as u64);
            let event = session.prompts.queued_seq(&prompt.id).map(|seq| self.publisher.id(seq));
            let href = event.map(|event| format!("/api/session/{}/events/{event}", session.id()));
            object.optional("href", href.as_deref());
        }
        object.string("by", &prompt.by);
        object.optional("clientId", prompt.client_id.as_deref());
    }

    pub(super) fn cancel_queued(
        &mut self,
        request: &Request<'_>,
        id: &str,
        prompt_id: &str,
    ) -> Outcome {
        let key = self.session_key(id)?;
        let prompt = self.sessions.get_mut(key).and_then(|s| s.prompts.take(prompt_id));
        let Some(prompt) = prompt else {
            let sentence = format!("no prompt \"{prompt_id}\" waits in this session");
            return Err(Problem::new(Status::NOT_FOUND, "prompt_not_found", sentence));
        };
        self.cancel_prompt(key, &prompt, &request.by, false);
        self.say(|server, object| {
            object.bool("success", true);
            object.string("promptId", &prompt.id);
            object.string("status", "cancelled");
            server.write_cursor(object);
        });
        ok_after(self.publisher.seq())
    }
}

fn accepted(seq: u64) -> Outcome {
    Ok(Reply::Json { status: Status::ACCEPTED, after: Some(seq), fields: Vec::new() })
}

/// The client's id for a prompt: the field wins over the header.
fn prompt_id(request: &Request<'_>, body: &Value) -> Result<Option<String>, Problem> {
    // One that is no text is an unfit one, and not none: its client believes in it.
    let of_header = |span: Span| ("Idempotency-Key", span.text(request.input).unwrap_or("?\\"));
    let header = || request.head.idempotency_key.map(of_header);
    let field = text(body, "promptId")?.map(|id| ("\"promptId\"", id));
    let Some((name, id)) = field.or_else(header) else { return Ok(None) };
    // It is a segment of the path by which the prompt is cancelled, too.
    let fit = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'/' | b'\\');
    let size = 1..=PROMPT_ID_SIZE_MAX;
    if !size.contains(&id.len()) || !id.bytes().all(fit) || matches!(id, "." | "..") {
        let sentence = format!(
            "{name} must be 1 to {PROMPT_ID_SIZE_MAX} visible ASCII characters other than quote, \
             slash and backslash, and not \".\" or \"..\""
        );
        return Err(Problem::bad("invalid_prompt_id", sentence));
    }
    Ok(Some(id.to_owned()))
}

/// Images that go with a prompt.
fn images(body: &Value) -> Result<Vec<Image>, Problem> {
    let list = match &body["images"] {
        Value::Null => return Ok(Vec::new()),
        Value::Array(list) => list,
        _ => return Err(Problem::bad("invalid_type", "\"images\" must be a list")),
    };
    if list.len() > IMAGES_MAX {
        let sentence = format!("a prompt takes {IMAGES_MAX} \"images\" at most");
        return Err(Problem::bad("too_many_images", sentence));
    }
    let types = ["image/png", "image/jpeg", "image/gif", "image/webp"];
    let one = |(at, image): (usize, &Value)| {
        let invalid = |name: &str, expected: &str| {
            let sentence = format!("\"images[{at}]{name}\" must be {expected}");
            Problem::bad("invalid_image", sentence)
        };
        if !image.is_object() {
            return Err(invalid("", "an object with \"mediaType\" and \"data\""));
        }
        let kind = image["mediaType"].as_str().filter(|kind| types.contains(kind));
        let kind =
            kind.ok_or_else(|| invalid(".mediaType", &format!("one of {}", types.join(", "))))?;
        let data = image["data"].as_str().ok_or_else(|| invalid(".data", "base64"))?;
        if data.len() > IMAGE_SIZE_MAX {
            let sentence =
                format!("\"images[{at}].data\" may be {IMAGE_SIZE_MAX} bytes of base64 long");
            return Err(Problem::new(Status::CONTENT_TOO_LARGE, "image_too_large", sentence));
        }
        if base64::decode(data).is_none() {
            return Err(invalid(".data", "base64"));
        }
        Ok((kind.to_owned(), data.to_owned()))
    };
    list.iter().enumerate().map(one).collect()
}
