//! A set that stores only hashes of its elements, with marks.

use std::hash::{BuildHasher, Hash, RandomState};

/// A set of elements, each stored as a hash of 64 bits and up to 8 marks. With ten million elements, the probability of
/// a collision is one in 370,000.
///
/// All elements are added before [`FingerprintSet::finish`], and looked up after it.
#[derive(Debug, Default)]
pub(crate) struct FingerprintSet {
    hasher: RandomState,
    sorted: Vec<u64>,
    marks: Vec<u8>,
    duplicates: u64,
}

impl FingerprintSet {
    /// Adds an element.
    pub(crate) fn add(&mut self, element: &impl Hash) {
        self.sorted.push(self.hasher.hash_one(element));
    }

    /// Sorts and deduplicates the elements; none may be added afterwards.
    pub(crate) fn finish(&mut self) {
        self.sorted.sort_unstable();
        let all = self.sorted.len();
        self.sorted.dedup();
        self.duplicates = (all - self.sorted.len()) as u64;
        self.marks = vec![0; self.sorted.len()];
    }

    /// Marks the element, and returns the marks that it had before; None: it is not in the set.
    pub(crate) fn mark(&mut self, element: &impl Hash, mark: u8) -> Option<u8> {
        let index = self.sorted.binary_search(&self.hasher.hash_one(element)).ok()?;
        let before = self.marks[index];
        self.marks[index] |= mark;
        Some(before)
    }

    /// The marks of the element; None: it is not in the set.
    pub(crate) fn marks(&self, element: &impl Hash) -> Option<u8> {
        self.sorted.binary_search(&self.hasher.hash_one(element)).ok().map(|index| self.marks[index])
    }

    /// How many elements have exactly the marks `value` among the marks `mask`.
    pub(crate) fn count(&self, mask: u8, value: u8) -> u64 {
        self.marks.iter().filter(|marks| **marks & mask == value).count() as u64
    }

    /// How many elements were added, including duplicates.
    pub(crate) fn added(&self) -> u64 {
        self.sorted.len() as u64 + self.duplicates
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_found_with_their_marks() {
        let mut set = FingerprintSet::default();
        for element in ["a", "b", "c", "b"] {
            set.add(&element);
        }
        set.finish();
        assert_eq!((set.sorted.len(), set.duplicates, set.added()), (3, 1, 4));
        assert_eq!(set.mark(&"a", 1), Some(0));
        assert_eq!(set.mark(&"a", 2), Some(1));
        assert_eq!(set.marks(&"a"), Some(3));
        assert_eq!(set.mark(&"x", 1), None);
        assert_eq!((set.count(1, 0), set.count(4, 0), set.count(3, 3)), (2, 3, 1));
    }
}
