"""Callbacks of a training run: a progress bar or lines in the log, and TensorBoard."""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from audiodiff.config import MelConfig
from audiodiff.errors import MissingPackageError, explain_os_error, needed

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

SECONDS_BETWEEN_LINES = 30.0
STEPS_BETWEEN_POINTS = 10
"""Steps that a point of a curve in TensorBoard is the mean of."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clip:
    """Audio made by the model in training, beside a recording.

    Attributes:
        name: Of the recording, or the label.
        reference: The recording `(1, time)`.
        generated: What the model made `(1, time)`.
        scores: By name, of `audiodiff.evaluation.scoring.score`; empty where the model does not follow a recording.
        mel: Convention of the spectrograms that are drawn of both; None stands for one of the whole band.
    """

    name: str
    reference: Tensor
    generated: Tensor
    scores: Mapping[str, float] = field(default_factory=dict)
    mel: MelConfig | None = None


@dataclass(frozen=True)
class TrainEvent:
    """Something that happened after `step` steps were done.

    Attributes:
        kind: What happened.
        step: Number of steps done.
        values: For "step": loss, gradient_norm, learning_rate; for "skipped": skipped, the number of all so far; for
            "validated": loss, and loss_at_<log-SNR> for each level.
        clips: For "sampled".
    """

    kind: Literal["step", "skipped", "validated", "sampled", "saved"]
    step: int
    values: Mapping[str, float] = field(default_factory=dict)
    clips: Sequence[Clip] = ()


Callback = Callable[[TrainEvent], None]
"""Called with everything that happens in a run."""


FullSpeed = Callable[[], float | None]
"""Tells how many samples per second are an MFU of 1, see `audiodiff.training.utilisation`; None is unknown."""


def _unknown() -> None:
    """Return that a speed is not known."""


class ThroughputMeter:
    """Mean losses and throughput over the steps since the last reading.

    Args:
        samples_per_step: Audio samples in a batch.
        clock: Seconds, from any start.
        full_speed: Samples per second at a model FLOPs utilisation of 1; None where that is not known.
    """

    def __init__(
        self,
        samples_per_step: int,
        clock: Callable[[], float] = time.monotonic,
        full_speed: FullSpeed = _unknown,
    ) -> None:
        self._samples_per_step = samples_per_step
        self._full_speed = full_speed
        self._clock = clock
        self._began = clock()
        self._values: list[dict[str, float]] = []

    def __len__(self) -> int:
        return len(self._values)

    def add(self, event: TrainEvent) -> None:
        """Take a step into account."""
        self._values.append(dict(event.values))

    @property
    def seconds(self) -> float:
        """Seconds since the last reading."""
        return self._clock() - self._began

    def read(self) -> dict[str, float]:
        """Return the means, `samples_per_second`, `steps_per_second` and, if it is known, `mfu`, and start again."""
        n_steps, seconds = len(self._values), max(self.seconds, 1e-9)
        means = {name: sum(values[name] for values in self._values) / n_steps for name in self._values[0]}
        means |= {
            "samples_per_second": n_steps * self._samples_per_step / seconds,
            "steps_per_second": n_steps / seconds,
        }
        if (full_speed := self._full_speed()) is not None:
            means["mfu"] = means["samples_per_second"] / full_speed
        self._values, self._began = [], self._clock()
        return means


def log_lines(
    total_steps: int, meter: ThroughputMeter, seconds_left: Callable[[], float | None] = lambda: None
) -> Callback:
    """Return a callback that logs a line every so often, and validations and skipped steps at once.

    Args:
        total_steps: Of the run.
        meter: What measures.
        seconds_left: Remaining seconds of a time-limited run; None to estimate from speed.
    """

    def report(event: TrainEvent) -> None:
        if event.kind == "step":
            meter.add(event)
            if meter.seconds > SECONDS_BETWEEN_LINES or event.step == total_steps:
                means, left = meter.read(), seconds_left()
                if left is None:
                    left = (total_steps - event.step) / means["steps_per_second"]
                _LOG.info(
                    "step %d of %d: loss %.4f, gradient norm %.3g, %.0f samples/s%s, %s left",
                    event.step,
                    total_steps,
                    means["loss"],
                    means["gradient_norm"],
                    means["samples_per_second"],
                    f", MFU {means['mfu']:.1%}" if "mfu" in means else "",
                    tqdm.format_interval(max(left, 0)),
                )
        _report_the_rest(event)

    return report


def _report_the_rest(event: TrainEvent) -> None:
    if event.kind == "validated":
        bits = event.values.get("bits_per_sample")
        said = "" if bits is None else f", {bits:.3f} bits per sample"
        _LOG.info("step %d: validation loss %.4f%s", event.step, event.values["loss"], said)
    elif event.kind == "skipped":
        _LOG.warning(
            "step %d: loss or gradient is not finite, skipped (%d so far)", event.step, event.values["skipped"]
        )


@contextmanager
def progress_bar(first_step: int, total_steps: int, meter: ThroughputMeter) -> Iterator[Callback]:
    """Show a bar on stderr with loss, samples/s and time left; log lines appear above it.

    A thread draws it anew, so that it shows life in long steps and between steps too.
    """
    with ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=total_steps, initial=first_step, unit="step", file=sys.stderr))
        stack.enter_context(logging_redirect_tqdm([logging.getLogger("audiodiff")]))
        stack.enter_context(_refreshing(bar))

        def report(event: TrainEvent) -> None:
            if event.kind in ("step", "skipped"):
                bar.update(event.step - bar.n)
            if event.kind == "step":
                meter.add(event)
                if meter.seconds > 1:
                    means = meter.read()
                    bar.set_postfix_str(f"loss {means['loss']:.4f}, {means['samples_per_second']:,.0f} samples/s")
            _report_the_rest(event)

        yield report


def _is_terminal() -> bool:
    return sys.stderr.isatty() and logging.getLogger("audiodiff").level < logging.WARNING


@contextmanager
def preparing() -> Iterator[None]:
    """Say on a terminal that a run is being prepared, and for how long, until it is."""
    layout = "preparing data and model ... {elapsed}"
    bar = tqdm(total=1, leave=False, disable=not _is_terminal(), file=sys.stderr, bar_format=layout)
    with bar, logging_redirect_tqdm([logging.getLogger("audiodiff")]), _refreshing(bar):
        yield


@contextmanager
def _refreshing(bar: tqdm[Any]) -> Iterator[None]:
    """Draw a bar every half second meanwhile."""
    end = threading.Event()

    def refresh() -> None:
        while not end.wait(0.5):
            bar.refresh()

    thread = threading.Thread(target=refresh, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


@contextmanager
def progress(
    first_step: int,
    total_steps: int,
    samples_per_step: int,
    seconds_left: Callable[[], float | None] = lambda: None,
    full_speed: FullSpeed = _unknown,
) -> Iterator[Callback]:
    """Yield the callback that suits stderr: a bar on a terminal, lines elsewhere and where logging is quiet."""
    meter = ThroughputMeter(samples_per_step, full_speed=full_speed)
    if _is_terminal():
        with progress_bar(first_step, total_steps, meter) as bar:
            yield bar
    else:
        yield log_lines(total_steps, meter, seconds_left)


def _write_settings(writer: SummaryWriter, settings: Mapping[str, object]) -> None:
    """Write settings as hyper-parameters; TensorBoard finds the metrics among the curves, the last value of each."""
    from torch.utils.tensorboard.summary import hparams

    plain = {name: value for name, value in settings.items() if isinstance(value, bool | int | float | str)}
    if plain:
        metrics = dict.fromkeys(("validation/loss", "scores/m_stft", "scores/pesq_wb", "scores/estoi"), 0.0)
        experiment, session, _ = hparams(plain, metrics)
        for summary in (experiment, session):
            writer._get_file_writer().add_summary(summary)


def _write_clips(writer: SummaryWriter, event: TrainEvent, sample_rate: int) -> None:
    """Write the clips of an event: their sounds and their pictures."""
    for clip in event.clips:
        writer.add_audio(f"{clip.name}/reference", clip.reference, event.step, sample_rate)
        peak = clip.generated.abs().max().clamp_min(1.0)  # TensorBoard's WAV ends at ±1
        writer.add_audio(f"{clip.name}/generated", clip.generated / peak, event.step, sample_rate)
        writer.add_image(f"{clip.name}/picture", _picture(clip, sample_rate), event.step, dataformats="HWC")


def _picture(clip: Clip, sample_rate: int) -> NDArray[np.uint8]:
    """Draw recording and output as waveforms and spectrograms, RGB `(height, width, 3)`, 8 bit."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from audiodiff.audio.plots import comparison_figure, display_mel

    mel = clip.mel or display_mel(sample_rate)
    canvas = FigureCanvasAgg(comparison_figure(clip.reference, clip.generated, sample_rate, mel))
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]
    return pixels


