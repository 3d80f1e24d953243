//! What a file is answered with: the representation, the conditions, the range, the headers.

use std::io;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};

use super::{
    compressed::{COMPRESSED_SIZES, Key},
    conditional::{self, Outcome, Validators},
    directory::{Directory, FoundFile, OpenDirectory, is_absence},
    encoding::{self, Coding},
    file_body::FileBody,
    media_type::MediaType,
    range::{self, Span},
};
use crate::error::RequestError;

/// Up to this size a file is read at once and leaves with its head in one write; a larger one is streamed.
const READ_AT_ONCE: u64 = 64 * 1024;

/// Which bytes stand for the file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Form {
    /// The file's own.
    Identity,
    /// Those of a sibling such as `main.js.br`.
    Precompressed(Coding),
    /// The file's own, still to be compressed, or taken from memory.
    Compressed(Coding),
}

/// What follows the head of a reply.
pub(super) enum Content {
    Nothing,
    Bytes(Bytes),
    Stream(FileBody),
    Compress(FoundFile, Coding, Key),
}

/// The reply to a request for the file `name`, in the order of RFC 9110: is it there, may it be asked so
/// (15.5.6), which representation (12), the preconditions (13.2.2), the range (14.2).
pub(super) fn reply(
    directory: &Directory,
    name: &str,
    method: &Method,
    headers: &HeaderMap,
) -> Result<(Response<()>, Content), RequestError> {
    let directory = directory.open().map_err(directory_error)?;
    let file = directory
        .find(name)
        .map_err(RequestError::File)?
        .ok_or(RequestError::NotFound)?;
    if method != Method::GET && method != Method::HEAD {
        return Err(RequestError::Method { allow: "GET, HEAD" });
    }

    let media_type = MediaType::of(name);
    // Ranges are defined for GET alone, and served of the file's own bytes alone.
    let ranged = method == Method::GET && headers.contains_key(header::RANGE);
    let codings = if ranged || !media_type.compressible {
        Vec::new()
    } else {
        encoding::accepted(headers)
    };
    let (file, form) = choose(&directory, name, file, &codings).map_err(RequestError::File)?;
    let validators = Validators::new(&file, form.coding());

    let mut response = Response::new(());
    response
        .headers_mut()
        .insert(header::ETAG, validators.etag.clone());
    // File names carry no hash: without this, browsers guess a lifetime from Last-Modified, and run an old
    // script with a new page.
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if media_type.compressible {
        response
            .headers_mut()
            .insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    }

    match conditional::evaluate(headers, &validators) {
        Outcome::NotModified => return Ok(bare(response, StatusCode::NOT_MODIFIED)),
        Outcome::Failed => {
            set_length(&mut response, 0);
            return Ok(bare(response, StatusCode::PRECONDITION_FAILED));
        }
        Outcome::Proceed => {}
    }
    let span = match ranged && conditional::if_range_holds(headers, &validators) {
        true => range::requested(headers, file.len),
        false => Span::Whole,
    };
    let (first, len) = match span {
        Span::Whole => (0, file.len),
        Span::Part { first, len } => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let range = format!("bytes {first}-{}/{}", first + len - 1, file.len);
            response
                .headers_mut()
                .insert(header::CONTENT_RANGE, header_value(range));
            (first, len)
        }
        Span::Unsatisfiable => {
            let range = format!("bytes */{}", file.len);
            response
                .headers_mut()
                .insert(header::CONTENT_RANGE, header_value(range));
            set_length(&mut response, 0);
            return Ok(bare(response, StatusCode::RANGE_NOT_SATISFIABLE));
        }
    };

    response.headers_mut().insert(
        header::LAST_MODIFIED,
        header_value(validators.modified.to_string()),
    );
    write_content_headers(response.headers_mut(), media_type, form);
    if let Form::Compressed(coding) = form {
        let key = Key::new(name, &validators);
        return Ok((response, Content::Compress(file, coding, key)));
    }
    set_length(&mut response, len);
    let content = if method == Method::HEAD {
        Content::Nothing
    } else if len <= READ_AT_ONCE {
        Content::Bytes(file.read(first, len).map_err(RequestError::File)?)
    } else {
        Content::Stream(FileBody::new(file, first, len))
    };
    Ok((response, content))
}

/// The representation that the client likes best: a sibling that is not older than the file, or the file
/// compressed when it is of a size that is worth it, or the file.
fn choose(
    directory: &OpenDirectory,
    name: &str,
    file: FoundFile,
    codings: &[Coding],
) -> io::Result<(FoundFile, Form)> {
    for &coding in codings {
        let sibling = directory.find(&format!("{name}.{}", coding.extension()))?;
        if let Some(sibling) = sibling.filter(|sibling| sibling.modified >= file.modified) {
            return Ok((sibling, Form::Precompressed(coding)));
        }
        if COMPRESSED_SIZES.contains(&file.len) {
            return Ok((file, Form::Compressed(coding)));
        }
    }
    Ok((file, Form::Identity))
}

impl Form {
    fn coding(self) -> Option<Coding> {
        match self {
            Self::Identity => None,
            Self::Precompressed(coding) | Self::Compressed(coding) => Some(coding),
        }
    }
}

/// What describes the bytes that follow, on 200 and 206 alike.
fn write_content_headers(headers: &mut HeaderMap, media_type: MediaType, form: Form) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type.name));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    match form.coding() {
        Some(coding) => headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.name())),
        None => headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes")),
    };
}

/// A directory that is missing has no files; one that cannot be opened is a fault of ours.
fn directory_error(error: io::Error) -> RequestError {
    if is_absence(&error) {
        RequestError::NotFound
    } else {
        RequestError::File(error)
    }
}

fn bare(mut response: Response<()>, status: StatusCode) -> (Response<()>, Content) {
    *response.status_mut() = status;
    (response, Content::Nothing)
}

pub(super) fn set_length(response: &mut Response<()>, len: u64) {
    response.headers_mut().insert(header::CONTENT_LENGTH, len.into());
}

/// A header value of digits, dates, tags and ranges that were written here.
pub(super) fn header_value(text: String) -> HeaderValue {
    // Every caller formats numbers and printable ASCII alone, which a header value always holds.
    HeaderValue::try_from(text).expect("printable ASCII")
}
