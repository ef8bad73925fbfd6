"""How long a caller waits while it reports a journey event, compared with starting a process for it."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from functools import partial

from tests.bench.child import Child
from tests.bench.measuring import Contestant, Effort, Line, Report, Table, interleave
from tests.bench.sessions import inexact, served_session

EVENTS, SPAWNS = 50, 5  # in a round
# In an application, events are rare. Before each event, the daemon has finished its work, and the processor's caches
# hold other data.
PAUSE_S = 0.002
EVENT, AT_ONCE = "sidecar `t.event`, after a pause", "sidecar `t.event`, many in a row"
SEND = "one bare `send` to the daemon, after a pause"  # the least that any report to a daemon costs
POPEN = "`subprocess.Popen` of `python -c pass`"
SPAWN = "Node's `child_process.spawn` of `node -e 0`"

# brakit's SDK for Node sends an event by a detached process, and does not wait for it. The benchmark waits for the
# process before the next event, so that only one process runs at a time.
NODE = """
const { spawn } = require("child_process");
const lines = require("readline").createInterface({ input: process.stdin });
lines.on("line", async (line) => {
  const took = [];
  for (let left = JSON.parse(line).times; left > 0; left--) {
    const begun = process.hrtime.bigint();
    const child = spawn(process.execPath, ["-e", "0"], { detached: true, stdio: "ignore" });
    child.unref();
    took.push(Number(process.hrtime.bigint() - begun) / 1e3);
    await new Promise((ended) => child.on("exit", ended));
  }
  took.sort((a, b) => a - b);
  console.log(JSON.stringify({ us: took[took.length >> 1] }));
});
"""


def run(effort: Effort) -> Report:
    """Measure each way to report an event."""
    node = shutil.which("node") if effort.with_peers else None
    with ExitStack() as stack:
        _, session = stack.enter_context(served_session())
        reported = 0

        def events(pause_s: float) -> float:
            nonlocal reported
            reported += effort.times(EVENTS)
            return _median_us(worker, effort.times(EVENTS), pause_s)

        worker = stack.enter_context(Child.worker("journey", "event", environ=session.environ))
        send = stack.enter_context(Child.worker("journey", "send", environ=session.environ))
        popen = stack.enter_context(Child.worker("journey", "popen"))
        spawn = stack.enter_context(Child(node, "-e", NODE)) if node else None
        absent = "not available" if effort.with_peers else "left out"
        contestants = [
            Contestant(EVENT, partial(events, PAUSE_S)),
            Contestant(AT_ONCE, partial(events, 0)),
            Contestant(SEND, partial(_median_us, send, effort.times(EVENTS), PAUSE_S)),
            Contestant(POPEN, partial(_median_us, popen, effort.times(SPAWNS))),
            Contestant(SPAWN, partial(_median_us, spawn, effort.times(SPAWNS)) if spawn else None, absent),
        ]
        samples = interleave(contestants, effort.rounds)
        receipts = session.receipts(reported)
        lines = [
            *(Line(name, POPEN, at_most=1 / 15) for name in (EVENT, AT_ONCE)),
            *(Line(name, SPAWN, at_most=1 / 50) for name in (EVENT, AT_ONCE)),
            Line(SEND, POPEN),
            Line(POPEN),
            Line(SPAWN, POPEN),
        ]
        remarks = dict.fromkeys((EVENT, AT_ONCE), f"{receipts:,} of {reported:,} together")
        table = Table("Reporting one journey event", "µs", lines, samples, "arrived", remarks)
        return Report([table], inexact("events", receipts, reported))


def _median_us(worker: Child, times: int, pause_s: float = 0) -> float:
    took: float = worker.ask(times=times, pause_s=pause_s)["us"]
    return took
