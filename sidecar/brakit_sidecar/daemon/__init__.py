"""The daemon: the only package that imports anyio and aiohttp, and the only process that uses the network.

start        the lock and the socket, before anything heavy is imported
server       the main path: start, main loop, stop
intake       the listener and its connections; all descriptor pressure
connection   one connection's I/O; protocol is the same without I/O
interfaces   what these parts know of each other
service      the sessions' book: what a connection may call; it seals
effect_runner  carries out what core/session decides
journal      what the next daemon needs; recovery reads it
reporter     makes events; delivery sends them through a sink; receipts keep what became of them
control      what a command may ask
"""
