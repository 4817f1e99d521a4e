"""An application with a bridge beside it, which it knows by localhost only: it posts
an event to the bridge, and receives the outcome at an HTTP endpoint of its own,
which is the bridge's BRIDGE_SINK_URL. It needs nothing but Python.

    python3 shop.py <order id> <phone number>
"""

import http.server
import json
import os
import queue
import sys
import threading
import time
import urllib.error
import urllib.request

EVENTS_URL = os.environ.get("EVENTS_URL", "http://127.0.0.1:8080/events")
OUTCOMES_ADDR = os.environ.get("OUTCOMES_ADDR", "127.0.0.1:8090")
LIMIT = 60  # seconds until we give up


class Outcomes(http.server.BaseHTTPRequestHandler):
    """Takes CloudEvents in binary mode, which is the bridge's default, and in
    structured mode. An outcome may come twice; its id tells."""

    received: queue.Queue = queue.Queue()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get_content_type() == "application/cloudevents+json":
            event = json.loads(body)
        else:
            event = {name[3:].lower(): value for name, value in self.headers.items() if name.lower().startswith("ce-")}
        self.send_response(204 if "id" in event else 400)
        self.end_headers()
        self.received.put(event)

    def log_message(self, *_) -> None:
        """Says nothing: what is printed is the outcome."""


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
    # Listen first, then post. What the bridge cannot post now it posts later, so that
    # an application that was away misses nothing.
    host, port = OUTCOMES_ADDR.rsplit(":", 1)
    server = http.server.ThreadingHTTPServer((host, int(port)), Outcomes)
    threading.Thread(target=server.serve_forever, daemon=True).start()
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
    end = time.monotonic() + LIMIT
    while True:
        try:
            outcome = Outcomes.received.get(timeout=max(0, end - time.monotonic()))
        except queue.Empty:
            sys.exit("no outcome in a minute")
        # Receipts of the message come too, with the same cause.
        if outcome.get("causationid") == event["id"] and outcome["type"].startswith("com.8x8.action."):
            break
    server.shutdown()
    print(outcome["type"], outcome["causationid"])


if __name__ == "__main__":
    main()
