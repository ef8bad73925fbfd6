"""The pure core: values in, values out.

Must not know: clocks, disks, sockets, environment variables and logs.
"""
