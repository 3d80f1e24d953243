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
    FormError, Kind, kind,
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
            eprintln!(
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
        (0..rows)
            .map(|_| std::array::from_fn(|_| self.read_text()))
            .collect()
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

/// Marsaglia's xorshift: the cases are the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() >> 11).unwrap() % limit
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len())]
    }

    fn bytes(&mut self, alphabet: &[u8], limit: usize) -> Vec<u8> {
        let len = self.below(limit);
        (0..len).map(|_| alphabet[self.below(alphabet.len())]).collect()
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
        Ok(None) => assert!(
            original.files.is_empty() && original.fields.is_empty(),
            "{}",
            shown()
        ),
        Ok(Some((content_type, body))) => {
            let filtered = oracle.ask(content_type.as_bytes(), body);
            assert_eq!(filtered.status, Status::Read, "{}", shown());
            assert!(filtered.files.is_empty(), "a file reached Werkzeug: {}", shown());
            assert_eq!(original.status, Status::Read, "{}", shown());
            assert_eq!(filtered.fields, original.fields, "{}", shown());
            for [_, file_name, content] in &original.files {
                assert!(
                    file_name.is_empty() && content.is_empty(),
                    "overlooked a file: {}",
                    shown()
                );
            }
        }
    }
    (result, original)
}

/// The number of generated cases: the long run is for releases.
fn cases(short: usize, long: usize) -> usize {
    if env::var_os("PARLEY_LONG").is_some_and(|value| value == "1") {
        long
    } else {
        short
    }
}

#[test]
fn m1_no_shape_brings_a_file_past_the_filter() {
    let Some(mut oracle) = Oracle::start() else { return };
    let mut random = Random(1);
    let shapes = shapes::all();
    let mut seen_by_werkzeug = 0;
    for shape in &shapes {
        let (result, original) = compare(
            &mut oracle,
            shape.content_type.as_bytes(),
            &shape.body,
            &mut random,
        );
        let verdict = match result {
            Ok(Some(_)) => Verdict::Passes,
            Ok(None) => panic!("taken for something else: {}", shape.content_type),
            Err(FormError::File) => Verdict::File,
            Err(_) => Verdict::Malformed,
        };
        let body = String::from_utf8_lossy(&shape.body[..shape.body.len().min(500)]);
        assert_eq!(
            verdict, shape.verdict,
            "{result:?} {} {body:?}",
            shape.content_type
        );
        seen_by_werkzeug += usize::from(!original.files.is_empty());
    }
    eprintln!(
        "{} shapes; Werkzeug alone sees files in {seen_by_werkzeug}",
        shapes.len()
    );
    assert!(
        shapes.len() >= 150 && seen_by_werkzeug >= 60,
        "the shapes have lost their teeth"
    );
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

/// A body that is nearly a form.
fn mutant(random: &mut Random) -> (Vec<u8>, Vec<u8>) {
    let content_type = if random.one_in(8) {
        random.pick(&[
            "multipart/form-data; boundary=\"A\"",
            "multipart/form-data; boundary=A; charset=utf-8",
            "multipart/form-data; boundary=A; boundary=B",
            "multipart/form-data; boundary=B; boundary*0=A",
            "multipart/form-data; boundary=\"A\\B\"",
            "multipart/form-data;boundary=A ",
            "multipart/mixed; boundary=A",
            "Multipart/Form-Data; Boundary=A",
            "text/plain; boundary=A",
        ])
    } else {
        "multipart/form-data; boundary=A"
    };
    let mut content_type = content_type.as_bytes().to_vec();
    let mut body = Vec::new();
    for _ in 0..[1, 1, 1, 1, 2, 2, 3, 0][random.below(8)] {
        body.extend(b"--A");
        body.extend(line_end(random));
        let mut lines = vec![disposition(random)];
        for _ in 0..[0, 0, 0, 1, 1, 2][random.below(6)] {
            lines.insert(random.below(lines.len() + 1), extra_line(random).to_vec());
        }
        for line in lines {
            body.extend(line);
            body.extend(line_end(random));
        }
        body.extend(line_end(random));
        body.extend(random.bytes(b"\r\n-Axyz\xff\0", 12));
        body.extend(line_end(random));
    }
    body.extend(match random.below(20) {
        0 => &b"--A--\n"[..],
        1 => b"--A\r\n",
        2 => b"--A-- x",
        3..10 => b"--A--",
        _ => b"--A--\r\n",
    });
    if random.one_in(3) {
        for _ in 0..=random.below(3) {
            mutate(&mut body, random);
        }
    }
    if random.one_in(16) {
        mutate(&mut content_type, random);
    }
    (content_type, body)
}

fn line_end(random: &mut Random) -> &'static [u8] {
    if random.one_in(120) {
        random.pick(&[
            b"\n",
            b"\r",
            b"\r\r\n",
            b" \r\n",
            b"\t\r\n",
            b"\r\n ",
            b"\n\r",
            b"",
            b"\x0b\r\n",
            b"\x0c\n",
        ])
    } else {
        b"\r\n"
    }
}

