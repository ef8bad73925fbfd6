"""Modules that make an SDK count into the session when they are imported.

Each of them is optional, and does nothing if its SDK is not installed. They need Python 3.9.
"""
