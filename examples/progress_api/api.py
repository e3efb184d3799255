"""The web side: start an import, once however often it is asked for, and follow it."""

from pathlib import Path
from typing import Annotated, Any

from celery_stackstate import IdempotencyConflict, InvalidKey, LogLine, StackState, StoreUnavailable
from fastapi import FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, Field

from jobs import app, import_rows

PAGE = Path(__file__).parent / "page.html"

api = FastAPI(title="Imports")
stackstate = StackState.of(app)


class Order(BaseModel):
    """What to import."""

    name: str = Field(min_length=1, max_length=100)
    rows: int = Field(ge=1, le=10_000)


@api.post("/imports", status_code=202)
def start(order: Order, response: Response, idempotency_key: Annotated[str, Header()]) -> dict[str, Any]:
    """Start an import: 202; the same request again: 200 and the same id; the same key for another import: 409."""
    try:
        result = import_rows.apply_async((order.name, order.rows), idempotency_key=idempotency_key)
    except IdempotencyConflict as conflict:
        raise HTTPException(409, f"the key {idempotency_key} belongs to another import, {conflict.task_id}") from None
    except InvalidKey as invalid:
        raise HTTPException(422, str(invalid)) from None
    response.status_code = 202 if result.created else 200
    response.headers["Location"] = f"/imports/{result.id}"
    return {"id": result.id, "created": result.created}


@api.get("/imports/{import_id}")
def show(import_id: str) -> dict[str, Any]:
    """Return how far an import is, who worked on it, what it logged last, and what came of it."""
    run = stackstate.runs.get(import_id)
    if run is None or run.task != import_rows.name:
        raise HTTPException(404, "there is no such import")
    return {
        "id": run.id,
        "status": run.status,
        "finished": run.finished,
        "progress": run.progress and {"done": run.progress.done, "total": run.progress.total},
        "attempts": [
            {"number": attempt.number, "status": attempt.status, "worker": attempt.worker, "pid": attempt.pid}
            for attempt in run.attempts
        ],
        "duplicates": run.duplicates,
        "log": [f"{line.at:%H:%M:%S} {line.message}" for line in last_lines(import_id)],
        "result": run.result,
        "error": run.error,
    }


def last_lines(import_id: str, most: int = 8) -> list[LogLine]:
    """Return the newest log lines of an import."""
    lines = stackstate.runs.logs(import_id, limit=2_000)
    return lines[-most:]


@api.exception_handler(StoreUnavailable)
def store_is_away(request: Request, error: StoreUnavailable) -> JSONResponse:
    """Answer 503 while the store is away. Nothing was started: the client may send the same request again."""
    return JSONResponse({"detail": "try again in a moment"}, 503, headers={"Retry-After": "2"})


@api.get("/", include_in_schema=False)
def page() -> FileResponse:
    """Return the page that starts imports and shows them."""
    return FileResponse(PAGE)
