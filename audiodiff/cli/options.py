"""What verbs have in common: the layout of their help, shared options, progress, and warnings as lines of the log."""

from __future__ import annotations

import gc
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from audiodiff.choices import (
    CORRECTOR_STEPS,
    ITERATIONS,
    LOG_SNR,
    RATIO,
    SEED,
    STEPS,
    THREADS,
    WORKERS,
    Dtype,
    FilePath,
    Numbers,
    Sampler,
    Schedule,
    Start,
)

if TYPE_CHECKING:
    from tqdm import tqdm

    from audiodiff.pipelines.files import Job

SAMPLERS, SCHEDULES, STARTS, DTYPES = (get_args(choice) for choice in (Sampler, Schedule, Start, Dtype))
SCHEDULES_OF_MODELS = (*SCHEDULES, "searched")
"""Those, and what only a model's own folder knows."""

REVERSE = ("steps", "sampler", "corrector_steps", "corrector_snr", "schedule", "log_snrs", "zero_terminal")
"""Names of the options of `synthesis` that are fields of `audiodiff.config.SynthesisConfig`."""
VOCODING = (*REVERSE, "start", "griffin_lim_iterations")
"""Those, and the names of the options of `initialisation`."""

PATH, EXISTING = FilePath(path_type=Path), FilePath(exists=True, path_type=Path)
FILE, EXISTING_FILE = (FilePath(exists=exists, dir_okay=False, path_type=Path) for exists in (False, True))
FOLDER, EXISTING_FOLDER = (FilePath(exists=exists, file_okay=False, path_type=Path) for exists in (False, True))

_LOG = logging.getLogger(__name__)
_Function = TypeVar("_Function", bound=Callable[..., Any])


# --- help in sections -------------------------------------------------------------------------------------------------


class ExpertOption(click.Option):
    """An option that help lists under "Expert options"."""


class GlobalOption(click.Option):
    """An option that every verb has; help lists it last."""


expert = partial(click.option, cls=ExpertOption)
"""`click.option` for what few users need."""


class Verb(click.Command):
    """A command whose help lists the common options first, and the expert and global ones in sections of their own."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. If it computes (it has `--threads`), import torch in the way that takes least CPU time."""
        if "threads" in ctx.params:
            threads = ctx.params.pop("threads")
            os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads sleep while they wait, they do not spin
            if "torch" not in sys.modules:
                gc.disable()  # a quarter of the import is looking for garbage; the freezing saves it at the end as well
                import_module("audiodiff.pipelines")
                gc.freeze()
                gc.enable()
            if threads is not None:
                import_module("torch").set_num_threads(threads)
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


# --- options that several verbs share ---------------------------------------------------------------------------------


def _all(*options: Callable[[Any], Any]) -> Callable[[_Function], _Function]:
    """Return a decorator that adds options in this order."""

    def decorate(function: _Function) -> _Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def values(kind: Callable[[str], Any], expected: str) -> Callable[..., Any]:
    """Return a click callback for several values with commas between them.

    Args:
        kind: Turns one word into a value, and raises ValueError where it cannot.
        expected: What is expected, for the message.
    """

    def parse(_context: click.Context, _parameter: click.Parameter, text: str | None) -> tuple[Any, ...] | None:
        try:
            return None if text is None else tuple(kind(word) for word in text.split(","))
        except ValueError as error:
            raise click.BadParameter(f"{text!r} is not {expected}") from error

    return parse


files = _all(
    click.argument("inputs", nargs=-1, required=True, type=PATH, metavar="INPUTS..."),
    click.option(
        "--output",
        "-o",
        required=True,
        type=PATH,
        metavar="PATH",
        help="A folder; or, for one input file, a .wav or .flac file.",
    ),
)
"""The files that go in, and where the audio goes."""

model = click.option(
    "--model",
    metavar="NAME|FOLDER",
    help="A bundled model, a model folder or hub:OWNER/NAME.  [default: the bundled vocoder]",
)
resample = click.option("--resample", is_flag=True, help="Resample recordings to the model's sample rate.")
threads = expert("--threads", type=THREADS, metavar="N", help="CPU threads.  [default: torch's choice]")
device = _all(
    expert("--device", default="auto", metavar="DEVICE", show_default=True, help="auto, cpu, cuda, cuda:1 ..."), threads
)
dtype = expert(
    "--dtype",
    type=click.Choice(DTYPES),
    default="auto",
    show_default=True,
    help="Precision of the network's matrix products; auto is bf16 where the hardware has it.",
)
workers = expert("--workers", type=WORKERS, metavar="N", help="Parallel processes.  [default: one per core]")
steps = click.option("--steps", type=STEPS, metavar="N", help="Denoising steps.")
sampler = expert("--sampler", type=click.Choice(SAMPLERS), metavar="NAME", help=", ".join(SAMPLERS) + ".")
schedule = expert(
    "--schedule",
    type=click.Choice(SCHEDULES_OF_MODELS),
    metavar="NAME",
    help=f"{', '.join(SCHEDULES_OF_MODELS)}; searched is what `audiodiff search schedule` found.",
)
start = expert(
    "--start",
    type=click.Choice(STARTS),
    help="Initial signal: noise, or a waveform estimated from the mel by this method.",
)
initialisation = _all(
    start,
    expert(
        "--griffin-lim-iterations",
        type=ITERATIONS,
        metavar="N",
        help="Griffin-Lim iterations of the estimate; fewer are faster and lower the latency.",
    ),
)
"""What a vocoder starts from."""


