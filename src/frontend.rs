//! `[frontend] mode = "serve"`: static files. A request's path becomes a file name, the file is opened below
//! the directory and nowhere else, and the reply is what RFC 9110 makes of its conditions and its range.

mod compressed;
mod conditional;
mod directory;
mod encoding;
mod file_body;
mod media_type;
mod range;
mod reply;

use std::{io, path::Path, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, header};

use self::{
    compressed::CompressedFiles,
    directory::{Directory, OpenDirectory},
    reply::{Content, reply},
};
use crate::{body::Body, config::UriPrefix, error::RequestError, path::CanonicalPath};

/// An error page larger than this is none: it would stay in memory for good.
const ERROR_PAGE_LIMIT: u64 = 256 * 1024;

/// The front end's directory, as an origin server.
pub(crate) struct StaticFiles {
    uri_prefix: UriPrefix,
    outside_prefix: OutsidePrefix,
    /// First path segments that are not found; none is empty.
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
            let directory = directory.path().display();
            tracing::warn!(%directory, %error, "the front end's directory cannot be opened");
        }
        let excluded = excluded
            .iter()
            .map(|segment| segment.trim_matches('/').to_owned())
            .filter(|segment| !segment.is_empty())
            .collect();
        Self { uri_prefix, outside_prefix, excluded, directory, compressed: Arc::default() }
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
        let mut reply =
            tokio::task::spawn_blocking(job).await.map_err(|error| RequestError::File(error.into()))??;
        let body = match reply.content {
            Content::Nothing => Body::empty(),
            Content::Bytes(bytes) => Body::full(bytes),
            Content::Stream(body) => Body::stream(body),
            Content::Compress(file, coding, key) => {
                let bytes = self.compressed.fetch(key, file, coding).await;
                let bytes = bytes.map_err(RequestError::File)?;
                reply.headers.insert(header::CONTENT_LENGTH, bytes.len().into());
                if method == Method::HEAD { Body::empty() } else { Body::full(bytes) }
            }
        };
        let mut response = Response::new(body);
        *response.status_mut() = reply.status;
        *response.headers_mut() = reply.headers;
        Ok(response)
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
            self.excluded.iter().any(|excluded| excluded.eq_ignore_ascii_case(first))
        });
        (!excluded).then_some(name)
    }
}

