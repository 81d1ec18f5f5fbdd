"""A search service on PostgreSQL that keeps serving while its index is migrated.

    uvicorn app:app

It writes to its own table and nowhere else: triggers in the database record what changes, and the
worker `embedmigrate sync --follow` brings it into the index. Nothing here names a model or a table
of vectors; which of them answer is decided by `embedmigrate upgrade` and `rollback`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from embedmigrate import Collection
from embedmigrate.errors import EmbedMigrateError

INSERT = sa.text("INSERT INTO articles (title, body) VALUES (:title, :body) RETURNING id")
UPDATE = sa.text("UPDATE articles SET title = :title, body = :body WHERE id = :id")
DELETE = sa.text("DELETE FROM articles WHERE id = :id")

log = logging.getLogger("uvicorn.error")
Text = Annotated[str, Query(min_length=1, max_length=1000)]
Id = Annotated[int, Path(ge=1, lt=2**63)]
STORABLE = r"^[^\x00]*$"  # PostgreSQL has no text with a NUL in it


class Document(BaseModel):
    title: str = Field(min_length=1, max_length=500, pattern=STORABLE)
    body: str = Field(max_length=100_000, pattern=STORABLE)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Once a process, so that `uvicorn --workers 4` is fine: each has a Collection of its own."""
    url = sa.make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+psycopg")
    app.state.database = sa.create_engine(url, pool_pre_ping=True)
    with Collection.open("articles") as app.state.articles:
        yield
    app.state.database.dispose()


app = FastAPI(title="articles", lifespan=lifespan)


# Functions that wait for a database or a model are no coroutines: FastAPI runs them in threads.


@app.get("/search")
def search(request: Request, q: Text, k: Annotated[int, Query(ge=1, le=100)] = 10) -> Any:
    """The nearest documents, and which model and index they come from."""
    found = request.app.state.articles.search(q, k=k)
    return {
        "generation": found.generation,
        "model": found.model,
        "index": found.index,
        "hits": [
            {"id": int(hit.id), "score": hit.score, "title": hit.metadata["title"]}
            for hit in found.hits
        ],
    }


@app.get("/vector")
def vector(request: Request, q: Text) -> Any:
    """An embedded query for `embedmigrate.search` in SQL, with the model that it is of."""
    with request.app.state.articles.route() as route:
        key = f"{route.model.fingerprint}:{route.model.query_side}"
        return {"model_key": key, "vector": route.embed_query(q).tolist()}


@app.get("/healthz")
def healthz(request: Request, response: Response) -> Any:
    """For a readiness probe: 200 while the live index can be searched here."""
    health = request.app.state.articles.health()
    response.status_code = 200 if health["ok"] else 503
    return health


@app.post("/documents", status_code=201)
def add(request: Request, document: Document) -> Any:
    with request.app.state.database.begin() as connection:
        return {"id": connection.execute(INSERT, document.model_dump()).scalar_one()}


@app.put("/documents/{id}", status_code=204)
def edit(request: Request, id: Id, document: Document) -> None:
    with request.app.state.database.begin() as connection:
        changed = connection.execute(UPDATE, {**document.model_dump(), "id": id})
    if not changed.rowcount:
        raise HTTPException(404, "there is no such document")


@app.delete("/documents/{id}", status_code=204)
def delete(request: Request, id: Id) -> None:
    with request.app.state.database.begin() as connection:
        connection.execute(DELETE, {"id": id})


@app.exception_handler(sa.exc.OperationalError)
@app.exception_handler(EmbedMigrateError)
def unavailable(_request: Request, error: Exception) -> JSONResponse:
    """503 for what may be over in a moment, 500 for what a person has to look at."""
    log.error("%s", error.orig if isinstance(error, sa.exc.OperationalError) else error)
    passes = not isinstance(error, EmbedMigrateError) or error.exit_code == 75
    return JSONResponse({"detail": "not available now"}, 503 if passes else 500)
