"""The pure core: values in, values out.

No module of the core uses a clock, a disk, a socket, an environment or a log.
"""
