"""The commands ``demo`` and ``audit``. They use a private daemon and a local endpoint, and none of the user's files."""
