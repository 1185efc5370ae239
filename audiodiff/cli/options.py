"""What verbs that make audio have in common: their options, progress, and how the library's warnings reach the user."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from tqdm import tqdm

# The names are repeated here because their homes import torch, and help must be instant; a test compares them.
SAMPLERS = ("ddim", "heun", "ddpm", "dpmpp_2m", "dpmpp_2m_sde")
DTYPES = ("auto", "fp32", "bf16")
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

REVERSE = ("steps", "sampler", "corrector_steps", "corrector_snr", "schedule")
"""Names of the options of `synthesis_options` that are fields of `audiodiff.config.SynthesisConfig`."""

_LOG = logging.getLogger(__name__)
_Function = TypeVar("_Function", bound=Callable[..., Any])


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
        click.option("--schedule", type=click.Choice(SCHEDULES), help=f"Where the steps lie; {default}."),
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
