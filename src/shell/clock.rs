//! The two clocks: monotonic milliseconds for deadlines, wall milliseconds for timestamps.
//!
//! Monotonic time starts at 1, so 0 is free to mean "never". Wall time may step; nothing is
//! ordered by it. Read once a turn by the reactor: nothing below the shell knows a clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Time since the server's start, and since 1970.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts the monotonic clock at 1 ms.
    #[allow(clippy::new_without_default)] // A default that reads the time would be a surprise.
    pub fn new() -> Clock {
        Clock { start: Instant::now() }
    }

    /// Milliseconds since the start, from 1 on; never falls.
    pub fn now_ms(&self) -> u64 {
        Clock::ms_of(self.now_us())
    }

    /// Microseconds since the start, to measure with; never falls.
    pub fn now_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    /// What [`Clock::now_ms`] said when [`Clock::now_us`] said this.
    pub fn ms_of(now_us: u64) -> u64 {
        now_us / 1000 + 1
    }

    /// Milliseconds since 1970 by the wall; 0 while the wall shows an earlier time.
    pub fn wall_ms(&self) -> u64 {
        wall_ms()
    }
}

/// Milliseconds since 1970 by the wall, for those who hold no [`Clock`].
pub(crate) fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |past| past.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_starts_above_zero_and_never_falls() {
        let clock = Clock::new();
        let first = clock.now_ms();
        assert!(first >= 1);
        assert!(clock.now_ms() >= first);
    }

    #[test]
    fn wall_time_counts_from_1970() {
        assert!(Clock::new().wall_ms() > 1_700_000_000_000);
    }
}
