"""What runs in processes of its own, told on stdin what to do."""
