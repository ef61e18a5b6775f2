//! Requests of each route. There may be tens of thousands of routes, so a route costs each worker eight bytes, and a
//! block of them, not each, has cache lines of its own.

use std::collections::HashMap;
use std::sync::Arc;

use weir_model::{Listener, Route};

use crate::stats::{Counter, RouteStats};

/// Counters in a block.
const BLOCK: usize = 16;

/// One worker's counters of some routes.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Block([Counter; BLOCK]);

/// One block for each worker.
type Blocks = Vec<Arc<[Block]>>;

/// What outlives the plans of a listener: a route keeps its counter for as long as its name, or, where it has none, its
/// place, is in use.
#[derive(Debug, Default)]
pub(crate) struct RouteNumbers {
    numbers: HashMap<String, usize>,
    blocks: Blocks,
}

/// The counters of a listener's routes, as one plan has them.
#[derive(Debug)]
pub(crate) struct RouteCounters {
    /// Where the counter of each route is, in the order of the file.
    numbers: Vec<usize>,
    blocks: Blocks,
}

/// What a route is called: by its name, else by its place in the listener.
fn label(place: usize, route: &Route) -> String {
    match &route.name {
        Some(name) => name.to_string(),
        None => format!("#{}", place + 1),
    }
}

impl RouteNumbers {
    pub(crate) fn compile(&mut self, listener: &Listener, workers: usize) -> RouteCounters {
        // Names that are made up anew with every change would be kept for ever: counters begin again instead.
        if self.numbers.len() > 4 * listener.routes.len() + 1024 {
            *self = Self::default();
        }
        let routes = listener.routes.iter().enumerate();
        let numbers: Vec<usize> = routes
            .map(|(place, route)| {
                let next = self.numbers.len();
                *self.numbers.entry(label(place, route)).or_insert(next)
            })
            .collect();
        while self.blocks.len() * BLOCK < self.numbers.len() {
            let block = (0..workers).map(|_| Block::default()).collect();
            self.blocks.push(block);
        }
        RouteCounters {
            numbers,
            blocks: self.blocks.clone(),
        }
    }
}

impl RouteCounters {
    /// Counts a request that goes by a route.
    pub(crate) fn count(&self, route: usize, worker: usize) {
        let number = self.numbers[route];
        self.blocks[number / BLOCK][worker].0[number % BLOCK].add(1);
    }

    /// What was counted, in the order of the file. Routes of one name share one counter.
    pub(crate) fn stats(&self, listener: &Listener) -> Vec<RouteStats> {
        let routes = listener.routes.iter().enumerate().zip(&self.numbers);
        routes
            .map(|((place, route), number)| RouteStats {
                name: label(place, route),
                requests: self.blocks[number / BLOCK]
                    .iter()
                    .map(|block| block.0[number % BLOCK].get())
                    .sum(),
            })
            .collect()
    }
}
