//! `Accept-Encoding`: RFC 9110, section 12.5.3.

use std::cmp::Reverse;

use http::{HeaderMap, header};

/// A content coding that a file can be sent in.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Coding {
    Brotli,
    Gzip,
}

/// A quality value in thousandths.
type Quality = u16;

impl Coding {
    /// Ours, the better one first.
    const ALL: [Self; 2] = [Self::Brotli, Self::Gzip];

    /// As it is registered.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }

    /// What a precompressed sibling's name ends in.
    pub(super) fn extension(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Gzip => "gz",
        }
    }

    /// Whether a client means it by `name`: gzip has an old one.
    fn is_called(self, name: &str) -> bool {
        name.eq_ignore_ascii_case(self.name()) || (self == Self::Gzip && name.eq_ignore_ascii_case("x-gzip"))
    }
}

/// The codings that the client likes at least as well as none, the best first.
///
/// `identity;q=0` without a coding of ours gets the file as it is all the same: that is of more use than a 406.
pub(super) fn accepted(headers: &HeaderMap) -> Vec<Coding> {
    let members: Vec<(&str, Quality)> = headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(member)
        .collect();
    let quality = |is_called: &dyn Fn(&str) -> bool| {
        let named = members.iter().find(|(name, _)| is_called(name));
        named.or_else(|| members.iter().find(|(name, _)| *name == "*")).map_or(0, |(_, quality)| *quality)
    };
    // Where identity is not named it is acceptable, and the last choice.
    let identity = quality(&|name| name.eq_ignore_ascii_case("identity"));
    let mut accepted: Vec<(Coding, Quality)> = Coding::ALL
        .map(|coding| (coding, quality(&|name| coding.is_called(name))))
        .into_iter()
        .filter(|(_, quality)| *quality > 0 && *quality >= identity)
        .collect();
    // The sort is stable: at equal quality our own order stays.
    accepted.sort_by_key(|(_, quality)| Reverse(*quality));
    accepted.into_iter().map(|(coding, _)| coding).collect()
}

/// A coding and its weight. `None`: not of that form.
fn member(text: &str) -> Option<(&str, Quality)> {
    let (name, quality) = match text.split_once(';') {
        Some((name, weight)) => (name, weight_quality(weight.trim())?),
        None => (text, 1000),
    };
    Some((name.trim(), quality)).filter(|(name, _)| !name.is_empty())
}

/// `q=` and a number from 0 to 1 with at most three decimals.
fn weight_quality(weight: &str) -> Option<Quality> {
    let number = weight.strip_prefix("q=").or_else(|| weight.strip_prefix("Q="))?;
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    if decimals.len() > 3 || !decimals.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let thousandths: Quality = format!("{decimals:0<3}").parse().ok()?;
    match whole {
        "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&str]) -> Vec<&'static str> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::ACCEPT_ENCODING, line.parse().unwrap());
        }
        accepted(&headers).into_iter().map(Coding::name).collect()
    }

    #[test]
    fn weights_decide_and_brotli_wins_a_tie() {
        for (line, expected) in [
            ("gzip, deflate, br, zstd", &["br", "gzip"][..]),
            ("gzip;q=1.0, br;q=0.9", &["gzip", "br"]),
            ("GZIP ; Q=0.5 ,BR;q=0.500", &["br", "gzip"]),
            ("x-gzip", &["gzip"]),
            ("gzip", &["gzip"]),
            ("*", &["br", "gzip"]),
            ("*;q=0.5, br;q=0.2", &["gzip"]),
            ("br;q=0, *", &["gzip"]),
            ("gzip;q=0.001", &["gzip"]),
            ("identity, gzip", &["gzip"]),
        ] {
            assert_eq!(of(&[line]), expected, "{line}");
        }
        assert_eq!(of(&["gzip", "br"]), ["br", "gzip"]);
    }

    #[test]
    fn what_is_excluded_disliked_or_malformed_is_not_used() {
        for line in [
            "",
            "identity",
            "deflate",
            "br;q=0",
            "br;q=0.000, gzip;q=0",
            "*;q=0",
            "identity;q=1, *;q=0",
            "identity;q=0.9, gzip;q=0.8",
            "identity;q=0",
            "br;q=2",
            "br;q=1.001",
            "br;q=0.1234",
            "br;q=",
            "br;q=-1",
            "br;q=.5",
            "br;level=1",
            "brotli",
        ] {
            assert!(of(&[line]).is_empty(), "{line}");
        }
        assert!(of(&[]).is_empty());
    }
}
