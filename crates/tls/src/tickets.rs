//! Session tickets (RFC 8446, section 4.6.1; RFC 5077): sessions that clients keep, so that any worker and any node with
//! the keys can resume them.
//!
//! A ticket is `key name | salt | time of issue | ciphertext`. Each is encrypted under a key of its own, made of the
//! master key, the salt and the *binding*: what was demanded of clients where the ticket was made. A ticket of a listener
//! that demands something else is noise, so no client evades a check of its certificate by resuming elsewhere
//! (CVE-2025-23419 is about that).

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::rand::fill;
use aws_lc_rs::{digest, hmac};
use rustls::server::ProducesTickets;

use crate::error::TlsError;

const KEY_BYTES: usize = 32;
const NAME_BYTES: usize = 16;
const SALT_BYTES: usize = 32;
const TIME_BYTES: usize = 8;
const HEAD_BYTES: usize = NAME_BYTES + SALT_BYTES + TIME_BYTES;

/// Keys that a file may hold: the one in use, those that clients may still have tickets of, and the next.
pub(crate) const KEYS_MAX: usize = 16;
/// How long a ticket is good. A day's visitors resume, and a stolen key opens no more than this of the past.
const LIFETIME: Duration = Duration::from_secs(12 * 3600);
/// How often keys of this node's own are replaced. The one before is still accepted until its last ticket has ended.
const ROTATION: Duration = Duration::from_secs(12 * 3600);

/// A key that the keys of tickets are made of.
struct Master {
    name: [u8; NAME_BYTES],
    key: hmac::Key,
}

impl Master {
    fn new(secret: &[u8; KEY_BYTES]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let mut name = [0; NAME_BYTES];
        name.copy_from_slice(&hmac::sign(&key, b"weir ticket key name").as_ref()[..NAME_BYTES]);
        Self { name, key }
    }

    fn random() -> Result<Self, TlsError> {
        let mut secret = [0; KEY_BYTES];
        fill(&mut secret).map_err(|_| TlsError::Random)?;
        Ok(Self::new(&secret))
    }

    /// The key of one ticket.
    fn derive(&self, binding: &[u8], salt: &[u8]) -> Option<LessSafeKey> {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(b"weir ticket");
        context.update(binding);
        context.update(salt);
        let key = UnboundKey::new(&AES_256_GCM, context.sign().as_ref()).ok()?;
        Some(LessSafeKey::new(key))
    }
}

impl std::fmt::Debug for Master {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Master")
    }
}

/// Keys of tickets: the first makes new ones.
#[derive(Debug)]
pub struct TicketKeys(Mutex<Ring>);

#[derive(Debug)]
struct Ring {
    keys: Vec<Arc<Master>>,
    /// When the first is replaced; never, where the keys are a file's.
    rotate_at: Option<Instant>,
}

impl TicketKeys {
    /// Keys of this node's own, which change by themselves.
    pub fn automatic() -> Result<Self, TlsError> {
        Ok(Self(Mutex::new(Ring {
            keys: vec![Arc::new(Master::random()?)],
            rotate_at: Some(Instant::now() + ROTATION),
        })))
    }

    /// The keys in a file: one a line, 64 hexadecimal digits; empty lines and lines that begin with `#` are passed over.
    pub(crate) fn read(file: &Path) -> Result<Self, TlsError> {
        let text = std::fs::read_to_string(file).map_err(|source| TlsError::TicketFile {
            file: file.to_owned(),
            source,
        })?;
        let mut keys = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let secret = hexadecimal(line).ok_or(TlsError::TicketKey {
                file: file.to_owned(),
                line: index + 1,
            })?;
            keys.push(Arc::new(Master::new(&secret)));
        }
        if !(1..=KEYS_MAX).contains(&keys.len()) {
            return Err(TlsError::TicketKeyCount {
                file: file.to_owned(),
                count: keys.len(),
                max: KEYS_MAX,
            });
        }
        Ok(Self(Mutex::new(Ring {
            keys,
            rotate_at: None,
        })))
    }

    /// The key for new tickets. Held by nobody for longer than it takes to copy a pointer; a handshake makes two.
    fn first(&self, now: Instant) -> Option<Arc<Master>> {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.rotate_at.is_some_and(|at| at <= now) {
            // Without random numbers the old key goes on, and the next ticket tries again.
            if let Ok(fresh) = Master::random() {
                ring.keys.insert(0, Arc::new(fresh));
                ring.keys.truncate(2);
                ring.rotate_at = Some(now + ROTATION);
            }
        }
        ring.keys.first().cloned()
    }

    fn named(&self, name: &[u8]) -> Option<Arc<Master>> {
        let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.keys.iter().find(|key| key.name == name).cloned()
    }
}

