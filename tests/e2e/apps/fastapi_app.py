"""A developer's FastAPI application with brakit, SQLAlchemy and the sidecar, whose integration imports brakit."""

from __future__ import annotations

import asyncio
import os

import brakit_sidecar.integrations.brakit  # noqa: F401  # isort: skip (imported first, so that brakit's set-up is timed)
import brakit  # noqa: F401
from aiohttp import ClientSession
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse
from sqlalchemy import create_engine, text

from tests.e2e.apps import event_recorder  # noqa: F401 (importing it starts the recording)

app = FastAPI(default_response_class=PlainTextResponse)
engine = create_engine("sqlite:///shop.db")


@app.get("/")
async def index() -> str:
    return "hello"


@app.get("/users/{user}")
async def show_user(user: str) -> str:
    return user


@app.post("/users", status_code=201)
async def make_user() -> str:
    return "made"


@app.get("/orders/{order}")
def show_order(order: int) -> str:
    with engine.connect() as connection:
        found: str = connection.execute(text("SELECT what FROM orders WHERE id = :id"), {"id": order}).scalar_one()
    return found


@app.get("/slow")
async def slow() -> str:
    await asyncio.sleep(0.25)
    return "at last"


@app.get("/broken")
async def broken() -> str:
    raise RuntimeError("as it is meant to")


@app.get("/relayed")
async def relayed(request: Request) -> str:
    async with ClientSession() as client, client.get(str(request.url_for("health"))) as answer:
        return await answer.text()


@app.get("/health")
async def health() -> str:
    return str(os.getpid())


@app.get("/logo.svg")
async def logo() -> str:
    return "<svg/>"
