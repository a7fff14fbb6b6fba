//! `/metrics`: the server in the text that Prometheus reads.
//!
//! Names and units follow its conventions. Labels come from closed lists or from the operator's
//! own words (agents), never from a client's: no session, no path, no address is one. What only
//! the kernel knows is asked for first, but not for long: where the helper thread hangs on a
//! disk, the rest is told without it.

use super::*;
use crate::core::metrics::{OwnUse, Sample, TOKEN_KINDS};
use crate::wire::prometheus::{self, Kind, Metrics};

/// How long a look at the metrics waits for what the kernel says.
const SAMPLE_MS: u64 = 1_000;
/// Every status that an open session may have.
const SESSION_STATUSES: [SessionStatus; 7] = [
    SessionStatus::Idle,
    SessionStatus::Starting,
    SessionStatus::Running,
    SessionStatus::Waiting,
    SessionStatus::Stopping,
    SessionStatus::Suspended,
    SessionStatus::Failed,
];

impl Server {
    /// Asks for what the kernel knows; the answer follows. Not under the limit of those who wait:
    /// it is short, and when that is met somebody should see it.
    pub(super) fn scrape(&mut self, connection: Key) -> Outcome {
        self.effects.push_back(Effect::Sample(connection));
        let due = self.now_ms + SAMPLE_MS;
        self.wait(Wait { connection, due, what: Awaited::Sample });
        Ok(Reply::Later)
    }

    /// The kernel has been asked.
    pub(in crate::core) fn sampled(&mut self, connection: Key, sample: &Sample) {
        // A process that ends between two looks at it is seen nowhere for a moment.
        self.counters.agents_cpu_s = self.counters.agents_cpu_s.max(sample.agents_cpu_s);
        // Else it came too late.
        if let Some(wait) = self.take_sample_wait(connection) {
            match self.has_room() {
                true => self.answer_scrape(connection, sample),
                false => self.wait_in_line(wait), // The rest is told without it.
            }
        }
    }

    /// Answers with what there is.
    pub(in crate::core) fn answer_scrape(&mut self, connection: Key, sample: &Sample) {
        self.resume_answer(connection, |server, exchange| {
            let mut metrics = Metrics::default();
            server.tell_process(&mut metrics, sample.own.as_ref());
            server.tell_door(&mut metrics);
            server.tell_streams(&mut metrics);
            server.tell_sessions(&mut metrics);
            server.tell_agents(&mut metrics, sample);
            server.tell_loop(&mut metrics);
            let (text, kind) = (metrics.into_text(), prometheus::CONTENT_TYPE);
            let fields = [("Cache-Control", "no-store")];
            server.write_reply(exchange, Status::OK, Some(kind), &fields, text.as_bytes());
            None
        });
    }

    fn tell_process(&self, metrics: &mut Metrics, own: Option<&OwnUse>) {
        let durability = self.keeper.durability;
        metrics
            .family(Kind::Gauge, "sidestream_build_info", "What runs here, and how.")
            .sample(&[("version", self.config.version), ("durability", durability.as_str())], 1);
        let help = "The most memory that the server ever holds by its limits.";
        metrics.gauge("sidestream_memory_bound_bytes", help, self.limits.memory(durability));
        let help = "Start time of the process since unix epoch in seconds.";
        let started_s = self.started_wall_ms as f64 / 1e3;
        metrics.gauge("process_start_time_seconds", help, started_s);
        let Some(own) = own else { return };
        let help = "Total user and system CPU time spent in seconds.";
        metrics.counter("process_cpu_seconds_total", help, own.cpu_s);
        let help = "Resident memory size in bytes.";
        metrics.gauge("process_resident_memory_bytes", help, own.resident_size);
        let help = "Virtual memory size in bytes.";
        metrics.gauge("process_virtual_memory_bytes", help, own.virtual_size);
        metrics.gauge("process_open_fds", "Number of open file descriptors.", own.open_files);
        let help = "Maximum number of open file descriptors.";
        metrics.gauge("process_max_fds", help, own.open_files_max);
    }

