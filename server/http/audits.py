"""`/v1/audits` and `/v1/capacity`: one router, in `lorecall serve` and in `lorecall audit serve`.

Bodies are read here and not by FastAPI, whose messages would quote the texts in them.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from lorecall.adapters.core.errors import UsageError
from lorecall.audit.evidence.changes import Diff, render_diff, render_diff_junit
from lorecall.audit.evidence.diff import compare
from lorecall.audit.jobs.order import FIELDS, Upload, make_order
from lorecall.audit.jobs.records import describe
from lorecall.audit.jobs.service import AuditService
from lorecall.audit.reports.build import parse_report
from lorecall.audit.reports.html import render_report
from lorecall.audit.reports.junit import render_junit
from lorecall.audit.runs.estimate import PROBED
from lorecall.server.auth.request_context import actor, charge_audit, own_sources, sees
from lorecall.server.error_responses import AnsweringRoute
from lorecall.server.executors import ask_engine
from lorecall.server.http.long_answers import long_answer
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

MAX_BODY = 64 << 20
LISTED = 1000
PAGE = 500
KINDS = ("json", "html", "xml")
TEXT_FIELDS = frozenset(
    {
        "adapter", "system", "template", "generate_controls", "turns", "split",
        "data", "candidates_from", "controls_from", "sha256", "data_format",
    }
)  # fmt: skip
"""Fields of a form that are taken as they are; the others are JSON."""

router = APIRouter(route_class=AnsweringRoute)


def service(request: Request) -> AuditService:
    """Return the server's audit service."""
    return request.app.state.lorecall_audits  # type: ignore[no-any-return]


@router.post("/v1/audits", status_code=202)
async def submit_audit(request: Request) -> Response:
    """Ask for an audit: a JSON object, or a form with the candidates as a file."""
    fields, files = await read_order(request)
    most = service(request).max_snippets
    sent = await asyncio.to_thread(make_order, fields, files, most, own_sources())
    order = await ask_engine(service(request).pinned, sent) if sent.texts.reference else sent
    await charge_audit(order.adapter, order.texts_to_score, order.tokens_to_score)
    record = await ask_engine(service(request).submit, order, sees, actor())
    return JSONResponse(describe(record), 202, {"Location": f"/v1/audits/{record.id}"})


@router.post("/v1/audits/estimate")
async def estimate_audit(request: Request) -> Response:
    """Return what an audit would cost: the body is that of an order, a few of whose candidates are scored."""
    fields, files = await read_order(request)
    order = await asyncio.to_thread(make_order, fields, files, service(request).max_snippets, own_sources())
    texts = min(order.texts_to_score, PROBED)
    await charge_audit(order.adapter, texts, order.tokens_to_score * texts // max(order.texts_to_score, 1))
    return JSONResponse(await ask_engine(service(request).estimate, order, sees))


@router.get("/v1/audits")
async def list_audits(
    request: Request,
    adapter: Annotated[str | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=LISTED)] = 100,
    before: Annotated[str | None, Query()] = None,
    *,
    removed: Annotated[bool, Query()] = False,
) -> Response:
    """Return the newest audits that the caller sees, or those older than `before`; or tombstones."""
    if removed:
        gone = await asyncio.to_thread(service(request).removed, sees, adapter, limit)
        return JSONResponse({"removed": gone})
    found = await asyncio.to_thread(service(request).audits, sees, adapter, limit, before)
    return JSONResponse({"audits": [describe(record) for record in found]})


@router.get("/v1/capacity")
async def show_capacity(
    request: Request,
    adapter: Annotated[list[str], Query(max_length=PAGE)] = [],  # noqa: B006  FastAPI copies it
    *,
    law: Annotated[bool, Query()] = True,
) -> Response:
    """Return the recall of each candidate set by version and rank, oldest first, and the law fitted to each."""
    rows = await asyncio.to_thread(service(request).capacity, sees, adapter)
    laws = await ask_engine(service(request).set_laws, rows) if law else []
    return JSONResponse({"rows": rows, "laws": laws})


@router.get("/v1/capacity/sets")
async def show_sets(request: Request) -> Response:
    """Return the candidate sets that live versions were audited on, each with rows of a few ranks."""
    return JSONResponse({"sets": await ask_engine(service(request).deployed_sets, sees)})


@router.get("/v1/capacity/sets/{candidate_set}/law")
async def show_set_law(candidate_set: str, request: Request) -> Response:
    """Return the law fitted to the rows that are shown of a set."""
    return JSONResponse(await ask_engine(service(request).set_law, candidate_set, sees))


@router.get("/v1/audits/{audit_id}")
async def show_audit(audit_id: str, request: Request) -> Response:
    """Return an audit's state and progress, and its decision once it is done."""
    return JSONResponse(describe(await asyncio.to_thread(service(request).get, audit_id, sees)))


