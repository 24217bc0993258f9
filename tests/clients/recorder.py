"""A proxy that keeps what a client asks of a server and what each answer's usage says."""

import http.client
import http.server
import json
import threading


def usage_of(text):
    """(tokens of the prompt, those of them that were cached), from the last usage that an answer tells; None without."""
    found = None
    for line in text.split("\n"):
        line = line.removeprefix("data: ")
        if '"usage"' not in line:
            continue
        try:
            value = json.loads(line)
        except ValueError:
            continue
        usage = (value.get("response") or value.get("message") or value).get("usage") or {}
        if "cache_read_input_tokens" in usage:
            cached = usage["cache_read_input_tokens"]
            found = (usage["input_tokens"] + cached, cached)
        elif "input_tokens_details" in usage:
            found = (usage["input_tokens"], usage["input_tokens_details"]["cached_tokens"])
    return found


class Exchange:
    def __init__(self, path, body):
        self.path = path
        self.body = body  # JSON, or None
        self.status = 0
        self.text = ""
        self.usage = None

    def tools(self):
        """The names of the tools that it offers."""
        return [tool.get("name") or tool.get("type") for tool in (self.body or {}).get("tools") or []]


class Recorder:
    """Listens at `url` for a server at `address`; ends with the block that holds it. `exchanges`: those that have ended."""

    def __init__(self, address):
        self.exchanges = []
        recorder = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                length = int(self.headers.get("Content-Length") or 0)
                payload = self.rfile.read(length)
                exchange = Exchange(self.path, json.loads(payload) if payload.startswith(b"{") else None)
                headers = {name: value for name, value in self.headers.items()
                           if name.lower() not in ("host", "connection", "accept-encoding")}
                connection = http.client.HTTPConnection(address)
                connection.request(self.command, self.path, payload, headers)
                answer = connection.getresponse()
                exchange.status = answer.status
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "content-length", "connection", "date", "server"):
                        self.send_header(name, value)
                self.send_header("Connection", "close")
                self.end_headers()
                self.close_connection = True
                pieces = []
                try:
                    while piece := answer.read1(65536):
                        pieces.append(piece)
                        self.wfile.write(piece)
                        self.wfile.flush()
                except OSError:
                    pass  # the client has left
                connection.close()
                exchange.text = b"".join(pieces).decode(errors="replace")
                exchange.usage = usage_of(exchange.text)
                recorder.exchanges.append(exchange)

            do_GET = do_POST = do_HEAD = do_OPTIONS = answer

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
