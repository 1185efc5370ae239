"""What verbs that make audio have in common: their options, progress, and how the library's warnings reach the user."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from tqdm import tqdm

# The names are repeated here because their homes import torch, and help must be instant; a test compares them.
SAMPLERS = ("ddim", "heun", "ddpm", "dpmpp_2m", "dpmpp_2m_sde")
DTYPES = ("auto", "fp32", "bf16")
STARTS = ("noise", "griffin-lim")
SCHEDULES = (
    "uniform",
    "cosine",
    "sigmoid",
    "linear_beta",
    "fibonacci",
    "wavegrad",
    "diffwave",
    "diffwave_large",
    "diffwave_50",
    "diffwave_200",
)
SCHEDULES_OF_MODELS = (*SCHEDULES, "searched", "learned")
"""Those, and what only a model's own folder knows."""

REVERSE = ("steps", "sampler", "corrector_steps", "corrector_snr", "schedule", "levels", "zero_terminal")
"""Names of the options of `synthesis_options` that are fields of `audiodiff.config.SynthesisConfig`."""
VOCODING = (*REVERSE, "start", "griffin_lim_iterations")
"""Those, and the names of the options of `vocoder_options` that are."""

_LOG = logging.getLogger(__name__)
_Function = TypeVar("_Function", bound=Callable[..., Any])


def parse_levels(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """Turn log-SNRs with commas between into numbers; whether they rise is for the configuration to say.

    Raises:
        click.BadParameter: If they are no numbers.
    """
    try:
        return None if value is None else tuple(float(word) for word in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no list of log-SNRs such as -2,1,4,8") from error


def _level_options(default: str) -> tuple[Callable[[_Function], _Function], ...]:
    """Return the options that say where the steps lie."""
    return (
        click.option(
            "--schedule",
            type=click.Choice(SCHEDULES_OF_MODELS),
            help=f"Where the steps lie; searched takes what `audiodiff search schedule` found; {default}.",
        ),
        click.option(
            "--levels",
            callback=parse_levels,
            metavar="X,X,...",
            help="Log-SNR of each step, noisiest first, in place of --steps and --schedule.",
        ),
        click.option(
            "--zero-terminal/--no-zero-terminal",
            default=None,
            help="Whether the schedule is stretched down to the lowest trained level, for a start from noise with one "
            f"that begins higher; {default}.",
        ),
    )


def file_arguments(function: _Function) -> _Function:
    """Add the files that go in, and where what is made of them goes."""
    output = click.option(
        "--output",
        "-o",
        required=True,
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="A folder; or, for one input file, a .wav or .flac file.",
    )
    inputs = click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="INPUTS...")
    return inputs(output(function))


def vocoder_options(function: _Function) -> _Function:
    """Add what a vocoder has beside `synthesis_options`: which one, and what it starts from."""
    model = click.option(
        "--model", metavar="NAME|FOLDER", help="A bundled model or a model folder; the bundled one by default."
    )
    start = click.option(
        "--start",
        type=click.Choice(STARTS),
        help="What is denoised first; the model's own by default.",
    )
    iterations = click.option(
        "--griffin-lim-iterations",
        type=click.IntRange(min=1),
        metavar="N",
        help="Rounds of Griffin-Lim in the start; fewer are faster and look less far ahead; by default the model's.",
    )
    return model(start(iterations(function)))


def synthesis_options(function: _Function) -> _Function:
    """Add the options of the reverse process; `changes` picks those that were given out of the arguments."""
    default = "the model's own by default"
    options = (
        click.option(
            "--steps",
            type=click.IntRange(min=1),
            metavar="N",
            help=f"Denoising steps, each one network call (with heun two); {default}.",
        ),
        click.option("--sampler", type=click.Choice(SAMPLERS), help=f"How a step is taken; {default}."),
        click.option(
            "--corrector-steps",
            type=click.IntRange(min=0),
            metavar="N",
            help=f"Langevin steps at every noise level, each one more network call; {default}.",
        ),
        click.option(
            "--corrector-snr",
            type=click.FloatRange(0, 1, min_open=True, max_open=True),
            metavar="RATIO",
            help=f"Size of a Langevin step, drift over noise; {default}.",
        ),
        *_level_options(default),
        click.option(
            "--seed",
            type=click.IntRange(min=0),
            default=0,
            metavar="N",
            show_default=True,
            help="What the noise is made from.",
        ),
        click.option(
            "--device", default="auto", metavar="DEVICE", show_default=True, help="auto, cpu, cuda, cuda:1 ..."
        ),
        click.option(
            "--dtype",
            type=click.Choice(DTYPES),
            default="auto",
            show_default=True,
            help="Precision of the network's matrix products; auto is bf16 where the hardware has it, else fp32.",
        ),
        click.option("--overwrite", is_flag=True, help="Make files anew that are there already."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def changes(**given: Any) -> Any:
    """Return the options that were given, as `audiodiff.pipelines.SynthesisChanges`."""
    return {name: value for name, value in given.items() if value is not None}


def study_options(function: _Function) -> _Function:
    """Add what all searches have."""
    seed = click.option(
        "--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help="Of all draws."
    )
    study = click.option(
        "--study",
        required=True,
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Where trials are kept; a killed search goes on from it with the same command.",
    )
    return seed(study(function))


def steps_of(wanted: Any, own: int) -> int:
    """Return the steps of a reverse process: as many as levels are given, as asked for, or the model's own."""
    return len(wanted["levels"]) if wanted.get("levels") else int(wanted.get("steps", own))


def progress_bar(total: int) -> tqdm[Any]:
    """Return a bar on stderr that appears after two seconds, and never where stderr is no terminal.

    Lines are printed beside it within `tqdm.external_write_mode()`.
    """
    from tqdm import tqdm

    layout = "{percentage:3.0f} % |{bar}| {elapsed} gone, {remaining} left"
    return tqdm(total=total, disable=not sys.stderr.isatty(), delay=2, leave=False, bar_format=layout)


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
