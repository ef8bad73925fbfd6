"""The ways in which an application of tests/node/apps is written and started."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.node.application import Project, major

if TYPE_CHECKING:
    from tests.node.application import Application, Joining


class Way(NamedTuple):
    """``command`` follows the path of Node, or is that of another program on PATH."""

    command: tuple[str, ...]
    packages: tuple[str, ...] = ()
    dependencies: tuple[str, ...] = ()  # what package.json lists beside the packages
    framework: str = "unknown"
    first_node: int = 18
    is_program: bool = False


WAYS = {
    "an ES module": Way(("http.mjs",), dependencies=("fastify",)),
    "a CommonJS module": Way(("http.cjs",)),
    "express": Way(("express.mjs",), packages=("express",), framework="express"),
    "fastify": Way(("fastify.mjs",), packages=("fastify",), framework="fastify", first_node=20),
    "tsx": Way(("node_modules/tsx/dist/cli.mjs", "http.mts"), packages=("tsx",)),
    "npm run": Way(("npm", "run", "dev"), is_program=True),
    "a cluster": Way(("cluster.mjs",)),
    "worker threads": Way(("threads.mjs",)),
}


def project_for(way: Way, node: str, brakit: str | None = None) -> Project:
    """Return a directory for that way. Skips the test if this machine or this Node lacks something."""
    if major(node) < way.first_node:
        pytest.skip(f"needs Node {way.first_node}")
    if way.is_program and shutil.which(way.command[0]) is None:
        pytest.skip(f"{way.command[0]} is not installed")
    return Project(*way.packages, dependencies=way.dependencies, brakit=brakit)


def start(session: Joining, way: Way) -> Application:
    """Start an application in that way."""
    return session.start_program(*way.command) if way.is_program else session.start(*way.command)
