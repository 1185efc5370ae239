"""`audiodiff repair`: gaps, clipping, noise and missing bandwidth, restored with a pretrained model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from audiodiff.choices import DPS_STRENGTH, HERTZ, LOG_SNR, POSITION, ROUNDS, Number, Numbers, RepairMethod
from audiodiff.cli import options as opt
from audiodiff.cli.progress import above_the_line, loading, progress_bar
from audiodiff.cli.verbs import Verb

if TYPE_CHECKING:
    from torch import Tensor

    from audiodiff.audio.degradation import Degradation
    from audiodiff.pipelines.files import Job
    from audiodiff.pipelines.repair_files import RepairOptions

_KINDS = ("gaps", "declip", "denoise", "extend")
EXAMPLES = (
    "audiodiff repair clipped.wav -o mended.wav --declip",
    "audiodiff repair dropout.wav -o mended.wav --gap 1.20-1.25",
    "audiodiff repair interview.wav -o quiet.wav --denoise --page page/",
)


@click.command("repair", cls=Verb, examples=EXAMPLES)
@opt.files
@click.option(
    "--gap",
    "gaps",
    type=Numbers(POSITION, POSITION, mark="-", example="1.20-1.25"),
    multiple=True,
    metavar="FROM-TO",
    help="Inpaint missing audio between these seconds; may be repeated.",
)
@click.option(
    "--declip",
    type=Number(float, above=0, high=1, unit="of full scale", words=("auto",)),
    is_flag=False,
    flag_value="auto",
    metavar="[LEVEL]",
    help="Restore samples clipped at this level (1 is full scale), or at the recording's peak.",
)
@click.option(
    "--denoise",
    type=Number(float, low=-100, high=200, unit="dB", words=("auto",)),
    is_flag=False,
    flag_value="auto",
    metavar="[SNR_DB]",
    help="Remove white noise of this signal-to-noise ratio, or any steady noise, estimated from the quietest moments.",
)
@click.option(
    "--extend",
    type=HERTZ,
    metavar="HZ",
    help="Extend the bandwidth of a recording that ends at this frequency.",
)
@opt.model
@opt.expert_overwrite
@click.option("--page", type=opt.FOLDER, metavar="DIR", help="Write a page to hear and see before and after.")
@opt.expert(
    "--method",
    type=click.Choice(get_args(RepairMethod)),
    default="auto",
    show_default=True,
    help="baseline is without a model, diffusion always with it; auto takes diffusion for what the baseline cannot do: "
    "bandwidth, and gaps over 15 ms where linear prediction fails beside them.",
)
@opt.expert_steps
@opt.seed(option=opt.expert)
@opt.expert_resample
@opt.expert("--label", metavar="NAME", help="Class of the recordings, for a model with labels.")
@opt.expert("--speaker", metavar="NAME", help="Speaker, for a model with speakers.")
@opt.expert(
    "--start",
    type=click.Choice(["baseline", "phase-gradient", "griffin-lim", "noise"]),
    help="What is diffused: a repair without a model, its completed mel inverted by this method, or nothing.  "
    "[default: the model's own for bandwidth, else baseline]",
)
@opt.expert(
    "--start-log-snr",
    type=LOG_SNR,
    metavar="LOG_SNR",
    help="Log-SNR of the first step; lower changes more.  [default: 0 for gaps, the model's own for bandwidth, else 4]",
)
@opt.expert(
    "--rounds",
    type=ROUNDS,
    metavar="N",
    help="Times each step is taken (RePaint); more fit gaps better.  [default: 2 for gaps, else 1]",
)
@opt.expert(
    "--dps",
    "dps_strength",
    type=DPS_STRENGTH,
    default=0.0,
    show_default=True,
    metavar="SCALE",
    help="Diffusion posterior sampling: step size of the gradient; twice the cost; 0.1 to 0.3 reduces audible seams.",
)
@opt.expert("--replace/--no-replace", default=True, show_default=True, help="Put what is known back at every step.")
@opt.expert(
    "--degrade",
    is_flag=True,
    help="INPUTS are clean: degrade them first, write degraded/, baseline/ and repaired/ into PATH, and score them.",
)
@opt.synthesis
def command(
    *, inputs: tuple[Path, ...], output: Path, overwrite: bool, degrade: bool, page: Path | None, **options: Any
) -> None:
    """Restore damaged recordings with a model that was not trained to.

    INPUTS are audio files, folders or manifests (.jsonl). Give one of --gap, --declip, --denoise and --extend. The
    recording is restored without a model first: by linear prediction in gaps, cubic splines where it is clipped, a
    Wiener filter for noise. What that cannot do a model does; what is known of the recording is put back at every step
    of its reverse process, at the model's sample rate; --resample allows that. Channels and bit depth are kept. A
    recording without such damage is left as it is. Where no default is shown, it is the model's own.
    """
    chosen = [kind for kind in _KINDS if options[kind] not in (None, ())]
    if len(chosen) != 1:
        raise click.UsageError(
            f"give one of --gap, --declip, --denoise and --extend, got {', '.join(chosen) or 'none'}."
        )
    for first, end in options["gaps"]:
        if end <= first:
            raise click.UsageError(f"--gap {first:g}-{end:g}: the end must be after the start.")
    for name, wanted in (("declip", "the level to clip at: --declip LEVEL"), ("denoise", "a ratio: --denoise SNR_DB")):
        if degrade and options[name] == "auto":
            raise click.UsageError(f"--degrade needs {wanted}.")
    if degrade and output.suffix.lower() in (".wav", ".flac"):
        raise click.UsageError(f"--degrade writes several files of each recording; --output {output} must be a folder.")
    jobs, pending = opt.plan(inputs, output / "repaired" if degrade else output, overwrite=overwrite)
    mels = [job.source for job in jobs if job.is_mel]
    if mels:
        raise click.UsageError(f"{mels[0]} is a mel; only recordings can be repaired.")
    failures = []
    if pending:
        failures = _repair(pending, output if degrade else None, page, overwrite=overwrite, **options)
    opt.report_failures(len(jobs), len(jobs) - len(pending), failures)


def _repair(
    jobs: list[Job],
    try_folder: Path | None,
    page: Path | None,
    *,
    model: str | None,
    device: str,
    dtype: Any,
    **options: Any,
) -> list[str]:
    """Repair, print a line per recording, and return the reasons of those that failed."""
    from audiodiff.checkpoint import DEFAULT_MODEL
    from audiodiff.evaluation.listening_test import missing_packages
    from audiodiff.pipelines.repair_files import load_pipeline, repair_files, write_repairs

    done, failures = [], []
    how = _options(try_folder, opt.changes(**options))
    for sentence in missing_packages() if page else []:
        if "pictures" in sentence:
            click.echo(sentence, err=True)
    with loading(model or "the bundled vocoder"):
        pipeline = load_pipeline(model, device, dtype)
    with progress_bar(len(jobs), "repairing") as bar:
        for result in repair_files(pipeline, jobs, how, bar.update):
            if result.error is not None:
                failures.append(result.error)
                continue
            done.append(result)
            by = Path(model or DEFAULT_MODEL).name if result.is_generated else "without a model"
            words = [f"{by}; {result.conversion}", *filter(None, [result.note])]
            words += [f"{name} SNR {snr:.2f} dB, LSD {lsd:.2f} dB" for name, (snr, lsd) in result.scores.items()]
            with above_the_line():
                click.echo("  ".join([opt.arrow(result.job), *words]))
    if page and done:
        write_repairs(page / "index.html", done, try_folder)
        click.echo(f"page: {click.format_filename(page / 'index.html')}", err=True)
    return failures


def _options(try_folder: Path | None, options: dict[str, Any]) -> RepairOptions:
    """Sort the options of the command line."""
    from audiodiff.pipelines.repair import RepairConfig
    from audiodiff.pipelines.repair_files import RepairOptions

    repairing, synthesis, own = (
        {name: options[name] for name in names if name in options}
        for names in (
            ("start", "dps_strength", "rounds", "method"),
            (*opt.REVERSE, "start_log_snr"),
            ("label", "speaker", "seed", "resample", "overwrite"),
        )
    )
    config = RepairConfig(replace=options["replace"], **repairing)
    return RepairOptions(_degradation(options), config, opt.changes(**synthesis), try_folder=try_folder, **own)


def _degradation(options: dict[str, Any]) -> Callable[[Tensor, int], Degradation]:
    from audiodiff.audio.degradation import Clipping, Gaps, LowPass, Noise
    from audiodiff.pipelines.repair_files import clipping_at_peak

    if options["gaps"]:
        return lambda audio, rate: Gaps(tuple(options["gaps"]), rate)
    if options.get("declip") == "auto":
        return lambda audio, rate: clipping_at_peak(audio)
    if "declip" in options:
        return lambda audio, rate: Clipping(options["declip"])
    if options.get("denoise") == "auto":
        return lambda audio, rate: Noise.estimated(audio)
    if "denoise" in options:
        return lambda audio, rate: Noise(options["denoise"])
    return lambda audio, rate: LowPass(options["extend"], rate)
