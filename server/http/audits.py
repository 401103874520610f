"""`GET /v1/audits/{id}`: the audit that admitted a version, or did not."""

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from lorecall.adapters.errors import LorecallError
from lorecall.adapters.registry_jobs import JobNotFoundError
from lorecall.server.http.answers import error_answer
from lorecall.server.http.state import serving
from lorecall.server.request_context import sees

router = APIRouter()


@router.get("/v1/audits/{audit_id}")
async def show_audit(audit_id: str, raw_request: Request) -> Response:
    """Return an audit's state, and its decision and report once it is done; candidates are redacted."""
    try:
        job = await asyncio.to_thread(serving(raw_request).adapters.registry.jobs.get, audit_id)
        if not sees(job.name):
            raise JobNotFoundError(f"there is no job {audit_id[:64]!r}", param="id")
    except LorecallError as error:
        return error_answer(error)
    return JSONResponse(
        {
            "id": job.id,
            "adapter": job.name,
            "version": job.version,
            "state": job.state.value,
            "created_at": job.created_at.isoformat(),
            "finished_at": job.finished_at.isoformat() if job.finished_at else None,
            "result": job.result,
        }
    )
