//! The head of one part: a field, an empty file input, or refused.

use super::{
    FormError,
    parameters::{Parameters, contains_ignore_case, is_media_type, is_token},
};

/// What a part is.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Part {
    Field {
        /// As the client wrote it between the quotes: UTF-8 without quotes and control characters.
        name: String,
        charset: Charset,
    },
    /// What browsers send for a file input that nobody touched: `filename=""` and, it is to be hoped, no byte.
    EmptyFile,
}

/// The charsets in which Werkzeug reads a field; anything else it takes for UTF-8.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Charset {
    #[default]
    Utf8,
    Ascii,
    Latin1,
}

/// A part's head while its lines arrive. No header may come twice, so there are at most four.
#[derive(Debug, Default)]
pub(super) struct Head {
    disposition: Option<Disposition>,
    charset: Option<Charset>,
    /// The other two are checked and forgotten.
    transfer_encoding: Option<()>,
    length: Option<()>,
}

#[derive(Debug, Eq, PartialEq)]
enum Disposition {
    Field { name: String },
    EmptyFile,
}

impl Charset {
    /// The label to put into a Content-Type; UTF-8 needs none.
    pub(super) fn label(self) -> Option<&'static str> {
        match self {
            Self::Utf8 => None,
            Self::Ascii => Some("us-ascii"),
            Self::Latin1 => Some("iso-8859-1"),
        }
    }
}

impl Head {
    /// Takes one header line without its line end.
    ///
    /// Allowed is what browsers, curl, the common libraries of Python, Java, .NET and Dart send with a field.
    pub(super) fn line(&mut self, line: &[u8]) -> Result<(), FormError> {
        let colon = line.iter().position(|byte| *byte == b':').ok_or(FormError::Header)?;
        // A blank before the colon and a continuation line end here: no token has a blank in it.
        let name = Some(&line[..colon]).filter(|name| is_token(name)).ok_or(FormError::Header)?;
        let value = &line[colon + 1..];
        let value = &value[value.iter().take_while(|byte| **byte == b' ').count()..];
        match name.to_ascii_lowercase().as_slice() {
            b"content-disposition" => once(&mut self.disposition, disposition(value)?),
            b"content-type" => once(&mut self.charset, charset(value)?),
            b"content-transfer-encoding" => once(&mut self.transfer_encoding, transfer_encoding(value)?),
            b"content-length" => once(&mut self.length, length(value)?),
            _ => Err(FormError::Header),
        }
    }

    /// The part, at the empty line that ends its head.
    pub(super) fn end(self) -> Result<Part, FormError> {
        match self.disposition {
            Some(Disposition::Field { name }) => {
                Ok(Part::Field { name, charset: self.charset.unwrap_or_default() })
            }
            Some(Disposition::EmptyFile) => Ok(Part::EmptyFile),
            None => Err(FormError::Disposition),
        }
    }
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), FormError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(FormError::HeaderTwice),
    }
}

/// `form-data` with one `name`. A parameter with `filename` in its name, in any letter case and with any RFC
/// 2231 suffix, makes a file of the part, whatever its value is.
fn disposition(value: &[u8]) -> Result<Disposition, FormError> {
    let malformed = |_| FormError::Disposition;
    let (kind, mut parameters) = Parameters::split(value);
    let mut field = None;
    let mut file = None;
    while let Some(name) = parameters.next_name() {
        let name = name.map_err(malformed)?;
        if contains_ignore_case(name, b"filename") {
            // A second one, even an empty one, is no browser's.
            if name != b"filename" || parameters.value() != Ok(b"") || file.replace(()).is_some() {
                return Err(FormError::File);
            }
        } else if name.eq_ignore_ascii_case(b"name") {
            let value = parameters.value().map_err(malformed)?;
            let value = str::from_utf8(value).map_err(|_| FormError::Name)?;
            if field.replace(value).is_some() {
                return Err(FormError::Disposition);
            }
        } else {
            return Err(FormError::Disposition);
        }
    }
    match (kind.eq_ignore_ascii_case(b"form-data"), field, file) {
        (true, Some(name), None) => Ok(Disposition::Field { name: name.to_owned() }),
        (true, Some(_), Some(())) => Ok(Disposition::EmptyFile),
        (false, ..) | (true, None, _) => Err(FormError::Disposition),
    }
}

