//! What waits for its response, in order: mostly one, which costs no memory of its own.

use std::collections::VecDeque;

/// First in, first out.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    /// `None`: it is empty.
    first: Option<T>,
    /// Those behind the first.
    rest: VecDeque<T>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { first: None, rest: VecDeque::new() }
    }
}

impl<T> Queue<T> {
    pub(crate) fn push(&mut self, last: T) {
        match self.first {
            None => self.first = Some(last),
            Some(_) => self.rest.push_back(last),
        }
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        let first = self.first.take();
        self.first = self.rest.pop_front();
        first
    }

    pub(crate) fn first(&self) -> Option<&T> {
        self.first.as_ref()
    }

    pub(crate) fn first_mut(&mut self) -> Option<&mut T> {
        self.first.as_mut()
    }

    pub(crate) fn last_mut(&mut self) -> Option<&mut T> {
        self.rest.back_mut().or(self.first.as_mut())
    }

    pub(crate) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_queue(pushes in prop::collection::vec(any::<bool>(), 0..100)) {
            let (mut queue, mut oracle) = (Queue::default(), VecDeque::new());
            for (number, push) in pushes.into_iter().enumerate() {
                if push {
                    queue.push(number);
                    oracle.push_back(number);
                } else {
                    prop_assert_eq!(queue.pop(), oracle.pop_front());
                }
                prop_assert_eq!(queue.first(), oracle.front());
                prop_assert_eq!(queue.first_mut(), oracle.front_mut());
                prop_assert_eq!(queue.last_mut(), oracle.back_mut());
                prop_assert_eq!((queue.len(), queue.is_empty()), (oracle.len(), oracle.is_empty()));
            }
        }
    }
}
