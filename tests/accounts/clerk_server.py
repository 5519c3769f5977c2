"""Clerk, on localhost: its JWKS endpoint and its "get user" call, over real HTTP, doing what a test tells it."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

ISSUER = "https://clerk.shop.example"
ORIGIN = "https://app.shop.example"


class Key:
    def __init__(self, kid: str) -> None:
        self.kid = kid
        self.private = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    @property
    def public_pem(self) -> bytes:
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @property
    def jwk(self) -> dict[str, Any]:
        jwk: dict[str, Any] = jwt.algorithms.RSAAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        return {**jwk, "kid": self.kid, "use": "sig", "alg": "RS256"}


ONE, TWO = Key("ins_one"), Key("ins_two")  # made once: a 2048-bit key costs time


def claims(**changes: Any) -> dict[str, Any]:
    """A session's claims as Clerk makes them; a change to None leaves the claim out."""
    now = int(time.time())
    base = {
        "azp": ORIGIN,
        "exp": now + 60,
        "iat": now,
        "iss": ISSUER,
        "nbf": now - 10,
        "sid": "sess_1",
        "sub": "user_1",
    }
    return {name: value for name, value in {**base, **changes}.items() if value is not None}


def session_token(key: Key = ONE, headers: dict[str, Any] | None = None, **changes: Any) -> str:
    """Signed by `key`. `PyJWS` and not `jwt.encode`, which refuses to make some of the tokens that must be refused."""
    payload = json.dumps(claims(**changes)).encode()
    return jwt.PyJWS().encode(payload, key.private, "RS256", {"kid": key.kid, **(headers or {})})


class ClerkServer:
    def __init__(self) -> None:
        self.keys: list[Any] = [ONE.jwk]
        self.users: dict[str, Any] = {}
        self.status = 200
        self.body: bytes | None = None  # instead of the keys
        self.hold: threading.Event | None = None  # an answer waits for it
        self.jwks_requests = 0
        self.user_requests: list[tuple[str, str | None]] = []  # subject, Authorization
        self.port = 0

    @property
    def jwks_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/.well-known/jwks.json"

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def answer(self, path: str, authorization: str | None) -> tuple[int, bytes]:
        if path.startswith("/v1/users/"):
            subject = path.removeprefix("/v1/users/")
            self.user_requests.append((subject, authorization))
            user = self.users.get(subject)
            return (200, json.dumps(user).encode()) if user else (404, b'{"errors": []}')
        self.jwks_requests += 1
        if self.hold is not None:
            self.hold.wait(10)
        return self.status, self.body if self.body is not None else json.dumps({"keys": self.keys}).encode()


@contextmanager
def clerk_server() -> Iterator[ClerkServer]:
    clerk = ClerkServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = clerk.answer(self.path, self.headers["Authorization"])
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if status == 302:
                self.send_header("Location", clerk.jwks_url)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    clerk.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield clerk
    finally:
        if clerk.hold is not None:
            clerk.hold.set()
        server.shutdown()
        server.server_close()
