"""A chat-completions server on loopback that fails as real ones do, and counts what it was asked."""

import json
import random
import socket
import struct
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

            def do_GET(self):
                owner.send(self, 404, b'{"error": {"message": "no"}}')

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, *_):
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

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
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
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


def chat(content, logprobs=None, finish="stop", **message):
    """Return the body of a chat completion."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}
    if logprobs is not None:
        choice["logprobs"] = {"content": [{"token": "x", "logprob": 0.0, "top_logprobs": logprobs}]}
    return {"id": "1", "object": "chat.completion", "model": "m", "choices": [choice]}


def refuses(parameter, message=None, code=400):
    """Return the error of a parameter that is not accepted."""
    message = message or f"Unsupported parameter: '{parameter}' is not supported with this model."
    return code, {"error": {"message": message, "type": "invalid_request_error", "param": parameter}}


class ScriptedServer(FaultyServer):
    """Answers POST with what `reply(body)` returns and GET with what `get(path)` returns.

    Both return a body (then the status is 200), or (status, body), or (status, body, headers); a body is JSON or bytes.
    """

    def __init__(self, reply, get=None):
        super().__init__()
        self.reply, self.bodies, self.headers, self.got = reply, [], [], []
        owner = self

        class Handler(self.server.RequestHandlerClass):
            def do_POST(self):  # noqa: N802
                content = self.rfile.read(int(self.headers["content-length"]))
                owner.headers.append(dict(self.headers))
                owner.post(self, self.path, content)

            def do_GET(self):  # noqa: N802
                owner.got.append(self.path)
                found = get(self.path) if get else None
                owner.give(self, found if found is not None else (404, {"error": {"message": "no such path"}}))

        self.server.RequestHandlerClass = Handler

    def post(self, handler, path, content):
        if path != "/v1/chat/completions":
            return self.give(handler, (404, {"detail": "Not Found"}))
        body = json.loads(content)
        with self.lock:
            self.bodies.append(body)
        return self.give(handler, self.reply(body))

    def give(self, handler, given):
        status, body, headers = (*given, {})[:3] if isinstance(given, tuple) else (200, given, {})
        self.send(handler, status, body if isinstance(body, bytes) else json.dumps(body).encode(), headers)


class BatchServer(ScriptedServer):
    """Takes files and batches as OpenAI does; `work()` answers what was submitted by `reply(body)`.

    Attributes:
        batches, files: what it has, by id.
        paid: how often each prompt was answered, at once or in a batch.
        before_order: called when a batch is ordered, after it was made and before that is said.
    """

    def __init__(self, reply, before_order=None):
        super().__init__(self.paying(reply), self.look)
        self.answer_line, self.before_order = reply, before_order
        self.batches, self.files, self.paid = {}, {}, Counter()

    def paying(self, reply):
        def counted(body):
            self.paid[body["messages"][0]["content"]] += 1
            return reply(body)

        return counted

    def post(self, handler, path, content):
        if path == "/v1/files":
            name = f"file-{len(self.files)}"
            lines = [line for line in content.decode().splitlines() if line.startswith("{")]
            self.files[name] = "\n".join(lines)
            self.give(handler, {"id": name, "object": "file"})
        elif path == "/v1/batches":
            order = json.loads(content)
            name = f"batch_{len(self.batches)}"
            self.batches[name] = {"id": name, "status": "in_progress", "input_file_id": order["input_file_id"]}
            if self.before_order:
                self.before_order()
            self.give(handler, self.batches[name])
        else:
            super().post(handler, path, content)

    def look(self, path):
        parts = path.removeprefix("/v1/").split("/")
        if parts[0] == "files" and parts[2:] == ["content"]:
            return self.files[parts[1]].encode()
        if parts[0].startswith("batches?"):
            return {"data": list(self.batches.values())}
        return self.batches.get(parts[1]) if parts[0] == "batches" else None

    def work(self, status="completed", share=1.0, errors=()):
        """Finish every batch: a share of its lines is answered, in reverse; prompts in `errors` fail."""
        for batch in self.batches.values():
            if batch["status"] != "in_progress":
                continue
            lines = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
            good, bad = [], []
            for line in lines[: round(share * len(lines))]:
                prompt = line["body"]["messages"][0]["content"]
                if any(text in prompt for text in errors):
                    bad.append({"custom_id": line["custom_id"], "error": {"code": "server_error", "message": "broken"}})
                    continue
                self.paid[prompt] += 1
                given = self.answer_line(line["body"])
                code, body = given if isinstance(given, tuple) else (200, given)
                good.append({"custom_id": line["custom_id"], "response": {"status_code": code, "body": body}})
            for kind, entries in (("output", good), ("error", bad)):
                if entries:
                    batch[f"{kind}_file_id"] = f"{kind}-{batch['id']}"
                    self.files[f"{kind}-{batch['id']}"] = "\n".join(json.dumps(entry) for entry in reversed(entries))
            batch["status"] = status
