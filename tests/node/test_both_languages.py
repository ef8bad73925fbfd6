"""A session that a Node and a Python application share: brakit's Python SDK forwards what it sees to the Node core."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import pytest

from tests.node.application import Application, Project
from tests.node.nodes import each_node

if TYPE_CHECKING:
    from tests.harness import Endpoint, Place

pytestmark = pytest.mark.slow

RUN = (sys.executable, "-m", "brakit_sidecar", "run", "--")
OF_NODE, OF_PYTHON = 30, 40

# An unmodified Flask application that starts the Node application. Its first line has the ports of both. Its last line
# has the number of requests that brakit has forwarded, as its calls of urlopen show.
APPLICATION = """
import json, os, subprocess, sys, threading, urllib.request
node = subprocess.Popen(["node", "http.mjs"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
(node_port,) = json.loads(node.stdout.readline())["ports"]
os.environ["BRAKIT_PORT"] = str(node_port)
forwarded = 0
all_forwarded = threading.Event()
urlopen = urllib.request.urlopen
def counting(request, **options):
    global forwarded
    answer = urlopen(request, **options)
    forwarded += sum(event["type"] == "request" for event in json.loads(request.data)["events"])
    if forwarded >= int(sys.argv[1]):
        all_forwarded.set()
    return answer
urllib.request.urlopen = counting

import brakit
from flask import Flask
from sqlalchemy import create_engine, text
from werkzeug.serving import make_server

app, engine = Flask(__name__), create_engine("sqlite://")

@app.get("/users/<user>")
def users(user):
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
    return str(os.getpid())

server = make_server("127.0.0.1", 0, app, threaded=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(json.dumps({"ports": [node_port, server.port]}), flush=True)
sys.stdin.read()
all_forwarded.wait(60)
node.stdin.close()
node.wait(60)
print(forwarded, flush=True)
"""


@each_node
def test_what_python_forwards_to_node_is_counted_once(place: Place, endpoint: Endpoint, node: str) -> None:
    with Project() as project:
        project.write("app.py", APPLICATION)
        os.mkdir(project.path("bin"))
        os.symlink(node, project.path("bin", "node"))
        environ = {**place.environ, "PATH": project.path("bin") + os.pathsep + os.environ["PATH"]}
        command = (*RUN, sys.executable, "app.py", str(OF_PYTHON))
        with Application(command, project.directory, environ) as application:
            node_port, python_port = application.ports
            application.ports = [node_port]
            application.get("/users/1", OF_NODE)
            application.ports = [python_port]
            application.get("/users/1", OF_PYTHON)
            assert application.stop() == 0
            assert json.loads(application.rest()) == OF_PYTHON
    session = endpoint.only_session()
    assert session["request_count"] == OF_NODE + OF_PYTHON
    assert session["query_count"] == OF_NODE + OF_PYTHON
    assert session["node_version"] is not None
    assert session["python_version"] is not None
    assert [len(endpoint.bodies_of(event)) for event in ("setup_completed", "first_request")] == [1, 1]
