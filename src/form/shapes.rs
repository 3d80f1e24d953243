//! Bodies made by hand: the ways in which files were brought past such filters, and honest forms beside them.

/// What must become of a body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    Passes,
    /// 403.
    File,
    /// 400.
    Malformed,
}

pub(super) struct Shape {
    pub(super) content_type: String,
    pub(super) body: Vec<u8>,
    pub(super) verdict: Verdict,
}

const FORM: &str = "multipart/form-data; boundary=A";

/// Heads of a part whose boundary is A, without the line ends at their end.
const FILE_HEADS: &[&str] = &[
    "Content-Disposition: form-data; name=\"a\"; filename=\"x\"",
    "Content-Disposition: form-data; name=a; filename=x",
    "Content-Disposition: form-data; filename=\"x\"; name=\"a\"",
    "Content-Disposition: form-data; filename=\"x\"",
    "Content-Disposition: form-data;name=\"a\";filename=\"x\"",
    "content-disposition: form-data; name=\"a\"; filename=\"x\"",
    "CONTENT-DISPOSITION:form-data; name=\"a\"; filename=\"x\"",
    "Content-Disposition: FORM-DATA; name=\"a\"; filename=\"x\"",
    "Content-Disposition: attachment; name=\"a\"; filename=\"x\"",
    "Content-Disposition: inline; name=\"a\"; filename=\"x\"",
    "Content-Disposition: form-data; name=\"a\"; FILENAME=\"x\"",
    "Content-Disposition: form-data; name=\"a\"; FileName=\"x\"",
    "Content-Disposition: form-data; name=\"a\"; fILENAME=x",
    "Content-Disposition: form-data; name=\"a\"; FILENAME=\"\"",
    "Content-Disposition: form-data; name=\"a\"; filename*=utf-8''x",
    "Content-Disposition: form-data; name=\"a\"; filename*=UTF-8''%78",
    "Content-Disposition: form-data; name=\"a\"; filename*=iso-8859-1'en'x",
    "Content-Disposition: form-data; name=\"a\"; filename*=x",
    "Content-Disposition: form-data; name=\"a\"; filename*=\"x\"",
    "Content-Disposition: form-data; name=\"a\"; filename*=",
    "Content-Disposition: form-data; name=\"a\"; filename*0=x",
    "Content-Disposition: form-data; name=\"a\"; filename*0=\"x\"; filename*1=\"y\"",
    "Content-Disposition: form-data; name=\"a\"; filename*0*=utf-8''x; filename*1*=y",
    "Content-Disposition: form-data; name=\"a\"; filename*1=x",
    "Content-Disposition: form-data; name=\"a\"; FileName*0=x",
    "Content-Disposition: form-data; name=\"a\"; filename=\"\"; filename=\"x\"",
    "Content-Disposition: form-data; name=\"a\"; filename=\"\"; filename*=utf-8''x",
    "Content-Disposition: form-data; name=\"a\"; filename=\"x\"; filename=\"\"",
    "Content-Disposition: form-data; name=\"a\"; filename=\"\"; FILENAME=x",
    "Content-Disposition: form-data; name=\"a\"; filename=\"\"; filename=\"\"",
    "Content-Disposition: form-data; name=\"a\"; filename=\"x\\\"y\"",
    "Content-Disposition: form-data; name=\"a\"; filename=\"x\\\\\"",
    "Content-Disposition: form-data; name=\"a\"; filename=\"x",
    "Content-Disposition: form-data; name=\"a\"; filename=\"x\"y",
    "Content-Disposition: form-data; name=\"a\"; filename= \"x\"",
    "Content-Disposition: form-data; name=\"a\"; filename=",
    "Content-Disposition: form-data; name=\"a\"; filename=\"x;y\"",
    "Content-Disposition: form-data; name=\"a\"; filename='x'",
    "Content-Disposition: form-data; name=\"a\"; filename=\"\" ",
    "Content-Disposition: form-data; name=\"a\"; filename=\"\"",
    "Content-Disposition: form-data; name=\"a\"\r\nContent-Disposition: form-data; name=\"a\"; filename=\"x\"",
    "Content-Disposition: form-data; name=\"a\"; filename=\"x\"\r\nContent-Disposition: form-data; name=\"a\"",
    "Content-Type: text/plain\r\nContent-Disposition: form-data; name=\"a\"; filename=\"x\"",
];

