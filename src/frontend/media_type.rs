//! Media types by file name.

/// What a file is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct MediaType {
    /// The value of `Content-Type`.
    pub(super) name: &'static str,
    /// Whether it comes in several encodings: text, and binary formats that do not compress themselves.
    pub(super) compressible: bool,
}

/// Extensions in lower case, and their types, for those that are worth compressing.
const COMPRESSIBLE: &[(&str, &str)] = &[
    ("css", "text/css; charset=utf-8"),
    ("htm", "text/html; charset=utf-8"),
    ("html", "text/html; charset=utf-8"),
    ("js", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("map", "application/json"),
    ("md", "text/markdown; charset=utf-8"),
    ("mjs", "text/javascript; charset=utf-8"),
    ("otf", "font/otf"),
    ("svg", "image/svg+xml"),
    ("ttf", "font/ttf"),
    ("txt", "text/plain; charset=utf-8"),
    ("wasm", "application/wasm"),
    ("webmanifest", "application/manifest+json"),
    ("xml", "application/xml"),
];

/// The same for those that are compressed already.
const COMPRESSED: &[(&str, &str)] = &[
    ("avif", "image/avif"),
    ("gif", "image/gif"),
    ("ico", "image/vnd.microsoft.icon"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("mp3", "audio/mpeg"),
    ("mp4", "video/mp4"),
    ("ogg", "audio/ogg"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("wav", "audio/wav"),
    ("webm", "video/webm"),
    ("webp", "image/webp"),
    ("woff", "font/woff"),
    ("woff2", "font/woff2"),
];

impl MediaType {
    /// By the extension, in any letter case.
    pub(super) fn of(file_name: &str) -> Self {
        let extension = file_name.rsplit('.').next().unwrap_or_default();
        let find = |table: &[(&str, &'static str)]| {
            let row = table.iter().find(|(known, _)| known.eq_ignore_ascii_case(extension));
            row.map(|(_, name)| *name)
        };
        if let Some(name) = find(COMPRESSIBLE) {
            return Self { name, compressible: true };
        }
        Self { name: find(COMPRESSED).unwrap_or("application/octet-stream"), compressible: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_decide_in_any_case() {
        for (name, expected, compressible) in [
            ("index.html", "text/html; charset=utf-8", true),
            ("media/main.min.JS", "text/javascript; charset=utf-8", true),
            ("a.svg", "image/svg+xml", true),
            ("a.woff2", "font/woff2", false),
            ("a.js.br", "application/octet-stream", false),
            (".nojekyll", "application/octet-stream", false),
        ] {
            let media_type = MediaType::of(name);
            assert_eq!((media_type.name, media_type.compressible), (expected, compressible), "{name}");
        }
    }
}
