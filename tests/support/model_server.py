"""A model for tests: a real HTTP server on 127.0.0.1 that speaks OpenAI's protocol for chats, and answers by a script.

::

    with model_server(says("Hello"), fails(429), lambda request: says(request["messages"][-1]["content"])) as server:
        ...  # PLANMESH_MODEL__BASE_URL=server.base_url
    server.requests  # what it was asked
"""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Request = dict[str, Any]
"""The body of a request: `model`, `messages`, `tools`, `response_format`, …"""


@dataclass(frozen=True)
class Answer:
    """One answer, made by `says`, `calls`, `fails`, `sends` or `hangs`."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    completion: dict[str, Any] | None = None
    body: bytes | None = None
    endless: bool = False
    hangs: bool = False
    waits_s: float = 0.0


Script = Answer | Callable[[Request], Answer]


def says(text: str, *, input_tokens: int = 11, output_tokens: int = 7, finish: str = "stop", **options: Any) -> Answer:
    """A text. *finish* is why the model stopped: `length`, where the answer was cut short."""
    return _completion({"content": text}, finish, input_tokens, output_tokens, options)


def gives(value: Any, **options: Any) -> Answer:
    """A value, as the text of its JSON."""
    return says(json.dumps(value), **options)


def calls(
    *tools: tuple[str, Any], text: str | None = None, input_tokens: int = 11, output_tokens: int = 7, **options: Any
) -> Answer:
    """Calls of tools, each with its arguments: an object, or the text that stands where one should."""
    wanted = [
        {
            "id": f"call-{number}",
            "type": "function",
            "function": {"name": name, "arguments": given if isinstance(given, str) else json.dumps(given)},
        }
        for number, (name, given) in enumerate(tools)
    ]
    return _completion({"content": text, "tool_calls": wanted}, "tool_calls", input_tokens, output_tokens, options)


def fails(status: int, message: str = "no", *, code: str | None = None, retry_after_ms: int = 1) -> Answer:
    """An error of the endpoint, such as 429 or 500; it asks to be tried again soon."""
    error = {"error": {"message": message, "type": "test", "code": code}}
    return Answer(status, {"retry-after-ms": str(retry_after_ms)}, body=json.dumps(error).encode())


def sends(body: bytes, *, status: int = 200, endless: bool = False) -> Answer:
    """Any bytes, said to be JSON. *endless*: again and again, for ever."""
    return Answer(status, body=body, endless=endless)


def hangs() -> Answer:
    """Nothing, until the server ends."""
    return Answer(hangs=True)


def _completion(
    message: dict[str, Any], finish: str, input_tokens: int, output_tokens: int, options: dict[str, Any]
) -> Answer:
    total = input_tokens + output_tokens
    usage = {"prompt_tokens": input_tokens, "completion_tokens": output_tokens, "total_tokens": total}
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    completion = {"id": "chat-1", "object": "chat.completion", "created": 1, "choices": [choice], "usage": usage}
    return Answer(completion=completion, **options)


class ModelServer:
    """What the model was asked, and what it will say.

    Attributes:
        base_url: What to set as ``model.base_url``.
        script: The next answers, one a request; the last one is given again and again.
        requests: The bodies of all requests so far.
        headers: The headers of all requests so far, names in lower case.
        running: How many requests are being answered now;
        most_at_once: and the most that ever were.
    """

    def __init__(self, script: list[Script]) -> None:
        self.script = script
        self.requests: list[Request] = []
        self.headers: list[dict[str, str]] = []
        self.running = 0
        self.most_at_once = 0
        self.ended = threading.Event()
        self._lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.base_url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def environment(self, name: str = "scripted") -> dict[str, str]:
        """What a process has in its environment to use this model."""
        return {"PLANMESH_MODEL__NAME": name, "PLANMESH_MODEL__BASE_URL": self.base_url}

    def said(self, number: int = -1) -> str:
        """All text of the messages of a request, the last one unless told."""
        contents = [message.get("content") for message in self.requests[number]["messages"]]
        return "\n".join(content if isinstance(content, str) else json.dumps(content) for content in contents)

    def _next(self, request: Request) -> Answer:
        with self._lock:
            self.requests.append(request)
            script = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        return script(request) if callable(script) else script

    @contextlib.contextmanager
    def _one_more(self) -> Iterator[None]:
        with self._lock:
            self.running += 1
            self.most_at_once = max(self.most_at_once, self.running)
        try:
            yield
        finally:
            with self._lock:
                self.running -= 1

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.headers.append({name.lower(): value for name, value in self.headers.items()})
                if self.path != "/v1/chat/completions":
                    return self._send(fails(404, f"there is no {self.path}"), request)
                with server._one_more(), contextlib.suppress(OSError):
                    return self._send(server._next(request), request)

            def _send(self, answer: Answer, request: Request) -> None:
                if answer.hangs or answer.waits_s:
                    server.ended.wait(None if answer.hangs else answer.waits_s)
                if server.ended.is_set():
                    self.close_connection = True
                    return
                streamed = bool(request.get("stream")) and answer.completion is not None
                completion = {"model": request.get("model"), **(answer.completion or {})}
                body = answer.body
                if body is None:
                    body = _events(completion) if streamed else json.dumps(completion).encode()
                self.send_response(answer.status)
                self.send_header("Content-Type", "text/event-stream" if streamed else "application/json")
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                if answer.endless:
                    self.close_connection = True
                else:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                while answer.endless and not server.ended.is_set():
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def _events(completion: dict[str, Any]) -> bytes:
    """The same completion as a stream of server-sent events: one word an event."""
    choice = completion["choices"][0]
    message = choice["message"]
    words = [{"content": word} for word in (message["content"] or "").split(" ")] if message["content"] else []
    for number, word in enumerate(words[1:], 1):
        words[number] = {"content": f" {word['content']}"}
    wanted = [{**call, "index": index} for index, call in enumerate(message.get("tool_calls", ()))]
    deltas = [{"role": "assistant"}, *words, *([{"tool_calls": wanted}] if wanted else [])]
    head = {**completion, "object": "chat.completion.chunk"}
    chunks = [
        {**head, "usage": None, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas
    ]
    chunks.append(
        {**head, "usage": None, "choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]}
    )
    chunks.append({**head, "choices": []})
    return b"".join(b"data: %s\n\n" % json.dumps(chunk).encode() for chunk in chunks) + b"data: [DONE]\n\n"


@contextlib.contextmanager
def model_server(*script: Script) -> Iterator[ModelServer]:
    """Run a model until the block ends.

    Args:
        script: See `ModelServer.script`; with none, it says "Hello".
    """
    model = ModelServer(list(script) or [says("Hello")])
    thread = threading.Thread(target=model.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield model
    finally:
        model.ended.set()
        model.server.shutdown()
        thread.join()
        model.server.server_close()
