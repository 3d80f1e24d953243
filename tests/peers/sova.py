"""Sova in miniature: its routes, on the Flask, Werkzeug and Waitress that it runs on.

Prints `port N` when it listens. Every request is kept for `/_seen`, which a test asks past the relay.
"""

import argparse
import collections
import functools
import hashlib
import io
import queue
import threading
import time

from flask import Blueprint, Flask, Response, jsonify, redirect, request, send_file
from waitress.server import create_server
from werkzeug.middleware.proxy_fix import ProxyFix

arguments = argparse.ArgumentParser()
arguments.add_argument("--prefix", default="", help="the secret first path segment")
arguments.add_argument("--proxy", action="store_true", help="believe a proxy's headers, as Sova's proxy = true")
arguments.add_argument("--heartbeat", type=float, default=10, help="seconds between comments on a stream")
arguments.add_argument("--stream-window", type=float, help="10 stream starts an address in so many seconds; Sova: 60")
arguments.add_argument("--port", type=int, default=0)
arguments.add_argument("--threads", type=int, default=32, help="Sova's default")
arguments.add_argument("--connections", type=int, default=100, help="Waitress' connection_limit; its default")
options = arguments.parse_args()

app = Flask(__name__, static_folder=None)
sova = Blueprint("sova", __name__)
lock = threading.Lock()
seen = []
subscribers = []


@app.before_request
def keep():
    """Parses the body, as any view would, and keeps what came of it."""
    if request.path != "/_seen":
        files = sum(len(request.files.getlist(name)) for name in request.files)
        with lock:
            seen.append(
                {"method": request.method, "path": request.path, "endpoint": request.endpoint, "files": files}
            )


def limited(limit, window):
    """At most so many requests of an address in so many seconds, told as Sova tells it: in Unix seconds."""
    resets = collections.defaultdict(collections.deque)

    def decorate(view):
        @functools.wraps(view)
        def wrapper(**values):
            now = int(time.time())
            with lock:
                own = resets[request.remote_addr]
                while own and own[0] < now:
                    own.popleft()
                headers = {"X-RateLimit-Limit": limit, "X-RateLimit-Remaining": max(limit - len(own) - 1, 0)}
                if len(own) >= limit:
                    headers["X-RateLimit-Reset"] = own[0]
                    return jsonify(success=False, ratelimit=True, type="ip"), 429, headers
                own.append(int(now + window))
                headers["X-RateLimit-Reset"] = own[0]
            response = app.make_response(view(**values))
            response.headers.extend(headers)
            return response

        return wrapper

    return decorate


@sova.after_request
def allow_other_origins(response):
    response.headers["Access-Control-Allow-Origin"] = "*"
    return response


@app.get("/_seen")
def give_seen():
    with lock:
        kept = list(seen)
        seen.clear()
    return jsonify(kept)


def form():
    return jsonify(
        method=request.method,
        form=[[name, value] for name in request.form for value in request.form.getlist(name)],
        files=[
            [name, file.filename, file.read().decode("latin-1")]
            for name in request.files
            for file in request.files.getlist(name)
        ],
    )


@sova.post("/api/v1/channel/<channel>/messages")
def message(channel):
    return form()


@sova.get("/api/v1/channel/<channel>/messages")
def messages(channel):
    return jsonify(channel=channel, messages=[])


@sova.route("/api/v1/me", methods=["GET", "PATCH"])
def me():
    return form()


@sova.post("/api/v1/signup")
@limited(10, 120)
def signup():
    return jsonify(address=request.remote_addr), 201


@sova.get("/api/v1/announcements-<int:channel>/messages")
def announcements(channel):
    return jsonify(channel=channel, messages=[])


@sova.get("/api/v1/secret")
def secret():
    return jsonify(secret="of the blocked route")


@sova.get("/api/v1/stream")
@(limited(10, options.stream_window) if options.stream_window else lambda view: view)
def stream():
    """Holds its thread for as long as the client stays."""
    events = queue.Queue()
    with lock:
        subscribers.append(events)

    def generate():
        try:
            yield ": connected\n\n"
            while True:
                try:
                    yield events.get(timeout=options.heartbeat)
                except queue.Empty:
                    yield ": heartbeat\n\n"
        finally:
            with lock:
                subscribers.remove(events)

    return Response(generate(), mimetype="text/event-stream", headers={"Cache-Control": "no-cache"})


@sova.post("/api/v1/events")
def publish():
    """Sends the body as an event to every stream, and says to how many."""
    with lock:
        for events in subscribers:
            events.put(f"data: {request.get_data(as_text=True)}\n\n")
        return jsonify(streams=len(subscribers))


def download(kind, name):
    content = f"{kind} {name}\n".encode() * 1000
    return send_file(
        io.BytesIO(content),
        mimetype="application/octet-stream",
        conditional=True,
        etag=hashlib.sha256(content).hexdigest(),
        max_age=3600,
    )


@sova.get("/attachment/<name>")
def attachment(name):
    return download("attachment", name)


@sova.get("/pfp/<name>")
def pfp(name):
    return download("pfp", name)


@sova.get("/health")
def health():
    return jsonify(status="ok")


@sova.get("/page/")
def page():
    """Asked for without its last slash, Werkzeug redirects to an absolute address."""
    return "page"


@sova.get("/elsewhere")
def elsewhere():
    return redirect("https://elsewhere.example/x", 302)


@sova.route("/environ", methods=["GET", "POST"])
def environ():
    return jsonify({name: value for name, value in request.environ.items() if isinstance(value, str)})


@sova.get("/")
def index():
    return "<!doctype html><title>Mura</title>"


prefix = f"/{options.prefix.strip('/')}".rstrip("/")
app.register_blueprint(sova, url_prefix=prefix or None)
if options.proxy:
    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=1, x_port=1, x_prefix=1)

server = create_server(
    app, host="127.0.0.1", port=options.port, threads=options.threads, connection_limit=options.connections
)
print("port", server.effective_port, flush=True)
server.run()
