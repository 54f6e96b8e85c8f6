"""Defines the routes of the service."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from trition_repo_gen import __version__

from .answers import streamed_answers, whole_answers
from .catalog import Catalog, Model
from .connection import EventStream, unless_gone
from .errors import ApiError, from_validation
from .formats import ChatFormat, CompletionFormat, Format
from .guard import ApiKeys, Guard, Rate
from .health import Health
from .options import RestOptions
from .requests import ChatRequest, CompletionRequest
from .sequences import chat_sequences, completion_sequences
from .triton import SequenceInputs, Triton

_PAGE = Path(__file__).with_name("page")
_PAGE_FILES = {"/": ("index.html", "text/html"), "/page.js": ("page.js", "text/javascript")}
_PAGE_HEADERS = {
    "Cache-Control": "no-cache",
    # The page connects to this service only; it shows chosen images from memory.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_HEALTH_PATHS = ("/v1/health", "/v1/triton_health")


@dataclass(frozen=True)
class _Service:
    triton: Triton
    catalog: Catalog
    health: Health


_routes = APIRouter()


@_routes.get("/v1/models")
async def list_models(request: Request) -> dict[str, Any]:
    """List the models that take prompts."""
    models = await _service(request).catalog.models()
    return {"object": "list", "data": [model.card() for model in models]}


@_routes.get("/v1/models/{name:path}")
async def retrieve_model(name: str, request: Request) -> dict[str, Any]:
    """Describe one model."""
    return (await _service(request).catalog.get(name)).card()


@_routes.post("/v1/completions", response_model=None)
async def complete(body: CompletionRequest, request: Request) -> Response:
    """Continue prompts."""
    model = await _service(request).catalog.get(body.model)
    sequences = completion_sequences(body, model)
    return await _answer(body, request, model, sequences, CompletionFormat(model.name, body.choices))


@_routes.post("/v1/chat/completions", response_model=None)
async def chat(body: ChatRequest, request: Request) -> Response:
    """Answer a conversation."""
    model = await _service(request).catalog.get(body.model)
    sequences = chat_sequences(body, model)
    # The older name for `max_completion_tokens` is still the usual one.
    fields = {} if body.max_completion_tokens is None else {"max_length": "max_completion_tokens"}
    return await _answer(body, request, model, sequences, ChatFormat(model.name, body.choices, fields))


@_routes.get("/v1/health")
async def health(request: Request) -> JSONResponse:
    """Report 200 if Triton and every model answer, else 503 with reasons."""
    states = await _service(request).health.states()
    ill = {name: state for name, state in states.items() if state != "ok"}
    return JSONResponse({"status": "unavailable", "reasons": ill} if ill else {"status": "ok"}, 503 if ill else 200)


@_routes.get("/v1/triton_health")
async def triton_health(request: Request) -> JSONResponse:
    """Report the state of Triton and of every model."""
    states = await _service(request).health.states()
    well = all(state == "ok" for state in states.values())
    return JSONResponse({"status": "ok" if well else "unavailable"} | states, 200 if well else 503)


async def _answer(
    body: CompletionRequest | ChatRequest, request: Request, model: Model, sequences: list[SequenceInputs], form: Format
) -> Response:
    triton = _service(request).triton
    if body.stream:
        pieces = streamed_answers(triton, model, sequences)
        return EventStream(form.events(pieces, include_usage=body.includes_usage))

    async def answer() -> Response:
        try:
            pieces = await whole_answers(triton, model, sequences)
        except ApiError as error:
            raise form.explain(error) from None
        return Response(form.document(pieces), media_type="application/json")

    return await unless_gone(request.receive, answer())


def _service(request: Request) -> _Service:
    service: _Service = request.app.state.service
    return service


def create_app(options: RestOptions) -> ASGIApp:
    """Return the service as an ASGI application.

    Raises:
        ServerError: the file of keys cannot be used.
    """
    keys = None if options.api_key_file is None else ApiKeys.read(options.api_key_file)

    @asynccontextmanager
    async def connected(app: FastAPI) -> AsyncGenerator[None]:
        triton = Triton(options.triton)
        catalog = Catalog(triton)
        app.state.service = _Service(triton, catalog, Health(triton, catalog))
        yield
        await triton.close()

    # FastAPI's own documentation pages load scripts from other hosts.
    app = FastAPI(
        title="trgen", version=__version__, lifespan=connected, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.include_router(_routes)
    for path, (name, media_type) in _PAGE_FILES.items():
        app.add_api_route(path, _file((_PAGE / name).read_bytes(), media_type), include_in_schema=False)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_bug)
    return Guard(
        app,
        open_paths=frozenset((*_HEALTH_PATHS, *_PAGE_FILES)),
        keys=keys,
        max_body_bytes=options.max_body_mib * 2**20,
        rate=Rate(options.max_requests_per_minute),
        max_concurrent=options.max_concurrent_requests,
    )


def _file(content: bytes, media_type: str) -> Any:
    async def send() -> Response:
        return Response(content, media_type=media_type, headers=_PAGE_HEADERS)

    return send


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return from_validation(error.errors(), error.body).response()


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error, ApiError):
        return error.response()
    headers = None
    if error.status_code == 405:
        headers = {"Allow": _allowed(error)}
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
    message = {404: f"There is nothing at {request.url.path}.", 405: f"{request.method} is not allowed here."}
    answer = ApiError(error.status_code, message.get(error.status_code, str(error.detail)))
    answer.headers = headers
    return answer.response()


def _allowed(error: HTTPException) -> str:
    """Return the value of the header Allow for a path that lacks the method."""
    methods = (error.headers or {}).get("Allow", "")
    return ", ".join([*(["GET", "HEAD"] if "GET" in methods else ["POST"]), "OPTIONS"])


async def _on_bug(request: Request, error: Exception) -> Response:
    return ApiError(500, "The service has made a mistake; its log says more.").response()