def _mean_scores(clips: Sequence[Clip]) -> dict[str, float]:
    """Return the mean of each score; one that a clip cannot have is left out, and the log has said why."""
    names = clips[0].scores if clips else ()
    means = {name: sum(clip.scores[name] for clip in clips) / len(clips) for name in names}
    return {name: mean for name, mean in means.items() if math.isfinite(mean)}


@contextmanager
def tensorboard(
    folder: Path,
    first_step: int,
    samples_per_step: int,
    sample_rate: int,
    settings: Mapping[str, object] = MappingProxyType({}),
    full_speed: FullSpeed = _unknown,
) -> Iterator[Callback]:
    """Yield a callback that writes curves, pictures and sounds for TensorBoard.

    Args:
        folder: Where to write.
        first_step: Steps done before; what an earlier process wrote beyond them is hidden.
        samples_per_step: Audio samples in a batch.
        sample_rate: Of the sounds, in Hz.
        settings: Dotted key to value, for the tab HParams, where runs are compared by their last scores.
        full_speed: For the curve of the MFU.

    Yields:
        The callback; one that does nothing, after a warning, where TensorBoard is not installed.
    """
    try:
        with needed("train", "what TensorBoard shows"):
            import matplotlib  # noqa: F401
            from torch.utils.tensorboard import SummaryWriter  # here, because it takes a second
    except MissingPackageError as error:
        _LOG.warning("no curves, pictures or sounds will be written: %s", error)
        yield lambda event: None
        return
    try:
        writer = SummaryWriter(str(folder), purge_step=first_step + 1)
    except OSError as error:
        _LOG.warning("no curves, pictures or sounds are written. %s", explain_os_error(error))
        yield lambda event: None
        return
    _write_settings(writer, settings)
    meter = ThroughputMeter(samples_per_step, full_speed=full_speed)
    broken: list[OSError] = []

    def report(event: TrainEvent) -> None:
        if broken:
            return
        try:
            _draw(writer, event, meter, sample_rate)
        except OSError as error:  # a full disk is no reason to lose the run
            broken.append(error)
            _LOG.warning("no more curves, pictures or sounds are written to %s: %s", folder, error)

    excepthook = threading.excepthook
    threading.excepthook = lambda args: None if issubclass(args.exc_type, OSError) else excepthook(args)
    try:
        with _quiet_writer():
            yield report
    finally:
        with _quiet_writer(), suppress(OSError):  # a writer whose thread has died of one raises it again
            writer.close()
        threading.excepthook = excepthook


