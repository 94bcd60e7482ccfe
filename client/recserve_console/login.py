"""The page where one shows an API key, and the cookie of the session that begins there."""

from __future__ import annotations

from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import parse_qs

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from recserve_console.visitors import SESSION_S, Sessions

PATH: Final = "/login"
_LOGOUT: Final = "/logout"
_MOST_BYTES: Final = 4096
_UNAUTHORIZED: Final = 401
_SEE_OTHER: Final = 303
_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>recserve console</title>
<style>
body { font: 16px sans-serif; margin: 0; display: grid; place-items: center; min-height: 100vh; }
main { width: min(24rem, 90vw); }
label, input, button { display: block; width: 100%; box-sizing: border-box; font: inherit; margin-top: .6rem; }
input, button { padding: .6rem; border: 1px solid #7b8794; border-radius: 6px; }
button { background: #1f56b5; color: #fff; }
p { min-height: 1.4em; }
</style></head><body><main><h1>recserve</h1>
<form method="post" action="/login"><label for="key">API key</label>
<input id="key" name="key" type="password" autocomplete="off" required autofocus>
<button>Log in</button></form><p role="alert">MESSAGE</p></main></body></html>
"""


def cookie_name(*, has_tls: bool) -> str:
    """Name of the cookie; with TLS, browsers take it over TLS and for this host alone."""
    return "__Host-recserve" if has_tls else "recserve"


def token_of(cookies: str, *, has_tls: bool) -> str:
    """The token in a header `Cookie`; empty without one."""
    try:
        found = SimpleCookie(cookies).get(cookie_name(has_tls=has_tls))
    except CookieError:
        return ""
    return "" if found is None else found.value


def add_login(app: FastAPI, sessions: Sessions, *, has_tls: bool) -> None:
    """Add the routes that begin and end a session.

    Args:
        app: The console.
        sessions: Its sessions.
        has_tls: Whether the console is reached over TLS.
    """
    name = cookie_name(has_tls=has_tls)

    async def form(_: Request) -> Response:
        return HTMLResponse(_PAGE.replace("MESSAGE", ""))

    async def log_in(request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > _MOST_BYTES:
                break
        given = parse_qs(body[:_MOST_BYTES].decode(errors="replace")).get("key", [""])[0].strip()
        token = sessions.log_in(given)
        if token is None:
            return HTMLResponse(_PAGE.replace("MESSAGE", "This key is not valid."), _UNAUTHORIZED)
        answer = RedirectResponse("/", _SEE_OTHER)
        answer.set_cookie(name, token, max_age=SESSION_S, path="/", secure=has_tls, httponly=True, samesite="strict")
        return answer

    async def log_out(request: Request) -> Response:
        sessions.log_out(request.cookies.get(name, ""))
        answer = RedirectResponse(PATH, _SEE_OTHER)
        answer.delete_cookie(name, path="/", secure=has_tls, httponly=True, samesite="strict")
        return answer

    app.add_route(PATH, form, ["GET"])
    app.add_route(PATH, log_in, ["POST"])
    app.add_route(_LOGOUT, log_out, ["POST"])
