#!/usr/bin/env python3
"""The cost of the edge against nginx, both in one run: CPU seconds per unit of work, and their ratio.

    benches/edge.py BINARY [--rounds N] [CASE…]

Both terminate TLS with the same certificate and proxy to the same backend (an nginx of its own), keep-alive
to it, access logs on. Each case is run against both in turns; the figure is user and system time of all the
edge's processes, from /proc, so that a noisy machine tells less than a slow one. Below 1 the relay is cheaper.
Needs nginx, h2load (nghttp2-client), curl and openssl.
"""
import argparse
import os
import pathlib
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time

TICKS = os.sysconf("SC_CLK_TCK")

NGINX = """
worker_processes 2; pid {dir}/{name}.pid; error_log {dir}/{name}.err; daemon off;
events {{ worker_connections 4096; }}
http {{
  access_log {log}; client_body_temp_path {dir}/{name}-body; proxy_temp_path {dir}/{name}-proxy;
  fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  keepalive_requests 10000000; client_max_body_size 0;
  {body}
}}
"""
BACKEND = """server {{
    listen 127.0.0.1:{port};
    location = /json {{ default_type application/json; return 200 '{json}'; }}
    location /files/ {{ alias {dir}/files/; }}
    location = /up {{ client_body_buffer_size 256k; proxy_pass http://127.0.0.1:{port}/json; }}
}}"""
EDGE = """upstream backend {{ server 127.0.0.1:{backend}; keepalive 64; }}
server {{
    listen 127.0.0.1:{port} ssl http2; ssl_certificate {dir}/cert.pem; ssl_certificate_key {dir}/key.pem;
    ssl_protocols TLSv1.2 TLSv1.3; ssl_session_tickets on;
    location / {{
      proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $host; proxy_set_header X-Real-IP $remote_addr;
      proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;
      proxy_buffering off; proxy_request_buffering off;
    }}
}}"""
RELAY = """version = 1
[server]
host = "127.0.0.1"
port = {port}
http_port = 0
max_content_length = "4GiB"
[tls]
mode = "files"
cert = "{dir}/cert.pem"
key = "{dir}/key.pem"
[backend]
url = "http://127.0.0.1:{backend}"
[frontend]
mode = "disabled"
[[paths]]
prefix = "/*"
action = "proxy"
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(port):
    for _ in range(200):
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    sys.exit(f"nothing listens on {port}")


def family(pid):
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(p for c in children for p in family(int(c)))]


def cpu(pid):
    """User and system seconds of a process and its children so far."""
    total = 0
    for p in family(pid):
        fields = pathlib.Path(f"/proc/{p}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def run(command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def handshakes(port, count):
    """New TLS 1.3 sessions, none resumed: a context each, closed at once."""
    for _ in range(count):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", port)) as s, context.wrap_socket(s):
            pass


CASES = {
    # name: (unit, units, the command for a port, or None from one that does its work itself)
    "small JSON h1": ("request", 20000, lambda p, d: ["h2load", "--h1", "-n20000", "-c16", "-t1", f"https://127.0.0.1:{p}/json"]),
    "small JSON h2": ("request", 20000, lambda p, d: ["h2load", "-n20000", "-c4", "-m8", "-t1", f"https://127.0.0.1:{p}/json"]),
    "64 MiB down": ("MiB", 256, lambda p, d: ["h2load", "--h1", "-n4", "-c1", "-t1", f"https://127.0.0.1:{p}/files/64"]),
    "60 MiB up": ("MiB", 240, lambda p, d: ["h2load", "--h1", "-n4", "-c1", "-t1", "-d", f"{d}/files/60", f"https://127.0.0.1:{p}/up"]),
    "full handshake": ("handshake", 300, lambda p, d: handshakes(p, 300)),
}


def work(command, port, d):
    """Runs a case's command; one that has done its work itself gives none."""
    if argv := command(port, d):
        run(argv)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("cases", nargs="*")
    args = parser.parse_args()
    processes = []
    with tempfile.TemporaryDirectory() as directory:
        d = pathlib.Path(directory)
        os.chmod(d, 0o755)
        (d / "files").mkdir()
        for size in (60, 64):
            (d / f"files/{size}").write_bytes(os.urandom(1 << 20) * size)
        run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
             "-keyout", f"{d}/key.pem", "-out", f"{d}/cert.pem"])
        backend, nginx, relay = free_port(), free_port(), free_port()
        def start_nginx(name, body, log):
            (d / f"{name}.conf").write_text(NGINX.format(dir=d, name=name, log=log, body=body))
            processes.append(subprocess.Popen(["nginx", "-c", f"{d}/{name}.conf", "-e", f"{d}/{name}.err"]))
            return processes[-1].pid
        json = '{{"messages":[{}]}}'.format(",".join(f'{{"id":{i},"content":"hello"}}' for i in range(20)))
        try:
            start_nginx("backend", BACKEND.format(port=backend, dir=d, json=json), "off")
            pids = {"nginx": start_nginx("edge", EDGE.format(port=nginx, backend=backend, dir=d), f"{d}/access.log")}
            (d / "relay.toml").write_text(RELAY.format(port=relay, backend=backend, dir=d))
            with open(d / "relay.log", "w") as log:
                processes.append(subprocess.Popen([args.binary, "--config", f"{d}/relay.toml"], stderr=log))
            pids["relay"] = processes[-1].pid
            ports = {"nginx": nginx, "relay": relay}
            for port in (backend, nginx, relay):
                wait_for(port)
            print(f"{'case':16} {'nginx':>12} {'relay':>12}  ratio (median of {args.rounds}; min–max)")
            for name, (unit, units, command) in CASES.items():
                if args.cases and not any(c in name for c in args.cases):
                    continue
                spent = {"nginx": [], "relay": []}
                for edge in ("nginx", "relay"):
                    work(command, ports[edge], d)  # not counted
                for _ in range(args.rounds):
                    for edge in spent:
                        before = cpu(pids[edge])
                        work(command, ports[edge], d)
                        spent[edge].append(cpu(pids[edge]) - before)
                ratios = sorted(r / n for r, n in zip(spent["relay"], spent["nginx"], strict=True) if n)
                each = {e: statistics.median(s) / units * 1e6 for e, s in spent.items()}
                print(f"{name:16} {each['nginx']:9.1f} µs {each['relay']:9.1f} µs  {statistics.median(ratios):.2f}"
                      f" ({ratios[0]:.2f}–{ratios[-1]:.2f}) per {unit}")
            for edge, pid in pids.items():
                rss = sum(int(pathlib.Path(f"/proc/{p}/status").read_text().split("VmRSS:")[1].split()[0]) for p in family(pid))
                print(f"RSS afterwards, {edge}: {rss} KiB")
        finally:
            for process in processes:
                process.send_signal(signal.SIGTERM)
            for process in processes:
                process.wait()


main()