/// The charset of a part's Content-Type. The rest of it means nothing for a field, and is not forwarded.
fn charset(value: &[u8]) -> Result<Charset, FormError> {
    let (media_type, mut parameters) = Parameters::split(value);
    if contains_ignore_case(value, b"multipart") || contains_ignore_case(media_type, b"message/") {
        return Err(FormError::Nested);
    }
    if !is_media_type(media_type) {
        return Err(FormError::PartType);
    }
    let mut charset = None;
    while let Some(name) = parameters.next_name() {
        let name = name.map_err(|_| FormError::PartType)?;
        let value = parameters.value().map_err(|_| FormError::PartType)?;
        // `charset*` and `charset*0` are charsets for Werkzeug.
        if name.contains(&b'*') {
            return Err(FormError::PartType);
        }
        if name.eq_ignore_ascii_case(b"charset") {
            let value = match value.to_ascii_lowercase().as_slice() {
                b"utf-8" | b"utf8" => Charset::Utf8,
                b"us-ascii" | b"ascii" => Charset::Ascii,
                b"iso-8859-1" => Charset::Latin1,
                _ => return Err(FormError::Charset),
            };
            if charset.replace(value).is_some() {
                return Err(FormError::PartType);
            }
        }
    }
    Ok(charset.unwrap_or_default())
}

/// The encodings that leave a value as it is; the others Werkzeug would not decode, and others would.
fn transfer_encoding(value: &[u8]) -> Result<(), FormError> {
    let plain = [&b"7bit"[..], b"8bit", b"binary"];
    match plain.iter().any(|plain| value.eq_ignore_ascii_case(plain)) {
        true => Ok(()),
        false => Err(FormError::TransferEncoding),
    }
}

