//! A value that is nearly always blank: then it takes one word, and no memory beside it.
//!
//! It is read like the value itself, and takes memory when it is first written to. What became
//! blank again keeps its memory, until [`Seldom::rest`].

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};

/// What can be [`Seldom`] there.
pub trait Blank: Default + 'static {
    /// What a reader finds where there is nothing.
    const BLANK: &'static Self;

    /// Whether nothing would be missed.
    fn is_blank(&self) -> bool;

    /// Gives back room that is not used.
    fn shrink(&mut self) {}
}

/// A value apart, where there is one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seldom<T>(Option<Box<T>>);

impl<T: Blank> Seldom<T> {
    /// Gives back the memory that is not used.
    pub fn rest(&mut self) {
        match &mut self.0 {
            Some(value) if !value.is_blank() => value.shrink(),
            value => *value = None,
        }
    }
}

impl<T: Blank> From<T> for Seldom<T> {
    fn from(value: T) -> Seldom<T> {
        Seldom((!value.is_blank()).then(|| Box::new(value)))
    }
}

impl<T: Blank> Deref for Seldom<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or(T::BLANK)
    }
}

impl<T: Blank> DerefMut for Seldom<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }
}

impl<T: 'static> Blank for Option<T> {
    const BLANK: &'static Self = &None;

    fn is_blank(&self) -> bool {
        self.is_none()
    }
}

impl<T: 'static> Blank for Vec<T> {
    const BLANK: &'static Self = &Vec::new();

    fn is_blank(&self) -> bool {
        self.is_empty()
    }

    fn shrink(&mut self) {
        self.shrink_to_fit();
    }
}

impl<T: 'static> Blank for VecDeque<T> {
    const BLANK: &'static Self = &VecDeque::new();

    fn is_blank(&self) -> bool {
        self.is_empty()
    }

    fn shrink(&mut self) {
        self.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_like_the_value_and_holds_memory_only_while_there_is_something() {
        assert_eq!(size_of::<Seldom<Vec<u64>>>(), size_of::<usize>());
        let mut list: Seldom<Vec<u64>> = Seldom::default();
        assert!(list.is_empty() && list.0.is_none(), "reading takes nothing");
        list.push(7);
        list.reserve(100);
        list.rest();
        assert_eq!((list.as_slice(), list.capacity()), (&[7][..], 1));
        list.clear();
        assert!(list.0.is_some(), "what is written to again keeps its memory");
        list.rest();
        assert_eq!((list.0.is_none(), list.len()), (true, 0));
    }

    #[test]
    fn a_blank_value_is_not_kept() {
        let name: Seldom<Option<String>> = None.into();
        assert!(name.0.is_none() && name.as_deref().is_none());
        let name: Seldom<Option<String>> = Some("a".to_owned()).into();
        assert_eq!(name.as_deref(), Some("a"));
        assert!(Seldom::from(VecDeque::<u8>::new()).0.is_none());
    }
}
