//! Durations as they are written in the config: `500ms`, `2s`, `1m30s`, `1h`.

use std::time::Duration;

const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

/// Reads numbers with units, the larger unit first, none twice. `None` if the text is anything else.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total_ms = 0u64;
    let mut units = UNITS.iter();
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (_, unit_ms) = units.find(|(unit, _)| *unit == &rest[..letters])?;
        rest = &rest[letters..];
        total_ms = total_ms.checked_add(number.checked_mul(*unit_ms)?)?;
    }
    (!text.is_empty()).then(|| Duration::from_millis(total_ms))
}

/// The shortest way to write a duration; parts below a millisecond are left out.
pub(super) fn format_duration(duration: Duration) -> String {
    let mut rest_ms = duration.as_millis();
    let mut text = String::new();
    for (unit, unit_ms) in UNITS {
        let count = rest_ms / u128::from(unit_ms);
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
            rest_ms %= u128::from(unit_ms);
        }
    }
    if text.is_empty() {
        "0s".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_have_units_in_order() {
        let check = |text, expected_ms: Option<u64>| {
            assert_eq!(
                parse_duration(text),
                expected_ms.map(Duration::from_millis),
                "{text:?}"
            );
        };
        check("2s", Some(2000));
        check("500ms", Some(500));
        check("1m30s", Some(90_000));
        check("1h", Some(3_600_000));
        check("1d2h3m4s5ms", Some(93_784_005));
        check("0s", Some(0));
        for bad in [
            "",
            "s",
            "2",
            "2 s",
            "-2s",
            "+2s",
            "1.5s",
            "30s1m",
            "1s1s",
            "2sec",
            "2S",
            "1h30",
            "2µs",
            "99999999999999999999s",
            "9999999999999999d",
        ] {
            check(bad, None);
        }
    }

    proptest! {
        #[test]
        fn what_is_formatted_is_read_back(ms in 0u64..10_000_000_000) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Some(duration));
        }
    }
}
