"""A reverse proxy with TLS and authentication in front of a server on loopback, for tests.

What a hosted Elasticsearch has and a bare node has not. It behaves like a common web server in that role: a page of
HTML with status 401 for who is not let in, 502 where the server behind it is gone. The certificate is made on the spot
by the `openssl` program, for 127.0.0.1, signed by itself.
"""

from __future__ import annotations

import base64
import http.client
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

USERNAME, PASSWORD, API_KEY = "reader", "pass word:ü", "a2V5aWQ6c2VjcmV0"
_ACCEPTED = {f"Basic {base64.b64encode(f'{USERNAME}:{PASSWORD}'.encode()).decode()}", f"ApiKey {API_KEY}"}
_PAGE = b"<html><head><title>%d</title></head><body><center><h1>%d</h1></center></body></html>"
_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """(certificate, key) for 127.0.0.1, as PEM files; skips without `openssl`."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl program to make a certificate with")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    names = ["-subj", "/CN=test proxy", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", *curve, "-nodes", *names, "-days", "2"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    return certificate, key


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    target = 0

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") not in _ACCEPTED:
            refused = {"WWW-Authenticate": 'Basic realm="test"', "Content-Type": "text/html"}
            self._answer(401, refused, _PAGE % (401, 401))
            return
        headers = {k: v for k, v in self.headers.items() if k.lower() not in {*_HOP, "authorization", "host"}}
        behind = http.client.HTTPConnection("127.0.0.1", self.target, timeout=60)
        try:
            behind.request(self.command, self.path, body, headers)
            answer = behind.getresponse()
            content, status, got = answer.read(), answer.status, dict(answer.getheaders())
        except OSError:
            content, status, got = _PAGE % (502, 502), 502, {"Content-Type": "text/html"}
        finally:
            behind.close()
        self._answer(status, {k: v for k, v in got.items() if k.lower() not in _HOP}, content)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _pass

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that does not trust the certificate hangs up; that is what is tested."""


@contextmanager
def tls_proxy(port: int, folder: Path) -> Iterator[tuple[str, Path]]:
    """(https URL, certificate file) of a proxy in front of the server on `port`."""
    certificate, key = make_certificate(folder)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"target": port}))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}", certificate
    finally:
        server.shutdown()
        server.server_close()
