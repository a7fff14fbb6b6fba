//! What many sessions say alike, directories, models and modes, stands in memory once.

use std::sync::Arc;

/// Values in use, and some that were.
#[derive(Debug)]
pub struct Shared<T: ?Sized> {
    /// In their order.
    known: Vec<Arc<T>>,
    /// How many there may be before those that nobody uses are forgotten.
    enough: usize,
}

/// So few are never worth looking through.
const FEW: usize = 16;

impl<T: ?Sized> Default for Shared<T> {
    fn default() -> Shared<T> {
        Shared { known: Vec::new(), enough: FEW }
    }
}

impl<T: ?Sized + Ord> Shared<T> {
    /// This value, as everybody has it who was given it.
    pub fn one<'a>(&mut self, value: &'a T) -> Arc<T>
    where
        Arc<T>: From<&'a T>,
    {
        let at = match self.known.binary_search_by(|known| (**known).cmp(value)) {
            Ok(at) => return self.known[at].clone(),
            Err(at) => at,
        };
        let one: Arc<T> = value.into();
        self.known.insert(at, one.clone());
        if self.known.len() > self.enough {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            self.enough = FEW.max(2 * self.known.len());
        }
        one
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_given_to_all_and_what_nobody_uses_is_forgotten() {
        let mut words: Shared<str> = Shared::default();
        let (plan, model) = (words.one("plan"), words.one("model"));
        assert!(Arc::ptr_eq(&plan, &words.one("plan")) && !Arc::ptr_eq(&plan, &model));
        drop(model);
        for number in 0..1000 {
            assert_eq!(&*words.one(&number.to_string()), number.to_string());
            assert!(words.known.len() <= FEW + 1, "{}", words.known.len());
        }
        assert!(Arc::ptr_eq(&plan, &words.one("plan")), "somebody has it");
        let used: Vec<Arc<str>> = (0..100).map(|number| words.one(&number.to_string())).collect();
        assert!(used.iter().all(|one| Arc::ptr_eq(one, &words.one(one))));
    }
}
