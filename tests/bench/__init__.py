"""The benchmarks: `python -m tests.bench` measures the sidecar beside its peers and prints a table for each group.

measuring  samples side by side, and tables of them
child      a process that measures when it is told to
sessions   a session in a daemon's place, and whether all that was counted arrived
groups     what is measured, each group in a module of its own
workers    what runs in processes of its own
"""
