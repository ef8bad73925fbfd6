"""brakit's telemetry sidecar: count in any number of worker processes, and one daemon reports the session."""

__version__ = "0.1.0"