fn hexadecimal(text: &str) -> Option<[u8; KEY_BYTES]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * KEY_BYTES || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut bytes = [0; KEY_BYTES];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// The tickets of one listener.
#[derive(Debug)]
pub(crate) struct Tickets {
    keys: Arc<TicketKeys>,
    binding: [u8; digest::SHA256_OUTPUT_LEN],
}

impl Tickets {
    /// Tickets that are good where the same is demanded of clients.
    pub(crate) fn new(keys: Arc<TicketKeys>, demanded: &[u8]) -> Self {
        let mut binding = [0; digest::SHA256_OUTPUT_LEN];
        binding.copy_from_slice(digest::digest(&digest::SHA256, demanded).as_ref());
        Self { keys, binding }
    }

    fn encrypt_at(&self, plain: &[u8], now: Instant, issued_s: u64) -> Option<Vec<u8>> {
        let master = self.keys.first(now)?;
        let mut ticket = Vec::with_capacity(HEAD_BYTES + plain.len() + 16);
        ticket.extend_from_slice(&master.name);
        ticket.resize(NAME_BYTES + SALT_BYTES, 0);
        fill(&mut ticket[NAME_BYTES..]).ok()?;
        let key = master.derive(&self.binding, &ticket[NAME_BYTES..])?;
        ticket.extend_from_slice(&issued_s.to_be_bytes());
        let mut sealed = plain.to_vec();
        // The key is used once, so the nonce may be anything.
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        key.seal_in_place_append_tag(nonce, Aad::from(&ticket), &mut sealed)
            .ok()?;
        ticket.append(&mut sealed);
        Some(ticket)
    }

    fn decrypt_at(&self, ticket: &[u8], now_s: u64) -> Option<Vec<u8>> {
        let (head, sealed) = ticket.split_at_checked(HEAD_BYTES)?;
        let (name, rest) = head.split_at_checked(NAME_BYTES)?;
        let (salt, issued) = rest.split_at_checked(SALT_BYTES)?;
        let key = self.keys.named(name)?.derive(&self.binding, salt)?;
        let mut plain = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        let length = key
            .open_in_place(nonce, Aad::from(head), &mut plain)
            .ok()?
            .len();
        plain.truncate(length);
        // Clocks of nodes differ a little; a ticket from the future is as good as a fresh one.
        let issued_s = u64::from_be_bytes(issued.try_into().ok()?);
        (now_s.saturating_sub(issued_s) <= LIFETIME.as_secs()).then_some(plain)
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(LIFETIME.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.encrypt_at(plain, Instant::now(), unix_time_s()?)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.decrypt_at(cipher, unix_time_s()?)
    }
}

fn unix_time_s() -> Option<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tests::Folder;

    fn automatic() -> Arc<TicketKeys> {
        Arc::new(TicketKeys::automatic().unwrap())
    }

    fn line(digit: char) -> String {
        String::from(digit).repeat(64)
    }

