"""This machine: its paths, its user, its settings, its processes. The standard library and platformdirs; small calls
that return at once, made by the commands, the daemon and the worker's side alike.
"""
