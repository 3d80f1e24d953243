//! Bodies by the thousand, the same in every run: nearly forms, and honest ones.

/// Marsaglia's xorshift: the cases are the same in every run.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
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

/// A body that is nearly a form.
pub(super) fn mutant(random: &mut Random) -> (Vec<u8>, Vec<u8>) {
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
    let names = ["Content-Disposition: ", "content-disposition:", "Content-Disposition : "];
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
            text.splice(at..end.min(at + 1), [interesting[random.below(interesting.len())]]);
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

/// A form in the shape of one of the clients that are common in the field, and its values as Werkzeug reads them.
pub(super) fn honest(random: &mut Random) -> (String, Vec<u8>, Vec<String>) {
    let hexadecimal: String = (0..24).map(|_| char::from(b"0123456789abcdef"[random.below(16)])).collect();
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
        &("------------------------", disposition, "\"\r\nContent-Type: text/plain"),
        &("", disposition, "\"\r\nContent-Type: application/json"),
        // aiohttp, OkHttp, Spring, Apache HttpClient, Dart
        &("", &typed, quote),
        &("", disposition, "\"\r\nContent-Length: LEN"),
        &("", disposition, "\"\r\nContent-Type: text/plain;charset=UTF-8\r\nContent-Length: LEN"),
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
            2 => (0..random.below(60)).map(|_| random.next().to_le_bytes()[3]).collect(),
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
    (format!("multipart/form-data; boundary={quote}{boundary}{quote}"), body, values)
}