const MALFORMED_HEADS: &[&str] = &[
    "",
    "X: y",
    "Content-Disposition",
    "Content-Disposition:",
    "Content-Disposition: form-data",
    "Content-Disposition: name=\"a\"",
    "Content-Disposition: attachment; name=\"a\"",
    "Content-Disposition : form-data; name=\"a\"; filename=\"x\"",
    "Content-Disposition\t: form-data; name=\"a\"; filename=\"x\"",
    " Content-Disposition: form-data; name=\"a\"; filename=\"x\"",
    "\tContent-Disposition: form-data; name=\"a\"; filename=\"x\"",
    "Content-Disposition: form-data; name=\"a\";\r\n filename=\"x\"",
    "Content-Disposition: form-data; name=\"a\"\r\n ; filename=\"x\"",
    "Content-Disposition: form-data; name=\"a\"\r\n\t; filename=\"x\"",
    "Content-Disposition: form-data; name=\"a\"\r; filename=\"x\"",
    "Content-Disposition: form-data; name=\"a\"\n ; filename=\"x\"",
    "X: y\nContent-Disposition: form-data; name=\"a\"; filename=\"x\"",
    "X: y\rContent-Disposition: form-data; name=\"a\"; filename=\"x\"",
    "Content-Disposition: form-data; name=\"a\"\nContent-Disposition: form-data; filename=\"x\"",
    "Content-Disposition: form-data; name=\"a\"; filename =\"x\"",
    "Content-Disposition: form-data; name=\"a\"; \"filename\"=\"x\"",
    "Content-Disposition: form-data; name=\"a\"; file name=\"x\"",
    "Content-Disposition: form-data; name=\"a\"; \u{17f}ilename=\"x\"",
    "Content-Disposition: form-data; name=\"a\";\tfilename=\"x\"",
    "Content-Disposition: form-data; name=\"a\" ; filename=\"x\"",
    "Content-Disposition: form-data; name=\"a\", filename=\"x\"",
    "Content-Disposition: form-data; name=\"a\" filename=\"x\"",
    "Content-Disposition: form-data; name=\"a\";; filename=\"x\"",
    "Content-Disposition: form-data; name=\"a\\\"; filename=\"x\"",
    "Content-Disposition: form-data; name=\"a\\\"; filename=x; y=\"",
    "Content-Disposition: form-data; name=\"a\\\\\"; filename=\"x\"",
    "Content-Disposition: form-data; name=\"a\\\"b\"",
    "Content-Disposition: form-data; name=\"a\"b\"; filename=\"x\"",
    "Content-Disposition: form-data; name=\"a; filename=\"x\"",
    "Content-Disposition: form-data; name=a\"; filename=\"x\"",
    "Content-Disposition: form-data; name=\"a",
    "Content-Disposition: form-data; name=\"a\"; name=\"b\"",
    "Content-Disposition: form-data; name=\"a\"; NAME=\"b\"",
    "Content-Disposition: form-data; name*=utf-8''a",
    "Content-Disposition: form-data; name*0=a; name*1=b",
    "Content-Disposition: form-data; name=\"a\"; size=1",
    "Content-Disposition: form-data; name=\"a\";",
    "Content-Disposition: form-data; name=a b",
    "Content-Disposition: form-data; name=\"a\0\"",
    "Content-Disposition: form-data; name=\"a\tb\"",
    "Content-Disposition: form-data; name=\"a\"\r\nContent-Disposition: form-data; name=\"b\"",
    "Content-Disposition: form-data; name=\"a\"\r\nX-Any: y",
    "Content-Disposition: form-data; name=\"a\"\r\nContent-Type: multipart/mixed; boundary=B",
    "Content-Disposition: form-data; name=\"a\"\r\nContent-Type: multipart/form-data; boundary=A",
    "Content-Disposition: form-data; name=\"a\"\r\nContent-Type: message/rfc822",
    "Content-Disposition: form-data; name=\"a\"\r\nContent-Type: text/plain; charset=utf-7",
    "Content-Disposition: form-data; name=\"a\"\r\nContent-Type: text/plain; charset*=utf-8''ascii",
    "Content-Disposition: form-data; name=\"a\"\r\nContent-Type: text/plain\r\nContent-Type: text/html",
    "Content-Disposition: form-data; name=\"a\"\r\nContent-Transfer-Encoding: base64",
    "Content-Disposition: form-data; name=\"a\"\r\nContent-Transfer-Encoding: quoted-printable",
    "Content-Disposition: form-data; name=\"a\"\r\nContent-Length: 0x1",
    "Content-Disposition: form-data; name=\"a\"\r\nFilename: x",
];

