"""A server on loopback that speaks as much of a Diaryx server's protocol as namespaces need, and can misbehave."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from peers import Answer, HttpPeer, Route, Seen, serve

__all__ = ["TOKEN", "Diaryx", "diaryx"]

TOKEN = "test-bearer-token-91b2"


def json_answer(value: Any, status: int = 200) -> Answer:
    return Answer(status, (("Content-Type", "application/json"),), json.dumps(value).encode())


def refusal(status: int, words: str) -> Answer:
    return json_answer({"error": words}, status)


class Diaryx(dict[str, Route]):
    """Routes for ``peers.serve``: every path leads here. ``misbehaves`` may answer a request instead."""

    def __init__(self) -> None:
        self.namespaces: dict[str, dict[str, Any]] = {}
        self.objects: dict[tuple[str, str], tuple[bytes, str, str | None]] = {}
        self.audiences: dict[tuple[str, str], Any] = {}
        self.misbehaves: Callable[[Seen], Answer | None] = lambda _: None
        self.has_multipart = True
        self.peer: HttpPeer

    def get(self, key: str, default: Any = None) -> Any:
        return self.answer

    @property
    def base_url(self) -> str:
        return self.peer.url("/api")

    def requests(self) -> list[str]:
        return [f"{seen.method} {seen.target}" for seen in self.peer.seen]

    def answer(self, seen: Seen) -> Answer:
        odd = self.misbehaves(seen)
        if odd is not None:
            return odd
        if seen.headers.get("authorization") != f"Bearer {TOKEN}":
            return Answer(401)
        target = urlsplit(seen.target)
        prefix, *parts = target.path.removeprefix("/").split("/")
        if (prefix, parts[:1]) != ("api", ["namespaces"]):
            return refusal(404, "Not found")
        query = dict(parse_qsl(target.query, keep_blank_values=True))
        if len(parts) == 1:
            return self._of_all(seen)
        ns, rest = unquote(parts[1]), parts[2:]
        if ns not in self.namespaces:
            return refusal(404, "Namespace not found")
        match rest:
            case ["objects"]:
                return self._list(ns, query)
            case ["objects", *segments]:
                return self._object(seen, ns, "/".join(map(unquote, segments)))
            case ["batch", "objects", *multipart]:
                return self._batch(seen, ns, is_multipart=bool(multipart))
            case ["audiences"]:
                return json_answer([{"namespace_id": ns, "name": name} for n, name in self.audiences if n == ns])
            case ["audiences", name]:
                return self._audience(seen, ns, unquote(name))
            case ["audiences", _, "send-email"]:
                return json_answer({"recipients": 3, "send_receipt_key": "_receipts/1", "extra": True})
            case ["build"]:
                return Answer(204)
        return refusal(404, "Not found")

    def _of_all(self, seen: Seen) -> Answer:
        if seen.method == "GET":
            return json_answer(list(self.namespaces.values()))
        ns = f"ns-{len(self.namespaces)}"
        made = {"id": ns, "owner_user_id": "u1", "created_at": 1700000000, **json.loads(seen.body), "new": 1}
        self.namespaces[ns] = made
        return json_answer(made, 201)

    def _list(self, ns: str, query: dict[str, str]) -> Answer:
        keys = sorted(key for n, key in self.objects if n == ns and key.startswith(query.get("prefix", "")))
        offset = int(query.get("offset", 0))
        return json_answer([self._info(ns, key) for key in keys[offset : offset + int(query.get("limit", 100))]])

    def _info(self, ns: str, key: str) -> dict[str, Any]:
        content, mime_type, audience = self.objects[ns, key]
        return {
            "namespace_id": ns,
            "key": key,
            "r2_key": f"ns/{ns}/{key}",
            "audience": audience,
            "mime_type": mime_type,
            "size_bytes": len(content),
            "updated_at": 1700000001,
            "content_hash": hashlib.sha256(content).hexdigest(),
        }

    def _object(self, seen: Seen, ns: str, key: str) -> Answer:
        if seen.method == "PUT":
            self.objects[ns, key] = seen.body, seen.headers["content-type"], seen.headers.get("x-audience")
            return json_answer({"key": key, "size_bytes": len(seen.body)})
        if (ns, key) not in self.objects:
            return Answer(404)
        if seen.method == "DELETE":
            del self.objects[ns, key]
            return Answer(204)
        content, mime_type, _ = self.objects[ns, key]
        return Answer(200, (("Content-Type", mime_type),), content)

    def _audience(self, seen: Seen, ns: str, name: str) -> Answer:
        if seen.method == "PUT":
            self.audiences[ns, name] = json.loads(seen.body)
            return json_answer({"namespace_id": ns, "name": name})
        return Answer(204) if self.audiences.pop((ns, name), None) else refusal(404, "Audience not found")

    def _batch(self, seen: Seen, ns: str, *, is_multipart: bool) -> Answer:
        if is_multipart and not self.has_multipart:
            return Answer(404)
        keys = json.loads(seen.body)["keys"]
        found = {key: self.objects[ns, key] for key in keys if (ns, key) in self.objects}
        missing = [key for key in keys if key not in found]
        return self._parts(found, missing) if is_multipart else self._entries(found, missing)

    def _parts(self, found: dict[str, tuple[bytes, str, str | None]], missing: list[str]) -> Answer:
        body = b""
        for key in (*found, *missing):
            content, mime_type, _ = found.get(key, (b"Object not found", "text/plain", None))
            name = key.replace('"', '\\"')
            head = f'--batch-1\r\nContent-Disposition: attachment; filename="{name}"\r\n'
            head += "X-Batch-Error: true\r\n" if key in missing else ""
            head += f"Content-Type: {mime_type}\r\nContent-Length: {len(content)}\r\n\r\n"
            body += head.encode() + content + b"\r\n"
        return Answer(200, (("Content-Type", "multipart/mixed; boundary=batch-1"),), body + b"--batch-1--\r\n")

    def _entries(self, found: dict[str, tuple[bytes, str, str | None]], missing: list[str]) -> Answer:
        entries = {}
        for key, (content, mime_type, _) in found.items():
            is_text = mime_type.startswith("text/")
            data = content.decode() if is_text else base64.b64encode(content).decode()
            entries[key] = {"data": data, "mime_type": mime_type, "encoding": "text" if is_text else "base64"}
        return json_answer({"objects": entries, "errors": dict.fromkeys(missing, "Object not found")})


@contextmanager
def diaryx() -> Iterator[Diaryx]:
    routes = Diaryx()
    with serve(routes) as routes.peer:
        yield routes
