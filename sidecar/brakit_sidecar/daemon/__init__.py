"""The daemon: the only package that imports anyio and aiohttp, and the only process that uses the network.

start            takes the lock and listens, before anything heavy is imported
server           the main path: start, main loop, stop
intake           the listener, its connections, and the shortage of descriptors
connection       the I/O of one connection; its protocol is in core
interfaces       the few methods by which intake and service call each other
service          applies reports to sessions, carries out effects, seals
consent_gate     whether telemetry is on now, and under which anonymous id
counter_files    the workers' counter files
process_watcher  the exits of processes that are not our children
journal          the records that the next daemon needs; recovery replays them
reporter         makes events; delivery sends them through a sink; receipts keep their outcomes
control          answers the commands
timers, config   due times, and all durations
service_manager  systemd's side
log              the daemon's log
"""
