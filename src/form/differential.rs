//! The filter against Werkzeug itself: whatever passes must mean the same to both, and hold no file.

use std::{
    env,
    io::{Read, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, header};

use super::{
    FormError, Kind,
    generators::{Random, honest, mutant},
    kind,
    shapes::{self, Verdict},
};

/// Werkzeug in a process of its own; the protocol is described there.
struct Oracle {
    process: Child,
    requests: ChildStdin,
    answers: ChildStdout,
}

/// What Werkzeug saw.
#[derive(Debug, Eq, PartialEq)]
struct Seen {
    status: Status,
    /// Name and value.
    fields: Vec<[Vec<u8>; 2]>,
    /// Name, file name and content.
    files: Vec<[Vec<u8>; 3]>,
}

#[derive(Debug, Eq, PartialEq)]
enum Status {
    Read,
    Malformed,
    TooLarge,
}

impl Oracle {
    /// `None` where the venv was not made; in CI that is a failure.
    fn start() -> Option<Self> {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
        let python = tests.join("peers/.venv/bin/python");
        if !python.exists() && env::var_os("CI").is_none() {
            // Not `eprintln!`: that is shown of failed tests only.
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: no Werkzeug to compare with; tests/run makes {}",
                python.display()
            );
            return None;
        }
        let mut process = Command::new(&python)
            .arg(tests.join("differential/werkzeug_oracle.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", python.display()));
        Some(Self {
            requests: process.stdin.take().unwrap(),
            answers: process.stdout.take().unwrap(),
            process,
        })
    }

    fn ask(&mut self, content_type: &[u8], body: &[u8]) -> Seen {
        let length = |text: &[u8]| u32::try_from(text.len()).unwrap().to_be_bytes();
        let request = [&length(content_type), content_type, &length(body), body].concat();
        self.requests.write_all(&request).unwrap();
        let mut status = [0];
        self.answers.read_exact(&mut status).unwrap();
        Seen {
            status: match status {
                [0] => Status::Read,
                [1] => Status::Malformed,
                [2] => Status::TooLarge,
                other => panic!("no status: {other:?}"),
            },
            fields: self.read_rows(),
            files: self.read_rows(),
        }
    }

    fn read_rows<const COLUMNS: usize>(&mut self) -> Vec<[Vec<u8>; COLUMNS]> {
        let rows = self.read_number();
        (0..rows).map(|_| std::array::from_fn(|_| self.read_text())).collect()
    }

    fn read_text(&mut self) -> Vec<u8> {
        let mut text = vec![0; self.read_number()];
        self.answers.read_exact(&mut text).unwrap();
        text
    }

    fn read_number(&mut self) -> usize {
        let mut number = [0; 4];
        self.answers.read_exact(&mut number).unwrap();
        u32::from_be_bytes(number).try_into().unwrap()
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What passed, as the backend gets it; `None` for a body that is not multipart.
type Passed = Option<(HeaderValue, Vec<u8>)>;

/// Sends a body through, cut at random.
fn filter(content_type: &[u8], body: &[u8], random: &mut Random) -> Result<Passed, FormError> {
    let mut headers = HeaderMap::new();
    let value = HeaderValue::from_bytes(content_type).map_err(|_| FormError::ContentType)?;
    headers.insert(header::CONTENT_TYPE, value);
    let Kind::Multipart(mut filter) = kind(&headers)? else {
        return Ok(None);
    };
    let mut out = BytesMut::new();
    let mut rest = body;
    let largest = [1, 7, 100, 100_000][random.below(4)];
    while !rest.is_empty() {
        let (chunk, tail) = rest.split_at(rest.len().min(1 + random.below(largest)));
        filter.push(chunk, &mut out)?;
        rest = tail;
    }
    filter.finish(&mut out)?;
    Ok(Some((filter.content_type(), out.to_vec())))
}

/// The property. Gives what the filter said and what Werkzeug saw in the client's own bytes.
fn compare(
    oracle: &mut Oracle,
    content_type: &[u8],
    body: &[u8],
    random: &mut Random,
) -> (Result<Passed, FormError>, Seen) {
    let shown = || format!("{}\n{}", content_type.escape_ascii(), body.escape_ascii());
    let original = oracle.ask(content_type, body);
    let result = filter(content_type, body, random);
    match &result {
        Err(_) => {}
        Ok(None) => assert!(original.files.is_empty() && original.fields.is_empty(), "{}", shown()),
        Ok(Some((content_type, body))) => {
            let filtered = oracle.ask(content_type.as_bytes(), body);
            assert_eq!(filtered.status, Status::Read, "{}", shown());
            assert!(filtered.files.is_empty(), "a file reached Werkzeug: {}", shown());
            assert_eq!(original.status, Status::Read, "{}", shown());
            assert_eq!(filtered.fields, original.fields, "{}", shown());
            for [_, file_name, content] in &original.files {
                assert!(file_name.is_empty() && content.is_empty(), "overlooked a file: {}", shown());
            }
        }
    }
    (result, original)
}

/// The number of generated cases: the long run is for releases.
fn cases(short: usize, long: usize) -> usize {
    if env::var_os("PARLEY_LONG").is_some_and(|value| value == "1") { long } else { short }
}

#[test]
fn m1_no_shape_brings_a_file_past_the_filter() {
    let Some(mut oracle) = Oracle::start() else { return };
    let mut random = Random(1);
    let shapes = shapes::all();
    let mut seen_by_werkzeug = 0;
    for shape in &shapes {
        let (result, original) =
            compare(&mut oracle, shape.content_type.as_bytes(), &shape.body, &mut random);
        let verdict = match result {
            Ok(Some(_)) => Verdict::Passes,
            Ok(None) => panic!("taken for something else: {}", shape.content_type),
            Err(FormError::File) => Verdict::File,
            Err(_) => Verdict::Malformed,
        };
        let body = String::from_utf8_lossy(&shape.body[..shape.body.len().min(500)]);
        assert_eq!(verdict, shape.verdict, "{result:?} {} {body:?}", shape.content_type);
        seen_by_werkzeug += usize::from(!original.files.is_empty());
    }
    eprintln!("{} shapes; Werkzeug alone sees files in {seen_by_werkzeug}", shapes.len());
    assert!(shapes.len() >= 150 && seen_by_werkzeug >= 60, "the shapes have lost their teeth");
}

#[test]
fn m1_no_mutation_brings_a_file_past_the_filter() {
    let Some(mut oracle) = Oracle::start() else { return };
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let cases = cases(2_000, 100_000);
    let (mut passed, mut refused_files, mut seen_by_werkzeug) = (0, 0, 0);
    for _ in 0..cases {
        let (content_type, body) = mutant(&mut random);
        let (result, original) = compare(&mut oracle, &content_type, &body, &mut random);
        passed += usize::from(matches!(result, Ok(Some(_))));
        refused_files += usize::from(result == Err(FormError::File));
        seen_by_werkzeug += usize::from(!original.files.is_empty());
    }
    eprintln!(
        "{cases} mutants: {passed} passed, {refused_files} refused as files; Werkzeug alone sees files in {seen_by_werkzeug}"
    );
    // A property that nothing reaches proves nothing.
    assert!(passed > cases / 10 && seen_by_werkzeug > cases / 10);
}

#[test]
fn captured_forms_of_real_clients_pass() {
    let Some(mut oracle) = Oracle::start() else { return };
    let mut random = Random(3);
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/forms");
    let mut forms = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "body") {
            let content_type = std::fs::read(path.with_extension("type")).unwrap();
            let body = std::fs::read(&path).unwrap();
            let (result, original) = compare(&mut oracle, &content_type, &body, &mut random);
            assert!(matches!(result, Ok(Some(_))), "{}: {result:?}", path.display());
            assert!(!original.fields.is_empty(), "{}", path.display());
            forms += 1;
        }
    }
    assert!(forms >= 10, "{forms} captured forms");
}

#[test]
fn honest_forms_pass_with_every_value() {
    let Some(mut oracle) = Oracle::start() else { return };
    let mut random = Random(0xd1b5_4a32_d192_ed03);
    let cases = cases(1_200, 10_000);
    for _ in 0..cases {
        let (content_type, body, values) = honest(&mut random);
        let (result, original) = compare(&mut oracle, content_type.as_bytes(), &body, &mut random);
        assert!(matches!(result, Ok(Some(_))), "{result:?} {content_type} {}", body.escape_ascii());
        let seen: Vec<String> =
            original.fields.into_iter().map(|[_, value]| String::from_utf8(value).unwrap()).collect();
        assert_eq!(seen, values, "{content_type} {}", body.escape_ascii());
    }
}
