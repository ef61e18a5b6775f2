//! When a certificate ends: `notAfter`, read out of its DER (RFC 5280, section 4.1).

/// Seconds since 1970 at which a certificate ends; `None` where its DER is not as RFC 5280 has it.
pub(crate) fn not_after(certificate: &[u8]) -> Option<u64> {
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xa0;
    let mut outer = Der(certificate);
    let mut to_be_signed = Der(Der(outer.take(SEQUENCE)?).take(SEQUENCE)?);
    if to_be_signed.0.first() == Some(&VERSION) {
        to_be_signed.take(VERSION)?;
    }
    to_be_signed.next()?; // serialNumber
    to_be_signed.take(SEQUENCE)?; // signature
    to_be_signed.take(SEQUENCE)?; // issuer
    let mut validity = Der(to_be_signed.take(SEQUENCE)?);
    validity.next()?; // notBefore
    let (kind, time) = validity.next()?;
    seconds(kind, time)
}

/// Elements of DER, one after the other.
struct Der<'d>(&'d [u8]);

impl<'d> Der<'d> {
    /// The next element: its tag and its content.
    fn next(&mut self) -> Option<(u8, &'d [u8])> {
        let (&[tag, first], rest) = self.0.split_first_chunk::<2>()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let length = length
                    .iter()
                    .fold(0usize, |length, byte| length << 8 | usize::from(*byte));
                (length, rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The content of the next element, which has this tag.
    fn take(&mut self, tag: u8) -> Option<&'d [u8]> {
        self.next()
            .filter(|(found, _)| *found == tag)
            .map(|(_, content)| content)
    }
}

/// `YYMMDDhhmmssZ` (UTCTime, from 1950 to 2049) or `YYYYMMDDhhmmssZ` (GeneralizedTime).
fn seconds(kind: u8, time: &[u8]) -> Option<u64> {
    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;
    let digits = time.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |digits: &[u8]| {
        digits
            .iter()
            .fold(0i64, |number, digit| number * 10 + i64::from(digit - b'0'))
    };
    let (year, rest) = match (kind, digits.len()) {
        (UTC_TIME, 12) => match number(&digits[..2]) {
            year @ 0..50 => (2000 + year, &digits[2..]),
            year => (1900 + year, &digits[2..]),
        },
        (GENERALIZED_TIME, 14) => (number(&digits[..4]), &digits[4..]),
        _ => return None,
    };
    let part = |at: usize| number(&rest[2 * at..2 * at + 2]);
    let (month, day, hour, minute, second) = (part(0), part(1), part(2), part(3), part(4));
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Days of the civil calendar since 1970, counted from March so that leap days come last.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let days = 365 * year + year / 4 - year / 100 + year / 400 + day_of_year - 719_468;
    u64::try_from(((days * 24 + hour) * 60 + minute) * 60 + second).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let check = |kind, text: &str, expected| {
            assert_eq!(seconds(kind, text.as_bytes()), expected, "{text}");
        };
        check(0x18, "19700101000000Z", Some(0));
        check(0x17, "700101000001Z", Some(1));
        check(0x17, "991231235959Z", Some(946_684_799));
        check(0x17, "000229000000Z", Some(951_782_400));
        check(0x17, "491231235959Z", Some(2_524_607_999));
        check(0x18, "20500301000000Z", Some(2_529_705_600));
        check(0x18, "99991231235959Z", Some(253_402_300_799));
        check(0x17, "19700101000000Z", None);
        check(0x18, "20501301000000Z", None);
        check(0x18, "2050030100000+Z", None);
        check(0x18, "20500301000000", None);
    }

    #[test]
    fn is_found_in_a_certificate_and_never_behind_its_end() {
        let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2031, 5, 7);
        let key = rcgen::KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        // 2031-05-07T00:00:00Z
        assert_eq!(not_after(&der), Some(1_935_878_400));
        for end in 0..der.len() {
            assert_eq!(not_after(&der[..end]), None);
        }
        for at in 0..der.len().min(300) {
            let mut broken = der.clone();
            broken[at] ^= 0xff;
            let _ = not_after(&broken);
        }
    }
}
