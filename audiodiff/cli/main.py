"""The command `audiodiff`: finds the verb, loads it only then, and turns errors into one line and an exit code."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, TextIO

import click

from audiodiff import __version__
from audiodiff.cli.options import warnings_logged
from audiodiff.cli.progress import above_the_line
from audiodiff.cli.signals import exit_on_signals
from audiodiff.cli.verbs import global_options, with_global_options
from audiodiff.errors import AudiodiffError, escape_unprintable, explain_os_error

# verb: (where its click command is, what `audiodiff --help` says of it). A new verb is one more line.
VERBS = {
    "vocode": ("audiodiff.cli.vocode:command", "Turn recordings or mel spectrograms into audio."),
    "mel-match": ("audiodiff.cli.mel_match:command", "Name the convention that mels follow."),
    "serve": ("audiodiff.cli.serve:command", "Serve a vocoder by HTTP and WebSocket."),
    "ui": ("audiodiff.cli.ui:command", "Serve a page to vocode, generate and repair in a browser."),
    "generate": ("audiodiff.cli.generate:command", "Generate clips, of a class or unconditionally."),
    "repair": ("audiodiff.cli.repair:command", "Restore damaged recordings with a pretrained model."),
    "new": ("audiodiff.cli.new:command", "Train a model of your own sound, and hear what it gains."),
    "prepare": ("audiodiff.cli.prepare:command", "Split recordings into train, valid and test manifests."),
    "doctor": ("audiodiff.cli.doctor:command", "Check recordings before training on them."),
    "train": ("audiodiff.cli.train:command", "Train or fine-tune a model from a YAML configuration."),
    "compare": ("audiodiff.cli.compare:command", "Compare training runs over their seeds."),
    "search": ("audiodiff.cli.search:command", "Search noise schedules, or the noise-level embedding."),
    "evaluate": ("audiodiff.cli.evaluate:command", "Score generated audio; compare systems; listening tests."),
    "plot": ("audiodiff.cli.plot:command", "Plot audio, a model, a training run or results."),
    "convert": ("audiodiff.cli.convert:command", "Convert a checkpoint of another project into a model folder."),
    "export": ("audiodiff.cli.export:command", "Export a trained model as a folder to share."),
    "bench": ("audiodiff.cli.bench:command", "Benchmark synthesis and training on this machine."),
    "info": ("audiodiff.cli.info:command", "Describe a model, or list the bundled ones."),
}

RENAMED_OPTIONS = {
    "--levels": "--log-snrs",
    "--picture": "--plot",
    "--steering": "--dps",
    "--try": "--degrade",
    "--free": "--no-replace",
    "--chunk": "--chunk-seconds",
    "--valid-share": "--valid-fraction",
    "--test-share": "--test-fraction",
}
RENAMED_COMMANDS = {"levels": "loss-by-noise-level"}
"""Old names, which commands that have the new one still take, with a warning."""

_logger = logging.getLogger("audiodiff")


class _Handler(logging.StreamHandler[TextIO]):
    """Writes lines to stderr, above a bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        with above_the_line():
            super().emit(record)


class _LineFormatter(logging.Formatter):
    """Plain lines for progress, `warning: …` and `error: …` for the rest."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        return line if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {line}"


@contextmanager
def _logging_to_stderr() -> Iterator[None]:
    handler = _Handler()
    handler.setFormatter(_LineFormatter())
    _logger.addHandler(handler)
    if _logger.level == logging.NOTSET:
        _logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        _logger.removeHandler(handler)
        _logger.setLevel(logging.NOTSET)


def _flush_output() -> None:
    if sys.stdout is not None:  # which it is where it was closed before Python started
        sys.stdout.flush()


def _drop_output() -> None:
    """Let go of output that cannot be written, which Python would try once more at its end."""
    try:
        _flush_output()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explain(error: Exception) -> str:
    if isinstance(error, AudiodiffError):
        return f"error: {error}"
    if isinstance(error, OSError) and error.errno is not None:
        return f"error: {explain_os_error(error)}"
    if isinstance(error, MemoryError) or "not enough memory" in str(error) or "allocate memory" in str(error):  # torch
        return f"error: there is not enough memory ({error}). Give shorter files, smaller batches or a smaller model."
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return f"error: unexpected {what} (run the same command with --debug for the traceback)"


def _with_new_names(command: click.Command, args: list[str]) -> list[str]:
    """Replace old names of options and commands, with a warning."""
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    args = args.copy()
    for i, word in enumerate(args):
        if word == "--":
            break
        if isinstance(command, click.Group) and not word.startswith("-"):
            args[i] = _new_name(word, RENAMED_COMMANDS, command.commands)
            inner = command.commands.get(args[i])
            return args if inner is None else [*args[: i + 1], *_with_new_names(inner, args[i + 1 :])]
        option, equals, value = word.partition("=")
        args[i] = _new_name(option, RENAMED_OPTIONS, known) + equals + value
    return args


def _new_name(name: str, renamed: Mapping[str, str], known: Collection[str]) -> str:
    new = renamed.get(name, name)
    if name in known or new not in known:
        return name
    if new != name:
        _logger.warning("%s is deprecated; use %s", name, new)
    return new


class Audiodiff(click.Group):
    """A click group that imports a verb when it is invoked, and is the one place where errors end."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the verbs, in the order of the table."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one verb and give it the global options too, so that they work before and after its name."""
        if cmd_name not in VERBS:
            return None
        module, _, attribute = VERBS[cmd_name][0].partition(":")
        return with_global_options(getattr(import_module(module), attribute))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Refuse an unknown verb by naming the known ones."""
        if args[0] == "bulk":
            _logger.warning("`audiodiff bulk` is now `audiodiff vocode --ray ADDRESS|local`; this name will go.")
            args = ["vocode", "--ray", "local", *("--ray" if word == "--address" else word for word in args[1:])]
        if args[0] not in VERBS and not args[0].startswith("-"):
            ctx.fail(f"no command {args[0]!r}; choose from {', '.join(VERBS)}")
        name, command, rest = super().resolve_command(ctx, args)
        return name, command, rest if command is None else _with_new_names(command, rest)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs' help from the table, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(verb, text) for verb, (_, text) in VERBS.items()])

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command line; what the encoding of the output does not have is escaped and ends nothing."""
        escape_unprintable()
        return super().main(*args, **extra)

    def invoke(self, ctx: click.Context) -> object:
        """Run the verb; an error becomes one line and exit code 1, Ctrl-C 130, other signals 128 and their number."""
        os.environ["MPLBACKEND"] = "agg"  # files only, whatever a notebook has set for its children
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads sleep while they wait, they do not spin
        with exit_on_signals(), _logging_to_stderr(), warnings_logged():
            try:
                result = super().invoke(ctx)
                _flush_output()  # here, where a full disk has a message
                return result
            except KeyboardInterrupt:
                click.echo("interrupted", err=True)
                ctx.exit(130)
            except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
                raise
            except Exception as error:
                if ctx.meta.get("audiodiff.debug"):
                    raise
                click.echo(_explain(error), err=True)
                _drop_output()
                ctx.exit(1)


@click.group(
    cls=Audiodiff,
    params=global_options(),
    subcommand_metavar="COMMAND [ARGS]...",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__)
def main() -> None:
    """Audio generation by waveform diffusion.

    `audiodiff COMMAND --help` explains a command, with examples at its end.
    """
