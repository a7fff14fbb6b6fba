//! The limits that can be met while the server runs, each by the option that moves it.

use crate::wire::reply::Status;

/// A limit that was met: something was refused, held back or cut for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is documented with its bound in `limits.rs`")]
pub enum Limit {
    Connections,
    ConnectionsPerAddress,
    ReadersPerSession,
    Pipeline,
    Waits,
    LoginFailures,
    TicketMisses,
    PagesRead,
    HeadSize,
    HeadFields,
    HeadTime,
    BodySize,
    BodyTime,
    BodyRate,
    Bodies,
    Requests,
    KeepAlive,
    WriteStall,
    Sessions,
    SessionCreations,
    Queue,
    QueueSize,
    Approvals,
    ApprovalsSize,
    Agents,
    AgentsStarting,
    LineSize,
    /// The system's own, on descriptors.
    OpenFiles,
}

/// How many there are.
pub const LIMITS: usize = 28;

impl Limit {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Limit; LIMITS] = [
        Limit::Connections,
        Limit::ConnectionsPerAddress,
        Limit::ReadersPerSession,
        Limit::Pipeline,
        Limit::Waits,
        Limit::LoginFailures,
        Limit::TicketMisses,
        Limit::PagesRead,
        Limit::HeadSize,
        Limit::HeadFields,
        Limit::HeadTime,
        Limit::BodySize,
        Limit::BodyTime,
        Limit::BodyRate,
        Limit::Bodies,
        Limit::Requests,
        Limit::KeepAlive,
        Limit::WriteStall,
        Limit::Sessions,
        Limit::SessionCreations,
        Limit::Queue,
        Limit::QueueSize,
        Limit::Approvals,
        Limit::ApprovalsSize,
        Limit::Agents,
        Limit::AgentsStarting,
        Limit::LineSize,
        Limit::OpenFiles,
    ];

    /// The option that moves it, without its dashes: the label in the metrics.
    pub fn flag(self) -> &'static str {
        match self {
            Limit::Connections => "connections-max",
            Limit::ConnectionsPerAddress => "connections-per-address-max",
            Limit::ReadersPerSession => "readers-per-session-max",
            Limit::Pipeline => "pipeline-max",
            Limit::Waits => "waits-max",
            Limit::LoginFailures => "login-failures-max",
            Limit::TicketMisses => "ticket-misses-max",
            Limit::PagesRead => "pages-read-max",
            Limit::HeadSize => "head-size-max",
            Limit::HeadFields => "head-fields-max",
            Limit::HeadTime => "head-timeout",
            Limit::BodySize => "body-size-max",
            Limit::BodyTime => "body-timeout",
            Limit::BodyRate => "body-rate-min",
            Limit::Bodies => "bodies-size-max",
            Limit::Requests => "requests-size-max",
            Limit::KeepAlive => "keep-alive",
            Limit::WriteStall => "write-stall",
            Limit::Sessions => "sessions-max",
            Limit::SessionCreations => "session-creations-per-s",
            Limit::Queue => "queue-max",
            Limit::QueueSize => "queue-size-max",
            Limit::Approvals => "approvals-max",
            Limit::ApprovalsSize => "approvals-size-max",
            Limit::Agents => "agents-max",
            Limit::AgentsStarting => "agents-starting-max",
            Limit::LineSize => "line-max",
            Limit::OpenFiles => "open-files",
        }
    }

    /// The status of a request that was refused for it: 429 where this client, or its session,
    /// has enough; 503 where the server has.
    pub fn status(self) -> Status {
        match self {
            Limit::Waits
            | Limit::PagesRead
            | Limit::Bodies
            | Limit::Requests
            | Limit::Connections
            | Limit::OpenFiles => Status::SERVICE_UNAVAILABLE,
            _ => Status::TOO_MANY_REQUESTS,
        }
    }

    /// The code of a request that was refused for it.
    pub fn code(self) -> &'static str {
        match self {
            Limit::Sessions => "sessions_max",
            Limit::SessionCreations => "session_creations_max",
            Limit::Queue => "queue_full",
            Limit::QueueSize => "queue_size_max",
            Limit::Waits => "waits_max",
            Limit::Bodies => "bodies_max",
            Limit::Requests => "requests_max",
            Limit::LoginFailures => "login_failures_max",
            Limit::TicketMisses => "ticket_misses_max",
            Limit::PagesRead => "pages_read_max",
            Limit::ConnectionsPerAddress => "connections_per_address_max",
            Limit::ReadersPerSession => "readers_max",
            _ => "limit_met",
        }
    }
}

/// How often each limit was met.
#[derive(Clone, Copy, Debug, Default)]
pub struct LimitHits([u64; LIMITS]);

impl LimitHits {
    /// Counts one.
    pub fn hit(&mut self, limit: Limit) {
        self.0[limit as usize] += 1;
    }

    /// Each with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Limit, u64)> {
        Limit::ALL.into_iter().zip(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::HELP;

    #[test]
    fn every_limit_is_counted_under_its_own_name_which_is_an_option_that_help_tells() {
        let mut hits = LimitHits::default();
        for (count, limit) in Limit::ALL.into_iter().enumerate() {
            (0..=count).for_each(|_| hits.hit(limit));
            let told = HELP.contains(&format!("--{} ", limit.flag()));
            assert!(told || limit == Limit::OpenFiles, "{limit:?}");
        }
        for (count, (limit, hits)) in hits.iter().enumerate() {
            assert_eq!((limit, hits), (Limit::ALL[count], count as u64 + 1));
        }
    }
}