    /// Connections, requests, and what was refused.
    fn tell_door(&self, metrics: &mut Metrics) {
        let counters = &self.counters;
        let help = "Client connections that are open.";
        metrics.gauge("sidestream_connections", help, self.connections.len());
        let help = "The most client connections that may be open.";
        metrics.gauge("sidestream_connections_max", help, self.limits.connections_max);
        let help = "Client connections accepted.";
        let accepted = counters.connections_accepted;
        metrics.counter("sidestream_connections_accepted_total", help, accepted);
        let help = "Client connections refused for want of a slot or a descriptor.";
        let refused = counters.connections_refused;
        metrics.counter("sidestream_connections_refused_total", help, refused);
        metrics.counter("sidestream_requests_total", "Requests understood.", counters.requests);
        let help = "Answers, by the class of their status; a stream's head is one.";
        let mut family = metrics.family(Kind::Counter, "sidestream_responses_total", help);
        let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        for (class, count) in classes.iter().zip(counters.answers) {
            family.sample(&[("class", class)], count);
        }
        let help = "Bytes of requests and of answers that are not taken yet, which have a bound.";
        metrics.gauge("sidestream_requests_bytes", help, self.requests_size);
        let help = "Requests that were none, by the status of their answer.";
        let mut family = metrics.family(Kind::Counter, "sidestream_requests_bad_total", help);
        for (status, count) in counters.bad.iter() {
            family.sample(&[("status", status)], count);
        }
        let help = "Requests that were not let in, by the code of their answer.";
        let mut family = metrics.family(Kind::Counter, "sidestream_requests_refused_total", help);
        for (code, count) in counters.refusals.iter() {
            family.sample(&[("code", code)], count);
        }
        let help = "Times that a limit was met, by the option that moves it.";
        let mut family = metrics.family(Kind::Counter, "sidestream_limit_hits_total", help);
        for (limit, count) in counters.limits.iter() {
            family.sample(&[("limit", limit.flag())], count);
        }
    }

    /// Streams, polls and events.
    fn tell_streams(&self, metrics: &mut Metrics) {
        let counters = &self.counters;
        let all = u64::from(self.publisher.all.readers);
        let open = counters.streams_opened - counters.streams_closed;
        let help = "Streams that are open, of one session or of many.";
        let mut family = metrics.family(Kind::Gauge, "sidestream_streams", help);
        family.sample(&[("sessions", "one")], open.saturating_sub(all));
        family.sample(&[("sessions", "many")], all);
        let help = "Streams opened, from their 200 on.";
        metrics.counter("sidestream_streams_opened_total", help, counters.streams_opened);
        let help = "Streams closed.";
        metrics.counter("sidestream_streams_closed_total", help, counters.streams_closed);
        let help = "Streams opened, by the verdict on their cursor: none, held, or lost.";
        let mut family = metrics.family(Kind::Counter, "sidestream_stream_resumes_total", help);
        for (verdict, count) in ["fresh", "ok", "gap"].iter().zip(counters.resumes) {
            family.sample(&[("resume", verdict)], count);
        }
        let help = "Streams whose replay began in the journals rather than in memory.";
        metrics.counter("sidestream_disk_replays_total", help, counters.replays_from_disk);
        let help = "Streams that were told of a gap.";
        metrics.counter("sidestream_stream_gaps_total", help, counters.gaps);
        let help = "Streams cut because they took nothing, or fell behind the log.";
        metrics.counter("sidestream_stream_evictions_total", help, counters.readers_cut);
        let help = "Requests that wait for something to happen, long polls most of them.";
        metrics.gauge("sidestream_requests_waiting", help, self.waits.count());
        let help = "Events with ids, by type.";
        let mut family = metrics.family(Kind::Counter, "sidestream_events_total", help);
        for (name, count) in EventKind::names().zip(self.publisher.published) {
            family.sample(&[("type", name)], count);
        }
    }

    /// Sessions, prompts, approvals and what they cost.
    fn tell_sessions(&self, metrics: &mut Metrics) {
        let mut by_status = [0u64; SESSION_STATUSES.len()];
        let (mut queued, mut approvals) = (0, 0);
        for session in self.by_id.keys().filter_map(|key| self.sessions.get(key)) {
            let at = SESSION_STATUSES.iter().position(|status| *status == session.status());
            at.into_iter().for_each(|at| by_status[at] += 1);
            queued += session.prompts.queue.len();
            approvals += session.approvals.open.len();
        }
        let help = "Sessions that are not closed, by status.";
        let mut family = metrics.family(Kind::Gauge, "sidestream_sessions", help);
        for (status, count) in SESSION_STATUSES.iter().zip(by_status) {
            family.sample(&[("status", status.as_str())], count);
        }
        metrics.gauge("sidestream_prompts_queued", "Prompts that wait for their turn.", queued);
        let help = "Bytes of prompts that wait for their turn.";
        metrics.gauge("sidestream_prompts_queued_bytes", help, self.queue_size);
        metrics.gauge("sidestream_approvals_open", "Approvals that wait for a human.", approvals);
        let help = "Tokens that models took and gave, as their turns' results say.";
        let mut family = metrics.family(Kind::Counter, "sidestream_tokens_total", help);
        for ((kind, _), count) in TOKEN_KINDS.iter().zip(self.counters.tokens) {
            family.sample(&[("kind", kind)], count);
        }
        let help = "What turns cost, in US dollars, as their agents reckon it.";
        metrics.counter("sidestream_cost_usd_total", help, self.counters.cost_usd);
    }

