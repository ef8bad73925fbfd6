"""Modules that make an SDK count into the session when they are imported.

Each of them is optional, and does nothing if its SDK is not installed. They need Python 3.9.
"""

from __future__ import annotations

# How long the import of brakit took, in ms, if the preloaded sitecustomize.py measured it. It does so in an application
# that imports brakit, but not this package.
brakit_import_ms: float | None = None
