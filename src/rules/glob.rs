//! Globs with one wildcard: `*`, any run of bytes, also none.
//!
//! A glob never crosses a separator because callers only compare one host label, one path segment
//! or one name at a time. Nothing here knows what the text means.

/// Whether `text` matches `glob`.
pub(super) fn matches(glob: &str, text: &str) -> bool {
    let (mut glob, mut text) = (glob.as_bytes(), text.as_bytes());
    // Where to go on when the run that the last `*` stands for turns out to be one byte too short.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        match (glob, text) {
            ([], []) => return true,
            ([b'*', after @ ..], _) => {
                retry = Some((after, text));
                glob = after;
            }
            ([g, glob_rest @ ..], [t, text_rest @ ..]) if g == t => {
                (glob, text) = (glob_rest, text_rest);
            }
            _ => {
                let Some((after, [_, rest @ ..])) = retry else {
                    return false;
                };
                retry = Some((after, rest));
                (glob, text) = (after, rest);
            }
        }
    }
}

/// Whether everything that matches `inner` matches `outer`. Exact.
///
/// Read `inner` as a text: its `*` is a byte that no literal part of `outer` contains, so a match
/// must put it inside a run of `outer`, where any other run fits too. The other way round, `inner`
/// with a foreign byte for each `*` is one of its own texts.
pub(super) fn covers(outer: &str, inner: &str) -> bool {
    matches(outer, inner)
}

/// Whether some text matches both. Exact.
pub(super) fn intersects(a: &str, b: &str) -> bool {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    // Most globs differ before their first `*` or after their last one.
    while let ([x, a_rest @ ..], [y, b_rest @ ..]) = (a, b)
        && *x != b'*'
        && *y != b'*'
    {
        if x != y {
            return false;
        }
        (a, b) = (a_rest, b_rest);
    }
    while let ([a_rest @ .., x], [b_rest @ .., y]) = (a, b)
        && *x != b'*'
        && *y != b'*'
    {
        if x != y {
            return false;
        }
        (a, b) = (a_rest, b_rest);
    }
    // `row[j]`: whether what is left of `a` and `b[j..]` have a text in common.
    let mut row: Vec<bool> = (0..=b.len()).map(|j| is_all_stars(b.get(j..))).collect();
    for i in (0..a.len()).rev() {
        let star = a.get(i) == Some(&b'*');
        let mut diagonal = row.last().copied().unwrap_or(false);
        if let Some(last) = row.last_mut() {
            *last = is_all_stars(a.get(i..));
        }
        let mut right = row.last().copied().unwrap_or(false);
        for (cell, &byte) in row.iter_mut().zip(b).rev() {
            let below = *cell;
            // A `*` ends here or takes one more of what the other side has.
            *cell = if star || byte == b'*' {
                below || right
            } else {
                a.get(i) == Some(&byte) && diagonal
            };
            (diagonal, right) = (below, *cell);
        }
    }
    row.first().copied().unwrap_or(false)
}

/// Whether a glob has a `*`.
pub(super) fn is_glob(text: &str) -> bool {
    text.as_bytes().contains(&b'*')
}

fn is_all_stars(rest: Option<&[u8]>) -> bool {
    rest.is_some_and(|rest| rest.iter().all(|&byte| byte == b'*'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(glob: &str, text: &str, expected: bool) {
        assert_eq!(matches(glob, text), expected, "{glob} on {text}");
    }

    #[test]
    fn star_is_any_run() {
        check("", "", true);
        check("*", "", true);
        check("*", "abc", true);
        check("a*", "a", true);
        check("a*", "ba", false);
        check("*a", "ba", true);
        check("a*c", "abbc", true);
        check("a*c", "abbcd", false);
        check("*ab*ab*", "xabyabz", true);
        check("*ab*ab*", "xaby", false);
        check("abc", "abc", true);
        check("abc", "ab", false);
        check("ab", "abc", false);
    }

    /// All texts over `ab` up to this length: globs of at most 4 bytes that differ, differ there.
    fn texts() -> Vec<String> {
        let mut texts = vec![String::new()];
        for length in 0..6 {
            let longer: Vec<String> = texts
                .iter()
                .filter(|text| text.len() == length)
                .flat_map(|text| [format!("{text}a"), format!("{text}b"), format!("{text}c")])
                .collect();
            texts.extend(longer);
        }
        texts
    }

    fn naive(glob: &[u8], text: &[u8]) -> bool {
        match (glob.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), next) => {
                naive(rest, text) || next.is_some_and(|(_, tail)| naive(glob, tail))
            }
            (Some((g, rest)), Some((t, tail))) => g == t && naive(rest, tail),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn agrees_with_recursion(glob in "[ab*]{0,6}", text in "[ab]{0,6}") {
            prop_assert_eq!(matches(&glob, &text), naive(glob.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn relations_agree_with_all_short_texts(a in "[ab*]{0,4}", b in "[ab*]{0,4}") {
            let both: Vec<(bool, bool)> =
                texts().iter().map(|text| (matches(&a, text), matches(&b, text))).collect();
            prop_assert_eq!(intersects(&a, &b), both.iter().any(|&(a, b)| a && b));
            prop_assert_eq!(covers(&a, &b), both.iter().all(|&(a, b)| a || !b));
        }
    }
}
