//! The tasks that serve the requests of HTTP/2 connections, one for each request that is under way.
//!
//! A task is some kilobytes of memory that are written and moved when it is made. One that has served a request
//! therefore waits for the next one, of whatever connection of its worker.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::client::Client;
use crate::downstream::h1::{self, Heads};
use crate::forwarded::Forwarded;
use crate::h2::StreamIo;
use crate::listener::LocalListener;
use crate::worker::Worker;

/// Tasks of a worker that wait for a request: 8 MiB. Those that nobody needs end within seconds.
const WAITING_MAX: usize = 1024;

/// A stream that has a request, and what is the same for all of its connection.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) listener: Rc<LocalListener>,
    pub(crate) io: StreamIo,
    pub(crate) client: Rc<Client>,
    pub(crate) forwarded: Rc<Forwarded>,
    /// The request is the first of its connection.
    pub(crate) first: bool,
}

/// The tasks of a worker that wait for a request.
#[derive(Debug, Default)]
pub(crate) struct StreamTasks {
    waiting: RefCell<Vec<Rc<Seat>>>,
    /// The fewest that have waited at a time since they were looked at.
    spare: Cell<usize>,
}

/// Where a task that waits is told what comes.
#[derive(Default)]
struct Seat {
    told: Cell<Option<Told>>,
    waker: RefCell<Option<Waker>>,
}

enum Told {
    Serve(Stream),
    /// There are more tasks than are needed.
    End,
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seat").finish_non_exhaustive()
    }
}

impl Seat {
    fn tell(&self, told: Told) {
        self.told.set(Some(told));
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<Told> {
        if let Some(told) = self.told.take() {
            return Poll::Ready(told);
        }
        // It is the same task every time.
        self.waker
            .borrow_mut()
            .get_or_insert_with(|| cx.waker().clone());
        Poll::Pending
    }
}

impl StreamTasks {
    /// Has a task serve a stream: the one that has waited for the shortest time, or a new one.
    pub(crate) fn serve(&self, worker: &Rc<Worker>, stream: Stream) {
        let mut waiting = self.waiting.borrow_mut();
        let seat = waiting.pop();
        self.spare.set(self.spare.get().min(waiting.len()));
        drop(waiting);
        match seat {
            Some(seat) => seat.tell(Told::Serve(stream)),
            None => {
                tokio::task::spawn_local(run(Rc::clone(worker), stream));
            }
        }
    }

    /// Keeps a task that has served its stream, unless there are enough.
    fn keep(&self, seat: &Rc<Seat>) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        let is_kept = waiting.len() < WAITING_MAX;
        if is_kept {
            waiting.push(Rc::clone(seat));
        }
        is_kept
    }

    /// Ends those that nobody has needed since the last call.
    pub(crate) fn reap(&self) {
        let mut waiting = self.waiting.borrow_mut();
        for seat in waiting.drain(..self.spare.get()) {
            seat.tell(Told::End);
        }
        self.spare.set(waiting.len());
    }
}

async fn run(worker: Rc<Worker>, stream: Stream) {
    let seat = Rc::new(Seat::default());
    let mut heads = Heads::default();
    let mut told = Told::Serve(stream);
    while let Told::Serve(stream) = told {
        h1::serve_stream(&worker, stream, &mut heads).await;
        if !worker.stream_tasks.keep(&seat) {
            return;
        }
        told = poll_fn(|cx| seat.poll(cx)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_that_were_not_needed_end() {
        let tasks = StreamTasks::default();
        let seats: Vec<_> = (0..4).map(|_| Rc::new(Seat::default())).collect();
        for seat in &seats {
            assert!(tasks.keep(seat));
        }
        let ended = || {
            let seats = seats.iter();
            let told = seats.map(|seat| seat.told.take().is_some());
            told.collect::<Vec<_>>()
        };
        // They have come since the last look.
        tasks.reap();
        assert_eq!(ended(), [false; 4]);
        // Two at a time had something to do.
        let waiting = tasks.waiting.borrow_mut().split_off(2);
        tasks.spare.set(2);
        for seat in &waiting {
            assert!(tasks.keep(seat));
        }
        tasks.reap();
        assert_eq!(ended(), [true, true, false, false]);
        tasks.reap();
        assert_eq!(ended(), [false, false, true, true]);
        assert!(tasks.waiting.borrow().is_empty());
    }

    #[test]
    fn no_more_tasks_wait_than_a_worker_has_memory_for() {
        let tasks = StreamTasks::default();
        let seat = Rc::new(Seat::default());
        assert!((0..WAITING_MAX).all(|_| tasks.keep(&seat)));
        assert!(!tasks.keep(&seat));
    }
}
