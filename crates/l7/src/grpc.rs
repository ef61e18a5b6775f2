//! What a proxy has to know of gRPC: how long a call may take, and how failures are told.

use std::time::Duration;

use crate::errors::Reason;

/// The time that a client gives its call (gRPC over HTTP/2, "Timeout"): at most eight digits, and a unit.
pub(crate) fn timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits
        .iter()
        .fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// The code of a failure that HTTP would tell by this status: the one that clients make of it by themselves (gRPC, "HTTP
/// to gRPC status code mapping"), where we know no better one.
pub(crate) fn code(status: u16, reason: Option<Reason>) -> u8 {
    match (reason, status) {
        (Some(Reason::RequestTimeout), _) | (_, 408) => 4,
        (_, 400) => 13,
        (_, 401) => 16,
        (_, 403) => 7,
        (_, 404 | 501) => 12,
        (_, 413 | 431) => 8,
        (_, 429 | 502..=504) => 14,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_have_eight_digits_and_a_unit() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("30S", Some(Duration::from_secs(30))),
            ("99999999m", Some(Duration::from_millis(99_999_999))),
            ("5u", Some(Duration::from_micros(5))),
            ("0n", Some(Duration::ZERO)),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("100000000n", None),
            ("S", None),
            ("", None),
            ("1", None),
            ("1s", None),
            ("-1S", None),
            ("1.5S", None),
            (" 1S", None),
        ] {
            assert_eq!(timeout(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn a_call_that_has_had_its_time_is_told_so() {
        assert_eq!(code(504, Some(Reason::RequestTimeout)), 4);
        assert_eq!(code(504, Some(Reason::ResponseTimeout)), 14);
        assert_eq!(code(404, None), 12);
    }
}
