//! Whether a request's Content-Type announces a form, and under which boundary.

use http::{HeaderMap, header};

use super::{
    FormError,
    parameters::{Parameters, contains_ignore_case, is_media_type},
};

/// RFC 2046, section 5.1.1.
const MAX_BOUNDARY: usize = 70;

/// The boundary of a form, or `None` where no parser could find a multipart body.
pub(super) fn boundary(headers: &HeaderMap) -> Result<Option<Vec<u8>>, FormError> {
    let mut lines = headers.get_all(header::CONTENT_TYPE).iter();
    let Some(value) = lines.next() else {
        return Ok(None);
    };
    if lines.next().is_some() {
        return Err(FormError::ContentTypeTwice);
    }
    let value = value.as_bytes();
    // SECURITY: a comma makes two values of one for parsers that merge header lines.
    if value.iter().any(|byte| !matches!(byte, b' '..=b'~') || *byte == b',') {
        return Err(FormError::ContentType);
    }
    let (media_type, parameters) = Parameters::split(value);
    if value_is_clear_of_multipart(value) {
        return match is_media_type(media_type.trim_ascii_end()) {
            true => Ok(None),
            false => Err(FormError::ContentType),
        };
    }
    if !media_type.eq_ignore_ascii_case(b"multipart/form-data") {
        return Err(FormError::NotFormData);
    }
    form_boundary(parameters).map(Some)
}

/// SECURITY: no "multipart" anywhere, so that there is nothing for a lenient parser to find.
fn value_is_clear_of_multipart(value: &[u8]) -> bool {
    !contains_ignore_case(value, b"multipart")
}

/// One boundary, and perhaps the charset that Apache's HttpClient adds. Any other parameter, `boundary*` and
/// `boundary*0` among them, is refused.
fn form_boundary(mut parameters: Parameters<'_>) -> Result<Vec<u8>, FormError> {
    let mut boundary = None;
    let mut charset = None;
    while let Some(name) = parameters.next_name() {
        let name = name.map_err(|_| FormError::ContentType)?;
        if name.eq_ignore_ascii_case(b"boundary") {
            let value = parameters.value().map_err(|_| FormError::Boundary)?;
            if !is_boundary(value) || boundary.replace(value).is_some() {
                return Err(FormError::Boundary);
            }
        } else if name.eq_ignore_ascii_case(b"charset") {
            let value = parameters.value().map_err(|_| FormError::ContentType)?;
            if !value.eq_ignore_ascii_case(b"utf-8") || charset.replace(value).is_some() {
                return Err(FormError::ContentType);
            }
        } else if contains_ignore_case(name, b"boundary") {
            return Err(FormError::Boundary);
        } else {
            return Err(FormError::ContentType);
        }
    }
    boundary.map(<[u8]>::to_vec).ok_or(FormError::Boundary)
}

/// RFC 2046's characters but for the comma and the space: no client uses them and parsers trim or split there.
fn is_boundary(value: &[u8]) -> bool {
    (1..=MAX_BOUNDARY).contains(&value.len())
        && value.iter().all(|byte| byte.is_ascii_alphanumeric() || b"'()+_-./:=?".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Result<Option<String>, FormError> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::CONTENT_TYPE, http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        boundary(&headers).map(|found| found.map(|bytes| String::from_utf8(bytes).unwrap()))
    }

    #[test]
    fn other_media_types_are_not_multipart() {
        assert_eq!(read(&[]), Ok(None));
        for value in [
            "application/json",
            "application/json; charset=utf-8",
            "application/json ;charset=utf-8",
            "application/json;",
            "application/x-www-form-urlencoded; charset=UTF-8",
            "text/plain;charset=UTF-8",
            "application/vnd.api+json; ext=\"https://example.org/a;b\"",
        ] {
            assert_eq!(read(&[value]), Ok(None), "{value}");
        }
    }

    #[test]
    fn a_boundary_may_be_a_token_or_quoted() {
        for (value, expected) in [
            ("multipart/form-data; boundary=A", "A"),
            ("Multipart/Form-Data;BOUNDARY=A", "A"),
            ("multipart/form-data;  boundary=\"A\"", "A"),
            ("multipart/form-data; boundary=\"=_(a)/b:c?\"", "=_(a)/b:c?"),
            ("multipart/form-data; boundary=A; charset=UTF-8", "A"),
            ("multipart/form-data; charset=utf-8; boundary=A", "A"),
        ] {
            assert_eq!(read(&[value]), Ok(Some(expected.to_owned())), "{value}");
        }
        let longest = "b".repeat(70);
        assert_eq!(read(&[&format!("multipart/form-data; boundary={longest}")]), Ok(Some(longest)));
    }

    #[test]
    fn m1_two_content_types_are_refused() {
        let form = "multipart/form-data; boundary=A";
        for pair in [[form, form], ["text/plain", form], [form, "text/plain"], ["text/plain", "text/plain"]] {
            assert_eq!(read(&pair), Err(FormError::ContentTypeTwice));
        }
    }

    #[test]
    fn m1_anything_but_one_valid_boundary_is_refused() {
        let too_long = format!("; boundary={}", "b".repeat(71));
        for parameters in [
            "",
            "; boundary=",
            "; boundary=\"\"",
            "; boundary=A; boundary=B",
            "; boundary=A; BOUNDARY=A",
            "; boundary*=utf-8''A",
            "; boundary*0=A",
            "; boundary*0=A; boundary*1=B",
            "; boundary=A; boundary*=B",
            "; boundary=\"A\\B\"",
            "; boundary=\"A\\\"B\"",
            "; boundary=\"A B\"",
            "; boundary=\"A \"",
            "; boundary=A/B",
            "; boundary=A=B",
            "; boundary=A B",
            "; boundary=A#",
            "; boundary=\"A%22\"",
            "; boundary=\"A",
            "; boundary=A\"",
            "; charset=utf-8",
            &too_long,
        ] {
            let value = format!("multipart/form-data{parameters}");
            assert_eq!(read(&[&value]), Err(FormError::Boundary), "{value}");
        }
    }

    #[test]
    fn m1_what_could_be_taken_for_a_form_is_refused() {
        for value in [
            "multipart/mixed; boundary=A",
            "multipart/related; boundary=A",
            "multipart/form-data-x; boundary=A",
            "multipart/form-data ; boundary=A",
            "multipart/form-data/x; boundary=A",
            "multipart / form-data; boundary=A",
            "multipart",
            "xmultipart/form-data; boundary=A",
            "text/plain; multipart/form-data; boundary=A",
            "text/plain; x=\"multipart/form-data\"; boundary=A",
            "; multipart/form-data; boundary=A",
        ] {
            assert_eq!(read(&[value]), Err(FormError::NotFormData), "{value}");
        }
        for value in [
            "",
            " ",
            "json",
            "application/",
            "/json",
            "a/b/c",
            "application/json, text/plain",
            "a/b c",
            "text/plain, multipart/form-data; boundary=A",
            "multipart/form-data; boundary=A, text/plain",
            "multipart/form-data; boundary=\"A,B\"",
            "multipart/form-data;\tboundary=A",
            "t\u{e9}xt/plain",
            "multipart/form-data; boundary=A; x=y",
            "multipart/form-data; boundary=A;",
            "multipart/form-data; boundary=A; charset=utf-16",
            "multipart/form-data;; boundary=A",
            "multipart/form-data; charset=utf-8; charset=utf-8; boundary=A",
            "multipart/form-data; boundary =A",
        ] {
            assert_eq!(read(&[value]), Err(FormError::ContentType), "{value:?}");
        }
    }
}
