"""Programs that run in child processes, and answer requests on stdin."""
