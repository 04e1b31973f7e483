"""A chat-completions server on loopback that fails as real ones do, and counts what it was asked."""

import json
import random
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FaultyServer:
    """Answers each prompt with a fixed score, after the share of faults it is told to make."""

    def __init__(self, faults=None, logprobs=True, hang=30.0, delay=0.0, seed=0):
        self.faults, self.logprobs, self.hang, self.delay = dict(faults or {}), logprobs, hang, delay
        self.asked, self.answered = Counter(), Counter()
        self.random, self.lock = random.Random(seed), threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                owner.answer(self, body)

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, *_):
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def fault(self):
        with self.lock:
            draw = self.random.random()
        for kind, share in self.faults.items():
            if draw < share:
                return kind
            draw -= share
        return None

    def answer(self, handler, body):
        prompt = body["messages"][0]["content"]
        kind = self.fault()
        with self.lock:
            self.asked[prompt] += 1
        time.sleep(self.delay)
        if kind == "reset":
            handler.connection.close()
        elif kind == "hang":
            time.sleep(self.hang)
        elif kind == "garbage":
            self.send(handler, 200, b'{"choices": [{"message": {"con')
        elif kind == "empty":
            self.send(handler, 200, b'{"choices": []}')
        elif kind in (429, 500, 401, 404):
            self.send(handler, kind, b'{"error": {"message": "no"}}', {"retry-after": "0.05"} if kind == 429 else {})
        elif body.get("logprobs") and self.logprobs is None:
            self.send(handler, 400, b'{"error": {"message": "logprobs is not supported"}}')
        else:
            with self.lock:
                self.answered[prompt] += 1
            self.send(handler, 200, json.dumps(self.completion(prompt, body)).encode())

    def completion(self, prompt, body):
        score = len(prompt) % 101
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": str(score)}}
        if body.get("logprobs") and self.logprobs == "digits":
            top = [{"token": digit, "logprob": -2.3} for digit in "0123456789"]
            choice["logprobs"] = {"content": [{"token": "8", "logprob": 0.0, "top_logprobs": top}]}
        elif body.get("logprobs") and self.logprobs:
            top = [{"token": str(score), "logprob": -0.1}, {"token": "The", "logprob": -2.5}]
            choice["logprobs"] = {"content": [{"token": str(score), "logprob": -0.1, "top_logprobs": top}]}
        return {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}

    @staticmethod
    def send(handler, code, body, headers=None):
        handler.send_response(code)
        for name, value in {
            "content-type": "application/json",
            "content-length": str(len(body)),
            **(headers or {}),
        }.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)
