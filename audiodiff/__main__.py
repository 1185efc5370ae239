"""Lets `python -m audiodiff` do what the command `audiodiff` does."""

from audiodiff.cli.main import main

if __name__ == "__main__":
    main(prog_name="audiodiff")
