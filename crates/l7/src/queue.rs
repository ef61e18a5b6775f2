//! Those who wait for a place in a pool that is full: one queue for all workers, first come, first served.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

/// A queue. While nobody waits, whoever leaves the pool reads one word.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// Those in `waiting`; read without the lock. Sequentially consistent with the counts of what is under way: whoever
    /// joins and still sees a full pool is seen by the one that leaves it next.
    length: AtomicUsize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    tickets: u64,
    line: VecDeque<(u64, Waker)>,
}

impl Queue {
    /// A place at the end; none where `most` wait already.
    pub(crate) fn join(self: &Arc<Self>, most: usize, cx: &Context<'_>) -> Option<Place> {
        let mut waiting = self.lock();
        if waiting.line.len() >= most {
            return None;
        }
        waiting.tickets += 1;
        let ticket = waiting.tickets;
        waiting.line.push_back((ticket, cx.waker().clone()));
        self.length.store(waiting.line.len(), SeqCst);
        drop(waiting);
        Some(Place {
            queue: Arc::clone(self),
            ticket,
        })
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.length.load(SeqCst)
    }

    /// A place in the pool has become free.
    pub(crate) fn call_first(&self) {
        if self.len() > 0
            && let Some((_, waker)) = self.lock().line.front()
        {
            waker.wake_by_ref();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in a queue, until it is dropped; who comes next is called then.
#[derive(Debug)]
pub(crate) struct Place {
    queue: Arc<Queue>,
    ticket: u64,
}

impl Place {
    /// Whether it is this one's turn to try.
    pub(crate) fn is_first(&self) -> bool {
        let waiting = self.queue.lock();
        waiting
            .line
            .front()
            .is_some_and(|(ticket, _)| *ticket == self.ticket)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = self.queue.lock();
        waiting.line.retain(|(ticket, _)| *ticket != self.ticket);
        self.queue.length.store(waiting.line.len(), SeqCst);
        drop(waiting);
        self.queue.call_first();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;
    use std::task::Wake;

    #[derive(Default)]
    struct Bell(AtomicU32);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    impl Bell {
        fn rings(&self) -> u32 {
            self.0.swap(0, SeqCst)
        }
    }

    #[test]
    fn the_first_is_called_and_the_next_when_it_leaves() {
        let queue = Arc::new(Queue::default());
        let bells: Vec<Arc<Bell>> = (0..3).map(|_| Arc::default()).collect();
        let join = |bell: &Arc<Bell>| {
            let waker = Waker::from(Arc::clone(bell));
            queue.join(2, &Context::from_waker(&waker))
        };
        queue.call_first();
        let first = join(&bells[0]).unwrap();
        let second = join(&bells[1]).unwrap();
        assert!(join(&bells[2]).is_none(), "two may wait");
        assert!(first.is_first() && !second.is_first());
        queue.call_first();
        assert_eq!((bells[0].rings(), bells[1].rings()), (1, 0));
        drop(first);
        assert!(second.is_first());
        assert_eq!((bells[0].rings(), bells[1].rings()), (0, 1));
        let third = join(&bells[2]).unwrap();
        drop(third);
        assert_eq!((queue.len(), bells[1].rings()), (1, 1));
        drop(second);
        assert_eq!(queue.len(), 0);
    }
}
