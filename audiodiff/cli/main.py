"""The command `audiodiff`: finds the verb, loads it only then, and turns errors into one line and an exit code."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module

import click

from audiodiff import __version__
from audiodiff.errors import AudiodiffError

# verb: (where its click command is, what `audiodiff --help` says of it). A new verb is one more line.
VERBS = {
    "vocode": ("audiodiff.cli.vocode:command", "Turn recordings or mel spectrograms into audio."),
    "bulk": ("audiodiff.cli.bulk:command", "Vocode a large set of files on a Ray cluster."),
    "repair": ("audiodiff.cli.repair:command", "Mend recordings with a model that was not trained to."),
    "generate": ("audiodiff.cli.generate:command", "Make new audio, of a label where the model has labels."),
    "train": ("audiodiff.cli.train:command", "Train a model as a YAML file describes it."),
    "search": ("audiodiff.cli.search:command", "Search noise levels, or the noise-level embedding."),
    "prepare": ("audiodiff.cli.prepare:command", "List a folder of recordings in train, valid and test manifests."),
    "convert": ("audiodiff.cli.convert:command", "Turn a checkpoint of another project into a model folder."),
    "evaluate": ("audiodiff.cli.evaluate:command", "Score recordings against their originals; pages to listen."),
    "plot": ("audiodiff.cli.plot:command", "Draw audio, a model, a training run or results."),
    "doctor": ("audiodiff.cli.doctor:command", "Examine recordings before they are trained on."),
    "export": ("audiodiff.cli.export:command", "Write a trained model as a folder to give away."),
    "bench": ("audiodiff.cli.bench:command", "Measure how fast this machine is with a model."),
    "info": ("audiodiff.cli.info:command", "Show what is inside a model folder."),
}

_LEVELS = {"verbose": logging.DEBUG, "quiet": logging.WARNING}
_logger = logging.getLogger("audiodiff")


class _LineFormatter(logging.Formatter):
    """Plain lines for progress, `warning: …` and `error: …` for the rest."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        return line if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {line}"


@contextmanager
def _logging_to_stderr() -> Iterator[None]:
    handler = logging.StreamHandler()
    handler.setFormatter(_LineFormatter())
    _logger.addHandler(handler)
    if _logger.level == logging.NOTSET:
        _logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        _logger.removeHandler(handler)
        _logger.setLevel(logging.NOTSET)


def _set_level(_context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        _logger.setLevel(_LEVELS[str(parameter.name)])


def _set_debug(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        context.meta["audiodiff.debug"] = True


def _global_options() -> list[click.Parameter]:
    flag = partial(click.Option, is_flag=True, expose_value=False)
    return [
        flag(["-v", "--verbose"], callback=_set_level, help="Log details on stderr."),
        flag(["-q", "--quiet"], callback=_set_level, help="Log warnings and errors only."),
        flag(["--debug"], callback=_set_debug, help="Show the traceback of an error."),
    ]


def _explain(error: Exception) -> str:
    if isinstance(error, AudiodiffError):
        return f"error: {error}"
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return f"error: unexpected {what} (run the same command with --debug for the traceback)"


class VerbGroup(click.Group):
    """A click group that imports a verb when it is invoked, and is the one place where errors end."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the verbs, in the order of the table."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one verb and give it the global options too, so that they work before and after its name."""
        if cmd_name not in VERBS:
            return None
        module, _, attribute = VERBS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        taken = {name for parameter in command.params for name in parameter.opts}
        command.params += [option for option in _global_options() if not taken.intersection(option.opts)]
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Refuse an unknown verb by naming the known ones."""
        if args[0] not in VERBS and not args[0].startswith("-"):
            ctx.fail(f"no verb {args[0]!r}; choose from {', '.join(VERBS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs' help from the table, without importing them."""
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, text) for verb, (_, text) in VERBS.items()])

    def invoke(self, ctx: click.Context) -> object:
        """Run the verb; a stated or unexpected error becomes one line on stderr and exit code 1, Ctrl-C becomes 130."""
        with _logging_to_stderr():
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt:
                click.echo("interrupted", err=True)
                ctx.exit(130)
            except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
                raise
            except Exception as error:
                if ctx.meta.get("audiodiff.debug"):
                    raise
                click.echo(_explain(error), err=True)
                ctx.exit(1)


@click.group(
    cls=VerbGroup,
    params=_global_options(),
    subcommand_metavar="VERB [ARGUMENTS]",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__)
def main() -> None:
    """Waveform diffusion: from a mel spectrogram, a label or nothing to audio.

    `audiodiff VERB --help` explains a verb.
    """
