"""`audiodiff search`: the noise levels of few steps, or the embedding of the noise level, by what comes of them."""

from __future__ import annotations

import click

from audiodiff.cli.search_rbf import rbf
from audiodiff.cli.search_schedule import schedule


@click.group("search", short_help="Search noise levels, or the noise-level embedding.")
def command() -> None:
    """Search the noise levels of few steps, or the embedding of the noise level, by what comes of them.

    `audiodiff search WHAT --help` explains one.
    """


command.add_command(schedule)
command.add_command(rbf)