const FIELD_HEADS: &[&str] = &[
    "Content-Disposition: form-data; name=\"a\"",
    "Content-Disposition: form-data; name=a",
    "Content-Disposition: form-data; name=\"\"",
    "Content-Disposition: form-data; name=\"filename\"",
    "Content-Disposition: form-data; name=\"a; b\"",
    "Content-Disposition: form-data; name=\"a%22%0D%0Ab\"",
    "Content-Disposition: form-data; name=\"a\\ b\\c\"",
    "Content-Disposition: form-data; name=\"größe \u{1f600}\"",
    "content-disposition:form-data;name=\"a\"",
    "Content-Disposition: form-data; name=\"a\"\r\nContent-Type: application/octet-stream",
    "Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name=a",
    "Content-Type: text/plain; charset=iso-8859-1\r\nContent-Disposition: form-data; name=\"a\"",
    "Content-Type: text/plain; charset=\"US-ASCII\"\r\nContent-Disposition: form-data; name=\"a\"",
    "Content-Disposition: form-data; name=\"a\"\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 6\r\nContent-Transfer-Encoding: 8bit",
];

/// Content-Types under which a body with a file delimited by A must not pass.
const BAD_CONTENT_TYPES: &[&str] = &[
    "",
    "multipart",
    "multipart/form-data",
    "multipart/form-data;",
    "multipart/form-data; boundary=",
    "multipart/form-data; boundary=\"\"",
    "multipart/form-data; boundary=A; boundary=B",
    "multipart/form-data; boundary=B; boundary=A",
    "multipart/form-data; boundary=B; BOUNDARY=A",
    "multipart/form-data; boundary*=utf-8''A",
    "multipart/form-data; boundary*=A",
    "multipart/form-data; boundary=B; boundary*=utf-8''A",
    "multipart/form-data; boundary*0=A",
    "multipart/form-data; boundary=B; boundary*0=A",
    "multipart/form-data; boundary*0*=utf-8''A",
    "multipart/form-data; boundary=\"\\A\"",
    "multipart/form-data; boundary=\"B\\\"; boundary=A",
    "multipart/form-data; boundary=\"A",
    "multipart/form-data; boundary=A\"",
    "multipart/form-data; boundary=\"A\"B",
    "multipart/form-data; boundary=A B",
    "multipart/form-data; boundary=\"A \"",
    "multipart/form-data; boundary=A/",
    "multipart/form-data; boundary=A,B",
    "multipart/form-data, text/plain; boundary=A",
    "text/plain, multipart/form-data; boundary=A",
    "multipart/form-data; boundary =A",
    "multipart/form-data; boundary= A",
    "multipart/form-data; x=y; boundary=A",
    "multipart/form-data; \"x; boundary=B\"; boundary=A",
    "multipart/form-data; x=\"; boundary=B\"; boundary=A",
    "multipart/form-data; charset=utf-16; boundary=A",
    "multipart/form-data;\tboundary=A",
    "multipart/form-data ; boundary=A",
    "multipart/form-data\t; boundary=A",
    "multipart/mixed; boundary=A",
    "multipart/related; boundary=A",
    "multipart/alternative; boundary=A",
    "MULTIPART/x-form-data; boundary=A",
    "multipart/*; boundary=A",
    "text/plain; multipart/form-data; boundary=A",
];

