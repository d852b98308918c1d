//! Shared values that are compared by content, cheaply.
//!
//! The labels of a connection come from the snapshot that was current when it was accepted, while
//! its metric series outlives that snapshot. An [`Identity`] lets a worker find the series again
//! without hashing strings for every connection. It says nothing about what the value means.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use foldhash::quality::FixedState;

/// A shared value with the hash of its content, computed once: a metric series is found by it, so
/// equal values of different generations must hash and compare alike.
#[derive(Debug, Clone)]
pub struct Identity<T> {
    /// The value.
    pub value: Arc<T>,
    /// Equal for equal values, in every generation of one process.
    pub hash: u64,
}

impl<T: Hash> Identity<T> {
    /// `value` and its hash.
    #[must_use]
    pub fn new(value: T) -> Self {
        // A fixed seed: what is hashed comes from the operator's files, not from a peer.
        let hash = FixedState::with_seed(0).hash_one(&value);
        Self { value: Arc::new(value), hash }
    }
}

impl<T: PartialEq> PartialEq for Identity<T> {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
            && (Arc::ptr_eq(&self.value, &other.value) || self.value == other.value)
    }
}

impl<T: Eq> Eq for Identity<T> {}

impl<T> Hash for Identity<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_content_gives_equal_hash_and_identity() {
        let (a, b) = (Identity::new("api".to_owned()), Identity::new("api".to_owned()));
        assert_eq!(a.hash, b.hash);
        assert_eq!(a, b);
        assert_ne!(a, Identity::new("db".to_owned()));
    }
}
