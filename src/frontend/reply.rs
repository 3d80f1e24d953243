//! What a file is answered with: the representation, the conditions, the range, the headers.

use std::io;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

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

/// Up to this size a file is read at once and leaves with its head in one write; a larger one is streamed, so that
/// many of them hold little.
const READ_AT_ONCE: u64 = 16 * 1024;

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

/// A reply whose content may still have to be made.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) content: Content,
}

/// The reply to a request for the file `name`, in the order of RFC 9110: is it there, may it be asked so
/// (15.5.6), which representation (12), the preconditions (13.2.2), the range (14.2).
pub(super) fn reply(
    directory: &Directory,
    name: &str,
    method: &Method,
    request: &HeaderMap,
) -> Result<Reply, RequestError> {
    let directory = directory.open().map_err(directory_error)?;
    let file = directory.find(name).map_err(RequestError::File)?;
    let file = file.ok_or(RequestError::NotFound)?;
    if method != Method::GET && method != Method::HEAD {
        return Err(RequestError::Method { allow: "GET, HEAD" });
    }

    let media_type = MediaType::of(name);
    // Ranges are defined for GET alone, and served of the file's own bytes alone.
    let ranged = method == Method::GET && request.contains_key(header::RANGE);
    let codings = if ranged || !media_type.compressible { Vec::new() } else { encoding::accepted(request) };
    let (file, form) = choose(&directory, name, file, &codings).map_err(RequestError::File)?;
    let validators = Validators::new(&file, form.coding());

    let mut headers = selection_headers(media_type, &validators);
    match conditional::evaluate(request, &validators) {
        Outcome::NotModified => return Ok(Reply::bare(StatusCode::NOT_MODIFIED, headers)),
        Outcome::Failed => return Ok(Reply::refusal(StatusCode::PRECONDITION_FAILED, headers)),
        Outcome::Proceed => {}
    }
    let span = if ranged && conditional::if_range_holds(request, &validators) {
        range::requested(request, file.len)
    } else {
        Span::Whole
    };
    let (status, first, len) = match span {
        Span::Whole => (StatusCode::OK, 0, file.len),
        Span::Part { first, len } => {
            let range = format!("bytes {first}-{}/{}", first + len - 1, file.len);
            headers.insert(header::CONTENT_RANGE, header_value(range));
            (StatusCode::PARTIAL_CONTENT, first, len)
        }
        Span::Unsatisfiable => {
            let range = format!("bytes */{}", file.len);
            headers.insert(header::CONTENT_RANGE, header_value(range));
            return Ok(Reply::refusal(StatusCode::RANGE_NOT_SATISFIABLE, headers));
        }
    };

    write_content_headers(&mut headers, media_type, form, &validators);
    let content = if let Form::Compressed(coding) = form {
        // Its length is known when it is made.
        Content::Compress(file, coding, Key::new(name, &validators))
    } else {
        headers.insert(header::CONTENT_LENGTH, len.into());
        content(file, method, first, len).map_err(RequestError::File)?
    };
    Ok(Reply { status, headers, content })
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

/// What 200, 206, 304 and the refusals have in common (RFC 9110 15.4.5).
fn selection_headers(media_type: MediaType, validators: &Validators) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::ETAG, validators.etag.clone());
    // File names carry no hash: without this, browsers guess a lifetime from Last-Modified, and run an old
    // script with a new page.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if media_type.compressible {
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
    headers
}

/// What describes the bytes that follow, on 200 and 206 alike.
fn write_content_headers(
    headers: &mut HeaderMap,
    media_type: MediaType,
    form: Form,
    validators: &Validators,
) {
    let modified = header_value(validators.modified.to_string());
    headers.insert(header::LAST_MODIFIED, modified);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type.name));
    let nosniff = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    match form.coding() {
        Some(coding) => headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.name())),
        None => headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes")),
    };
}

/// The stored bytes of `file` as far as the method wants them.
fn content(file: FoundFile, method: &Method, first: u64, len: u64) -> io::Result<Content> {
    if method == Method::HEAD {
        Ok(Content::Nothing)
    } else if len <= READ_AT_ONCE {
        file.read(first, len).map(Content::Bytes)
    } else {
        Ok(Content::Stream(FileBody::new(file, first, len)))
    }
}

/// A directory that is missing has no files; one that cannot be opened is a fault of ours.
fn directory_error(error: io::Error) -> RequestError {
    if is_absence(&error) { RequestError::NotFound } else { RequestError::File(error) }
}

impl Reply {
    /// A 304, which has no length but that of the 200 (RFC 9110 8.6).
    fn bare(status: StatusCode, headers: HeaderMap) -> Self {
        Self { status, headers, content: Content::Nothing }
    }

    /// A reply with an empty body.
    fn refusal(status: StatusCode, mut headers: HeaderMap) -> Self {
        headers.insert(header::CONTENT_LENGTH, 0.into());
        Self::bare(status, headers)
    }
}

/// A header value of digits, dates, tags and ranges that were written here.
pub(super) fn header_value(text: String) -> HeaderValue {
    // Every caller formats numbers and printable ASCII alone, which a header value always holds.
    HeaderValue::try_from(text).expect("printable ASCII")
}