@router.get("/v1/audits/{audit_id}/snippets")
async def show_snippets(
    audit_id: str,
    request: Request,
    offset: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=PAGE)] = 100,
) -> Response:
    """Return the entries recorded so far, from a position on."""
    found = await asyncio.to_thread(service(request).snippets, audit_id, sees, offset, limit)
    return await long_answer({"offset": offset, "snippets": found})


@router.get("/v1/audits/{audit_id}/report.{kind}")
async def show_report(audit_id: str, kind: str, request: Request) -> Response:
    """Return the report of an audit that is done: json, html, or xml (JUnit)."""
    _check_kind(kind)
    values = await asyncio.to_thread(service(request).report, audit_id, sees)
    if kind == "json":
        return await long_answer(values)
    report = await asyncio.to_thread(parse_report, values)
    if kind == "html":
        return HTMLResponse(await asyncio.to_thread(render_report, report))
    return Response(await asyncio.to_thread(render_junit, report), media_type="application/xml")


@router.get("/v1/audits/{audit_id}/diff/{other}.{kind}")
async def show_diff_as(audit_id: str, other: str, kind: str, request: Request) -> Response:
    """Return what changed from one audit to another that are both done: json, html, or xml (JUnit)."""
    _check_kind(kind)
    found = await asyncio.to_thread(_diff, service(request), audit_id, other)
    if kind == "json":
        return await long_answer(await asyncio.to_thread(found.values))
    if kind == "html":
        return HTMLResponse(await asyncio.to_thread(render_diff, found))
    return Response(await asyncio.to_thread(render_diff_junit, found), media_type="application/xml")


@router.get("/v1/audits/{audit_id}/diff/{other}")
async def show_diff(audit_id: str, other: str, request: Request) -> Response:
    """Return what changed from one audit to another, as JSON."""
    return await show_diff_as(audit_id, other, "json", request)


def _diff(audits: AuditService, before: str, after: str) -> Diff:
    return compare(*(parse_report(audits.report(one, sees)) for one in (before, after)))


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise UsageError(f"no format {kind[:20]!r}", hint=f"one of {', '.join(KINDS)}", param="kind")


@router.post("/v1/audits/{audit_id}/cancel")
async def cancel_audit(audit_id: str, request: Request) -> Response:
    """Stop an audit; what it has recorded stays."""
    return JSONResponse(describe(await asyncio.to_thread(service(request).cancel, audit_id, sees)))


@router.delete("/v1/audits/{audit_id}")
async def remove_audit(audit_id: str, request: Request) -> Response:
    """Remove an audit but for a tombstone; a running one is stopped first."""
    record = await asyncio.to_thread(service(request).remove, audit_id, sees, actor())
    return JSONResponse({"id": record.id, "adapter": record.adapter, "removed": True})


async def read_order(request: Request) -> tuple[dict[str, object], dict[str, Upload]]:
    """Return the fields and the files of a request's body.

    Raises:
        UsageError: It is too large, or neither a JSON object nor a form.
    """
    body = await read_body(request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind == "multipart/form-data":
        return await _read_form(request, body)
    if kind != "application/json":
        raise UsageError(
            f"the content type {kind[:80]!r}",
            hint="application/json or multipart/form-data",
            param="Content-Type",
        )
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise UsageError("the body is not JSON", param="body") from None  # the cause holds the body
    if not isinstance(value, dict):
        raise UsageError(f"the body is not a JSON object but {type(value).__name__}", param="body")
    return value, {}


async def read_body(request: Request) -> bytes:
    """Return a request's body.

    Raises:
        UsageError: It is larger than `MAX_BODY`.
    """
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise UsageError(
                f"the body is larger than {MAX_BODY >> 20} MiB", hint="send it in parts", param="body"
            )
    return bytes(body)


async def _read_form(request: Request, body: bytes) -> tuple[dict[str, object], dict[str, Upload]]:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    fields: dict[str, object] = {}
    files: dict[str, Upload] = {}
    try:
        form = await MultiPartParser(request.headers, stream(), max_files=4, max_fields=50).parse()
    except MultiPartException as error:
        raise UsageError(f"the form cannot be read: {error.message}", param="body") from None
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                files[name] = (value.filename or "upload", await value.read())
            else:
                fields[name] = _form_value(name, value, fields.get(name))
    finally:
        await form.close()
    unknown = sorted(set(files) - {"candidates", "controls", "data"})
    if unknown:
        raise UsageError(
            f"{len(unknown)} files under other names", hint="candidates or data, and controls", param="body"
        )
    return fields, files


def _form_value(name: str, text: str, before: object) -> object:
    """Return a form field's value; a framing may be given several times."""
    if name == "framing":
        return [*(before if isinstance(before, list) else []), text]
    if name in TEXT_FIELDS:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        known = name if name in FIELDS else None
        raise UsageError(
            f"the form's field {known!r} is not JSON" if known else "a field of the form is not known",
            hint="see the API in docs/audit-service.md",
            param=known,
        ) from None
