//! Spellings of a path, most of them meant to be read as that path by somebody.

use std::collections::BTreeSet;

use crate::harness::chance::Chance;

/// Stands between segments, and perhaps means no more than a slash.
const SLASHES: &[&str] = &[
    "//",
    "///",
    "/./",
    "/../",
    "/x/../",
    "/%2e/",
    "/%2E/",
    "/%2e%2e/",
    "/x/%2e%2e/",
    "/x/.%2e/",
    "/x/%2E./",
    "/.%2e/",
    "/%252e/",
    "/x/%252e%252e/",
    "/%u002e/",
    "/%c0%ae/",
    "/x/%c0%ae%c0%ae/",
    "\\",
    "\\\\",
    "%5c",
    "%5C",
    "%255c",
    "/\\",
    "\\/",
    "/x\\..\\",
    "%2f",
    "%2F",
    "/%2f",
    "%2f/",
    "%252f",
    "%25%32%66",
    "/;/",
    ";/",
    ";x=1/",
    "/;x/",
    "/..;/",
    "/x/..;/",
    "/x/..;y/",
    "/%20/",
    "/+/",
    "/%09/",
    "/%00/",
    "%00/",
    "%c0%af",
    "%e0%80%af",
    "%f0%80%80%af",
    "%u2215",
    "%u002f",
    "%e2%88%95",
    "%ef%bc%8f",
    "%e2%81%84",
    "\u{2215}",
    "\u{ff0f}",
    "/%0a",
    "/%0d",
    "%0d%0a/",
    "/%e2%80%8b",
    "%c2%ad/",
    "/.//./",
    "/%3b/",
    "/%3f/",
    "/%23/",
    "/*/",
    "/%2a/",
    "/.../",
    "/~/",
];

const ENDS: &[&str] = &[
    "",
    "/",
    "//",
    "/.",
    "/..",
    "/./",
    "/../",
    "/x",
    "/x/..",
    "/x/../",
    "/%2e",
    "/%2e%2e",
    "/%2f",
    "?",
    "?x=1",
    "??",
    "?#",
    "?/../../x",
    "?;x",
    "&x=1",
    "#",
    "#x",
    ";",
    ";x=1",
    ";x=1/y",
    ";/",
    ",",
    "%20",
    "+",
    "%09",
    "%00",
    "%00.json",
    "%0a",
    "%0d%0a",
    ".",
    "..",
    ".json",
    ".html",
    "~",
    "%2f",
    "%2F",
    "%2f%2e",
    "%5c",
    "\\",
    "%3f",
    "%3fx",
    "%23",
    "%26",
    "%",
    "%2",
    "%zz",
    "/;x",
    "%3b",
    "*",
    "%2a",
    "%c2%a0",
    "%e2%80%8b",
    "%ef%bb%bf",
    "%ff",
    "%7f",
    "%1b",
    "'",
    "\"",
    "%22",
    "<",
    "|",
    "^",
    "`",
    "{}",
    "\u{e9}",
];

const STARTS: &[&str] = &[
    "http://localhost",
    "https://localhost",
    "http://localhost:80",
    "HTTP://LOCALHOST",
    "http://other.example:80/",
    "http://other.example",
    "http://localhost/",
    "http://localhost//",
    "//localhost",
    "/localhost",
    "/",
    "//",
    "/x/..",
    "/.",
    "/..",
    "/%2e",
    "/%2f",
    "/;",
    "\\",
    "/\\",
    "%2f",
    "/abc",
    "/abc/..",
    "/abc/.",
    "/abc;",
    "/abc/%2e%2e",
    "*",
    "?",
    "#",
    ".",
    ":",
    "abc",
];

/// At least `count` of them, each one once: whatever can be done to one place of `path`, and then several such things
/// by chance.
pub(crate) fn variants(path: &str, count: usize) -> Vec<String> {
    let mut variants = one_thing(path);
    let mut chance = Chance::new(path.len() as u64);
    while variants.len() < count {
        let mut text = path.to_owned();
        for _ in 0..=chance.below(3) {
            text = mutated(&text, &mut chance);
        }
        variants.insert(text);
    }
    variants.into_iter().collect()
}

fn encode(byte: u8, upper: bool) -> String {
    if upper { format!("%{byte:02X}") } else { format!("%{byte:02x}") }
}

