//! The reactor's part in the operator's commands: when they are looked at, and what is logged.

use super::Reactor;
use crate::core::effect::Level;
use crate::shell::hooks::Outcome;

impl Reactor {
    /// Puts a command in line; it starts in this turn if there is room.
    pub(super) fn run_hook(&mut self, hook: usize, json: Vec<u8>) {
        if !self.hooks.add(hook, json) {
            self.hook_told(hook, &Outcome::Dropped);
        }
    }

    /// Sees who has ended, ends who took too long, starts who waits.
    pub(super) fn work_hooks(&mut self) {
        let mut ended = std::mem::take(&mut self.hooks_ended);
        ended.retain(|key| match self.hooks.ended(*key, self.poll.registry()) {
            Some((hook, outcome)) => {
                self.hook_told(hook, &outcome);
                false
            }
            None => self.hooks.runs(*key), // Asked again in the next turn.
        });
        self.hooks_ended = ended;
        self.hooks.expire(self.now_ms);
        let (started, failures) = self.hooks.start(self.now_ms, self.poll.registry());
        self.server.counters.hooks_started += started;
        if started > 0 {
            self.agents.hooks_started();
        }
        for (hook, outcome) in failures {
            self.hook_told(hook, &outcome);
        }
        self.agents.spared.clear();
        self.agents.spared.extend(self.hooks.pids());
    }

    fn hook_told(&mut self, hook: usize, outcome: &Outcome) {
        let mut fields = vec![("command", self.hooks.name(hook))];
        let message = match outcome {
            Outcome::Good => return,
            Outcome::Failed(why, said) => {
                self.server.counters.hooks_failed += 1;
                fields.push(("error", why.clone()));
                fields.push(("stderr", said.clone()));
                "a command for events failed"
            }
            Outcome::Dropped => {
                self.server.counters.hooks_dropped += 1;
                "a command for events was not run: too many wait"
            }
        };
        self.tell(Level::Warn, "hook", message, fields);
    }
}
