//! A set of things of which only a hash is kept, and some marks.

use std::hash::{BuildHasher, Hash, RandomState};

/// A set of things, each with a hash of 64 bits and up to 8 marks. With ten million things, the chance that two of them cannot
/// be told apart is one in 370,000.
#[derive(Debug, Default)]
pub(crate) struct Prints {
    hasher: RandomState,
    sorted: Vec<u64>,
    marks: Vec<u8>,
    repeated: u64,
}

impl Prints {
    /// Adds a thing. All are added before the first is looked for.
    pub(crate) fn add(&mut self, thing: &impl Hash) {
        self.sorted.push(self.hasher.hash_one(thing));
    }

    /// Must be called between the last thing that is added and the first that is looked for.
    pub(crate) fn close(&mut self) {
        self.sorted.sort_unstable();
        let all = self.sorted.len();
        self.sorted.dedup();
        self.repeated = (all - self.sorted.len()) as u64;
        self.marks = vec![0; self.sorted.len()];
    }

    /// Marks the thing and returns the marks that it had before; None: it is not in the set.
    pub(crate) fn mark(&mut self, thing: &impl Hash, mark: u8) -> Option<u8> {
        let index = self.sorted.binary_search(&self.hasher.hash_one(thing)).ok()?;
        let before = self.marks[index];
        self.marks[index] |= mark;
        Some(before)
    }

    /// The marks of the thing; None: it is not in the set.
    pub(crate) fn marks(&self, thing: &impl Hash) -> Option<u8> {
        self.sorted.binary_search(&self.hasher.hash_one(thing)).ok().map(|index| self.marks[index])
    }

    /// How many have none of these marks.
    pub(crate) fn without(&self, marks: u8) -> u64 {
        self.marks.iter().filter(|has| **has & marks == 0).count() as u64
    }

    /// How many there are.
    pub(crate) fn len(&self) -> u64 {
        self.sorted.len() as u64
    }

    /// How many were added although they were there.
    pub(crate) const fn repeated(&self) -> u64 {
        self.repeated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_are_found_with_their_marks() {
        let mut prints = Prints::default();
        for thing in ["a", "b", "c", "b"] {
            prints.add(&thing);
        }
        prints.close();
        assert_eq!((prints.len(), prints.repeated()), (3, 1));
        assert_eq!(prints.mark(&"a", 1), Some(0));
        assert_eq!(prints.mark(&"a", 2), Some(1));
        assert_eq!(prints.marks(&"a"), Some(3));
        assert_eq!(prints.mark(&"x", 1), None);
        assert_eq!((prints.without(1), prints.without(4)), (2, 3));
    }
}
