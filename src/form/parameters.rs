//! The parameters of a Content-Type or a Content-Disposition, in one strict grammar:
//! `*( ";" *SP name "=" ( token / quoted-string ) )`.

/// A parameter that the grammar does not cover.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Malformed;

/// Parameters, read name by name and value by value: whoever knows enough after a name need not look at a
/// value that is perhaps malformed.
pub(super) struct Parameters<'a> {
    rest: &'a [u8],
}

impl<'a> Parameters<'a> {
    /// Splits a header's value into what stands before the first semicolon, and the parameters.
    pub(super) fn split(header: &'a [u8]) -> (&'a [u8], Self) {
        let semicolon = header.iter().position(|byte| *byte == b';');
        let (head, rest) = header.split_at(semicolon.unwrap_or(header.len()));
        (head, Self { rest })
    }

    /// The next parameter's name, the equals sign taken; `None` after the last parameter.
    pub(super) fn next_name(&mut self) -> Option<Result<&'a [u8], Malformed>> {
        let rest = self.rest.strip_prefix(b";")?;
        let spaces = rest.iter().take_while(|byte| **byte == b' ').count();
        let (name, rest) = split_token(&rest[spaces..]);
        match rest.strip_prefix(b"=") {
            Some(rest) if !name.is_empty() => {
                self.rest = rest;
                Some(Ok(name))
            }
            _ => Some(Err(Malformed)),
        }
    }

    /// The value of the parameter whose name came last, without its quotes.
    ///
    /// A backslash is itself, as browsers send it, and is passed on as it is. SECURITY: before a quote it is
    /// refused: for some parsers the string ends there and for others (Werkzeug) it goes on.
    pub(super) fn value(&mut self) -> Result<&'a [u8], Malformed> {
        let (value, rest) = match self.rest.strip_prefix(b"\"") {
            Some(quoted) => {
                let end = quoted.iter().position(|byte| *byte == b'"').ok_or(Malformed)?;
                let value = &quoted[..end];
                if value.ends_with(b"\\") || value.iter().any(u8::is_ascii_control) {
                    return Err(Malformed);
                }
                (value, &quoted[end + 1..])
            }
            None => match split_token(self.rest) {
                ([], _) => return Err(Malformed),
                token => token,
            },
        };
        if !rest.is_empty() && !rest.starts_with(b";") {
            return Err(Malformed);
        }
        self.rest = rest;
        Ok(value)
    }
}

/// Splits the token off that `text` begins with; it may be empty.
fn split_token(text: &[u8]) -> (&[u8], &[u8]) {
    text.split_at(text.iter().take_while(|byte| is_token_byte(**byte)).count())
}

/// Whether `text` is a token of RFC 9110, section 5.6.2.
pub(super) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().copied().all(is_token_byte)
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether `text` is `type/subtype` and nothing else.
pub(super) fn is_media_type(text: &[u8]) -> bool {
    let mut halves = text.split(|byte| *byte == b'/');
    halves.next().is_some_and(is_token) && halves.next().is_some_and(is_token) && halves.next().is_none()
}

/// Whether `text` contains `word`, which is in lower case, in any letter case.
pub(super) fn contains_ignore_case(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pair<'a> = (&'a str, Result<&'a str, Malformed>);

    fn all(header: &str) -> (&str, Vec<Result<Pair<'_>, Malformed>>) {
        let text = |bytes| std::str::from_utf8(bytes).unwrap();
        let (head, mut parameters) = Parameters::split(header.as_bytes());
        let mut pairs = Vec::new();
        while let Some(name) = parameters.next_name() {
            let pair = name.map(|name| (text(name), parameters.value().map(text)));
            let last = !matches!(pair, Ok((_, Ok(_))));
            pairs.push(pair);
            if last {
                break;
            }
        }
        (text(head), pairs)
    }

    #[test]
    fn tokens_and_quoted_strings_are_read() {
        let (head, pairs) = all(r#"a/b; x=1;y="2; z=3"; Z="""#);
        assert_eq!(head, "a/b");
        assert_eq!(pairs, [Ok(("x", Ok("1"))), Ok(("y", Ok("2; z=3"))), Ok(("Z", Ok(""))),]);
        assert_eq!(all("a/b"), ("a/b", vec![]));
    }

    #[test]
    fn what_two_parsers_could_read_in_two_ways_is_malformed() {
        for header in [
            "a;",
            "a; ",
            "a;;x=1",
            "a; x",
            "a; =1",
            "a; x =1",
            "a;\tx=1",
            "a; \"x\"=1",
            "a; x=1 ;",
            "a; x=1,y=2",
        ] {
            assert!(all(header).1.iter().any(|pair| !matches!(pair, Ok((_, Ok(_))))), "{header:?}");
        }
        for header in [
            "a; x=",
            "a; x= 1",
            "a; x=\"",
            "a; x=\"1",
            "a; x=\"1\"2",
            "a; x=\"1\" ",
            "a; x=1 2",
            "a; x=é",
            r#"a; x="1\"""#,
            r#"a; x="1\\""#,
            r#"a; x="\"; y=1"#,
            "a; x=\"1\t2\"",
            "a; x=\"1\x002\"",
            "a; x='1;'",
        ] {
            let pairs = all(header).1;
            assert!(pairs.iter().any(|pair| !matches!(pair, Ok((_, Ok(_))))), "{header:?} {pairs:?}");
        }
    }

    #[test]
    fn a_backslash_elsewhere_in_a_value_is_itself() {
        assert_eq!(all(r#"a; x="C:\y\z z""#).1, [Ok(("x", Ok(r"C:\y\z z")))]);
    }
}
