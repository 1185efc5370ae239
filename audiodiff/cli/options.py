"""Options that several verbs share, what they print as they run, and warnings as lines of the log."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
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
    Number,
    Numbers,
    Sampler,
    Schedule,
    Start,
    StreamPath,
)
from audiodiff.cli.verbs import ExpertOption
from audiodiff.errors import needed

if TYPE_CHECKING:
    from audiodiff.pipelines.files import Job

SAMPLERS, SCHEDULES, STARTS, DTYPES = (get_args(choice) for choice in (Sampler, Schedule, Start, Dtype))
SCHEDULES_OF_MODELS = (*SCHEDULES, "searched")
"""Those, and what only a model's own folder knows."""

REVERSE = ("steps", "sampler", "corrector_steps", "corrector_snr", "clamp", "schedule", "log_snrs", "zero_terminal")
"""Names of the options of `synthesis` that are fields of `audiodiff.config.SynthesisConfig`."""
VOCODING = (*REVERSE, "start", "griffin_lim_iterations", "mel_consistency")
"""Those, and the names of the options of `initialisation`."""

PATH, EXISTING = FilePath(path_type=Path), FilePath(exists=True, path_type=Path)
FILE, EXISTING_FILE = (FilePath(exists=exists, dir_okay=False, path_type=Path) for exists in (False, True))
FOLDER, EXISTING_FOLDER = (FilePath(exists=exists, file_okay=False, path_type=Path) for exists in (False, True))

_LOG = logging.getLogger(__name__)
_Function = TypeVar("_Function", bound=Callable[..., Any])

expert = partial(click.option, cls=ExpertOption)
"""`click.option` for what few users need."""


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


def _files(path: FilePath, more: str = "") -> Callable[[_Function], _Function]:
    """Return the files that go in, and where the audio goes."""
    text = f"Folder for the results; for one input also a .wav or .flac file{more}."
    return _all(
        click.argument("inputs", nargs=-1, required=True, type=path, metavar="INPUTS..."),
        click.option("--output", "-o", required=True, type=path, metavar="PATH", help=text),
    )


files, files_or_streams = _files(PATH), _files(StreamPath(path_type=Path), ", or - for stdout")

model = click.option(
    "--model",
    metavar="NAME|FOLDER",
    help="A bundled model (`audiodiff info` lists them), a model folder or hub:OWNER/NAME.  [default: speech-22k]",
)


def _both(*names: str, **settings: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return an option as a common and as an expert one."""
    return click.option(*names, **settings), expert(*names, **settings)


resample, expert_resample = _both("--resample", is_flag=True, help="Resample recordings to the model's sample rate.")
overwrite, expert_overwrite = _both(
    "--overwrite", is_flag=True, help="Replace existing files, which are skipped otherwise."
)
mel_convention = expert(
    "--mel-convention",
    metavar="NAME|FILE.yaml",
    help="How given mels were computed: a name from `audiodiff mel-match --list`, or a file that `audiodiff mel-match "
    "--output` wrote. They are converted to the model's convention.  [default: the model's]",
)
threads = expert(
    "--threads",
    type=THREADS,
    metavar="N",
    help="At most so many CPU threads; short clips take one, as more would gain nothing.  [default: one per core, for "
    "synthesis one per idle core]",
)
device = _all(
    expert(
        "--device",
        default="auto",
        metavar="DEVICE",
        show_default=True,
        help="Where to compute: auto, cpu, cuda, cuda:1 ...",
    ),
    threads,
)
dtype = expert(
    "--dtype",
    type=click.Choice(DTYPES),
    default="auto",
    show_default=True,
    help="Precision of the network's matrix products; auto is bf16 where the hardware has it.",
)
workers = expert(
    "--workers", type=WORKERS, metavar="N", help="Files that are read or scored at a time.  [default: one per core]"
)
steps, expert_steps = _both(
    "--steps", type=STEPS, metavar="N", help="Denoising steps; fewer are faster.  [default: the model's]"
)
sampler = expert(
    "--sampler",
    type=click.Choice(SAMPLERS),
    metavar="NAME",
    help=f"How a step is taken: {', '.join(SAMPLERS)}.  [default: the model's]",
)
schedule = expert(
    "--schedule",
    type=click.Choice(SCHEDULES_OF_MODELS),
    metavar="NAME",
    help=f"Noise levels of the steps: {', '.join(SCHEDULES_OF_MODELS)}; searched is what `audiodiff search schedule` "
    "found.  [default: the model's]",
)
start = expert(
    "--start",
    type=click.Choice(STARTS),
    help="Initial signal: noise, or a waveform estimated from the mel by this method.  [default: the model's]",
)
initialisation = _all(
    start,
    expert(
        "--griffin-lim-iterations",
        type=ITERATIONS,
        metavar="N",
        help="Griffin-Lim iterations of the estimate; fewer are faster and lower the latency.  [default: the model's]",
    ),
    expert(
        "--mel-consistency/--no-mel-consistency",
        default=None,
        help="Bring what is predicted to the levels that the mel states; without, streams come 46 ms earlier with the "
        "bundled models.  [default: the model's]",
    ),
)
"""What a vocoder starts from, and what it is held to."""


def need_plots(_context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Check, as the callback of an option that asks for a plot, that there is what plots need."""
    if value:
        with needed("plots", parameter.opts[0]):
            import matplotlib  # noqa: F401
    return value


def seed(what: str = "of the noise", option: Callable[..., Any] = click.option) -> Callable[[_Function], _Function]:
    """Return the option of the random seed."""
    decorate: Callable[[_Function], _Function] = option(
        "--seed", type=SEED, default=0, metavar="N", show_default=True, help=f"Random seed {what}."
    )
    return decorate


synthesis = _all(
    sampler,
    schedule,
    expert(
        "--log-snrs",
        type=Numbers(LOG_SNR, example="-2,1,4,8"),
        metavar="LOG_SNR,...",
        help="Log signal-to-noise ratio of each step, noisiest first, instead of --steps and --schedule.",
    ),
    expert(
        "--zero-terminal/--no-zero-terminal",
        default=None,
        help="Stretch the schedule down to the lowest trained log-SNR, for a start from noise.  [default: the model's]",
    ),
    expert(
        "--corrector-steps",
        type=CORRECTOR_STEPS,
        metavar="N",
        help="Langevin steps at every noise level, each one more network call.  [default: the model's]",
    ),
    expert(
        "--corrector-snr",
        type=RATIO,
        metavar="RATIO",
        help="Signal-to-noise ratio of the Langevin step.  [default: the model's]",
    ),
    expert(
        "--clamp/--no-clamp",
        default=None,
        help="Clamp to ±1 after every step, as lmnt-com/diffwave does.  [default: the model's]",
    ),
    device,
    dtype,
)
"""Expert options of the reverse process; `changes` picks those that were given out of the arguments."""

study = _all(
    click.option(
        "--study",
        required=True,
        type=FILE,
        metavar="FILE",
        help="File that keeps the trials; rerun the same command to resume.",
    ),
    seed("of all trials"),
)
"""What all searches have."""


def address(port: int) -> Callable[[_Function], _Function]:
    """Return `--host` and `--port` of a server, with this default port."""
    return _all(
        click.option(
            "--host",
            default="127.0.0.1",
            metavar="ADDRESS",
            show_default=True,
            help="Where to listen; 0.0.0.0 or :: is reached from other machines too.",
        ),
        click.option(
            "--port",
            type=Number(int, low=0, high=65535),
            default=port,
            metavar="PORT",
            show_default=True,
            help="Port to listen on; 0 takes a free one.",
        ),
    )


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
