"""The control plane over HTTP: `/v1/adapters`, and vLLM's two adapter routes through the same pipeline."""

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from lorecall.adapters.errors import LorecallError, UsageError
from lorecall.server.http.answers import error_answer
from lorecall.server.http.state import serving
from pydantic import BaseModel, ConfigDict, Field
from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest, UnloadLoRAAdapterRequest
from vllm.entrypoints.serve.utils.api_utils import validate_json_request

router = APIRouter()
JSON_ONLY = [Depends(validate_json_request)]


class AddRequest(BaseModel):
    """The body of `POST /v1/adapters`."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1)
    source: str = Field(min_length=1)
    pin: bool = False


@router.post("/v1/adapters", status_code=201, dependencies=JSON_ONLY)
async def add_adapter(request: AddRequest, raw_request: Request) -> Response:
    """Add an adapter, or move its name to a new version."""
    try:
        added = await serving(raw_request).adapters.add(request.name, request.source, pin=request.pin)
    except LorecallError as error:
        return error_answer(error)
    return JSONResponse(added.describe(), status_code=201)


@router.get("/v1/adapters")
async def list_adapters(raw_request: Request) -> Response:
    """Return the adapters that are live."""
    adapters = [one.describe() for one in serving(raw_request).adapters.list()]
    return JSONResponse({"adapters": adapters})


@router.get("/v1/adapters/{name}")
async def show_adapter(name: str, raw_request: Request) -> Response:
    """Return one adapter."""
    try:
        return JSONResponse(serving(raw_request).adapters.get(name).describe())
    except LorecallError as error:
        return error_answer(error)


@router.delete("/v1/adapters/{name}")
async def remove_adapter(name: str, raw_request: Request) -> Response:
    """Take an adapter out of service and out of the engine."""
    try:
        removed = await serving(raw_request).adapters.remove(name)
    except LorecallError as error:
        return error_answer(error)
    return JSONResponse({**removed.describe(), "state": "retired"})


@router.post("/v1/load_lora_adapter", dependencies=JSON_ONLY)
async def load_lora_adapter(request: LoadLoRAAdapterRequest, raw_request: Request) -> Response:
    """VLLM's own request and answer, through our pipeline."""
    plane = serving(raw_request).adapters
    try:
        known = {one.name for one in plane.list()}
        if request.lora_name in known and not request.load_inplace:
            raise UsageError(
                f"The lora adapter '{request.lora_name}' has already been loaded.",
                hint="set load_inplace to true to move the name to a new version",
                param="lora_name",
            )
        await plane.add(request.lora_name, request.lora_path)
    except LorecallError as error:
        return error_answer(error)
    return PlainTextResponse(f"Success: LoRA adapter '{request.lora_name}' added successfully.")


@router.post("/v1/unload_lora_adapter", dependencies=JSON_ONLY)
async def unload_lora_adapter(request: UnloadLoRAAdapterRequest, raw_request: Request) -> Response:
    """VLLM's own request and answer, through our pipeline."""
    try:
        await serving(raw_request).adapters.remove(request.lora_name)
    except LorecallError as error:
        return error_answer(error)
    return PlainTextResponse(f"Success: LoRA adapter '{request.lora_name}' removed successfully.")
