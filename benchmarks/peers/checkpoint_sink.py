"""An S3 server that keeps nothing larger than 1 MiB: what a client could do if its store cost no time.

Run as a program: prints its port, serves until its standard input ends. Knows what the clients of benchmarks.checkpoint
ask: objects with conditions, lists, multipart uploads. GET /requests tells how many requests there were.
"""

from __future__ import annotations

import itertools
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

KEPT_BYTES = 1 << 20


class Sink(ThreadingHTTPServer):
    """The objects: body (empty for a large one), size and etag by path."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.objects: dict[str, tuple[bytes, int, str]] = {}
        self.etags = (f'"{number:032x}"' for number in itertools.count(1))
        self.requests = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Sink

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        url = urlsplit(self.path)
        self.key, self.query = unquote(url.path), parse_qs(url.query, keep_blank_values=True)
        self.server.requests += self.key != "/requests"
        return True

    def do_PUT(self) -> None:
        body, size = self._receive()
        with self.server.lock:
            found = self.server.objects.get(self.key)
            if self.headers.get("If-None-Match") == "*" and found is not None:
                return self._answer(412, _error("PreconditionFailed"))
            if (wanted := self.headers.get("If-Match")) and (found is None or found[2] != wanted):
                return self._answer(412, _error("PreconditionFailed"))
            etag = next(self.server.etags)
            if "partNumber" not in self.query:
                self.server.objects[self.key] = (body, size, etag)
        return self._answer(200, b"", ETag=etag)

    def do_POST(self) -> None:
        self._receive()
        if "uploads" in self.query:
            self._answer(200, _result("InitiateMultipartUploadResult", "<UploadId>1</UploadId>"))
        elif "delete" in self.query:
            self._answer(200, _result("DeleteResult", ""))
        else:
            etag = next(self.server.etags)
            self.server.objects[self.key] = (b"", 0, etag)
            self._answer(200, _result("CompleteMultipartUploadResult", f"<Key>k</Key><ETag>{etag}</ETag>"))

    def do_GET(self) -> None:
        if self.key == "/requests":
            self._answer(200, str(self.server.requests).encode())
        elif "list-type" in self.query:
            self._list()
        elif (found := self.server.objects.get(self.key)) is None:
            self._answer(404, _error("NoSuchKey"))
        else:
            self._answer(200, found[0], ETag=found[2])

    def do_HEAD(self) -> None:
        found = self.server.objects.get(self.key)
        bucket = self.key.strip("/").count("/") == 0
        self._answer(200 if found or bucket else 404, b"", **({"ETag": found[2]} if found else {}))

    def do_DELETE(self) -> None:
        self.server.objects.pop(self.key, None)
        self._answer(204, b"")

    def _list(self) -> None:
        prefix = self.query.get("prefix", [""])[0]
        bucket = f"/{self.key.strip('/')}/"
        names = sorted(key[len(bucket) :] for key in self.server.objects if key.startswith(bucket + prefix))
        members = "".join(
            f"<Contents><Key>{escape(name)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<Size>{self.server.objects[bucket + name][1]}</Size></Contents>"
            for name in names
        )
        about = (
            f"<Name>b</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(names)}</KeyCount><MaxKeys>1000</MaxKeys>"
        )
        self._answer(200, _result("ListBucketResult", f"{about}<IsTruncated>false</IsTruncated>{members}"))

    def _receive(self) -> tuple[bytes, int]:
        size = int(self.headers.get("Content-Length") or 0)
        if size <= KEPT_BYTES:
            return self.rfile.read(size), size
        buffer, left = memoryview(bytearray(KEPT_BYTES)), size
        while left > 0:
            got = self.rfile.readinto(buffer[:left])
            if not got:
                break
            left -= got
        return b"", size

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


def _error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()


def _result(name: str, content: str) -> bytes:
    return f'<{name} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{content}</{name}>'.encode()


def main() -> None:
    sink = Sink()
    threading.Thread(target=sink.serve_forever, daemon=True).start()
    sys.stdout.write(f"{sink.server_address[1]}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
