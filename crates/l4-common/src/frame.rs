//! A packet in memory, with every access checked against its end.
