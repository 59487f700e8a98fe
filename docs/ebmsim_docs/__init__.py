"""What the documentation is built with: examples that run, pages written from schemas and docstrings."""