    /// Agents and what they use.
    fn tell_agents(&self, metrics: &mut Metrics, sample: &Sample) {
        let counters = &self.counters;
        metrics.gauge("sidestream_agents", "Agent processes.", self.agents.len());
        let help = "The most agent processes that may be.";
        metrics.gauge("sidestream_agents_max", help, self.limits.agents_max);
        let help = "Sessions that wait for a process.";
        metrics.gauge("sidestream_agents_awaited", help, self.start_queue.len());
        let help = "Agent processes started.";
        metrics.counter("sidestream_agents_started_total", help, counters.agents_started);
        let help = "Agent processes that ended.";
        metrics.counter("sidestream_agents_ended_total", help, counters.agents_ended);
        let help = "Processes that agents left behind and that were killed.";
        metrics.counter("sidestream_orphans_killed_total", help, counters.orphans_killed);
        let help = "Commands for events that were run.";
        metrics.counter("sidestream_hooks_started_total", help, counters.hooks_started);
        let help = "Commands for events that did not end well, or in time.";
        metrics.counter("sidestream_hooks_failed_total", help, counters.hooks_failed);
        let help = "Commands for events that were not run, because too many waited.";
        metrics.counter("sidestream_hooks_dropped_total", help, counters.hooks_dropped);
        if sample.own.is_none() {
            return; // The kernel does not say.
        }
        let name = |key: Option<Key>| {
            let agent = key.and_then(|key| self.agents.get(key));
            let session = agent.and_then(|agent| self.sessions.get(agent.session));
            session.and_then(|session| self.config.agents.get(session.agent)).map(|one| &*one.name)
        };
        let sum = |what: Option<&str>, of: fn(&metrics::AgentUse) -> u64| -> u64 {
            sample.agents.iter().filter(|one| name(one.agent) == what).map(of).sum()
        };
        let mut names: Vec<Option<&str>> =
            self.config.agents.iter().map(|agent| Some(&*agent.name)).collect();
        names.push(None);
        let help =
            "Processes of agents and all they started, by agent; left behind: whose agent is gone.";
        let mut family = metrics.family(Kind::Gauge, "sidestream_agent_processes", help);
        for of in &names {
            let count = sum(*of, |one| one.processes);
            family.sample(&[("agent", of.unwrap_or("left behind"))], count);
        }
        let help = "Resident memory of these processes; what they share counts for each.";
        let family_name = "sidestream_agent_resident_memory_bytes";
        let mut family = metrics.family(Kind::Gauge, family_name, help);
        for of in &names {
            let size = sum(*of, |one| one.resident_size);
            family.sample(&[("agent", of.unwrap_or("left behind"))], size);
        }
        let help = "CPU time of all agents there ever were.";
        metrics.counter("sidestream_agents_cpu_seconds_total", help, counters.agents_cpu_s);
    }

    /// The loop, the journal, the log.
    fn tell_loop(&self, metrics: &mut Metrics) {
        let counters = &self.counters;
        let mut tell = |name, help, histogram: &metrics::histogram::Histogram| {
            let (count, sum) = (histogram.count(), histogram.sum_s());
            metrics.histogram(name, help, histogram.cumulated(), count, sum);
        };
        let help = "From a wake-up of the loop until it sleeps again.";
        tell("sidestream_loop_turn_seconds", help, &counters.turns);
        let help = "From when a deadline was due to when the loop came to it.";
        tell("sidestream_loop_lag_seconds", help, &counters.lag);
        let help = "From when events went to the disk thread until they were durable.";
        tell("sidestream_journal_commit_seconds", help, &counters.commits);
        metrics.gauge("sidestream_journal_bytes", "Bytes of all journals.", self.keeper.total);
        let help = "1 while the journals cannot be written, else 0.";
        let failing = u8::from(self.keeper.failure().is_some());
        metrics.gauge("sidestream_journal_failing", help, failing);
        let help = "Log lines that were not written, by why.";
        let mut family = metrics.family(Kind::Counter, "sidestream_log_lines_lost_total", help);
        family.sample(&[("reason", "stderr full")], counters.log_dropped);
        family.sample(&[("reason", "too many of a kind")], counters.log_suppressed);
    }
}
