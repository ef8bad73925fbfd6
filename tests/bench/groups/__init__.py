"""What is measured: each module's ``run`` gives tables, and what was not exact."""
