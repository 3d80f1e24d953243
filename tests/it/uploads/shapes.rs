//! Multipart bodies: honest ones, and sixty ways to hide a file from a filter (attacks.md M1).

/// A request's `Content-Type` lines and its body.
pub(super) struct Shape {
    pub(super) name: String,
    pub(super) content_types: Vec<String>,
    pub(super) body: Vec<u8>,
}

#[derive(Clone)]
pub(super) struct Part {
    head: String,
    value: String,
}

impl Part {
    pub(super) fn field(name: &str, value: &str) -> Self {
        Self::new(&format!("Content-Disposition: form-data; name=\"{name}\""), value)
    }

    pub(super) fn file(name: &str, filename: &str, value: &str) -> Self {
        let disposition = format!("Content-Disposition: form-data; name=\"{name}\"; filename=\"{filename}\"");
        Self::new(&format!("{disposition}\r\nContent-Type: application/octet-stream"), value)
    }

    pub(super) fn new(head: &str, value: &str) -> Self {
        Self { head: head.to_owned(), value: value.to_owned() }
    }
}

/// A well-formed multipart form.
pub(super) fn form(boundary: &str, parts: &[Part]) -> Shape {
    let mut body = String::new();
    for Part { head, value } in parts {
        body.push_str(&format!("--{boundary}\r\n{head}\r\n\r\n{value}\r\n"));
    }
    body.push_str(&format!("--{boundary}--\r\n"));
    Shape {
        name: boundary.to_owned(),
        content_types: vec![format!("multipart/form-data; boundary={boundary}")],
        body: body.into(),
    }
}