fn read_error_page(directory: &OpenDirectory, name: &str) -> io::Result<Option<Bytes>> {
    match directory.find(name)? {
        Some(page) if page.len <= ERROR_PAGE_LIMIT => page.read(0, page.len).map(Some),
        Some(_) => Err(io::ErrorKind::FileTooLarge.into()),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Read, os::unix::fs::symlink, path::PathBuf, time::Duration};

    use http_body_util::BodyExt;
    use tempfile::TempDir;

    use super::*;

    const EXCLUDED: [&str; 5] = ["README.md", "LICENSE.md", ".nojekyll", ".git", "quickrun.js"];

    /// A directory with the files that the original relay's decisions were recorded with, and a few more.
    struct Site {
        directory: TempDir,
        files: StaticFiles,
    }

    /// A whole reply.
    #[derive(Debug)]
    struct Reply {
        status: u16,
        headers: HeaderMap,
        body: Bytes,
    }

    impl Reply {
        fn header(&self, name: &str) -> Option<&str> {
            self.headers.get(name).map(|value| value.to_str().unwrap())
        }
    }

    impl Site {
        fn new() -> Self {
            Self::with(OutsidePrefix::Served)
        }

        fn with(outside_prefix: OutsidePrefix) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let prefix = UriPrefix::new("abc").unwrap();
            let excluded = EXCLUDED.map(str::to_owned).to_vec();
            let files = StaticFiles::open(directory.path(), excluded, prefix, outside_prefix);
            let site = Self { directory, files };
            for (name, text) in [
                ("index.html", "INDEX"),
                ("404.html", "NOTFOUND"),
                ("about.html", "ABOUT"),
                ("media/main.js", "MAIN"),
                ("README.md", "README"),
                (".git/config", "GIT"),
                ("robots.txt", "ROBOTS"),
            ] {
                site.write(name, text.as_bytes());
            }
            site
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn write(&self, name: &str, bytes: &[u8]) {
            fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
            fs::write(self.path(name), bytes).unwrap();
        }

        async fn send(
            &self,
            method: Method,
            path: &str,
            headers: &[(&'static str, &str)],
        ) -> Result<Response<Body>, RequestError> {
            let path = CanonicalPath::parse(path).unwrap();
            let headers =
                headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            self.files.serve(&method, &path, &headers).await
        }

        async fn reply(&self, method: Method, path: &str, headers: &[(&'static str, &str)]) -> Reply {
            let (parts, body) = self.send(method, path, headers).await.unwrap().into_parts();
            Reply {
                status: parts.status.as_u16(),
                headers: parts.headers,
                body: body.collect().await.unwrap().to_bytes(),
            }
        }

        async fn get(&self, path: &str, headers: &[(&'static str, &str)]) -> Reply {
            self.reply(Method::GET, path, headers).await
        }

        async fn is_not_found(&self, path: &str) -> bool {
            matches!(self.send(Method::GET, path, &[]).await, Err(RequestError::NotFound))
        }
    }

    fn text(len: usize) -> Vec<u8> {
        b"let answer = 42;\n".iter().copied().cycle().take(len).collect()
    }

    fn unbrotli(bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        brotli::Decompressor::new(bytes, 4096).read_to_end(&mut plain).unwrap();
        plain
    }

    fn gunzip(bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
        plain
    }

    #[tokio::test]
    async fn paths_name_files_as_in_the_original() {
        let site = Site::new();
        for (path, body) in [
            ("/abc", "INDEX"),
            ("/abc/", "INDEX"),
            ("/", "INDEX"),
            ("/abc/about", "ABOUT"),
            ("/abc/a%62out", "ABOUT"),
            ("/about", "ABOUT"),
            ("/about.html", "ABOUT"),
            ("/abc/404.html", "NOTFOUND"),
            ("/abc/media/main.js", "MAIN"),
            ("/media/main.js", "MAIN"),
            ("/abc/robots.txt", "ROBOTS"),
        ] {
            assert_eq!(site.get(path, &[]).await.body, body, "{path}");
        }
        for path in [
            "/abcd/about",
            "/abc/abc/about",
            "/abc/about/",
            "/abc/about.html/",
            "/abc/media",
            "/abc/media/",
            "/abc/nope",
            "/abc/nope.js",
            "/abc/medi%61",
            "/api/v1/stream",
        ] {
            assert!(site.is_not_found(path).await, "{path}");
        }
        // Not below the prefix, and so a name of its own.
        site.write("abcd/x.txt", b"OTHER");
        assert_eq!(site.get("/abcd/x.txt", &[]).await.body, "OTHER");
    }

    #[tokio::test]
    async fn only_below_prefix_finds_nothing_outside() {
        let site = Site::with(OutsidePrefix::NotFound);
        assert_eq!(site.get("/abc/about", &[]).await.body, "ABOUT");
        for path in ["/", "/about", "/about.html", "/media/main.js", "/abcd/about"] {
            assert!(site.is_not_found(path).await, "{path}");
        }
    }

    #[tokio::test]
    async fn f1_excluded_first_segments_are_not_found_in_any_case() {
        let site = Site::new();
        for (name, path) in [
            ("README.md", "/abc/README.md"),
            ("README.md", "/README.md"),
            ("README.md", "/abc/README.%6dd"),
            (".git/config", "/abc/.git/con%66ig"),
            // As they would be found on a file system that folds case.
            ("readme.MD", "/abc/readme.MD"),
            (".GIT/config", "/abc/.GIT/config"),
            (".git.html", "/abc/.git/"),
            ("quickrun.js", "/abc/quickrun.js"),
        ] {
            site.write(name, b"SECRET");
            assert!(site.is_not_found(path).await, "{path}");
        }
        site.write("media/README.md", b"OPEN");
        assert_eq!(site.get("/abc/media/README.md", &[]).await.body, "OPEN");
    }

    #[tokio::test]
    async fn f1_an_excluded_page_is_not_found_by_either_of_its_names() {
        let mut site = Site::new();
        site.write("legal.html", b"LEGAL");
        let excluded = ["/about.html/", "legal", ""].map(str::to_owned).to_vec();
        let prefix = UriPrefix::new("abc").unwrap();
        site.files = StaticFiles::open(site.directory.path(), excluded, prefix, OutsidePrefix::Served);
        for path in ["/abc/about.html", "/abc/about", "/abc/legal"] {
            assert!(site.is_not_found(path).await, "{path}");
        }
        // What is listed is one segment, and an empty one excludes nothing.
        assert_eq!(site.get("/abc/legal.html", &[]).await.body, "LEGAL");
        assert_eq!(site.get("/abc/", &[]).await.body, "INDEX");
    }

    #[tokio::test]
    async fn f1_nothing_outside_the_directory_is_found() {
        let site = Site::new();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret.txt"), "SECRET").unwrap();
        symlink(outside.path().join("secret.txt"), site.path("out.txt")).unwrap();
        symlink(outside.path(), site.path("out")).unwrap();
        let up = format!("../{}", outside.path().file_name().unwrap().display());
        symlink(&up, site.path("up")).unwrap();
        symlink("loop.txt", site.path("loop.txt")).unwrap();
        let long = format!("/abc/{}.txt", "x".repeat(300));
        for path in ["/abc/out.txt", "/abc/out/secret.txt", "/abc/up/secret.txt", "/abc/loop.txt", &long] {
            assert!(site.is_not_found(path).await, "{path}");
        }
        symlink("about.html", site.path("same.html")).unwrap();
        symlink("media/../media", site.path("also")).unwrap();
        assert_eq!(site.get("/abc/same", &[]).await.body, "ABOUT");
        assert_eq!(site.get("/abc/also/main.js", &[]).await.body, "MAIN");
    }

    #[tokio::test]
    async fn other_methods_are_405_on_a_file_and_404_without_one() {
        let site = Site::new();
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS] {
            let there = site.send(method.clone(), "/abc/about", &[]).await;
            assert!(matches!(there, Err(RequestError::Method { allow: "GET, HEAD" })), "{method}");
            for path in ["/abc/nope", "/abc/README.md", "/abc/media"] {
                let missing = site.send(method.clone(), path, &[]).await;
                assert!(matches!(missing, Err(RequestError::NotFound)), "{method} {path}");
            }
        }
    }

    #[tokio::test]
    async fn a_missing_directory_has_no_files_until_it_comes() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("mura");
        let prefix = UriPrefix::new("").unwrap();
        let files = StaticFiles::open(&path, Vec::new(), prefix, OutsidePrefix::Served);
        let (about, none) = (CanonicalPath::parse("/about").unwrap(), HeaderMap::new());
        let missing = files.serve(&Method::GET, &about, &none).await;
        assert!(matches!(missing, Err(RequestError::NotFound)));
        assert!(files.error_pages().is_empty());

        fs::create_dir(&path).unwrap();
        fs::write(path.join("about.html"), "ABOUT").unwrap();
        assert_eq!(files.serve(&Method::GET, &about, &none).await.unwrap().status(), 200);
    }

    #[test]
    fn error_pages_are_those_that_are_there_and_small() {
        let site = Site::new();
        site.write("500.html", b"SORRY");
        site.write("403.html", b"NOT ONE OF THEM");
        site.write("400.html", &text(300 * 1024));
        symlink("/etc/hostname", site.path("405.html")).unwrap();
        let pages = site.files.error_pages();
        let expected = [(StatusCode::NOT_FOUND, "NOTFOUND"), (StatusCode::INTERNAL_SERVER_ERROR, "SORRY")];
        assert_eq!(pages, expected.map(|(status, page)| (status, Bytes::from(page))));
    }

    #[tokio::test]
    async fn a_file_comes_with_all_its_headers() {
        let site = Site::new();
        site.write("media/main.js", &text(5000));
        let reply = site.get("/abc/media/main.js", &[]).await;
        assert_eq!((reply.status, reply.body.len()), (200, 5000));
        for (name, value) in [
            ("content-type", "text/javascript; charset=utf-8"),
            ("x-content-type-options", "nosniff"),
            ("content-length", "5000"),
            ("accept-ranges", "bytes"),
            ("cache-control", "no-cache"),
            ("vary", "accept-encoding"),
        ] {
            assert_eq!(reply.header(name), Some(value));
        }
        assert_eq!(reply.header("content-encoding"), None);
        assert!(reply.header("etag").unwrap().starts_with('"'));
        assert!(reply.header("last-modified").unwrap().ends_with(" GMT"));

        site.write("x.png", b"PNG");
        let image = site.get("/abc/x.png", &[("accept-encoding", "br")]).await;
        assert_eq!((image.header("content-type"), image.header("vary")), (Some("image/png"), None));
    }

    #[tokio::test]
    async fn head_has_the_headers_of_get_and_no_body() {
        let site = Site::new();
        site.write("small.js", &text(5000));
        site.write("large.bin", &text(200_000));
        for path in ["/abc/", "/abc/small.js", "/abc/large.bin"] {
            for encoding in ["identity", "br", "gzip"] {
                let headers = [("accept-encoding", encoding)];
                let head = site.reply(Method::HEAD, path, &headers).await;
                let get = site.get(path, &headers).await;
                assert_eq!(head.headers, get.headers, "{path} {encoding}");
                assert_eq!(get.header("content-length"), Some(get.body.len().to_string().as_str()));
                assert!(head.body.is_empty() && !get.body.is_empty());
            }
        }
        // Ranges are for GET.
        let head = site.reply(Method::HEAD, "/abc/large.bin", &[("range", "bytes=0-9")]).await;
        assert_eq!((head.status, head.header("content-length")), (200, Some("200000")));
    }

    #[tokio::test]
    async fn a_large_file_is_streamed_whole_and_in_part() {
        let site = Site::new();
        let bytes = text(300_000);
        site.write("large.bin", &bytes);
        assert_eq!(site.get("/abc/large.bin", &[]).await.body, bytes);
        let part = site.get("/abc/large.bin", &[("range", "bytes=70000-269999")]).await;
        assert_eq!((part.status, &part.body[..]), (206, &bytes[70_000..270_000]));
        assert_eq!(part.header("content-range"), Some("bytes 70000-269999/300000"));
        assert_eq!(part.header("content-length"), Some("200000"));
    }

    #[tokio::test]
    async fn a_file_that_is_replaced_is_sent_as_it_was() {
        let site = Site::new();
        let bytes = text(300_000);
        site.write("large.bin", &bytes);
        let response = site.send(Method::GET, "/abc/large.bin", &[]).await.unwrap();
        site.write("new.bin", b"NEW");
        fs::rename(site.path("new.bin"), site.path("large.bin")).unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), bytes);
        assert_eq!(site.get("/abc/large.bin", &[]).await.body, "NEW");
    }

    #[tokio::test]
    async fn ranges_are_206_416_or_the_whole() {
        let site = Site::new();
        let get = async |range| site.get("/abc/robots.txt", &[("range", range)]).await;
        let part = get("bytes=1-3").await;
        assert_eq!((part.status, &part.body[..]), (206, &b"OBO"[..]));
        assert_eq!(part.header("content-range"), Some("bytes 1-3/6"));
        assert_eq!(part.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(get("bytes=-2").await.body, "TS");
        let beyond = get("bytes=6-").await;
        assert_eq!((beyond.status, beyond.body.len()), (416, 0));
        assert_eq!(beyond.header("content-range"), Some("bytes */6"));
        assert_eq!(beyond.header("content-length"), Some("0"));
        for range in ["bytes=0-1,3-4", "bytes=x", "lines=0-1", "bytes=3-1"] {
            let whole = get(range).await;
            assert_eq!((whole.status, &whole.body[..]), (200, &b"ROBOTS"[..]), "{range}");
            assert_eq!(whole.header("content-range"), None);
        }
    }

    #[tokio::test]
    async fn a_range_is_one_of_the_identity_encoding() {
        let site = Site::new();
        site.write("main.js", &text(5000));
        let headers = [("accept-encoding", "br"), ("range", "bytes=0-3")];
        let part = site.get("/abc/main.js", &headers).await;
        assert_eq!((part.status, &part.body[..]), (206, &b"let "[..]));
        assert_eq!(part.header("content-encoding"), None);
        assert_eq!(part.header("vary"), Some("accept-encoding"));
    }

    #[tokio::test]
    async fn preconditions_come_before_ranges() {
        let site = Site::new();
        let plain = site.get("/abc/robots.txt", &[]).await;
        let (etag, modified) = (plain.header("etag").unwrap(), plain.header("last-modified").unwrap());

        for condition in [("if-none-match", etag), ("if-none-match", "*"), ("if-modified-since", modified)] {
            let reply = site.get("/abc/robots.txt", &[condition, ("range", "bytes=0-1")]).await;
            assert_eq!((reply.status, reply.body.len()), (304, 0), "{condition:?}");
            assert_eq!(reply.header("etag"), Some(etag));
            assert_eq!(reply.header("cache-control"), Some("no-cache"));
            assert_eq!(reply.header("vary"), Some("accept-encoding"));
            // RFC 9110 15.4.5: no other metadata; 8.6: no length but that of the 200.
            for name in ["content-length", "content-type", "content-range", "last-modified"] {
                assert_eq!(reply.header(name), None, "{name}");
            }
        }
        let failed = site.get("/abc/robots.txt", &[("if-match", "\"x\""), ("if-none-match", etag)]).await;
        assert_eq!((failed.status, failed.header("content-length")), (412, Some("0")));

        for (validator, status) in [(etag, 206), (modified, 206), ("\"x\"", 200)] {
            let headers = [("if-range", validator), ("range", "bytes=0-1")];
            assert_eq!(site.get("/abc/robots.txt", &headers).await.status, status, "{validator}");
            let headers = [("if-range", validator), ("range", "bytes=9-")];
            let status = if status == 206 { 416 } else { 200 };
            assert_eq!(site.get("/abc/robots.txt", &headers).await.status, status, "{validator}");
        }
    }

    #[tokio::test]
    async fn a_change_is_another_etag_even_with_the_same_size_and_time() {
        let site = Site::new();
        let before = site.get("/abc/robots.txt", &[]).await;
        let modified = fs::metadata(site.path("robots.txt")).unwrap().modified().unwrap();
        // Longer than the clock of the file system may stand still.
        std::thread::sleep(Duration::from_millis(20));
        site.write("robots.txt", b"ROBOTZ");
        let file = fs::File::options().write(true).open(site.path("robots.txt")).unwrap();
        file.set_modified(modified).unwrap();
        let after = site.get("/abc/robots.txt", &[("if-none-match", before.header("etag").unwrap())]).await;
        assert_eq!((after.status, &after.body[..]), (200, &b"ROBOTZ"[..]));
        assert_eq!(after.header("last-modified"), before.header("last-modified"));
    }

    #[tokio::test]
    async fn last_modified_is_never_in_the_future_nor_before_1970() {
        let site = Site::new();
        let epoch = std::time::SystemTime::UNIX_EPOCH;
        let file = fs::File::options().write(true).open(site.path("robots.txt")).unwrap();
        for time in [epoch - Duration::from_secs(9), std::time::SystemTime::now() + Duration::from_secs(9999)]
        {
            file.set_modified(time).unwrap();
            let reply = site.get("/abc/robots.txt", &[]).await;
            let told = httpdate::parse_http_date(reply.header("last-modified").unwrap()).unwrap();
            assert!(told >= epoch && told <= std::time::SystemTime::now());
        }
    }

    #[tokio::test]
    async fn text_is_compressed_once_into_what_the_client_likes_best() {
        let site = Site::new();
        let bytes = text(5000);
        site.write("main.js", &bytes);
        let brotli = site.get("/abc/main.js", &[("accept-encoding", "gzip, deflate, br")]).await;
        assert_eq!(brotli.header("content-encoding"), Some("br"));
        assert!(brotli.body.len() < 500);
        assert_eq!(brotli.header("content-length"), Some(brotli.body.len().to_string().as_str()));
        assert_eq!(brotli.header("accept-ranges"), None);
        assert_eq!(unbrotli(&brotli.body), bytes);

        let gzip = site.get("/abc/main.js", &[("accept-encoding", "br;q=0.5, gzip")]).await;
        assert_eq!(gzip.header("content-encoding"), Some("gzip"));
        assert_eq!(gunzip(&gzip.body), bytes);

        let plain = site.get("/abc/main.js", &[("accept-encoding", "br;q=0, identity;q=0")]).await;
        assert_eq!((plain.header("content-encoding"), &plain.body[..]), (None, &bytes[..]));

        let tags = [&brotli, &gzip, &plain].map(|reply| reply.header("etag").unwrap());
        assert!(tags[0].ends_with("-br\"") && tags[1].ends_with("-gzip\""));
        assert!(tags[0] != tags[1] && tags[1] != tags[2]);
        let headers = [("accept-encoding", "br"), ("if-none-match", tags[0])];
        assert_eq!(site.get("/abc/main.js", &headers).await.status, 304);
        let headers = [("accept-encoding", "br"), ("if-none-match", tags[2])];
        assert_eq!(site.get("/abc/main.js", &headers).await.status, 200);

        // The same buffer, not merely the same bytes.
        let again = site.get("/abc/main.js", &[("accept-encoding", "br")]).await;
        assert_eq!(again.body.as_ptr(), brotli.body.as_ptr());
        site.write("main.js", &text(6000));
        let changed = site.get("/abc/main.js", &[("accept-encoding", "br")]).await;
        assert_eq!(unbrotli(&changed.body).len(), 6000);
    }

    #[tokio::test]
    async fn small_large_and_compressed_files_are_sent_as_they_are() {
        let site = Site::new();
        for (name, len) in [("small.js", 1023), ("large.js", 2 * 1024 * 1024 + 1), ("x.woff2", 5000)] {
            site.write(name, &text(len));
            let reply = site.get(&format!("/abc/{name}"), &[("accept-encoding", "br")]).await;
            assert_eq!((reply.header("content-encoding"), reply.body.len()), (None, len), "{name}");
        }
    }

    #[tokio::test]
    async fn a_precompressed_sibling_is_sent_unless_it_is_older() {
        let site = Site::new();
        site.write("main.js", &text(5000));
        site.write("main.js.br", b"SIBLING");
        let headers = [("accept-encoding", "br")];
        let fresh = site.get("/abc/main.js", &headers).await;
        assert_eq!((fresh.header("content-encoding"), &fresh.body[..]), (Some("br"), &b"SIBLING"[..]));
        assert_eq!(fresh.header("content-type"), Some("text/javascript; charset=utf-8"));
        assert!(fresh.header("etag").unwrap().ends_with("-br\""));

        let sibling = fs::File::options().write(true).open(site.path("main.js.br")).unwrap();
        let modified = fs::metadata(site.path("main.js")).unwrap().modified().unwrap();
        sibling.set_modified(modified).unwrap();
        assert_eq!(site.get("/abc/main.js", &headers).await.body, "SIBLING");
        sibling.set_modified(modified - Duration::from_nanos(1)).unwrap();
        assert_eq!(unbrotli(&site.get("/abc/main.js", &headers).await.body), text(5000));

        // F1 holds for siblings.
        fs::remove_file(site.path("main.js.br")).unwrap();
        symlink("/etc/hostname", site.path("main.js.br")).unwrap();
        assert_eq!(unbrotli(&site.get("/abc/main.js", &headers).await.body), text(5000));
        // A file that is too large to be compressed here takes the next coding that lies ready.
        site.write("large.js", &text(3_000_000));
        site.write("large.js.gz", b"SIBLING");
        let large = site.get("/abc/large.js", &[("accept-encoding", "br, gzip")]).await;
        assert_eq!((large.header("content-encoding"), &large.body[..]), (Some("gzip"), &b"SIBLING"[..]));
    }
}
