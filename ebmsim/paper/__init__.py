"""What the characterisation paper publishes, beside what is computed here."""
