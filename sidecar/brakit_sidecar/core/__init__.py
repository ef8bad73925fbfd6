"""The pure middle: values in, values out. No clock, disk, socket, environment or log may appear here."""
