//! Sessions by their ids. Only keys are kept, in the order of the ids: those stand in the sessions,
//! which must stay where they are for as long as they are found here.

use crate::base::arena::{Arena, Key};
use crate::core::session::Session;

/// Some sessions, in the order of their ids. Ids begin with the time, so a new one goes to the end.
#[derive(Default)]
pub struct Names(Vec<Key>);

impl Names {
    fn place(&self, sessions: &Arena<Session>, id: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|key| sessions.get(*key).map_or("", Session::id).cmp(id))
    }

    /// The session of this id, if it is one of them.
    pub fn find(&self, sessions: &Arena<Session>, id: &str) -> Option<Key> {
        self.place(sessions, id).ok().map(|at| self.0[at])
    }

    /// Takes in a session that is there.
    pub fn insert(&mut self, sessions: &Arena<Session>, key: Key) {
        let id = sessions.get(key).map_or("", Session::id);
        match self.place(sessions, id) {
            Ok(at) => self.0[at] = key,
            Err(at) => self.0.insert(at, key),
        }
    }

    /// Leaves a session out from here on. It must still be there.
    pub fn remove(&mut self, sessions: &Arena<Session>, key: Key) {
        let id = sessions.get(key).map_or("", Session::id);
        if let Ok(at) = self.place(sessions, id) {
            self.0.remove(at);
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// All of them, by the order of their ids.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        self.0.iter().copied()
    }
}
