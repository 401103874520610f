"""The page at `/audit/`: static files of our own, which load nothing from elsewhere and hold no data."""

import json
from functools import cache
from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response
from lorecall.audit.verdicts import GRAVITY
from lorecall.server.error_responses import error_body

router = APIRouter(include_in_schema=False)

TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@cache
def assets() -> dict[str, bytes]:
    """Return the page's files by name.

    report.css, with the verdicts' colours, is that of the HTML reports; verdicts.js is written from the records.
    """
    home = files("lorecall.audit")
    entries = [*home.joinpath("page").iterdir(), home.joinpath("reports", "templates", "report.css")]
    found = {entry.name: entry.read_bytes() for entry in entries if entry.name.split(".")[-1] in TYPES}
    return {**found, "verdicts.js": f"export const VERDICTS = {json.dumps(GRAVITY)};\n".encode()}


@router.get("/audit")
async def to_page() -> Response:
    """Redirect to the page, by a relative URL because a proxy may serve it below another path."""
    return RedirectResponse("audit/")


@router.get("/audit/")
async def show_page() -> Response:
    """Return the page."""
    return await show_asset("index.html")


@router.get("/audit/{name}")
async def show_asset(name: str) -> Response:
    """Return one of the page's files."""
    content = assets().get(name)
    if content is None:
        return error_body("no such file of the page", 404, code="not_found")
    return Response(content, media_type=TYPES[name.rsplit(".", maxsplit=1)[-1]], headers=HEADERS)
