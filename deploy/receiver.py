"""A receiver of webhooks that verifies each signature and prints one line an alert: for demonstrations and tutorials.

``python deploy/receiver.py --secret-file FILE --port 8080``. Needs the package standardwebhooks alone.
"""

from __future__ import annotations

import argparse
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from standardwebhooks import Webhook, WebhookVerificationError

LARGEST = 1_048_576  # bytes of a body


class Receiver(BaseHTTPRequestHandler):
    """GET says that it is there; POST takes one webhook."""

    webhook: Webhook
    timeout = 10.0

    def do_GET(self) -> None:  # the name is http.server's
        """For health checks."""
        self._answer(200, "POST webhooks here")

    def do_POST(self) -> None:  # likewise
        """204 for a good signature, 401 for a bad one."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LARGEST:
            self._answer(413, "a body of up to 1 MiB, with its length")
            return
        body = self.rfile.read(int(length))
        try:
            self.webhook.verify(body, {name.lower(): value for name, value in self.headers.items()})
        except WebhookVerificationError as error:
            print(f"{time.strftime('%H:%M:%S')} refused: {error}", flush=True)
            self._answer(401, "the signature is not right")
            return
        print(f"{time.strftime('%H:%M:%S')} verified {self.headers['webhook-id']}: {summary(body)}", flush=True)
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # the name is http.server's
        """Say nothing of each request."""

    def _answer(self, status: int, text: str) -> None:
        body = f"{text}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def summary(body: bytes) -> str:
    """Status, severity and summary of the alert in a webhook's body, in one printable line."""
    try:
        given = json.loads(body)
        alert = given.get("data", given)
        told = " ".join(str(alert.get(key, "?")) for key in ("status", "severity", "summary"))
    except (ValueError, AttributeError):
        told = f"{len(body)} bytes that are no alert"
    return "".join(letter if letter.isprintable() else "?" for letter in told)


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--secret-file", type=Path, required=True, help="holds whsec_…")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    given = parser.parse_args()
    try:
        Receiver.webhook = Webhook(given.secret_file.read_text("utf-8").strip())
        server = ThreadingHTTPServer((given.host, given.port), Receiver)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(f"listening on {given.host}:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
