"""The worker's side, which runs inside an application's process.

It never raises, never blocks and starts no thread. It needs the standard library only, and Python 3.9.

telemetry     the API, and the stand-in that does nothing
producer      the API where telemetry is on
validation    the checks of what a caller passes
counting      the fast path: counters, and the rows of routes
counter_file  the file in which a worker counts
unsent_state  what a producer has reported, as state that can be sent again
link          the connection to the daemon: when it is made, and what is sent over it
channel       the non-blocking socket
descriptors   whether a descriptor still is what this package opened
place         a daemon, a session there, and the consent to report to it
joining       finds the place of this process
registry      the producers of this process, also after a fork
"""
