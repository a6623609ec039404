"""Who may do what: names of files, folders that may be read, the login, foreign pages."""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from src.errors import InputError

MAX_NAME = 80
HEADER = "x-flashvsr"  # a foreign page cannot send it without asking first, and is refused then
_RESERVED = re.compile(r"^(con|prn|aux|nul|com\d|lpt\d)(\..*)?$", re.IGNORECASE)
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_OPEN_PATH = "/gradio_api/startup-events"  # Gradio asks itself for it once, without a login


def safe_name(name: str) -> str:
    """A file name without folders, control characters and what Windows forbids; never empty, never hidden."""
    name = name.replace("\\", "/").rsplit("/", 1)[-1]
    name = re.sub(r'[\x00-\x1f\x7f<>:"|?*%]+', "_", name).strip(" .")
    stem, dot, suffix = name.rpartition(".")
    if not dot:
        stem, suffix = name, ""
    suffix = re.sub(r"[^\w]", "", suffix)[:10]
    stem = stem.strip(" .")[: MAX_NAME - len(suffix) - 1] or "file"
    name = f"{stem}.{suffix}" if suffix else stem
    return f"_{name}" if _RESERVED.match(name) else name


def inside(path: Path, folders: Iterable[Path]) -> bool:
    """True if ``path``, with every link followed, lies in one of ``folders``."""
    real = path.resolve()
    return any(real.is_relative_to(folder.resolve()) for folder in folders)


def parse_auth(pairs: Iterable[str]) -> dict[str, str]:
    """Passwords by user name from ``user:password`` words. InputError for a bad one."""
    users: dict[str, str] = {}
    for pair in pairs:
        user, colon, password = pair.partition(":")
        if not colon or not re.fullmatch(r"[\w.-]{1,40}", user) or user.strip(".") == "":
            raise InputError("--auth wants user:password; a user name has letters, digits, '.', '_' and '-'")
        if len(password) < 4:
            raise InputError(f"--auth: the password of {user} has fewer than 4 characters")
        users[user] = password
    return users


def user_of(headers: Any) -> tuple[str, str]:
    """User and password of an HTTP Basic header; empty where there is none."""
    kind, _, value = (headers.get("authorization") or "").partition(" ")
    if kind.lower() != "basic":
        return "", ""
    try:
        user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return user, password


class Guard:
    """ASGI middleware around everything: login where users are set, local names only where not.

    Without a login the page is for this machine. A foreign web site could still make a browser here send
    requests under a name that leads to 127.0.0.1; such names are refused, and so are writes from other origins.
    """

    def __init__(self, app: Any, users: dict[str, str]) -> None:
        self._app, self._users = app, users

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        from starlette.datastructures import Headers
        from starlette.responses import PlainTextResponse

        headers = Headers(scope=scope)
        refusal = None
        if self._users:
            if not self._knows(headers) and scope["path"] != _OPEN_PATH:
                ask = {"WWW-Authenticate": 'Basic realm="FlashVSR+", charset="UTF-8"'}
                refusal = PlainTextResponse("a user name and a password are needed", 401, ask)
        elif _host(headers.get("host", "")) not in _LOCAL_NAMES:
            refusal = PlainTextResponse("this page is for this computer only", 403)
        if refusal is None and _foreign(headers):
            refusal = PlainTextResponse("requests from other sites are refused", 403)
        await (refusal or self._app)(scope, receive, send)

    def _knows(self, headers: Any) -> bool:
        user, password = user_of(headers)
        expected = self._users.get(user)
        # Compared even for an unknown user, so that the time tells nothing.
        same = secrets.compare_digest(password.encode(), (expected or secrets.token_hex(8)).encode())
        return same and expected is not None


def _host(value: str) -> str:
    return (urlsplit(f"//{value}").hostname or "").lower()


def _foreign(headers: Any) -> bool:
    """True for a request that a page of another site makes a browser send."""
    origin = headers.get("origin")
    if not origin or origin == "null":
        return origin == "null"
    return urlsplit(origin).netloc.lower() not in (
        headers.get("host", "").lower(),
        headers.get("x-forwarded-host", "").lower(),
    )
