"""What `demo` and `audit` run: a private daemon and a local endpoint, with nothing of the user's."""