@contextmanager
def _quiet_writer() -> Iterator[None]:
    """Keep tracebacks of TensorBoard's thread on a full disk off stderr: the callback says so in a line."""
    shown = threading.excepthook

    def show(error: threading.ExceptHookArgs) -> None:
        if not (isinstance(error.exc_value, OSError) and type(error.thread).__name__ == "_AsyncWriterThread"):
            shown(error)

    threading.excepthook = show
    try:
        yield
    finally:
        threading.excepthook = shown


def curve_points(event: TrainEvent, meter: ThroughputMeter) -> dict[str, float]:
    """Return what curves have to show of an event, by name: `training/...`, `validation/...`, and `scores/...`.

    Args:
        event: What happened; of steps, every so many give a point, which is their mean.
        meter: Holds the steps since the last point.
    """
    if event.kind == "step":
        meter.add(event)
        means = meter.read() if len(meter) == STEPS_BETWEEN_POINTS else {}
        return {f"training/{name}": value for name, value in means.items()}
    if event.kind == "skipped":
        return {"training/skipped": event.values["skipped"]}
    if event.kind == "validated":
        return {f"validation/{name}": value for name, value in event.values.items()}
    return {f"scores/{name}": mean for name, mean in _mean_scores(event.clips).items()}


def _draw(writer: SummaryWriter, event: TrainEvent, meter: ThroughputMeter, sample_rate: int) -> None:
    for name, value in curve_points(event, meter).items():
        writer.add_scalar(name, value, event.step)
    _write_clips(writer, event, sample_rate)
