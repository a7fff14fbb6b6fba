//! Endpoints about the server itself: its health, its counters, what it can do.

use super::*;
use crate::core::server::AgentFacts;
use crate::limits::REPLY_SIZE;

/// A disk that has not answered for so long is told as one that takes nothing, in seconds.
const DISK_HANGS_S: u64 = 10;

impl Server {
    /// One row per log that has streams, and per session that a stream over all of them hears.
    pub(super) fn stream_counts(&self) -> Vec<StreamCount<'_>> {
        let all = u64::from(self.publisher.all.readers);
        let mut counts = Vec::new();
        for key in self.by_id.keys().chain(self.closed_ids.keys()) {
            let Some(session) = self.sessions.get(key) else { continue };
            let streams = u64::from(session.feed.log.readers);
            let heard =
                if session.unusual.closed_at.is_none() { self.heard_by_all(session) } else { 0 };
            let listeners = u64::from(session.feed.log.listeners) + heard;
            if streams + listeners > 0 {
                counts.push(StreamCount { key: session.id(), streams, listeners });
            }
        }
        if all > 0 {
            counts.push(StreamCount { key: "*", streams: all, listeners: 0 });
        }
        counts
    }

    /// How many streams over all sessions receive this one's events.
    pub(super) fn heard_by_all(&self, session: &Session) -> u64 {
        if self.publisher.all.readers == 0 {
            return 0;
        }
        self.all_readers()
            .filter(|reader| {
                let owners = reader.owners();
                reader.filter.listens()
                    && owners.is_none_or(|owners| owners.contains(&session.feed.number))
            })
            .count() as u64
    }

    pub(super) fn metrics(&mut self) -> Outcome {
        self.say(|server, object| {
            let counts = server.stream_counts();
            let published = &server.publisher.published;
            metrics::write(object, published, &counts, &server.counters, server.wall_ms);
            object.object("memory", |memory| {
                memory.number("requestBytes", server.requests_size as u64);
                memory.number("bodyBytes", server.bodies_size as u64);
                memory.number("promptBytes", server.queue_size as u64);
            });
        });
        ok()
    }

    pub(super) fn stats(&mut self) -> Outcome {
        self.say(|server, object| {
            let counts = server.stream_counts();
            let streams: u64 = counts.iter().map(|count| count.streams).sum();
            object.bool("success", true);
            object.number("totalConnections", streams);
            object.object("sessions", |sessions| {
                for count in counts.iter().filter(|count| count.streams > 0) {
                    sessions.entry(count.key, count.streams);
                }
            });
            object.number("totalCreated", server.counters.streams_opened);
            object.number("totalClosed", server.counters.streams_closed);
            object.number("activeHeartbeats", streams);
            object.number("timestamp", server.wall_ms);
        });
        ok()
    }

    pub(super) fn capabilities(&mut self, request: &Request<'_>) -> Outcome {
        self.say(|server, object| {
            let limits = &server.limits;
            object.bool("success", true);
            object.string("name", "sidestream");
            object.string("version", server.config.version);
            object.array("transports", |array| {
                ["sse", "poll"].iter().for_each(|transport| array.string(transport));
            });
            object.array("dialects", |array| {
                ["claude", "lines", "demo"].iter().for_each(|dialect| array.string(dialect));
            });
            object.array("modes", |array| {
                MODES.iter().for_each(|mode| array.string(mode));
                if server.config.allow_bypass {
                    array.string("bypassPermissions");
                }
            });
            object.string("durability", server.keeper.durability.as_str());
            object.object("access", |object| {
                object.bool("tokens", server.config.access.tokens.are_wanted());
                object.string("name", &request.by);
                object.string("scope", request.scope.as_str());
            });
            object.object("request", |object| {
                let http = match request.head.version {
                    head::Version::Http10 => "1.0",
                    head::Version::Http11 => "1.1",
                };
                object.string("http", http);
                object.bool("forwarded", request.head.forwarded);
            });
            object.object("limits", |object| {
                object.number("bodyBytes", limits.body_size_max as u64);
                object.number("headBytes", limits.head_size_max as u64);
                object.number("sessions", limits.sessions_max.into());
                object.number("agents", limits.agents_max.into());
                object.number("queue", limits.queue_max as u64);
                object.number("approvals", limits.approvals_max as u64);
                object.number("readersPerSession", limits.readers_per_session_max.into());
                object.number("connections", limits.connections_max.into());
                object.number("ringBytes", limits.ring_size as u64);
                object.number("replayBytes", limits.replay_size as u64);
                object.number("heartbeatMs", limits.heartbeat_ms);
            });
            object.array("agents", |array| {
                for agent in &server.config.agents[..server.configured] {
                    array.object(|object| {
                        object.string("name", &agent.name);
                        object.string("dialect", agent.dialect.as_str());
                    });
                }
            });
        });
        ok()
    }

    pub(super) fn agents_list(&mut self) -> Outcome {
        self.say(|server, object| {
            object.bool("success", true);
            object.array("agents", |array| {
                for (agent, facts) in
                    server.config.agents[..server.configured].iter().zip(&server.facts)
                {
                    // Two facts that are as long as they may be still fit behind this.
                    let facts =
                        if array.size() > REPLY_SIZE / 3 { &AgentFacts::default() } else { facts };
                    array.object(|object| {
                        object.string("name", &agent.name);
                        object.string("dialect", agent.dialect.as_str());
                        let problem = agent.program.as_ref().err();
                        object.bool("available", problem.is_none());
                        object.optional("problem", problem.map(|problem| &**problem));
                        object.string_or_null("version", facts.version.as_deref());
                        object.raw("commands", facts.commands.as_deref().unwrap_or("null"));
                        object.raw("models", facts.models.as_deref().unwrap_or("null"));
                        object.array("modes", |array| {
                            if agent.dialect != Dialect::Lines {
                                MODES.iter().for_each(|mode| array.string(mode));
                            }
                        });
                        match facts.logged_in {
                            Some(logged_in) => object.bool("loggedIn", logged_in),
                            None => object.null("loggedIn"),
                        }
                    });
                }
            });
        });
        ok()
    }

    pub(super) fn health(&self) -> Outcome {
        Ok(Reply::Health)
    }

    pub(super) fn ready(&mut self) -> Outcome {
        if self.drain != Drain::Serving {
            return Err(Problem::draining());
        }
        if let Some(sentence) = self.keeper.failure() {
            let sentence = format!("the journal cannot be written: {sentence}");
            return Err(Problem::unavailable("journal_failed", sentence));
        }
        let busy_s = self.keeper.busy_ms(self.now_ms) / 1000;
        if busy_s >= DISK_HANGS_S {
            let sentence = format!("the disk has not answered for {busy_s} s");
            return Err(Problem::unavailable("journal_failed", sentence));
        }
        self.say(|_, object| object.string("status", "ready"));
        ok()
    }

    pub(super) fn old_websocket(&self) -> Problem {
        let sentence = "the WebSocket is gone; stream a session's events over SSE instead";
        let mut problem = Problem::new(Status::GONE, "websocket_gone", sentence);
        let link = format!(
            "<{}/api/session/{{id}}/events>; rel=\"successor-version\"",
            self.config.base_path
        );
        problem.fields.push(("Link", link));
        problem
    }
}
