"""A developer's Flask application with brakit, SQLAlchemy and the sidecar."""

from __future__ import annotations

import os
import time

import brakit  # noqa: F401 (importing it sets it up)
import brakit_sidecar.integrations.brakit  # noqa: F401 (importing it sets it up)
from flask import Flask
from sqlalchemy import create_engine, text

from tests.e2e.apps import event_recorder  # noqa: F401 (importing it starts the recording)

app = Flask(__name__)
engine = create_engine("sqlite:///shop.db")


@app.get("/")
def index() -> str:
    return "hello"


@app.get("/users/<user>")
def show_user(user: str) -> str:
    return user


@app.post("/users")
def make_user() -> tuple[str, int]:
    return "made", 201


@app.get("/orders/<int:order>")
def show_order(order: int) -> str:
    with engine.connect() as connection:
        found: str = connection.execute(text("SELECT what FROM orders WHERE id = :id"), {"id": order}).scalar_one()
    return found


@app.get("/slow")
def slow() -> str:
    time.sleep(0.25)
    return "at last"


@app.get("/broken")
def broken() -> str:
    raise RuntimeError("as it is meant to")


@app.get("/meet/<int:workers>")
def meet(workers: int) -> str:
    """Answer as soon as ``workers`` workers handle this request. Each worker waits here for the others."""
    os.makedirs("met", exist_ok=True)
    with open(f"met/{os.getpid()}", "w", encoding="utf-8"):
        pass
    while len(os.listdir("met")) < workers:
        time.sleep(0.01)
    return str(os.getpid())


@app.get("/health")
def health() -> str:
    return str(os.getpid())


@app.get("/logo.svg")
def logo() -> str:
    return "<svg/>"
