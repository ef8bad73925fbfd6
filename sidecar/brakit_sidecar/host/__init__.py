"""Facts of this machine: its paths, user, settings and processes.

Commands, daemon and worker's side use it. It makes small calls that return at once, and needs the standard library,
platformdirs (not on Linux) and Python 3.9.
"""
