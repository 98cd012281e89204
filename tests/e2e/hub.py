"""A Hugging Face hub on a loopback port: the endpoints that a download needs, over files in memory.

As the real one it lists a repository with sizes, redirects large files to another path, and honours ranges. It can cut a
connection in the middle of a file, be slow, and ask who is there.
"""

import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CHUNK = 1 << 20


class Hub:
    def __init__(self, repo, files):
        self.repo, self.files = repo, files
        # File name to the size that is listed, where it is not the true one.
        self.listed = {}
        # File name to the number of bytes after which its connection is closed, once.
        self.cuts = {}
        # Seconds between two megabytes.
        self.pause = 0.0
        # The files are only for those with this token, and so is everything if it is private.
        self.token, self.private = None, False
        # (path, first byte asked for, authorization) of every request.
        self.requests = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                hub.answer(self)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def starts(self, name):
        """Where the downloads of a large file began; looking at its size reads one byte and is not one."""
        return [start for path, start, _ in self.requests if path == f"/large/{name}" and start is not None]

    def answer(self, request):
        path = request.path.split("?")[0]
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range") or "bytes=0-")
        start, end = int(asked[1]), asked[2]
        known = self.token is None or request.headers.get("authorization") == f"Bearer {self.token}"
        self.requests.append((path, None if end else start, request.headers.get("authorization")))
        listing = f"/api/models/{self.repo}/revision/"
        files = f"/{self.repo}/resolve/"
        if path.startswith(listing) and path.removeprefix(listing) in ("main", COMMIT) and (known or not self.private):
            siblings = [{"rfilename": name, "size": self.listed.get(name, len(data))} for name, data in self.files.items()]
            self.send(request, 200, json.dumps({"sha": COMMIT, "siblings": siblings}).encode())
        elif path.startswith(files):
            revision, name = path.removeprefix(files).split("/", 1)
            data = self.files.get(name)
            if data is None or revision not in ("main", COMMIT):
                self.send(request, 404, b"Entry not found")
            elif not known:
                self.send(request, 401 if request.headers.get("authorization") is None else 403, b"Access is restricted")
            elif name.endswith(".safetensors"):
                link = {"location": f"{self.url}/large/{name}", "x-linked-etag": etag(data), "x-linked-size": str(len(data))}
                self.send(request, 302, b"", {"x-repo-commit": COMMIT, **link})
            else:
                self.part(request, name, data, start, end, {"x-repo-commit": COMMIT, "etag": etag(data)})
        elif path.startswith("/large/") and path.removeprefix("/large/") in self.files:
            name = path.removeprefix("/large/")
            self.part(request, name, self.files[name], start, end, {"etag": etag(self.files[name])})
        else:
            self.send(request, 404, b"Repository not found")

    def part(self, request, name, data, start, end, headers):
        stop = min(len(data), int(end) + 1) if end else len(data)
        headers = {"content-range": f"bytes {start}-{stop - 1}/{len(data)}", **headers}
        cut = None if end else self.cuts.pop(name, None)
        self.send(request, 206, data[start:stop], headers, cut)

    def send(self, request, status, body, headers=None, cut=None):
        try:
            request.send_response(status)
            for name, value in {**(headers or {}), "content-length": str(len(body))}.items():
                request.send_header(name, value)
            request.end_headers()
            for at in range(0, len(body), CHUNK):
                if cut is not None and at >= cut:
                    request.close_connection = True
                    request.connection.close()
                    return
                request.wfile.write(body[at : at + CHUNK])
                time.sleep(self.pause if len(body) > CHUNK else 0)
        except OSError:
            # The other end went away.
            request.close_connection = True


def etag(data):
    return f'"{hashlib.sha256(data).hexdigest()}"'
