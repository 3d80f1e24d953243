//! `[frontend] mode = "serve"`: static files. A request's path becomes a file name, the file is opened below
//! the directory and nowhere else, and the reply is what RFC 9110 makes of its conditions and its range.

mod compressed;
mod conditional;
mod directory;
mod encoding;
mod file_body;
mod media_type;
mod range;

use std::{io, path::Path, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};

use self::{
    compressed::{COMPRESSED_SIZES, CompressedFiles, Key},
    conditional::{Outcome, Validators},
    directory::{Directory, FoundFile, OpenDirectory},
    encoding::Coding,
    file_body::FileBody,
    media_type::MediaType,
    range::Span,
};
use crate::{body::Body, config::UriPrefix, error::RequestError, path::CanonicalPath};

/// Up to this size a file is read at once and leaves with its head in one write; a larger one is streamed.
const READ_AT_ONCE: u64 = 64 * 1024;

/// An error page larger than this is none: it would stay in memory for good.
const ERROR_PAGE_LIMIT: u64 = 256 * 1024;

/// The front end's directory, as an origin server.
pub(crate) struct StaticFiles {
    uri_prefix: UriPrefix,
    outside_prefix: OutsidePrefix,
    /// First path segments that are not found.
    excluded: Vec<String>,
    directory: Directory,
    compressed: Arc<CompressedFiles>,
}

/// What a path without the secret prefix gets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum OutsidePrefix {
    /// The file, as if the prefix were there.
    Served,
    /// Nothing: `only_below_prefix`.
    NotFound,
}

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
enum Content {
    Nothing,
    Bytes(Bytes),
    Stream(FileBody),
    Compress(FoundFile, Coding, Key),
}

impl StaticFiles {
    /// A missing directory is no error: a warning is logged, and files are not found until it is there.
    pub(crate) fn open(
        directory: &Path,
        excluded: Vec<String>,
        uri_prefix: UriPrefix,
        outside_prefix: OutsidePrefix,
    ) -> Self {
        let directory = Directory::new(directory);
        if let Err(error) = directory.open() {
            tracing::warn!(directory = %directory.path().display(), %error, "the front end's directory cannot be opened");
        }
        Self {
            uri_prefix,
            outside_prefix,
            excluded,
            directory,
            compressed: Arc::default(),
        }
    }

    /// The directory's own pages for errors, read once.
    pub(crate) fn error_pages(&self) -> Vec<(StatusCode, Bytes)> {
        let Ok(directory) = self.directory.open() else {
            return Vec::new();
        };
        [
            StatusCode::BAD_REQUEST,
            StatusCode::NOT_FOUND,
            StatusCode::METHOD_NOT_ALLOWED,
            StatusCode::PAYLOAD_TOO_LARGE,
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            StatusCode::INTERNAL_SERVER_ERROR,
        ]
        .into_iter()
        .filter_map(|status| {
            let name = format!("{}.html", status.as_str());
            match read_error_page(&directory, &name) {
                Ok(page) => page.map(|page| (status, page)),
                Err(error) => {
                    tracing::warn!(page = name, %error, "an error page of the front end cannot be read");
                    None
                }
            }
        })
        .collect()
    }

    /// Answers with the file that `path` names. 304, 412 and 416 are answers, not errors.
    pub(crate) async fn serve(
        &self,
        method: &Method,
        path: &CanonicalPath,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, RequestError> {
        let name = self.file_name(path.decoded()).ok_or(RequestError::NotFound)?;
        let job = {
            let (directory, method, headers) = (self.directory.clone(), method.clone(), headers.clone());
            move || reply(&directory, &name, &method, &headers)
        };
        // The disk may be slow, and no other request waits for it.
        let (mut response, content) = tokio::task::spawn_blocking(job)
            .await
            .map_err(|error| RequestError::File(error.into()))??;
        let body = match content {
            Content::Nothing => Body::empty(),
            Content::Bytes(bytes) => Body::full(bytes),
            Content::Stream(body) => Body::stream(body),
            Content::Compress(file, coding, key) => {
                let bytes = self.compressed.fetch(key, file, coding).await;
                let bytes = bytes.map_err(RequestError::File)?;
                set_length(&mut response, bytes.len() as u64);
                if method == Method::HEAD { Body::empty() } else { Body::full(bytes) }
            }
        };
        Ok(response.map(|()| body))
    }

    /// The file that a decoded path names, relative to the directory. `None`: excluded, or not below the prefix.
    fn file_name(&self, path: &str) -> Option<String> {
        let below = match (self.uri_prefix.strip(path), self.outside_prefix) {
            (Some(below), _) => below,
            (None, OutsidePrefix::Served) => path,
            (None, OutsidePrefix::NotFound) => return None,
        };
        let below = below.strip_prefix('/').unwrap_or(below);
        let name = match below.rsplit('/').next() {
            _ if below.is_empty() => "index.html".to_owned(),
            Some(last) if last.contains('.') => below.to_owned(),
            Some(_) | None => format!("{below}.html"),
        };
        // F1: any letter case, because on a file system that folds case `.GIT` is `.git`; and before and after
        // `.html` is added, because both name the file.
        let excluded = [below, &name].into_iter().any(|path| {
            let first = path.split('/').next().unwrap_or_default();
            self.excluded
                .iter()
                .any(|excluded| excluded.trim_matches('/').eq_ignore_ascii_case(first))
        });
        (!excluded).then_some(name)
    }
}

/// The reply to a request for the file `name`, in the order of RFC 9110: is it there, may it be asked so
/// (15.5.6), which representation (12), the preconditions (13.2.2), the range (14.2).
fn reply(
    directory: &Directory,
    name: &str,
    method: &Method,
    headers: &HeaderMap,
) -> Result<(Response<()>, Content), RequestError> {
    let not_found_or = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => RequestError::NotFound,
        _ => RequestError::File(error),
    };
    let directory = directory.open().map_err(not_found_or)?;
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
    let codings = if ranged || !media_type.compressible { Vec::new() } else { encoding::accepted(headers) };
    let (file, form) = choose(&directory, name, file, &codings).map_err(RequestError::File)?;
    let validators = Validators::new(&file, form.coding());

    let mut response = Response::new(());
    validators.write(response.headers_mut());
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
            response.headers_mut().insert(header::CONTENT_RANGE, header_value(range));
            (first, len)
        }
        Span::Unsatisfiable => {
            let range = format!("bytes */{}", file.len);
            response.headers_mut().insert(header::CONTENT_RANGE, header_value(range));
            set_length(&mut response, 0);
            return Ok(bare(response, StatusCode::RANGE_NOT_SATISFIABLE));
        }
    };

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
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    match form.coding() {
        Some(coding) => headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.name())),
        None => headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes")),
    };
}

fn bare(mut response: Response<()>, status: StatusCode) -> (Response<()>, Content) {
    *response.status_mut() = status;
    (response, Content::Nothing)
}

fn set_length(response: &mut Response<()>, len: u64) {
    response.headers_mut().insert(header::CONTENT_LENGTH, len.into());
}

/// A header value of digits, dates, tags and ranges that were written here.
fn header_value(text: String) -> HeaderValue {
    // Every caller formats numbers and printable ASCII alone, which a header value always holds.
    HeaderValue::try_from(text).expect("printable ASCII")
}

fn read_error_page(directory: &OpenDirectory, name: &str) -> io::Result<Option<Bytes>> {
    match directory.find(name)? {
        Some(page) if page.len <= ERROR_PAGE_LIMIT => page.read(0, page.len).map(Some),
        Some(_) => Err(io::ErrorKind::FileTooLarge.into()),
        None => Ok(None),
    }
}
