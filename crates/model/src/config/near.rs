//! Near misses: the word that was probably meant.

/// Words longer than this are not compared: the cost grows with the square of the length.
const COMPARED_CHARS: usize = 64;

/// The candidate that is close enough to `word` to be what was meant: the fewest edits, at most a third of the
/// word's length; else the only one that it begins, or that begins it.
pub(super) fn nearest<'c>(
    word: &str,
    candidates: impl IntoIterator<Item = &'c str> + Clone,
) -> Option<&'c str> {
    let length = word.chars().count();
    if length > COMPARED_CHARS {
        return None;
    }
    let word = plain(word);
    let limit = if length <= 2 { 0 } else { (length / 3).max(1) };
    let by_edits = candidates
        .clone()
        .into_iter()
        .filter(|candidate| candidate.chars().count().abs_diff(length) <= limit)
        .map(|candidate| (strsim::osa_distance(&word, &plain(candidate)), candidate))
        .filter(|(edits, _)| *edits <= limit)
        .min_by_key(|(edits, _)| *edits);
    if let Some((_, candidate)) = by_edits {
        return Some(candidate);
    }
    let mut by_beginning = candidates.into_iter().filter(|candidate| {
        let candidate = plain(candidate);
        length >= 3
            && candidate.len() >= 3
            && (candidate.starts_with(&word) || word.starts_with(&candidate))
    });
    by_beginning
        .next()
        .filter(|_| by_beginning.next().is_none())
}

/// Case and the choice between `-` and `_` are no difference.
fn plain(word: &str) -> String {
    word.to_lowercase().replace('-', "_")
}

/// "`a`, `b` or `c`".
pub(super) fn alternatives<'w>(words: impl IntoIterator<Item = &'w str>) -> String {
    let mut words: Vec<String> = words.into_iter().map(|word| format!("`{word}`")).collect();
    let Some(last) = words.pop() else {
        return String::new();
    };
    if words.is_empty() {
        last
    } else {
        format!("{} or {last}", words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_word_is_found_and_a_far_one_is_not() {
        let check = |word, candidates: &[&'static str], expected| {
            assert_eq!(
                nearest(word, candidates.iter().copied()),
                expected,
                "{word}"
            );
        };
        check("pol", &["name", "pool", "port"], Some("pool"));
        check("TCP", &["tcp", "udp"], Some("tcp"));
        check("tpc", &["tls", "tcp", "udp"], Some("tcp"));
        check("least-conn", &["least_conn", "maglev"], Some("least_conn"));
        check("backends", &["backend", "bind"], Some("backend"));
        check("cert", &["cert_file", "key_file"], Some("cert_file"));
        check("timeout_ms", &["timeout", "interval"], Some("timeout"));
        check("a", &["b"], None);
        check("zebra", &["tcp", "udp"], None);
        check("", &["tcp"], None);
        check(&"x".repeat(65), &["x"], None);
    }
}
