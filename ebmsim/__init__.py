"""ebmsim: an analytical performance model of Energy-Based Models."""