def seed(what: str = "of the noise") -> Callable[[_Function], _Function]:
    """Return the option of the random seed."""
    return click.option("--seed", type=SEED, default=0, metavar="N", show_default=True, help=f"Random seed {what}.")


synthesis = _all(
    steps,
    seed(),
    click.option("--overwrite", is_flag=True, help="Replace existing files; else they are skipped."),
    sampler,
    schedule,
    expert(
        "--log-snrs",
        type=Numbers(LOG_SNR, example="-2,1,4,8"),
        metavar="LOG_SNR,...",
        help="Log-SNR of each step, noisiest first, instead of --steps and --schedule.",
    ),
    expert(
        "--zero-terminal/--no-zero-terminal",
        default=None,
        help="Stretch the schedule down to the lowest trained log-SNR, for a start from noise.",
    ),
    expert(
        "--corrector-steps",
        type=CORRECTOR_STEPS,
        metavar="N",
        help="Langevin steps at every noise level, each one more network call.",
    ),
    expert(
        "--corrector-snr",
        type=RATIO,
        metavar="RATIO",
        help="Signal-to-noise ratio of the Langevin step.",
    ),
    device,
    dtype,
)
"""The reverse process; `changes` picks the options that were given out of the arguments."""

study = _all(
    click.option(
        "--study",
        required=True,
        type=FILE,
        metavar="FILE",
        help="File of the trials; rerun the same command to resume from it.",
    ),
    seed("of all trials"),
)
"""What all searches have."""


def settings(example: str) -> Callable[[_Function], _Function]:
    """Return `--set KEY=VALUE`, which changes a value of a configuration; its help gives an example."""
    return click.option(
        "--set",
        "settings",
        metavar="KEY=VALUE",
        multiple=True,
        callback=_parse_settings,
        help=f"Change a value of the configuration, such as {example}; may be repeated.",
    )


def _parse_settings(_context: click.Context, _parameter: click.Parameter, words: tuple[str, ...]) -> dict[str, object]:
    """Turn KEY=VALUE words into dotted keys and YAML values."""
    from audiodiff.errors import ConfigError
    from audiodiff.text import parse_yaml

    settings: dict[str, object] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not (name and equals):
            raise click.BadParameter(f"{word!r} is not KEY=VALUE")
        try:
            settings[name] = parse_yaml(text, f"the value of {name}", ConfigError)
        except ConfigError as error:
            raise click.BadParameter(str(error)) from error
    return settings


def changes(**options: Any) -> Any:
    """Return the options that were given, as `audiodiff.pipelines.SynthesisChanges`."""
    return {name: value for name, value in options.items() if value is not None}


# --- while a verb runs ------------------------------------------------------------------------------------------------


def plan(inputs: Sequence[Path], output: Path, *, overwrite: bool) -> tuple[list[Job], list[Job]]:
    """Pair inputs with outputs, and name those that are skipped because they exist.

    Returns:
        All jobs, and those that are to be done.

    Raises:
        click.UsageError: If the output cannot take these inputs.
    """
    from audiodiff.errors import ConfigError
    from audiodiff.pipelines.files import collect_jobs

    try:
        jobs = collect_jobs(inputs, output)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    pending = [job for job in jobs if overwrite or not job.target.is_file()]
    for job in jobs:
        if job not in pending:
            click.echo(f"{arrow(job)}  skipped: it exists")
    return jobs, pending


def arrow(job: Job) -> str:
    """Return a line that names input and output."""
    return f"{click.format_filename(job.source)} -> {click.format_filename(job.target)}"


def report_failures(n_jobs: int, n_skipped: int, failures: Sequence[str]) -> None:
    """Say on stderr what was skipped and what failed; failures make the exit code 1."""
    if n_skipped:
        click.echo(f"{n_skipped} of {n_jobs} skipped; --overwrite replaces them", err=True)
    if failures:
        click.echo(f"{len(failures)} of {n_jobs} failed:", err=True)
        for reason in failures:
            click.echo(f"  {click.format_filename(reason)}", err=True)
        click.get_current_context().exit(1)


def progress_bar(total: int) -> tqdm[Any]:
    """Return a bar on stderr that appears after two seconds, and never where stderr is no terminal.

    Lines are printed beside it within `tqdm.external_write_mode()`.
    """
    from tqdm import tqdm

    layout = "{percentage:3.0f} % |{bar}| {elapsed} elapsed, {remaining} left"
    return tqdm(total=total, disable=not sys.stderr.isatty(), delay=2, leave=False, bar_format=layout)


def set_progress(bar: tqdm[Any], done: int, total: int) -> None:
    """Move a bar to where the work is."""
    bar.total = total
    bar.update(done - bar.n)


@contextmanager
def warnings_logged() -> Iterator[None]:
    """Turn the library's warnings into lines of the log, each time and without the line of code they came from."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def log(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if category is UserWarning:
                _LOG.warning("%s", message)
            else:
                show(message, category, *place, **more)

        warnings.showwarning = log
        warnings.simplefilter("always", UserWarning)
        yield
