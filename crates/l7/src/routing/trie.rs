//! A tree of segments: finds the longest of many prefixes in one pass, whatever their number.

use std::collections::HashMap;

/// Values by sequences of segments.
#[derive(Clone, Debug)]
pub(super) struct Trie<V> {
    nodes: Vec<Node<V>>,
}

#[derive(Clone, Debug)]
struct Node<V> {
    children: HashMap<Box<[u8]>, u32>,
    value: Option<V>,
    /// The node above.
    parent: u32,
    /// The nearest node above that has a value; the node itself where there is none.
    valued: u32,
}

const ROOT: u32 = 0;

impl<V> Default for Trie<V> {
    fn default() -> Self {
        Self {
            nodes: vec![Node::new(ROOT)],
        }
    }
}

impl<V> Node<V> {
    fn new(parent: u32) -> Self {
        Self {
            children: HashMap::new(),
            value: None,
            parent,
            valued: ROOT,
        }
    }
}

impl<V: Default> Trie<V> {
    /// The value of a sequence, made if it is not there.
    pub(super) fn entry<'s>(&mut self, segments: impl Iterator<Item = &'s [u8]>) -> &mut V {
        let mut at = ROOT;
        for segment in segments {
            let next = self.nodes.len() as u32;
            let node = &mut self.nodes[at as usize];
            at = match node.children.get(segment) {
                Some(child) => *child,
                None => {
                    node.children.insert(segment.into(), next);
                    self.nodes.push(Node::new(at));
                    next
                }
            };
        }
        self.nodes[at as usize].value.get_or_insert_default()
    }

    /// Whether nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.len() == 1 && self.nodes[0].value.is_none()
    }

    /// Every value, to be changed in place.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.nodes.iter_mut().filter_map(|node| node.value.as_mut())
    }

    /// Has to be called after the last entry, before the first search.
    pub(super) fn finish(&mut self) {
        // Parents stand before their children.
        for at in 1..self.nodes.len() {
            let parent = self.nodes[at].parent;
            self.nodes[at].valued = if self.nodes[parent as usize].value.is_some() {
                parent
            } else {
                self.nodes[parent as usize].valued
            };
        }
    }

    /// The values of all sequences that `segments` begins with, the longest first.
    pub(super) fn find<'s>(&self, segments: impl Iterator<Item = &'s [u8]>) -> Found<'_, V> {
        let mut at = ROOT;
        for segment in segments {
            match self.nodes[at as usize].children.get(segment) {
                Some(child) => at = *child,
                None => break,
            }
        }
        Found {
            trie: self,
            at: Some(at),
        }
    }
}

/// Values from the longest sequence to the shortest.
pub(super) struct Found<'t, V> {
    trie: &'t Trie<V>,
    at: Option<u32>,
}

impl<'t, V> Iterator for Found<'t, V> {
    type Item = &'t V;

    fn next(&mut self) -> Option<&'t V> {
        loop {
            let at = self.at?;
            let node = &self.trie.nodes[at as usize];
            self.at = (at != ROOT).then_some(node.valued);
            if let Some(value) = &node.value {
                return Some(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_beginnings_are_found_the_longest_first() {
        let mut trie: Trie<Vec<&str>> = Trie::default();
        let mut add = |path: &'static str| {
            let segments = path.split('/').filter(|segment| !segment.is_empty());
            trie.entry(segments.map(str::as_bytes)).push(path);
        };
        ["", "a", "a/b/c", "a/b/d", "x/y"]
            .into_iter()
            .for_each(&mut add);
        trie.finish();
        let check = |path: &str, expected: &[&str]| {
            let segments = path.split('/').map(str::as_bytes);
            let found: Vec<&str> = trie.find(segments).flatten().copied().collect();
            assert_eq!(found, expected, "{path}");
        };
        check("a/b/c/d", &["a/b/c", "a", ""]);
        check("a/b", &["a", ""]);
        check("x", &[""]);
        check("x/y", &["x/y", ""]);
        check("b", &[""]);
    }
}