fn extra_line(random: &mut Random) -> &'static [u8] {
    if random.one_in(8) {
        random.pick(&[
            b"Content-Type: text/plain; charset*=utf-8''ascii",
            b"Content-Type: multipart/mixed; boundary=B",
            b"Content-Disposition: form-data; name=\"f\"; filename=\"f\"",
            b"X-Any: y",
            b" filename=x",
            b"",
        ])
    } else {
        random.pick(&[
            b"Content-Type: text/plain",
            b"Content-Type: text/plain; charset=iso-8859-1",
            b"Content-Type: text/plain; charset=us-ascii",
            b"Content-Type: text/plain; charset=\"utf-8\"; x=\"y;z\"",
            b"Content-Length: 3",
            b"Content-Transfer-Encoding: binary",
        ])
    }
}

fn disposition(random: &mut Random) -> Vec<u8> {
    let names = [
        "Content-Disposition: ",
        "content-disposition:",
        "Content-Disposition : ",
    ];
    let name = names[if random.one_in(50) { 2 } else { random.below(2) }];
    let mut line = format!("{name}form-data").into_bytes();
    if !random.one_in(20) {
        line.extend(random.pick::<[u8]>(&[
            b"; name=\"a\"",
            b";name=b",
            b"; name=\"a b\"",
            b"; NAME=\"\xc3\xbc%22\\ \"",
        ]));
    }
    for _ in 0..[0, 0, 0, 0, 1, 2][random.below(6)] {
        line.extend(random.pick::<[u8]>(&[
            b"; filename=\"x\"",
            b"; filename=\"\"",
            b"; FILENAME=x",
            b"; filename*=utf-8''x",
            b"; filename*0=x",
            b"; filename =x",
            b"; x=\"\\\"; filename=x",
            b"; filename=\"\\\"",
            b"; y=z",
            b";",
            b"; name=\"c\\\"",
            b"\r\n ; filename=x",
            b"\n\t;filename=x",
            b"\\",
            b"\"",
            b"; name*=utf-8''d",
            b"; name*0=e",
        ]));
    }
    line
}

fn mutate(text: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(text.len() + 1);
    let end = (at + 1 + random.below(4)).min(text.len());
    match random.below(5) {
        0 => {
            text.drain(at..end);
        }
        1 => {
            let copy = text[at..end].to_vec();
            text.splice(at..at, copy);
        }
        2 => {
            let interesting = b"\r\n\t \"\\;=*-:A\0\x0b\xff,/%'";
            text.splice(
                at..end.min(at + 1),
                [interesting[random.below(interesting.len())]],
            );
        }
        3 => {
            let from = random.below(text.len() + 1);
            let copy = text[from..(from + random.below(60)).min(text.len())].to_vec();
            text.splice(at..at, copy);
        }
        _ => {
            let piece = random.pick::<[u8]>(&[
                b"\r\n",
                b"\n",
                b"\r",
                b"--A",
                b"\r\n--A\r\n",
                b"\n--A\n",
                b"\r\n--A--\r\n",
                b"\r\n\r\n",
                b"\n\n",
                b"; filename=x",
                b"filename",
                b"*",
                b"*0",
                b"''",
                b"--",
                b"\n--A\nContent-Disposition: form-data; name=z; filename=z\n\nz",
            ]);
            text.splice(at..at, piece.iter().copied());
        }
    }
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
        assert!(
            matches!(result, Ok(Some(_))),
            "{result:?} {content_type} {}",
            body.escape_ascii()
        );
        let seen: Vec<String> = original
            .fields
            .into_iter()
            .map(|[_, value]| String::from_utf8(value).unwrap())
            .collect();
        assert_eq!(seen, values, "{content_type} {}", body.escape_ascii());
    }
}