/// Whole bodies whose boundary is A; FILE stands for the head of a file, FIELD for that of a field, both with
/// their empty line.
const MALFORMED_BODIES: &[&str] = &[
    "",
    "--",
    "--A",
    "--A-",
    "--A\r\n",
    "--A\r\nFIELDv",
    "--A\r\nFIELDv\r\n",
    "--A\r\nFIELDv\r\n--A",
    "--A\r\nFIELDv\r\n--A-",
    "--A\r\nFIELDv\r\n--A\r\n",
    "--A\r\nFIELDv\r\n--A\r\n\r\n",
    "--A\nFILEv\n--A--\n",
    "--A\rFILEv\r--A--\r",
    "preamble\r\n--A\r\nFILEv\r\n--A--\r\n",
    "\r\n\r\n--A\r\nFILEv\r\n--A--\r\n",
    "\n--A\r\nFILEv\r\n--A--\r\n",
    " --A\r\nFILEv\r\n--A--\r\n",
    "x--A\r\nFILEv\r\n--A--\r\n",
    "--A \r\nFILEv\r\n--A--\r\n",
    "--A\t\r\nFILEv\r\n--A--\r\n",
    "--A\u{b}\r\nFILEv\r\n--A--\r\n",
    "--AA\r\nFILEv\r\n--A--\r\n",
    "--a\r\nFILEv\r\n--a--\r\n",
    "A\r\nFILEv\r\nA--\r\n",
    "--A\r\nFIELDv\n--A\nFILEv\r\n--A--\r\n",
    "--A\r\nFIELDv\r--A\rFILEv\r\n--A--\r\n",
    "--A\r\nFIELDv\n--A\r\nFILEv\r\n--A--\r\n",
    "--A\r\nFIELDv\r--A\r\nFILEv\r\n--A--\r\n",
    "--A\r\nFIELDv--A\r\nFILEv\r\n--A--\r\n",
    "--A\r\nFIELD--A\r\nFILEv\r\n--A--\r\n",
    "--A\r\nFIELDv\r\n--A \r\nFILEv\r\n--A--\r\n",
    "--A\r\nFIELDv\r\n--A\nFILEv\r\n--A--\r\n",
    "--A\r\nFIELDv\r\n--A\rFILEv\r\n--A--\r\n",
    "--A\r\nFIELDv\r\n--A\t\r\nFILEv\r\n--A--\r\n",
    "--A\r\nFIELDv\r\n --A\r\nFILEv\r\n--A--\r\n",
    "--A\r\nFIELDv\r\n--AB\r\nFILEv\r\n--A--\r\n",
    "--A\r\nFIELDv\r\n--A--\r\nepilogue",
    "--A\r\nFIELDv\r\n--A--\r\n--A\r\nFILEv\r\n--A--\r\n",
    "--A\r\nFIELDv\r\n--A--\r\n\r\n--A\r\nFILEv\r\n--A--\r\n",
    "--A\r\nFIELDv\r\n--A--FILEv\r\n--A--\r\n",
    "--A\r\nFIELDv\r\n--A-- \r\n",
    "--A\r\nFIELDv\r\n--A--\n",
    "--A--\r\n--A\r\nFILEv\r\n--A--\r\n",
    "--A--A\r\nFILEv\r\n--A--\r\n",
    "--A\r\n--A\r\nFILEv\r\n--A--\r\n",
    "--A\r\n\r\n--A\r\nFILEv\r\n--A--\r\n",
    "--A\r\n\r\nFILEv\r\n--A--\r\n",
    "--A\r\nContent-Disposition: form-data; name=\"a\"\n\nv\r\n--A--\r\n",
    "--A\r\nContent-Disposition: form-data; name=\"a\"\r\rv\r\n--A--\r\n",
    "--A\r\nContent-Disposition: form-data; name=\"a\"; x=\"\n\n--A\r\nFILEv\r\n--A--\r\n",
    "--A\r\nContent-Disposition: form-data; name=\"a\n\n\n--A\nFILEv\r\n--A--\r\n",
];

