"""The pure core: values in, values out. No module in it uses a clock, a disk, a socket, an environment or a log."""
