"""The worker's side: it runs in somebody else's process. It never raises, never blocks, starts no thread, and loads
nothing of the standard library but C modules: an interpreter takes apart at its end whatever was loaded.

telemetry  the API, and its do-nothing form
producer   the API where telemetry is on: it keeps the account and tells it
account    what this process has said, as running state that can be said again
channel    the non-blocking socket
joining    which daemon and which session
registry   the producers of this process, after a fork too
"""