const FILE_BODIES: &[&str] = &[
    "--A\r\nFILEv\r\n--A--\r\n",
    "\r\n--A\r\nFILEv\r\n--A--\r\n",
    "--A\r\nFILE\r\n--A--\r\n",
    "--A\r\nFIELDv\r\n--A\r\nFILEv\r\n--A--\r\n",
    "--A\r\nFIELDv\r\n--A\r\nFILEv",
    "--A\r\nEMPTY\r\n\r\n--A--\r\n",
    "--A\r\nEMPTY\n--A--\r\n",
    "--A\r\nEMPTYv\n--A\r\nFIELDv\r\n--A--\r\n",
    "--A\r\nEMPTY\r\n--A\r\nFILEv\r\n--A--\r\n",
];

const HONEST_BODIES: &[&str] = &[
    "--A--",
    "--A--\r\n",
    "\r\n--A--\r\n",
    "\r\n--A\r\nFIELDv\r\n--A--\r\n",
    "--A\r\nFIELD\r\n--A--",
    "--A\r\nFIELDv\r\n--A--",
    "--A\r\nFIELDv\r\n\r\n--A--",
    "--A\r\nFIELDv\r\r\n--A--",
    "--A\r\nFIELD\n\r\n--A--",
    "--A\r\nFIELD-\r\n--\r\n-A\r\n--A--",
    "--A\r\nFIELDContent-Disposition: form-data; name=a; filename=x\r\n\r\nv\r\n--A--",
    "--A\r\nEMPTY\r\n--A\r\nFIELDv\r\n--A--\r\n",
    "--A\r\nFIELDv\r\n--A\r\nEMPTY\r\n--A--\r\n",
    "--A\r\nFIELDv\r\n--A\r\nFIELDw\r\n--A\r\nFIELD\0\u{ff}\r\n--A--\r\n",
];

/// All shapes.
pub(super) fn all() -> Vec<Shape> {
    let mut shapes = Vec::new();
    let mut add = |content_type: &str, body: String, verdict| {
        shapes.push(Shape { content_type: content_type.to_owned(), body: body.into_bytes(), verdict });
    };
    for (heads, verdict) in
        [(FILE_HEADS, Verdict::File), (MALFORMED_HEADS, Verdict::Malformed), (FIELD_HEADS, Verdict::Passes)]
    {
        for head in heads {
            add(FORM, format!("--A\r\n{head}\r\n\r\nsecret\r\n--A--\r\n"), verdict);
        }
    }
    for (bodies, verdict) in [
        (MALFORMED_BODIES, Verdict::Malformed),
        (FILE_BODIES, Verdict::File),
        (HONEST_BODIES, Verdict::Passes),
    ] {
        for body in bodies {
            add(FORM, with_heads(body), verdict);
        }
    }
    let file = with_heads("--A\r\nFILEv\r\n--A--\r\n");
    for content_type in BAD_CONTENT_TYPES {
        add(content_type, file.clone(), Verdict::Malformed);
    }
    let disposition = "Content-Disposition: form-data; name=\"a\"";
    let padding = "Content-Type: text/plain\r\n".repeat(40);
    add(FORM, format!("--A\r\n{padding}{disposition}; filename=x\r\n\r\nv\r\n--A--"), Verdict::Malformed);
    let padding = "x".repeat(70_000);
    add(FORM, format!("--A\r\n{disposition}; {padding}=y; filename=x\r\n\r\nv\r\n--A--"), Verdict::Malformed);
    add(
        FORM,
        format!("--A\r\nContent-Type: a/{padding}\r\n{disposition}; filename=x\r\n\r\nv\r\n--A--"),
        Verdict::Malformed,
    );
    let part = with_heads("--A\r\nFIELDv\r\n");
    add(FORM, format!("{}--A--", part.repeat(1000)), Verdict::Passes);
    add(FORM, format!("{}{file}", part.repeat(1000)), Verdict::Malformed);
    add(FORM, format!("{}{file}", part.repeat(999)), Verdict::File);
    shapes
}

fn with_heads(body: &str) -> String {
    let field = "Content-Disposition: form-data; name=\"a\"";
    body.replace("FILE", &format!("{field}; filename=\"x\"\r\n\r\n"))
        .replace("FIELD", &format!("{field}\r\n\r\n"))
        .replace(
            "EMPTY",
            &format!("{field}; filename=\"\"\r\nContent-Type: application/octet-stream\r\n\r\n"),
        )
}