/// Bodies with a file in them, for somebody: each one way to hide it from a filter.
pub(super) fn shapes() -> Vec<Shape> {
    const PLAIN: &str = "Content-Disposition: form-data; name=\"f\"; filename=\"a\"";
    let mut shapes = Vec::new();
    let mut add = |name: &str, content_types: &[&str], body: &[u8]| {
        shapes.push(Shape {
            name: name.to_owned(),
            content_types: content_types.iter().map(ToString::to_string).collect(),
            body: body.to_owned(),
        });
    };

    // How the part says that it is a file.
    let long_name =
        format!("Content-Disposition: form-data; name=\"f\"; x=\"{}\"; filename=\"a\"", "y".repeat(70_000));
    let many = format!("{}{PLAIN}", "X-A: b\r\n".repeat(40));
    let heads = [
        PLAIN,
        "Content-Disposition: form-data; name=f; filename=a",
        "Content-Disposition: form-data; filename=\"a\"; name=\"f\"",
        "Content-Disposition: form-data; name=\"f\"; filename=\"\"",
        "Content-Disposition: form-data; name=\"f\"; filename=",
        "Content-Disposition: form-data; name=\"f\"; FILENAME=\"a\"",
        "content-disposition: FORM-DATA; NAME=\"f\"; FileName=\"a\"",
        "Content-Disposition: form-data; name=\"f\"; filename*=UTF-8''a",
        "Content-Disposition: form-data; name=\"f\"; FILENAME*=utf-8'en'a%20b",
        "Content-Disposition: form-data; name=\"f\"; filename*0=\"a\"",
        "Content-Disposition: form-data; name=\"f\"; filename*0=\"a\"; filename*1=\"b\"",
        "Content-Disposition: form-data; name=\"f\"; filename*0*=UTF-8''a",
        "Content-Disposition: form-data; name=\"f\"; filename =\"a\"",
        "Content-Disposition: form-data; name=\"f\"; filename= \"a\"",
        "Content-Disposition: form-data; name=\"f\";filename=\"a\"",
        "Content-Disposition: form-data; name=\"f\" ; filename=\"a\"",
        "Content-Disposition: form-data; name=\"f\";; filename=\"a\"",
        "Content-Disposition: form-data; name=\"f\";\tfilename=\"a\"",
        "Content-Disposition: form-data; name=\"f\\\"; x=\"; filename=\"a\"",
        "Content-Disposition: form-data; name=\"f; filename=\"a\"",
        "Content-Disposition: form-data; name=\"f\"; x=\"\\\"; filename=\"a\"",
        "Content-Disposition: form-data; name='f'; filename='a'",
        "Content-Disposition: form-data; name=\"f\"\r\n ; filename=\"a\"",
        "Content-Disposition: form-data;\r\n name=\"f\";\r\n\tfilename=\"a\"",
        "Content-Disposition: form-data; name=\"f\"\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a\"",
        "Content-Disposition: form-data; name=\"f\"; filename=\"a\"\r\nContent-Disposition: form-data; name=\"f\"",
        "Content-Disposition : form-data; name=\"f\"; filename=\"a\"",
        " Content-Disposition: form-data; name=\"f\"; filename=\"a\"",
        "Content-Disposition:form-data;name=\"f\";filename=\"a\"",
        "Content-Disposition: attachment; name=\"f\"; filename=\"a\"",
        "Content-Disposition: file; name=\"f\"; filename=\"a\"",
        "Content-Disposition: form-data; name=\"f\"; filename=\"a\"; filename*=UTF-8''",
        "Content-Disposition: form-data; name=\"f\"; file%6eame=\"a\"",
        "X: y\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a\"\r\nContent-Type: text/plain",
        "Content-Type: multipart/mixed; boundary=y\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a\"",
        "Content-Disposition: form-data; name=\"f\"; filename=\"a\"\r\nContent-Transfer-Encoding: base64",
        "Content-Disposition: form-data; name=\"f\"; filename=\"a\\",
        &many,
        &long_name,
    ];
    for head in heads {
        let body = format!("--x\r\n{head}\r\n\r\ncontent\r\n--x--\r\n");
        let name = head.chars().take(120).collect::<String>();
        add(&name, &["multipart/form-data; boundary=x"], body.as_bytes());
    }

    // How the request says where its parts end.
    let file = |boundary: &str| format!("--{boundary}\r\n{PLAIN}\r\n\r\ncontent\r\n--{boundary}--\r\n");
    let x = file("x");
    for content_type in [
        "multipart/form-data; boundary=x; boundary=y",
        "multipart/form-data; boundary=y; boundary=x",
        "multipart/form-data; boundary=y; BOUNDARY=x",
        "multipart/form-data; boundary*=UTF-8''x",
        "multipart/form-data; boundary*0=x",
        "multipart/form-data; boundary=\"\\x\"",
        "multipart/form-data; boundary='x'",
        "multipart/form-data; boundary=x ",
        "multipart/form-data; boundary=x,y",
        "multipart/form-data; boundary=x;",
        "multipart/form-data;boundary=x",
        "multipart/form-data ; boundary=x",
        "multipart/form-data; boundary =x",
        "multipart/form-data; a=\"; boundary=y; b=\"; boundary=x",
        "MULTIPART/FORM-DATA; BOUNDARY=x",
        "Multipart/Form-Data; boundary=\"x\"",
        "\tmultipart/form-data; boundary=x",
        "multipart/form-data, multipart/form-data; boundary=x",
    ] {
        add(content_type, &[content_type], x.as_bytes());
    }
    add(
        "a quoted pair in the boundary",
        &["multipart/form-data; boundary=\"x\\\"y\""],
        file("x\"y").as_bytes(),
    );
    let two = ["text/plain", "multipart/form-data; boundary=x"];
    add("two Content-Types", &two, x.as_bytes());
    add("two Content-Types, turned round", &[two[1], two[0]], x.as_bytes());

    // How the body keeps to it.
    let multipart = ["multipart/form-data; boundary=x"];
    let field = "Content-Disposition: form-data; name=\"a\"\r\n\r\nb";
    let closed = format!("--x\r\n{field}\r\n--x--\r\n");
    for (name, body) in [
        ("LF alone", x.replace("\r\n", "\n")),
        ("CR alone", x.replace("\r\n", "\r")),
        ("LF in the head", format!("--x\r\nX: y\n{PLAIN}\r\n\r\ncontent\r\n--x--\r\n")),
        ("LF after a boundary", format!("--x\n{PLAIN}\r\n\r\ncontent\r\n--x--\r\n")),
        ("LF before a boundary", format!("--x\r\n{field}\n--x\r\n{PLAIN}\r\n\r\ncontent\r\n--x--\r\n")),
        ("CR before a boundary", format!("--x\r\n{field}\r--x\r\n{PLAIN}\r\n\r\ncontent\r\n--x--\r\n")),
        ("blanks after a boundary", format!("--x \t\r\n{PLAIN}\r\n\r\ncontent\r\n--x--\r\n")),
        ("a preamble", format!("preamble\r\n{x}")),
        ("a preamble with a boundary", format!("--y\r\n\r\n--xy\r\n{x}")),
        ("an empty line first", format!("\r\n{x}")),
        ("an epilogue", format!("{closed}{x}")),
        ("an epilogue on the last line", format!("--x\r\n{field}\r\n--x--{x}")),
        ("no final boundary", format!("--x\r\n{PLAIN}\r\n\r\ncontent")),
        (
            "no blank line in a plain form",
            "--x\r\nContent-Disposition: form-data; name=\"a\"\r\n--x--\r\n".to_owned(),
        ),
        ("no final boundary of a plain form", format!("--x\r\n{field}\r\n")),
        ("no last line end before the final boundary", format!("--x\r\n{field}--x--\r\n")),
        ("a final boundary without its dashes", format!("--x\r\n{PLAIN}\r\n\r\ncontent\r\n--x\r\n")),
        ("one dash", format!("--x\r\n{field}\r\n--x-\r\n{PLAIN}\r\n\r\ncontent\r\n--x--\r\n")),
        ("a longer boundary", format!("--x\r\n{field}\r\n--xx\r\n{PLAIN}\r\n\r\ncontent\r\n--x--\r\n")),
        ("no blank line", format!("--x\r\n{PLAIN}\r\n--x--\r\n")),
        ("an empty head", format!("--x\r\n\r\ncontent\r\n{x}")),
        (
            "mixed inside",
            format!(
                "--x\r\nContent-Disposition: form-data; name=\"f\"\r\nContent-Type: multipart/mixed; boundary=y\r\n\r\n\
                 {}\r\n--x--\r\n",
                file("y")
            ),
        ),
        ("NUL in the head", x.replace("name=\"f\"", "name=\"f\0\"")),
    ] {
        add(name, &multipart, body.as_bytes());
    }
    shapes
}