/// OkHttp and aiohttp send one. The delimiter alone ends a part, and the number is not forwarded.
fn length(value: &[u8]) -> Result<(), FormError> {
    match !value.is_empty() && value.iter().all(u8::is_ascii_digit) {
        true => Ok(()),
        false => Err(FormError::Header),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(lines: &[&str]) -> Result<Part, FormError> {
        let mut head = Head::default();
        for line in lines {
            head.line(line.as_bytes())?;
        }
        head.end()
    }

    fn field(name: &str) -> Result<Part, FormError> {
        Ok(Part::Field { name: name.to_owned(), charset: Charset::Utf8 })
    }

    const FIELD: &str = "Content-Disposition: form-data; name=\"a\"";

    #[test]
    fn fields_as_clients_send_them_are_read() {
        for (lines, name) in [
            (&[FIELD][..], "a"),
            (&["content-disposition:form-data;name=a"], "a"),
            (&["Content-Disposition: form-data; name=\"größe %22x%22\""], "größe %22x%22"),
            (&["Content-Disposition: form-data; name=\"\""], ""),
            (&["Content-Disposition: form-data; name=\"a\\ b\""], "a\\ b"),
            (&["Content-Type: text/plain; charset=utf-8", FIELD], "a"),
            (&["Content-Type: text/plain;charset=UTF-8", FIELD, "Content-Length: 5"], "a"),
            (&["content-type: application/json", FIELD, "content-transfer-encoding: binary"], "a"),
        ] {
            assert_eq!(part(lines), field(name), "{lines:?}");
        }
    }

    #[test]
    fn m1_any_filename_is_a_file_and_an_empty_one_an_empty_file_input() {
        for parameter in [
            "filename=\"x\"",
            "filename=x",
            "FILENAME=\"\"",
            "FileName=x",
            "filename*=utf-8''x",
            "filename*=\"\"",
            "filename*0=x",
            "filename*0*=x",
            "filename*0=\"\"",
            "filename=\"a\\\"b\"",
            "filename=",
            "filename=\"",
            "filename=\"\"; filename=\"x\"",
            "filename=\"\"; filename=\"\"",
            "filename=\"\"; FILENAME*=x",
            "xfilename=x",
            "filename=\"\" ",
        ] {
            for line in [
                format!("Content-Disposition: form-data; name=\"a\"; {parameter}"),
                format!("CONTENT-DISPOSITION:form-data; {parameter}; name=a"),
                format!("Content-Disposition: attachment; {parameter}"),
            ] {
                assert_eq!(part(&[&line]), Err(FormError::File), "{line}");
            }
        }
        assert_eq!(part(&[&format!("{FIELD}; filename=\"\"")]), Ok(Part::EmptyFile));
    }

    #[test]
    fn m1_any_other_disposition_is_refused() {
        for line in [
            "Content-Disposition: form-data",
            "Content-Disposition:",
            "Content-Disposition: attachment; name=a",
            "Content-Disposition: form-data; name=a; name=b",
            "Content-Disposition: form-data; name=a; NAME=a",
            "Content-Disposition: form-data; name*=utf-8''a",
            "Content-Disposition: form-data; name*0=a",
            "Content-Disposition: form-data; name=a; x=y",
            "Content-Disposition: form-data; name=a;",
            "Content-Disposition: form-data; name=\"a\\\"b\"",
            "Content-Disposition: form-data; name=\"a\\\"",
            "Content-Disposition: form-data; name=\"a\tb\"",
            "Content-Disposition: form-data; name=a b",
            "Content-Disposition: form-data, name=a",
            "Content-Disposition: form-data name=a",
            "Content-Disposition: name=a",
            "Content-Disposition: form-data; name=a; \"filename\"=x",
            "Content-Disposition: form-data; name=a; filename =x",
            "Content-Disposition: form-data; name =a",
            "Content-Disposition: form-data ; name=a",
            "Content-Disposition:\tform-data; name=a",
        ] {
            assert_eq!(part(&[line]), Err(FormError::Disposition), "{line}");
        }
        assert_eq!(part(&[]), Err(FormError::Disposition));
        let mut head = Head::default();
        assert_eq!(head.line(b"Content-Disposition: form-data; name=\"\xff\""), Err(FormError::Name));
    }

    #[test]
    fn m1_other_headers_continuations_and_repetitions_are_refused() {
        for line in [
            "X-Any: 1",
            "MIME-Version: 1.0",
            "Content-ID: 1",
            "Content-Length: x",
            "Content-Length:",
            "Content-Type",
            " folded",
            "\tfolded",
            "Content-Disposition : form-data; name=b",
            ": x",
            "Content Type: a/b",
        ] {
            assert_eq!(part(&[FIELD, line]), Err(FormError::Header), "{line:?}");
        }
        for line in [
            FIELD,
            "content-disposition: form-data; name=b",
            "Content-Type: a/b",
            "content-length: 1",
            "Content-Transfer-Encoding: 8bit",
        ] {
            let mut lines = vec![FIELD, "Content-Type: a/b", "Content-Length: 1"];
            lines.extend(["Content-Transfer-Encoding: 8bit", line]);
            assert_eq!(part(&lines), Err(FormError::HeaderTwice), "{line}");
        }
    }

    #[test]
    fn a_charset_is_kept_where_the_backend_would_use_it() {
        for (value, expected) in [
            ("text/plain", Ok(Charset::Utf8)),
            ("text/plain; charset=UTF-8; format=flowed", Ok(Charset::Utf8)),
            ("text/plain; charset=\"us-ascii\"", Ok(Charset::Ascii)),
            ("text/plain; charset=ISO-8859-1", Ok(Charset::Latin1)),
            ("text/plain; charset=utf-16", Err(FormError::Charset)),
            ("text/plain; charset=", Err(FormError::PartType)),
            ("text/plain; charset=utf-8; charset=utf-8", Err(FormError::PartType)),
            ("text/plain; charset*=utf-8''utf-16", Err(FormError::PartType)),
            ("text", Err(FormError::PartType)),
            ("", Err(FormError::PartType)),
            ("text/plain;", Err(FormError::PartType)),
            ("multipart/mixed; boundary=B", Err(FormError::Nested)),
            ("Multipart/Form-Data", Err(FormError::Nested)),
            ("message/rfc822", Err(FormError::Nested)),
        ] {
            assert_eq!(charset(value.as_bytes()), expected, "{value}");
        }
    }

    #[test]
    fn an_encoded_value_is_refused() {
        for value in ["base64", "quoted-printable", "", "8bit, base64", "x"] {
            let line = format!("Content-Transfer-Encoding: {value}");
            assert_eq!(part(&[FIELD, &line]), Err(FormError::TransferEncoding), "{value}");
        }
    }
}
