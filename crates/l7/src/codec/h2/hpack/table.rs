//! The tables of HPACK: the static one (RFC 7541, appendix A), and the dynamic one of a decoder.

use std::collections::VecDeque;

use super::ENTRY_OVERHEAD;

/// The static table; its first entry has the number 1.
pub(super) const STATIC: [(&[u8], &[u8]); 61] = [
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
];

/// The number of a name in the static table, of fields that are sent; 0 where it is not in it.
pub(super) fn static_name(name: &[u8]) -> u8 {
    match name {
        b":authority" => 1,
        b":method" => 2,
        b":path" => 4,
        b":scheme" => 6,
        b":status" => 8,
        b"accept-charset" => 15,
        b"accept-encoding" => 16,
        b"accept-language" => 17,
        b"accept-ranges" => 18,
        b"accept" => 19,
        b"access-control-allow-origin" => 20,
        b"age" => 21,
        b"allow" => 22,
        b"authorization" => 23,
        b"cache-control" => 24,
        b"content-disposition" => 25,
        b"content-encoding" => 26,
        b"content-language" => 27,
        b"content-length" => 28,
        b"content-location" => 29,
        b"content-range" => 30,
        b"content-type" => 31,
        b"cookie" => 32,
        b"date" => 33,
        b"etag" => 34,
        b"expect" => 35,
        b"expires" => 36,
        b"from" => 37,
        b"host" => 38,
        b"if-match" => 39,
        b"if-modified-since" => 40,
        b"if-none-match" => 41,
        b"if-range" => 42,
        b"if-unmodified-since" => 43,
        b"last-modified" => 44,
        b"link" => 45,
        b"location" => 46,
        b"max-forwards" => 47,
        b"proxy-authenticate" => 48,
        b"proxy-authorization" => 49,
        b"range" => 50,
        b"referer" => 51,
        b"refresh" => 52,
        b"retry-after" => 53,
        b"server" => 54,
        b"set-cookie" => 55,
        b"strict-transport-security" => 56,
        b"transfer-encoding" => 57,
        b"user-agent" => 58,
        b"vary" => 59,
        b"via" => 60,
        b"www-authenticate" => 61,
        _ => 0,
    }
}

/// A field that a table holds.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The name, and the value behind it.
    bytes: Box<[u8]>,
    name_length: usize,
}

impl Entry {
    pub(super) fn new(name: &[u8], value: &[u8]) -> Self {
        Self {
            bytes: [name, value].concat().into(),
            name_length: name.len(),
        }
    }

    pub(super) fn name(&self) -> &[u8] {
        &self.bytes[..self.name_length]
    }

    pub(super) fn value(&self) -> &[u8] {
        &self.bytes[self.name_length..]
    }

    pub(super) fn size(&self) -> usize {
        self.bytes.len() + ENTRY_OVERHEAD
    }
}

/// A dynamic table. Its memory is what its entries take; an empty one has none.
#[derive(Debug)]
pub(super) struct Table {
    /// The newest first.
    entries: VecDeque<Entry>,
    size: usize,
    size_max: usize,
}

impl Table {
    pub(super) fn new(size_max: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            size: 0,
            size_max,
        }
    }

    pub(super) fn size_max(&self) -> usize {
        self.size_max
    }

    /// How many entries there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The entry so many places behind the newest.
    pub(super) fn get(&self, place: usize) -> Option<&Entry> {
        self.entries.get(place)
    }

    /// Changes the size, and evicts what has no room.
    pub(super) fn resize(&mut self, size_max: usize) {
        self.size_max = size_max;
        self.evict();
    }

    /// Puts an entry in front. One that is larger than the table empties it (RFC 7541, section 4.4).
    pub(super) fn insert(&mut self, entry: Entry) {
        self.size += entry.size();
        self.entries.push_front(entry);
        self.evict();
    }

    fn evict(&mut self) {
        while self.size > self.size_max
            && let Some(evicted) = self.entries.pop_back()
        {
            self.size -= evicted.size();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_their_first_numbers() {
        for (number, (name, _)) in STATIC.iter().enumerate().rev() {
            let first = STATIC.iter().position(|(other, _)| other == name).unwrap();
            assert_eq!(usize::from(static_name(name)), first + 1, "{number}");
        }
        assert_eq!(static_name(b"x-other"), 0);
    }

    #[test]
    fn the_oldest_entries_make_room() {
        let mut table = Table::new(100);
        table.insert(Entry::new(b"first", b"value"));
        table.insert(Entry::new(b"second", b"value"));
        assert_eq!(table.len(), 2);
        table.insert(Entry::new(b"third", b"value"));
        assert_eq!(table.len(), 2);
        assert_eq!(table.get(1).unwrap().name(), b"second");
        table.insert(Entry::new(b"large", &[b'x'; 100]));
        assert_eq!((table.len(), table.size), (0, 0));
    }
}
