"""Tells what Werkzeug sees in a request body.

Reads cases from standard input (content type, body) and answers each on standard output:
a status byte, the fields (name, value) and the files (name, file name, content). Every text
and every count is a big-endian 32-bit number, texts are followed by their bytes.
"""

import io
import struct
import sys

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import FormDataParser
from werkzeug.wrappers import Request

OK, MALFORMED, TOO_LARGE = range(3)


class LoudParser(FormDataParser):
    """Raises where Flask's own silently gives an empty form."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.silent = False


class LoudRequest(Request):
    form_data_parser_class = LoudParser
    # Keeps the order of all fields, where a MultiDict groups them by name.
    parameter_storage_class = list


def parse(content_type, body):
    request = LoudRequest(
        {
            "REQUEST_METHOD": "POST",
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "CONTENT_LENGTH": str(len(body)),
            # WSGI shows header bytes as Latin-1.
            "CONTENT_TYPE": content_type.decode("latin-1"),
        }
    )
    try:
        fields = request.form
        files = [(name, file.filename, file.read()) for name, file in request.files]
    except RequestEntityTooLarge:
        return TOO_LARGE, [], []
    except ValueError:
        return MALFORMED, [], []
    return OK, fields, files


def encode(text):
    if text is None:
        text = "\0none"
    if isinstance(text, str):
        text = text.encode("utf-8", "surrogatepass")
    return struct.pack(">I", len(text)) + text


def answer(status, fields, files):
    parts = [bytes([status])]
    for rows in (fields, files):
        parts.append(struct.pack(">I", len(rows)))
        parts.extend(encode(text) for row in rows for text in row)
    return b"".join(parts)


def read_text(stream):
    prefix = stream.read(4)
    return stream.read(struct.unpack(">I", prefix)[0]) if prefix else None


def main():
    while (content_type := read_text(sys.stdin.buffer)) is not None:
        sys.stdout.buffer.write(answer(*parse(content_type, read_text(sys.stdin.buffer))))
        sys.stdout.buffer.flush()


main()
