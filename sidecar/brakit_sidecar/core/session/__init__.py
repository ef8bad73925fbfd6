"""One session as pure state: what happens comes in as a call, and effects come out as values."""