    #[test]
    fn a_ticket_is_good_where_the_same_is_demanded_and_nowhere_else() {
        let keys = automatic();
        let tickets = |demanded: &[u8]| Tickets::new(Arc::clone(&keys), demanded);
        let ticket = tickets(b"nothing").encrypt(b"session").unwrap();
        assert_eq!(tickets(b"nothing").decrypt(&ticket).unwrap(), b"session");
        assert_eq!(tickets(b"a certificate").decrypt(&ticket), None);
        assert_eq!(Tickets::new(automatic(), b"nothing").decrypt(&ticket), None);
    }

    #[test]
    fn no_byte_of_a_ticket_can_be_changed_or_cut_off() {
        let tickets = Tickets::new(automatic(), b"");
        let ticket = tickets.encrypt(b"session").unwrap();
        for at in 0..ticket.len() {
            let mut broken = ticket.clone();
            broken[at] ^= 1;
            assert_eq!(tickets.decrypt(&broken), None, "{at}");
            assert_eq!(tickets.decrypt(&ticket[..at]), None, "{at}");
        }
        assert_ne!(tickets.encrypt(b"session").unwrap(), ticket);
    }

    #[test]
    fn a_ticket_ends() {
        let tickets = Tickets::new(automatic(), b"");
        let ticket = tickets.encrypt_at(b"s", Instant::now(), 1_000_000).unwrap();
        let good = |now_s| tickets.decrypt_at(&ticket, now_s).is_some();
        assert!(good(1_000_000 + LIFETIME.as_secs()));
        assert!(!good(1_000_001 + LIFETIME.as_secs()));
        assert!(good(999_990));
    }

    #[test]
    fn own_keys_change_and_the_one_before_is_still_accepted() {
        let tickets = Tickets::new(automatic(), b"");
        let start = Instant::now();
        let first = tickets.encrypt_at(b"s", start, 0).unwrap();
        let second = tickets.encrypt_at(b"s", start + ROTATION, 0).unwrap();
        assert_ne!(first[..NAME_BYTES], second[..NAME_BYTES]);
        assert!(tickets.decrypt_at(&first, 0).is_some());
        let third = tickets.encrypt_at(b"s", start + 2 * ROTATION, 0).unwrap();
        assert!(tickets.decrypt_at(&first, 0).is_none());
        assert!(tickets.decrypt_at(&second, 0).is_some());
        assert!(tickets.decrypt_at(&third, 0).is_some());
    }

    #[test]
    fn keys_of_a_file_are_shared_and_only_the_first_makes_tickets() {
        let folder = Folder::new("tickets");
        let read = |name: &str, text: &str| {
            let file = folder.write(name, text);
            Tickets::new(Arc::new(TicketKeys::read(&file).unwrap()), b"")
        };
        let before = read("before", &format!("# old\n{}\n", line('a')));
        let during = read("during", &format!("{}\n\n{}\n", line('a'), line('B')));
        let after = read("after", &format!("{}\n{}", line('b'), line('A')));
        let last = read("last", &line('b'));
        let old = before.encrypt(b"s").unwrap();
        let new = after.encrypt(b"s").unwrap();
        let opens = |ticket: &[u8]| {
            [&before, &during, &after, &last].map(|tickets| tickets.decrypt(ticket).is_some())
        };
        assert_eq!(opens(&old), [true, true, true, false]);
        assert_eq!(opens(&new), [false, true, true, true]);
        assert_eq!(
            opens(&during.encrypt(b"s").unwrap()),
            [true, true, true, false]
        );
    }

    #[test]
    fn mistakes_in_a_key_file_are_named_without_the_key() {
        let folder = Folder::new("ticket-mistakes");
        let check = |text: &str, expected: &str| {
            let file = folder.write("keys", text);
            let error = TicketKeys::read(&file).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("cafe"), "{error}");
        };
        check("", "holds 0 ticket keys");
        check(
            &format!("{}\n", line('a')).repeat(17),
            "holds 17 ticket keys",
        );
        check(&format!("{}\ncafe\n", line('a')), "line 2 of");
        check(&line('g'), "line 1 of");
        check(&line('é'), "line 1 of");
    }
}