/// A form in the shape of one of the clients that are common in the field, and its values as Werkzeug reads them.
fn honest(random: &mut Random) -> (String, Vec<u8>, Vec<String>) {
    let hexadecimal: String = (0..24)
        .map(|_| char::from(b"0123456789abcdef"[random.below(16)]))
        .collect();
    let quote = "\"";
    let disposition = "Content-Disposition: form-data; name=\"";
    let typed = format!("Content-Type: text/plain; charset=utf-8\r\n{disposition}");
    let dart = format!(
        "content-type: text/plain; charset=utf-8\r\ncontent-transfer-encoding: binary\r\n{}",
        disposition.to_lowercase()
    );
    // How the boundary begins, what comes before a name, and what after it (LEN: the value's length).
    let (prefix, before, after) = *random.pick(&[
        // Chromium, Firefox, curl, httpx and requests, undici
        &("----WebKitFormBoundary", disposition, quote),
        &("----geckoformboundary", disposition, quote),
        &("-----------------------------", disposition, quote),
        &("------------------------", disposition, quote),
        &("", disposition, quote),
        &("----formdata-undici-0", disposition, quote),
        // curl and requests with a type
        &(
            "------------------------",
            disposition,
            "\"\r\nContent-Type: text/plain",
        ),
        &("", disposition, "\"\r\nContent-Type: application/json"),
        // aiohttp, OkHttp, Spring, Apache HttpClient, Dart
        &("", &typed, quote),
        &("", disposition, "\"\r\nContent-Length: LEN"),
        &(
            "",
            disposition,
            "\"\r\nContent-Type: text/plain;charset=UTF-8\r\nContent-Length: LEN",
        ),
        &(
            "",
            disposition,
            "\"\r\nContent-Type: text/plain; charset=UTF-8\r\nContent-Transfer-Encoding: 8bit",
        ),
        &("dart-http-boundary-", &dart, quote),
    ]);
    let boundary = format!("{prefix}{hexadecimal}");
    let mut body = Vec::new();
    let mut values = Vec::new();
    for _ in 0..random.below(8) {
        body.extend(format!("--{boundary}\r\n").as_bytes());
        if random.one_in(10) {
            body.extend(
                format!(
                    "{disposition}file\"; filename=\"\"\r\nContent-Type: application/octet-stream\r\n\r\n\r\n"
                )
                .as_bytes(),
            );
            continue;
        }
        let name = random.pick(&[
            "content",
            "channel",
            "key",
            "iv",
            "signature",
            "nonce",
            "a[]",
            "a[b]",
            "größe",
            "имя",
            "名前",
            "😀",
            "two words",
            "q%22q",
            "l%0D%0Al",
            "filename",
            "",
            "x;y",
            "a=b",
            "it's",
            "100%",
        ]);
        let value = match random.below(6) {
            0 => Vec::new(),
            1 => random.bytes(b"\r\n-", 40),
            2 => (0..random.below(60))
                .map(|_| random.next().to_le_bytes()[3])
                .collect(),
            // Werkzeug reads 64 KiB at a time: long values meet its seams.
            3 if random.one_in(20) => random.bytes(b"\r\n--ab", 200_000),
            4 => format!("--{}", &boundary[..boundary.len() - 1]).into_bytes(),
            _ => random.bytes("Hello, wörld! \"quotes\" & <tags>".as_bytes(), 200),
        };
        let after = after.replace("LEN", &value.len().to_string());
        body.extend(format!("{before}{name}{after}\r\n\r\n").as_bytes());
        body.extend(&value);
        body.extend(b"\r\n");
        values.push(String::from_utf8_lossy(&value).into_owned());
    }
    body.extend(format!("--{boundary}--").as_bytes());
    if !random.one_in(5) {
        body.extend(b"\r\n");
    }
    let quote = if random.one_in(8) { quote } else { "" };
    (
        format!("multipart/form-data; boundary={quote}{boundary}{quote}"),
        body,
        values,
    )
}
