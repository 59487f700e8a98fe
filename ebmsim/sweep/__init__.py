"""Many designs at once: the same formulas on arrays."""