/// Other ways to write a character, of which one at most is right.
fn spellings(byte: u8) -> Vec<String> {
    let (upper, lower) = (encode(byte, true), encode(byte, false));
    let (high, low) = (0xc0 | byte >> 6, 0x80 | byte & 0x3f);
    let mut spellings = vec![
        format!("%25{}", &lower[1..]),
        format!("%25{}", &upper[1..]),
        format!("%2525{}", &upper[1..]),
        format!("%u00{}", &lower[1..]),
        format!("%%{}", &lower[1..]),
        format!("{}{}", encode(b'%', true), &upper[1..]),
        format!("%x{}", &lower[1..]),
        format!("\\x{}", &lower[1..]),
        format!("&#{byte};"),
        // Longer than UTF-8 has it.
        format!("%{high:02x}%{low:02x}"),
        format!("%e0%{:02x}%{low:02x}", 0x80 | byte >> 6),
        format!("%f0%80%{:02x}%{low:02x}", 0x80 | byte >> 6),
        char::from(byte).to_ascii_uppercase().to_string(),
        format!("{}%00", char::from(byte)),
        format!("%cc%81{}", char::from(byte)),
        upper,
        lower,
    ];
    if byte.is_ascii_graphic() {
        // Of full width: the same after compatibility normalisation.
        let wide = char::from_u32(0xfee0 + u32::from(byte)).unwrap();
        spellings.push(wide.to_string().bytes().map(|byte| encode(byte, true)).collect());
        spellings.push(wide.to_string());
    }
    match byte {
        b's' => spellings.push("%c5%bf".to_owned()),
        b'k' => spellings.push("%e2%84%aa".to_owned()),
        b'i' => spellings.push("%c4%b1".to_owned()),
        _ => {}
    }
    spellings
}

fn one_thing(path: &str) -> BTreeSet<String> {
    let mut variants = BTreeSet::new();
    for (at, byte) in path.bytes().enumerate() {
        let (before, after) = (&path[..at], &path[at + 1..]);
        for spelling in spellings(byte) {
            variants.insert(format!("{before}{spelling}{after}"));
            variants.insert(format!("/{before}{spelling}{after}/"));
        }
        // Two letters at once.
        for (next, other) in path.bytes().enumerate().skip(at + 1).filter(|(_, byte)| *byte != b'/') {
            let (between, after) = (&path[at + 1..next], &path[next + 1..]);
            variants.insert(format!(
                "{before}{}{between}{}{after}",
                encode(byte, true),
                encode(other, false)
            ));
        }
        if byte == b'/' {
            for slash in SLASHES {
                variants.insert(format!("{before}{slash}{after}"));
                variants.insert(format!("{before}{slash}{after}/"));
            }
        }
    }
    for end in ENDS {
        variants.insert(format!("{path}{end}"));
        for start in STARTS {
            variants.insert(format!("{start}{path}{end}"));
        }
    }
    // All of it, and each segment of it, encoded.
    let all = |text: &str| text.bytes().map(|byte| encode(byte, true)).collect::<String>();
    variants.insert(format!("/{}", path.split('/').skip(1).map(all).collect::<Vec<_>>().join("/")));
    variants.insert(format!("//{}", path.split('/').skip(1).map(all).collect::<Vec<_>>().join("//")));
    variants.insert(all(path));
    variants
}

fn mutated(text: &str, chance: &mut Chance) -> String {
    let places: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
    let at = if places.is_empty() { 0 } else { places[chance.below(places.len())] };
    let (before, rest) = text.split_at(at);
    let mut following = rest.chars();
    let character = following.next().unwrap_or('/');
    let after = following.as_str();
    match chance.below(10) {
        0..4 if character.is_ascii() => {
            let spellings = spellings(character as u8);
            // Mostly the right ones.
            let most = if chance.one_in(3) { spellings.len() } else { 2 };
            let spelling = &spellings[spellings.len() - 1 - chance.below(most)];
            format!("{before}{spelling}{after}")
        }
        4..7 => {
            let slashes: Vec<usize> = text.match_indices('/').map(|(at, _)| at).collect();
            let at = if slashes.is_empty() { 0 } else { slashes[chance.below(slashes.len())] };
            let slash = if chance.one_in(2) { "//" } else { chance.pick(SLASHES) };
            format!("{}{slash}{}", &text[..at], text[at..].trim_start_matches('/'))
        }
        7 => format!("{text}{}", chance.pick(ENDS)),
        8 => format!("{}{text}", chance.pick(STARTS)),
        _ if chance.one_in(2) => format!("{before}{after}"),
        _ => format!("{before}{character}{character}{after}"),
    }
}
