"""The daemon: the only place where anyio runs and aiohttp is loaded, and the only process that talks to the network.

start      the lock and the socket, before anything heavy is imported
app        the main path: one task group, top-down
listener   accepts; connection turns one producer's bytes into frames
sessions   a session's life over time, which comes in as a number
reporter   what occurred, as events ready to be sent; delivery sends them through a sink; receipts keep what became
control    what a command may ask
"""
