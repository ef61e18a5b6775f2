//! Persistence by cookie: a client's requests stay with the backend that answered the first.
//!
//! The value is a keyed hash of the backend, so that a client can neither learn an address from it nor choose a backend
//! by making one up. It is compared, not computed, while requests are served.

use std::collections::HashMap;
use std::fmt::Write;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use weir_model::{BackendId, Sticky};

use crate::codec::h1::RequestHead;

/// Bytes of the hash in a value: 128 bits cannot be guessed.
const VALUE_BYTES: usize = 16;

/// What values are made with: random, and as old as the engine. Values of an earlier run count as none.
#[derive(Debug)]
pub(crate) struct Key(hmac::Key);

impl Key {
    pub(crate) fn random() -> Result<Self, aws_lc_rs::error::Unspecified> {
        hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).map(Self)
    }

    fn value(&self, backend: &BackendId) -> String {
        let tag = hmac::sign(
            &self.0,
            format!("{}\0{}", backend.pool, backend.address).as_bytes(),
        );
        let mut value = String::with_capacity(VALUE_BYTES * 2);
        for byte in &tag.as_ref()[..VALUE_BYTES] {
            // Writing to a string does not fail.
            let _ = write!(value, "{byte:02x}");
        }
        value
    }
}

/// The cookies of a pool.
#[derive(Debug)]
pub(crate) struct Cookies {
    name: Box<[u8]>,
    values: Vec<String>,
    /// Backends by value, as indexes.
    backends: HashMap<Box<[u8]>, usize>,
}

impl Cookies {
    /// The cookies of these backends.
    pub(crate) fn new<'b>(
        sticky: &Sticky,
        backends: impl Iterator<Item = &'b BackendId>,
        key: &Key,
    ) -> Self {
        let values: Vec<String> = backends.map(|backend| key.value(backend)).collect();
        let by_value = values
            .iter()
            .enumerate()
            .map(|(index, value)| (value.as_bytes().into(), index));
        Self {
            name: sticky.cookie.as_bytes().into(),
            backends: by_value.collect(),
            values,
        }
    }

    /// The backend that a request's cookie names, if it is one of ours.
    pub(crate) fn backend(&self, request: &RequestHead, head: &[u8]) -> Option<usize> {
        request
            .cookies_named(head, &self.name)
            .find_map(|value| self.backends.get(value).copied())
    }

    /// The field that gives a client its cookie. Scripts need not see it; on TLS it stays there (RFC 6265, section
    /// 4.1.2).
    pub(crate) fn field(&self, backend: usize, tls: bool) -> Vec<u8> {
        let name = String::from_utf8_lossy(&self.name);
        let secure = if tls { "; Secure" } else { "" };
        let value = &self.values[backend];
        format!("Set-Cookie: {name}={value}; Path=/; HttpOnly; SameSite=Lax{secure}\r\n")
            .into_bytes()
    }
}
