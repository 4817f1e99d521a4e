"""An application with a bridge beside it, of Python's standard library alone: it
posts an event to localhost over HTTP, and receives the outcome from NATS, whose
protocol for that is a few lines of text.

    python3 shop.py <order id> <phone number>
"""

import json
import os
import socket
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

EVENTS_URL = os.environ.get("EVENTS_URL", "http://127.0.0.1:8080/events")
NATS_URL = os.environ.get("NATS_URL", "nats://127.0.0.1:4222")
LIMIT = 60  # seconds until we give up


class Results:
    """Outcomes as they happen, over plain NATS. What is published while nobody
    listens is not seen here; the stream BRIDGE_RESULTS keeps it, for a client with
    JetStream such as nats-py."""

    def __init__(self, url: str) -> None:
        where = urllib.parse.urlparse(url)
        self._socket = socket.create_connection((where.hostname, where.port or 4222), timeout=LIMIT)
        self._lines = self._socket.makefile("rb")
        self._lines.readline()  # INFO
        self._socket.sendall(b'CONNECT {"verbose":false,"headers":true,"lang":"python","version":"0"}\r\nSUB bridge.results.> 1\r\nPING\r\n')
        while (line := self._lines.readline()) != b"PONG\r\n":
            if not line or line.startswith(b"-ERR"):
                raise ConnectionError(line.decode() or "NATS closed the connection")

    def __iter__(self):
        while line := self._lines.readline():
            words = line.split()
            if line == b"PING\r\n":
                self._socket.sendall(b"PONG\r\n")
            elif words[0] in (b"MSG", b"HMSG"):
                size = int(words[-1])
                payload = self._lines.read(size + 2)[:size]
                yield json.loads(payload[int(words[-2]) :] if words[0] == b"HMSG" else payload)


def post(event: dict) -> None:
    """Posts until the event is stored: 503 and 429 mean later, and a lost answer is
    no harm, since the same id is the same event."""
    request = urllib.request.Request(
        EVENTS_URL, json.dumps(event).encode(), {"Content-Type": "application/cloudevents+json"}, method="POST"
    )
    end = time.monotonic() + LIMIT
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10):
                return
        except urllib.error.HTTPError as error:
            if error.code not in (429, 503) or time.monotonic() > end:
                sys.exit(f"the bridge refuses the event: {error.read().decode()}")
        except OSError as error:
            if time.monotonic() > end:
                sys.exit(f"nobody takes the event: {error}")
        time.sleep(1)


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: python3 shop.py <order id> <phone number>")
    order, phone = sys.argv[1:]
    results = Results(NATS_URL)  # listen first, then post
    # The order's own id makes the event's: posted again, nothing is sent twice.
    event = {
        "specversion": "1.0",
        "id": f"shipped-{order}",
        "source": "/shop",
        "type": "com.acme.order.shipped",
        "subject": order,
        "data": {"customer": {"name": "Bo", "phone": phone}},
    }
    post(event)
    for result in results:
        if result.get("causationid") == event["id"]:
            print(result["type"], result["causationid"])
            return
    sys.exit("NATS closed the connection before the outcome came")


if __name__ == "__main__":
    main()
