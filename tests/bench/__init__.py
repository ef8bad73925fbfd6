"""The benchmarks: `python -m tests.bench` compares the sidecar with similar tools and prints tables for each group.

measuring  interleaved samples, and tables of them
child      a child process that measures on request
sessions   a session for a benchmark, and the check that all its counts arrived
groups     the measurements, one module for each group
workers    the programs that run in child processes
"""
