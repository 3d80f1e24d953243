//! Why a form is refused.

use std::fmt;

/// Why a body is not let through.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum FormError {
    /// A part with a file.
    File,
    /// More than one Content-Type header.
    ContentTypeTwice,
    /// A Content-Type that is no media type, or that has an unknown parameter.
    ContentType,
    /// A multipart type other than form-data, or something that could be taken for one.
    NotFormData,
    /// No boundary, more than one, or not a valid one.
    Boundary,
    /// A form under a Content-Encoding.
    Coded,
    /// Bytes before the first delimiter.
    Preamble,
    /// Something other than a line end or `--` after a boundary.
    Delimiter,
    /// The boundary inside a part.
    StrayBoundary,
    /// A line end other than CRLF in a part's head.
    LineEnd,
    /// A part's head is larger than 8 KiB.
    HeadTooBig,
    /// A line in a part's head that is no header, or a header that no form needs.
    Header,
    /// A header twice in one part.
    HeaderTwice,
    /// A Content-Disposition that is missing, malformed or not `form-data` with one name.
    Disposition,
    /// A field name that is not UTF-8.
    Name,
    /// A malformed Content-Type in a part.
    PartType,
    /// A multipart or message inside a part.
    Nested,
    /// A value in a charset that the backend would not read.
    Charset,
    /// A value in base64, quoted-printable or an unknown encoding.
    TransferEncoding,
    /// More than 1000 parts.
    TooManyParts,
    /// The body ends before its last delimiter.
    Truncated,
    /// Bytes after the last delimiter.
    Epilogue,
}

impl FormError {
    /// Whether the body is refused for a file (403) and not for its form (400).
    pub(crate) fn is_file(self) -> bool {
        self == Self::File
    }
}

impl fmt::Display for FormError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "the form has a file in it",
            Self::ContentTypeTwice => "more than one Content-Type",
            Self::ContentType => "a malformed Content-Type",
            Self::NotFormData => "a multipart body that is not form-data",
            Self::Boundary => "not exactly one valid boundary in the Content-Type",
            Self::Coded => "a form with a Content-Encoding",
            Self::Preamble => "bytes before the form's first boundary",
            Self::Delimiter => "junk after a boundary of the form",
            Self::StrayBoundary => "the form's boundary inside a part",
            Self::LineEnd => "a line end other than CRLF in a part's head",
            Self::HeadTooBig => "a part's head is too big",
            Self::Header => "a malformed or unknown header in a part",
            Self::HeaderTwice => "a header twice in one part",
            Self::Disposition => "not exactly one valid Content-Disposition in a part",
            Self::Name => "a field name that is not UTF-8",
            Self::PartType => "a malformed Content-Type in a part",
            Self::Nested => "a multipart or a message inside a part",
            Self::Charset => "a field in an unknown charset",
            Self::TransferEncoding => "a field with a transfer encoding",
            Self::TooManyParts => "too many parts in the form",
            Self::Truncated => "the form ends before its last boundary",
            Self::Epilogue => "bytes after the form's last boundary",
        })
    }
}

impl std::error::Error for FormError {}
