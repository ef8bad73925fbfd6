"""The applications that the end-to-end tests run, each in processes of its own."""
