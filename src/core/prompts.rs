//! The prompts of one session: those that wait, and which ids were taken lately.
//!
//! A prompt has exactly one fate: completed, failed or cancelled. The same id with the same
//! command and images gives the first answer again and runs once; with others it is refused.

use crate::base::seldom::Seldom;
use crate::limits::PROMPT_IDS_KEPT;
use sha2::{Digest, Sha256};
use std::collections::VecDeque;

/// Bytes of the digest by which what was sent under an id is remembered.
const DIGEST_SIZE: usize = 24;

/// An image that goes with a prompt: its media type, and its bytes in base64.
pub type Image = (String, String);

/// A prompt that waits or runs.
#[derive(Debug, Default)]
pub struct Prompt {
    /// The client's id, or one made up.
    pub id: String,
    /// What the agent is told.
    pub command: String,
    /// Images that go with it.
    pub images: Vec<Image>,
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
    digest: [u8; DIGEST_SIZE],
    /// The cursor before its `prompt-queued`.
    pub cursor: u64,
    /// The number of its last event, 0 before that.
    pub end: u64,
    /// Its place in the queue when it was taken.
    pub position: u32,
}

/// What a prompt id means to this session.
#[derive(Debug, PartialEq, Eq)]
pub enum Known<'a> {
    /// Never seen, or long ago.
    New,
    /// The same was taken under it.
    Same(&'a Taken),
    /// Another command was taken under it, or other images.
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
    /// What `id` means, if it is to say `command` and show `images`.
    pub fn known(&self, id: &str, command: &str, images: &[Image]) -> Known<'_> {
        match self.recent.iter().find(|taken| &*taken.id == id) {
            None => Known::New,
            Some(taken) if taken.digest == digest(command, images) => Known::Same(taken),
            Some(_) => Known::Other,
        }
    }

    /// Remembers the first answer to a prompt.
    pub fn remember(&mut self, prompt: &Prompt, cursor: u64, position: u32) {
        if self.recent.len() == PROMPT_IDS_KEPT {
            self.recent.remove(0);
        }
        let digest = digest(&prompt.command, &prompt.images);
        let id = prompt.id.as_str().into();
        self.recent.push(Taken { id, digest, cursor, end: 0, position });
    }

    /// Remembers that a prompt has ended, with event `seq`.
    pub fn ended(&mut self, id: &str, seq: u64) {
        // It is mostly one of the latest.
        if let Some(taken) = self.recent.iter_mut().rev().find(|taken| &*taken.id == id) {
            taken.end = seq;
        }
    }

    /// The number of the last event of a prompt that has ended, as far as that is remembered.
    pub fn end_of(&self, id: &str) -> Option<u64> {
        let taken = self.recent.iter().rev().find(|taken| &*taken.id == id)?;
        (taken.end > 0).then_some(taken.end)
    }

    /// Remembers what [`Prompts::recent`] told. What is no digest is not remembered.
    pub fn remember_digest(
        &mut self,
        id: &str,
        hex: &str,
        (cursor, end): (u64, u64),
        position: u32,
    ) {
        let mut digest = [0; DIGEST_SIZE];
        let whole = hex.len() >= 2 * DIGEST_SIZE && hex.is_ascii();
        for (at, byte) in digest.iter_mut().enumerate().filter(|_| whole) {
            *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap_or_default();
        }
        if whole && self.recent.len() < PROMPT_IDS_KEPT {
            self.recent.push(Taken { id: id.into(), digest, cursor, end, position });
        }
    }

    /// The ids that are remembered, oldest first, the digest of what was sent, and the answer.
    pub fn recent(&self) -> impl Iterator<Item = (&str, String, &Taken)> {
        self.recent.iter().map(|taken| (&*taken.id, hex(&taken.digest), taken))
    }

    /// The digest by which a prompt is remembered, in hexadecimal.
    pub fn digest(command: &str, images: &[Image]) -> String {
        hex(&digest(command, images))
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

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn digest(command: &str, images: &[Image]) -> [u8; DIGEST_SIZE] {
    let mut hash = Sha256::new_with_prefix(command);
    for (kind, data) in images {
        // How long each is: where one ends and the next begins belongs to what was sent.
        hash.update((command.len() as u64).to_le_bytes());
        hash.update((data.len() as u64).to_le_bytes());
        hash.update(kind);
        hash.update(data);
    }
    let mut digest = [0; DIGEST_SIZE];
    digest.copy_from_slice(&hash.finalize()[..DIGEST_SIZE]);
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_stands_for_one_command_until_it_is_forgotten() {
        let mut prompts = Prompts::default();
        assert_eq!(prompts.known("a", "ls", &[]), Known::New);
        let prompt = |id: &str, command: &str, images: &[Image]| Prompt {
            id: id.to_owned(),
            command: command.to_owned(),
            images: images.to_vec(),
            ..Prompt::default()
        };
        prompts.remember(&prompt("a", "ls", &[]), 7, 1);
        let known = |prompts: &Prompts| match prompts.known("a", "ls", &[]) {
            Known::Same(taken) => (taken.cursor, taken.end, taken.position),
            other => panic!("{other:?}"),
        };
        assert_eq!((known(&prompts), prompts.end_of("a")), ((7, 0, 1), None));
        assert_eq!(prompts.known("a", "rm", &[]), Known::Other);
        prompts.ended("a", 9);
        assert_eq!((known(&prompts), prompts.end_of("a")), ((7, 9, 1), Some(9)));
        let mut again = Prompts::default();
        for (id, digest, taken) in prompts.recent() {
            again.remember_digest(id, &digest, (taken.cursor, taken.end), taken.position);
        }
        assert_eq!(known(&again), (7, 9, 1));
        for number in 0..PROMPT_IDS_KEPT {
            prompts.remember(&prompt(&number.to_string(), "x", &[]), 0, 0);
        }
        assert_eq!(prompts.known("a", "rm", &[]), Known::New);
        assert_eq!((prompts.recent.len(), prompts.end_of("a")), (PROMPT_IDS_KEPT, None));
    }

    #[test]
    fn a_digest_tells_prompts_apart_by_all_that_was_sent() {
        let image = |kind: &str, data: &str| (kind.to_owned(), data.to_owned());
        let (png, gif) = (image("image/png", "AAAA"), image("image/gif", "AAAA"));
        let sent: [(&str, &[Image]); 8] = [
            ("look", &[]),
            ("look!", &[]),
            ("look", std::slice::from_ref(&png)),
            ("look", std::slice::from_ref(&gif)),
            ("look", &[png.clone(), gif.clone()]),
            ("look", &[gif.clone(), png.clone()]),
            ("look", &[image("image/png", "AAAB")]),
            ("look", &[image("image/pngAA", "AA")]),
        ];
        let digests = sent.map(|(command, images)| Prompts::digest(command, images));
        let different: std::collections::BTreeSet<&String> = digests.iter().collect();
        assert_eq!(different.len(), sent.len());
    }
}
