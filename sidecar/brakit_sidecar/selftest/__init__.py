"""The commands ``demo`` and ``audit``.

They use a private daemon and a local endpoint, and do not use the user's files.
"""
