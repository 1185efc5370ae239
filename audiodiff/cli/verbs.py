"""The classes of verbs: help in sections, options that every verb has, and how torch is imported."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from audiodiff.cli.progress import loading
from audiodiff.errors import needed


class ExpertOption(click.Option):
    """An option that help lists under "Expert options"."""


class GlobalOption(click.Option):
    """An option that every verb has; help lists it last."""


class Verb(click.Command):
    """A command whose help lists the common options first, and the expert and global ones in sections of their own.

    Args:
        arguments: As for a click command.
        examples: Command lines that end the help.
        packages: What must be installed before anything is done; the extra of the verb's name brings it.
        settings: As for a click command.
    """

    def __init__(
        self, *arguments: Any, examples: Sequence[str] = (), packages: Sequence[str] = (), **settings: Any
    ) -> None:
        super().__init__(*arguments, **settings)
        self.examples, self.packages = examples, packages

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. If it computes or reads much audio, import torch in the way that takes least CPU time."""
        for package in self.packages:
            if find_spec(package) is None:
                with needed(str(self.name), f"audiodiff {self.name}"):
                    raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        if {"threads", "workers"} & ctx.params.keys():
            threads, others = ctx.params.pop("threads", None), running_elsewhere()
            if "torch" not in sys.modules:
                with loading("torch"):
                    gc.disable()  # a quarter of the import is looking for garbage; freezing saves it at the end as well
                    import_module("audiodiff.pipelines")
                    gc.freeze()
                    gc.enable()
            torch = import_module("torch")
            if threads is None and "sampler" in ctx.params and "OMP_NUM_THREADS" not in os.environ:
                threads = idle_threads(torch.get_num_threads(), min(others, running_elsewhere()), os.cpu_count() or 1)
            if threads is not None:
                torch.set_num_threads(threads)
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": [], "Expert options": [], "Global options": []}
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx)
            if record is not None and isinstance(option, click.Option):
                is_global = isinstance(option, GlobalOption) or "--help" in option.opts
                is_expert = isinstance(option, ExpertOption)
                sections["Global options" if is_global else "Expert options" if is_expert else "Options"].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{example}\n")


def running_elsewhere() -> int:
    """Return how many other threads of this machine run or wait for a core at this moment; 0 where that is unknown."""
    try:
        return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0]) - 1
    except (OSError, ValueError, IndexError):
        return 0


def idle_threads(most: int, running: int, cores: int) -> int:
    """Return how many threads find a core of their own beside other programs.

    On a busy machine threads wait for each other, so that two can take longer than one.
    """
    return max(1, min(most, cores - running))


class VerbGroup(Verb, click.Group):
    """A verb with commands of its own, listed in the order of their definition."""

    command_class = Verb

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(self.commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Find a command, with the global options added."""
        command = super().get_command(ctx, cmd_name)
        return command and with_global_options(command)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, then the sections of options."""
        self.format_commands(ctx, formatter)
        Verb.format_options(self, ctx, formatter)


def global_options() -> list[click.Parameter]:
    """Return the options that every verb has."""
    flag = partial(GlobalOption, is_flag=True, expose_value=False)
    return [
        flag(["-v", "--verbose"], callback=_set_level, help="Log details on stderr."),
        flag(["-q", "--quiet"], callback=_set_level, help="Log warnings and errors only."),
        flag(["--debug"], callback=_set_debug, help="Show the traceback of an error."),
    ]


def with_global_options(command: click.Command) -> click.Command:
    """Give a command the global options that it lacks, so that they work before and after its name."""
    taken = {name for parameter in command.params for name in parameter.opts}
    command.params += [option for option in global_options() if not taken.intersection(option.opts)]
    return command


def _set_level(_context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        logging.getLogger("audiodiff").setLevel(logging.DEBUG if parameter.name == "verbose" else logging.WARNING)


def _set_debug(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        context.meta["audiodiff.debug"] = True
