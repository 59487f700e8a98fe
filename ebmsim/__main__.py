"""`python -m ebmsim` is the command line."""

from ebmsim.cli.main import main

main()
