"""`audiodiff vocode`: recordings or mel spectrograms in, audio out."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from audiodiff.choices import SECONDS, WORKERS, InputFormat, Number, OutputFormat
from audiodiff.cli import options as opt
from audiodiff.cli.progress import above_the_line, loading, progress_bar
from audiodiff.cli.verbs import Verb

if TYPE_CHECKING:
    from audiodiff.config import MelConfig
    from audiodiff.engine.choose import Dtype
    from audiodiff.pipelines import Vocoder
    from audiodiff.pipelines.files import Job
    from audiodiff.pipelines.vocode_files import VocodeOptions, VocodeResult

SHOWN_SCORES = ("pesq_wb", "estoi", "distillmos", "m_stft", "log_mel")
BATCH_SIZE_ON_RAY = 16
INPUT_FORMATS, OUTPUT_FORMATS = get_args(InputFormat), get_args(OutputFormat)
STREAM = Path("-")
EXAMPLES = (
    "audiodiff vocode recording.wav -o copy.wav --resample --score",
    "audiodiff vocode mels/ -o audio/ --model speech-22k-tiny",
)


@click.command("vocode", cls=Verb, examples=EXAMPLES)
@opt.files_or_streams
@opt.model
@opt.steps
@opt.seed()
@opt.resample
@click.option("--score", is_flag=True, help="Print scores of each output against its recording.")
@opt.overwrite
@opt.mel_convention
@opt.expert("--force", is_flag=True, help="Vocode mels that look like another convention; their values are clipped.")
@opt.expert(
    "--plot",
    is_flag=True,
    callback=opt.need_plots,
    help="Save a plot of input and output (first channel) as .png next to the output.",
)
@opt.expert(
    "--batch-size",
    type=Number(int, low=1, high=4096, unit="clips"),
    metavar="CLIPS",
    help="Clips of equal length synthesised together; changes the speed only.  [default: 1; on Ray 16]",
)
@opt.expert(
    "--chunk-seconds",
    type=SECONDS,
    metavar="SECONDS",
    help="Length of the chunks that long audio and streams are made in; shorter ones of a stream come out earlier and "
    "cost more.  [default: 0.5 for a stream, else 5]",
)
@opt.expert(
    "--input-format",
    type=click.Choice(INPUT_FORMATS),
    default="auto",
    show_default=True,
    help="What a stream holds: .npy arrays of consecutive pieces, raw float32 frames of a mel, WAV, or raw 16-bit "
    "samples at the model's rate. auto knows .npy and WAV by their first bytes and takes the rest for a raw mel.",
)
@opt.expert(
    "--output-format",
    type=click.Choice(OUTPUT_FORMATS),
    default="wav",
    show_default=True,
    help="What a stream becomes: WAV, or raw 16-bit samples.",
)
@opt.expert(
    "--rtf",
    type=Number(float, above=0, high=1000),
    metavar="FACTOR",
    help="Keep this real-time factor (seconds of computing per second of audio): take fewer steps or a faster dtype "
    "if a short trial says so.",
)
@opt.expert("--ray", metavar="ADDRESS|local", help="Vocode on all machines of a Ray cluster, or with Ray on this one.")
@opt.expert("--processes", type=WORKERS, metavar="N", help="With --ray: processes, each with the model.  [default: 1]")
@opt.expert(
    "--gpus",
    type=Number(float, low=0, high=64, unit="GPUs"),
    metavar="N",
    help="With --ray: GPUs per process, such as 0.5.",
)
@opt.synthesis
@opt.initialisation
def command(
    *,
    inputs: tuple[Path, ...],
    output: Path,
    overwrite: bool,
    ray: str | None,
    input_format: InputFormat,
    output_format: OutputFormat,
    **options: Any,
) -> None:
    """Turn recordings or mel spectrograms into audio.

    INPUTS are audio files, mels (.npy, or .pt with one tensor, of shape (n_mels, frames)), folders of both, or
    manifests (.jsonl). Recordings are turned into mels and back, with the channels, the stereo image and the bit depth
    that they had; where a manifest names the mel of a recording, that one is vocoded, and the recording is what --score
    compares with. On a CPU as many files as --threads are made at a time. Existing files are skipped, so the same
    command resumes; started several times, also on other machines, the processes share the work. If some inputs fail,
    the others are done and the exit code is 1.

    `-` is a stream: `tts | audiodiff vocode - --output - | ffplay -` plays while the mel is still coming in;
    `--output-format s16le` is for `aplay -f S16_LE -r 22050`. Messages are on stderr.

    Where no default is shown, it is the model's own. With --ray, inputs, output and model must lie where all machines
    see them.
    """
    if STREAM in (*inputs, output):
        _stream(inputs, output, ray=ray, formats=(input_format, output_format), **options)
        return
    if ray is not None:
        inputs, output = tuple(path.absolute() for path in inputs), output.absolute()
    jobs, pending = opt.plan(inputs, output, overwrite=overwrite)
    mels = [job.source for job in jobs if job.is_mel]
    if options["plot"] and mels:
        raise click.UsageError(f"--plot compares with a recording, and {mels[0]} is a mel. Leave --plot out.")
    failures = _vocode(pending, ray, overwrite=overwrite, **options) if pending else []
    opt.report_failures(len(jobs), len(jobs) - len(pending), failures)


def _stream(
    inputs: tuple[Path, ...], output: Path, *, formats: tuple[InputFormat, OutputFormat], **options: Any
) -> None:
    """Vocode stdin or one file to stdout."""
    if output != STREAM or len(inputs) != 1:
        raise click.UsageError("a stream is one input, and goes to stdout: audiodiff vocode - --output - > out.wav")
    given = {name: options.pop(name) for name in ("ray", "processes", "gpus", "rtf", "batch_size", "plot", "score")}
    for name, value in given.items():
        if value:
            raise click.UsageError(f"--{name.replace('_', '-')} has no effect on a stream. Leave it out.")
    if sys.stdout.isatty():
        raise click.UsageError("stdout is a terminal, and audio is not for reading. Write `> out.wav` or `| ffplay -`.")
    from audiodiff.pipelines import Vocoder
    from audiodiff.pipelines.vocode_stream import ByteReader, vocode_stream

    with loading(options["model"] or "the bundled vocoder"):
        vocoder = Vocoder.from_pretrained(options.pop("model"), options.pop("device"), options.pop("dtype"))
    if convention := _convention(options):
        vocoder = vocoder.with_mel_convention(convention, resample=options["resample"])
        _say_conversion(vocoder, convention, resample=options["resample"])
    changes = opt.changes(**{name: options.pop(name) for name in opt.VOCODING})
    options["chunk_seconds"] = options["chunk_seconds"] or 0.5
    options |= {"input_format": formats[0], "output_format": formats[1]}
    with nullcontext(sys.stdin.buffer) if inputs[0] == STREAM else inputs[0].open("rb") as file:
        source = ByteReader(file, "stdin" if inputs[0] == STREAM else str(inputs[0]))
        n_samples = vocode_stream(vocoder, source, sys.stdout.buffer, **options, **changes)
    click.echo(f"{n_samples / vocoder.sample_rate:.2f} s of audio", err=True)


def _vocode(jobs: Sequence[Job], ray: str | None, **options: Any) -> list[str]:
    """Vocode, print a line per result, and return the reasons of those that failed."""
    failures, scored = [], []
    with progress_bar(len(jobs), "vocoding") as bar:
        results = _on_ray(jobs, ray, bar.update, **options) if ray else _here(jobs, bar.update, **options)
        for result in results:
            if result.error is not None:
                failures.append(result.error)
                continue
            scored += [result.scores] if result.scores else []
            with above_the_line():
                click.echo(f"{opt.arrow(result.job)}  {_figures(result, options['model'], score=options['score'])}")
    if len(scored) > 1:
        click.echo(f"mean of {len(scored)}  {_mean_scores(scored)}")
    return failures


def _here(
    jobs: Sequence[Job], on_progress: Any, *, model: str | None, device: str, dtype: Dtype, **options: Any
) -> Iterator[VocodeResult]:
    from audiodiff.pipelines import Vocoder
    from audiodiff.pipelines.rtf import within_rtf
    from audiodiff.pipelines.vocode_files import vocode_files

    for name in ("processes", "gpus"):
        if options.pop(name) is not None:
            raise click.UsageError(f"--{name} is for --ray. Add --ray local, or leave it out.")
    rtf = options.pop("rtf")
    how = _options(1, **options)
    with loading(model or "the bundled vocoder"):
        vocoder = Vocoder.from_pretrained(model, device, dtype)
    if how.mel_convention:
        _say_conversion(vocoder, how.mel_convention, resample=how.resample)
    if rtf is not None:
        vocoder, how.changes["steps"], choice = within_rtf(vocoder, rtf, dtype, how.changes)
        click.echo(choice, err=True)
    return vocode_files(vocoder, jobs, how, on_progress)


def _on_ray(
    jobs: Sequence[Job], address: str, on_progress: Any, *, model: str | None, device: str, dtype: Dtype, **options: Any
) -> Iterator[VocodeResult]:
    from audiodiff.pipelines.vocode_files import vocode_files_on_ray

    cluster: dict[str, Any] = {"address": None if address == "local" else address}
    cluster["processes"] = options.pop("processes") or 1
    gpus = options.pop("gpus") or 0.0
    if options.pop("rtf") is not None:
        raise click.UsageError("--rtf measures this machine, so it has no effect with --ray. Give --steps instead.")
    how = _options(BATCH_SIZE_ON_RAY, **options)
    for result in vocode_files_on_ray(model, jobs, how, gpus=gpus, device=device, dtype=dtype, **cluster):
        on_progress(1)
        yield result


def _options(default_batch_size: int, **options: Any) -> VocodeOptions:
    from audiodiff.pipelines.vocode_files import VocodeOptions

    settings = opt.changes(**{name: options.pop(name) for name in opt.VOCODING})
    if options["score"] and not (find_spec("pesq") and find_spec("pystoi")):
        click.echo("PESQ-WB and ESTOI are left out: they need `pip install 'audiodiff[eval]'`", err=True)
    options["batch_size"] = options["batch_size"] or default_batch_size
    return VocodeOptions(changes=settings, mel_convention=_convention(options), **options)


def _convention(options: dict[str, Any]) -> MelConfig | None:
    """Take the convention of given mels out of the options."""
    from audiodiff.audio.mel_convention_files import named_convention

    name = options.pop("mel_convention")
    return None if name is None else named_convention(name)


def _say_conversion(vocoder: Vocoder, convention: MelConfig, *, resample: bool) -> None:
    from audiodiff.audio.mel_conversion import mel_converter

    click.echo(
        mel_converter(convention, vocoder.mel_config, resample=resample, keep_centres=True).description, err=True
    )


def _figures(result: VocodeResult, model: str | None, *, score: bool) -> str:
    from audiodiff.checkpoint import DEFAULT_MODEL

    factor = result.synthesis_seconds / result.seconds
    figures = f"{result.seconds:.2f} s, synthesised in {result.synthesis_seconds:.2f} s, real-time factor {factor:.3f}"
    figures += f"  {Path(model or DEFAULT_MODEL).name}; {result.conversion}"
    if score:
        figures += f"  {_scores(result.scores) if result.scores else 'no recording to score it against'}"
    return figures


def _scores(scores: Mapping[str, float]) -> str:
    """Return the scores that are shown, in one line; one that a clip cannot have is n/a."""
    from audiodiff.evaluation.scoring import TITLES

    shown = {TITLES[name]: scores[name] for name in SHOWN_SCORES if name in scores}
    return "  ".join(f"{title} {'n/a' if math.isnan(value) else f'{value:.3f}'}" for title, value in shown.items())


def _mean_scores(scored: Sequence[Mapping[str, float]]) -> str:
    """Return the means over the clips that have a score, in one line, with how many have none."""
    columns = {name: [clip[name] for clip in scored if not math.isnan(clip[name])] for name in scored[0]}
    shown = []
    for name, values in columns.items():
        mean = _scores({name: sum(values) / len(values) if values else math.nan})
        left_out = len(scored) - len(values)
        shown.append(f"{mean} ({left_out} left out)" if mean and values and left_out else mean)
    return "  ".join(filter(None, shown))
