//! Doubly linked lists over arena slots: the links stand beside the arena, a list is two indices.
//!
//! An index is in at most one list that shares its [`Links`]. Everything is O(1), joining two
//! lists included, and nothing is ever allocated after [`Links::new`]. Which list an index is in
//! is the owner's knowledge: removing it from another list is a bug that debug builds catch.

/// No index: the end of a list.
const NONE: u32 = u32::MAX;

/// The links of all indices below a capacity. Eight bytes an index.
pub struct Links {
    next: Box<[u32]>,
    previous: Box<[u32]>,
}

impl Links {
    /// Links for indices below `capacity`, all in no list.
    pub fn new(capacity: u32) -> Links {
        // Zero means "index 0", which is why a list checks its length before it follows a link:
        // zeroed pages cost nothing until they are used.
        let zeroed = || vec![0; capacity as usize].into_boxed_slice();
        Links { next: zeroed(), previous: zeroed() }
    }
}

/// A list of indices. `Copy` would make two lists of one: it is moved instead.
#[derive(Debug)]
pub struct List {
    first: u32,
    last: u32,
    length: u32,
}

impl Default for List {
    fn default() -> List {
        List { first: NONE, last: NONE, length: 0 }
    }
}

impl List {
    /// How many indices are in it.
    pub fn len(&self) -> u32 {
        self.length
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Appends an index that is in no list.
    pub fn push_back(&mut self, links: &mut Links, index: u32) {
        links.previous[index as usize] = self.last;
        links.next[index as usize] = NONE;
        match self.last {
            NONE => self.first = index,
            last => links.next[last as usize] = index,
        }
        self.last = index;
        self.length += 1;
    }

    /// Takes the first index out.
    pub fn pop_front(&mut self, links: &mut Links) -> Option<u32> {
        if self.length == 0 {
            return None;
        }
        let index = self.first;
        self.remove(links, index);
        Some(index)
    }

    /// Takes an index out that is in this list.
    pub fn remove(&mut self, links: &mut Links, index: u32) {
        debug_assert!(self.length > 0, "an index of another list");
        let (previous, next) = (links.previous[index as usize], links.next[index as usize]);
        match previous {
            NONE => {
                debug_assert_eq!(self.first, index, "an index of another list");
                self.first = next;
            }
            previous => links.next[previous as usize] = next,
        }
        match next {
            NONE => {
                debug_assert_eq!(self.last, index, "an index of another list");
                self.last = previous;
            }
            next => links.previous[next as usize] = previous,
        }
        self.length -= 1;
    }

    /// Moves everything of `other` to the end of this list, however long it is.
    pub fn append(&mut self, links: &mut Links, other: &mut List) {
        if other.length == 0 {
            return;
        }
        match self.last {
            NONE => self.first = other.first,
            last => {
                links.next[last as usize] = other.first;
                links.previous[other.first as usize] = last;
            }
        }
        self.last = other.last;
        self.length += other.length;
        *other = List::default();
    }

    /// The indices from first to last.
    pub fn iter<'a>(&self, links: &'a Links) -> impl Iterator<Item = u32> + 'a {
        let mut index = self.first;
        std::iter::from_fn(move || {
            let current = (index != NONE).then_some(index)?;
            index = links.next[current as usize];
            Some(current)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_two_vectors_over_random_lives() {
        for seed in 1..100u64 {
            let mut state = seed;
            let mut random = |below: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % below
            };
            let mut links = Links::new(12);
            let mut lists = [List::default(), List::default()];
            let mut models: [Vec<u32>; 2] = [Vec::new(), Vec::new()];
            for step in 0..400 {
                let (index, side) = (random(12) as u32, random(2) as usize);
                match random(5) {
                    0 | 1 if !models.iter().any(|model| model.contains(&index)) => {
                        lists[side].push_back(&mut links, index);
                        models[side].push(index);
                    }
                    2 => {
                        let first = (!models[side].is_empty()).then(|| models[side].remove(0));
                        assert_eq!(lists[side].pop_front(&mut links), first);
                    }
                    3 if models[side].contains(&index) => {
                        lists[side].remove(&mut links, index);
                        models[side].retain(|other| *other != index);
                    }
                    4 if step % 7 == 0 => {
                        let [a, b] = &mut lists;
                        a.append(&mut links, b);
                        let moved = std::mem::take(&mut models[1]);
                        models[0].extend(moved);
                    }
                    _ => {}
                }
                for (list, model) in lists.iter().zip(&models) {
                    assert_eq!(list.iter(&links).collect::<Vec<_>>(), *model, "seed={seed}");
                    assert_eq!(list.len() as usize, model.len(), "seed={seed} step={step}");
                }
            }
        }
    }
}
