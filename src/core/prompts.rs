//! The prompts of one session: those that wait, and which ids were taken lately.
//!
//! A prompt has exactly one fate: completed, failed or cancelled. The same id with the same
//! command gives the first answer again and runs once; with another command it is refused.

use crate::base::seldom::Seldom;
use sha2::{Digest, Sha256};
use std::collections::VecDeque;

/// How many prompt ids a session remembers.
const RECENT_MAX: usize = 256;

/// A prompt that waits or runs.
#[derive(Debug)]
pub struct Prompt {
    /// The client's id, or one made up.
    pub id: String,
    /// What the agent is told.
    pub command: String,
    /// Images that go with it: media type and base64 data.
    pub images: Vec<(String, String)>,
    /// Who sent it.
    pub by: String,
    /// The client's name for itself.
    pub client_id: Option<String>,
    /// When it was queued, in milliseconds of the monotonic clock.
    pub queued_at: u64,
}

impl Prompt {
    /// The bytes it holds.
    pub fn size(&self) -> usize {
        let images: usize = self.images.iter().map(|(kind, data)| kind.len() + data.len()).sum();
        self.command.len() + images
    }
}

/// The first answer to a prompt id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    id: Box<str>,
    digest: [u8; 32],
    /// The cursor before its `prompt-queued`.
    pub cursor: u64,
    /// Its place in the queue when it was taken.
    pub position: u32,
}

/// What a prompt id means to this session.
#[derive(Debug, PartialEq, Eq)]
pub enum Known<'a> {
    /// Never seen, or long ago.
    New,
    /// The same command was taken under it.
    Same(&'a Taken),
    /// Another command was taken under it.
    Other,
}

/// The queue and the memory of ids.
#[derive(Debug, Default)]
pub struct Prompts {
    /// Those that wait, next first.
    pub queue: Seldom<VecDeque<Prompt>>,
    /// Oldest first.
    recent: Vec<Taken>,
}

impl Prompts {
    /// What `id` means, if it is to say `command`.
    pub fn known(&self, id: &str, command: &str) -> Known<'_> {
        match self.recent.iter().find(|taken| &*taken.id == id) {
            None => Known::New,
            Some(taken) if taken.digest == digest(command) => Known::Same(taken),
            Some(_) => Known::Other,
        }
    }

    /// Remembers the first answer to a prompt.
    pub fn remember(&mut self, id: &str, command: &str, cursor: u64, position: u32) {
        if self.recent.len() == RECENT_MAX {
            self.recent.remove(0);
        }
        let digest = digest(command);
        self.recent.push(Taken { id: id.into(), digest, cursor, position });
    }

    /// The same from what [`Prompts::recent`] told. What is no digest is not remembered.
    pub fn remember_digest(&mut self, id: &str, hex: &str, cursor: u64, position: u32) {
        let mut digest = [0; 32];
        let whole = hex.len() == 64 && hex.is_ascii();
        for (at, byte) in digest.iter_mut().enumerate().filter(|_| whole) {
            *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap_or_default();
        }
        if whole && self.recent.len() < RECENT_MAX {
            self.recent.push(Taken { id: id.into(), digest, cursor, position });
        }
    }

    /// The ids that are remembered, oldest first: the digest of each command, and the answer.
    pub fn recent(&self) -> impl Iterator<Item = (&str, String, u64, u32)> {
        self.recent
            .iter()
            .map(|taken| (&*taken.id, hex(taken.digest), taken.cursor, taken.position))
    }

    /// The digest by which a command is remembered, in hexadecimal.
    pub fn digest(command: &str) -> String {
        hex(digest(command))
    }

    /// The number of the event that told that a prompt was queued, if that is remembered.
    pub fn queued_seq(&self, id: &str) -> Option<u64> {
        self.recent.iter().find(|taken| &*taken.id == id).map(|taken| taken.cursor + 1)
    }

    /// Takes a waiting prompt out.
    pub fn take(&mut self, id: &str) -> Option<Prompt> {
        let at = self.queue.iter().position(|prompt| prompt.id == id)?;
        self.queue.remove(at)
    }

    /// Gives back the memory of those that are gone.
    pub fn rest(&mut self) {
        self.queue.rest();
        self.recent.shrink_to_fit();
    }

    /// The bytes that wait.
    pub fn size(&self) -> usize {
        self.queue.iter().map(Prompt::size).sum()
    }
}

fn hex(digest: [u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn digest(command: &str) -> [u8; 32] {
    Sha256::digest(command.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_stands_for_one_command_until_it_is_forgotten() {
        let mut prompts = Prompts::default();
        assert_eq!(prompts.known("a", "ls"), Known::New);
        prompts.remember("a", "ls", 7, 1);
        assert!(matches!(prompts.known("a", "ls"), Known::Same(taken) if taken.cursor == 7));
        assert_eq!(prompts.known("a", "rm"), Known::Other);
        for number in 0..RECENT_MAX {
            prompts.remember(&number.to_string(), "x", 0, 0);
        }
        assert_eq!(prompts.known("a", "rm"), Known::New);
        assert_eq!(prompts.recent.len(), RECENT_MAX);
    }
}
