"""The groups of measurements. Each module's ``run`` returns tables, and the totals that were not exact."""
