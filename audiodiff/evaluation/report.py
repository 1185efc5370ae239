"""A listening page: one HTML file with players, pictures, tables and listening tests, which needs no network."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Callable, Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import soundfile
from matplotlib.figure import Figure
from torch import Tensor

from audiodiff.audio.io import audio_info, load_audio
from audiodiff.audio.mel import MelSpectrogram
from audiodiff.audio.plots import looking_glass, plot_mel, plot_waveform
from audiodiff.audio.replacing import replacing
from audiodiff.errors import AudioError, ConfigError
from audiodiff.evaluation.registry import METRICS
from audiodiff.evaluation.results import Evaluation
from audiodiff.evaluation.tables import comparison_rows, summary_rows

REFERENCE = "reference"
"""What the page calls the originals."""

_HIGHEST_PEAK = 0.99
_BLOCK_SECONDS = 0.4
"""Length of the blocks that BS.1770 measures; shorter recordings are one block."""
_SHOWN_SCORES = ("pesq_wb", "estoi", "distillmos", "mcd", "m_stft")


def write_report(
    path: Path, evaluation: Evaluation, n_items: int = 12, on_progress: Callable[[float], object] = lambda share: None
) -> None:
    """Write the listening page of an evaluation.

    All clips of a recording are brought to the loudness of the original (ITU-R BS.1770-4, by pyloudnorm), then turned
    down together if one of them would peak above full scale; the page says so.

    Args:
        path: The HTML file.
        evaluation: What was evaluated; the recordings must still be where they were.
        n_items: How many recordings are shown at most, evenly chosen among those that every system has.
        on_progress: Called with the share of the work done since the last call.

    Raises:
        ConfigError: If the extra `eval` is not installed.
        AudioError: If no recording was scored for every system, or one is no longer there.
    """
    if not find_spec("pyloudnorm"):
        raise ConfigError("--report matches loudness with pyloudnorm: `pip install 'audiodiff[eval]'`.")
    names = _choose(evaluation, n_items)
    systems = [REFERENCE, *(system.name for system in evaluation.systems)]
    articles = []
    for name in names:
        articles.append(_article(evaluation, name, systems))
        on_progress(1 / len(names))
    page = _asset("page.html")
    parts = {
        "style": _asset("page.css"),
        "script": _asset("page.js"),
        "title": html.escape(" · ".join(systems[1:])),
        "facts": html.escape(
            f"{len(names)} of {len(evaluation.systems[0].files)} recordings, evaluated {evaluation.created[:10]} with "
            f"audiodiff {evaluation.settings['versions']['audiodiff']}"
        ),
        "tables": _tables(evaluation),
        "articles": "\n".join(articles),
        "data": json.dumps({"systems": systems, "items": names}).replace("<", "\\u003c"),
    }
    for key, text in parts.items():
        page = page.replace(f"[[{key}]]", text)
    with replacing(path) as part:
        part.write_text(page, encoding="utf-8")


def _asset(name: str) -> str:
    return (files("audiodiff") / "assets" / "report" / name).read_text(encoding="utf-8")


def _choose(evaluation: Evaluation, n_items: int) -> list[str]:
    """Return the names of recordings that were scored for every system, evenly spread."""
    scored = [{file.name for file in system.files} for system in evaluation.systems]
    common = sorted(set.intersection(*scored))
    if not common:
        raise AudioError("no recording was scored for every system, so there is nothing to show side by side.")
    return [common[i * len(common) // n_items] for i in range(n_items)] if len(common) > n_items else common


def _article(evaluation: Evaluation, name: str, systems: Sequence[str]) -> str:
    """Return the HTML of one recording: a player, a picture and the scores of every system beside each other."""
    results = [next(file for file in system.files if file.name == name) for system in evaluation.systems]
    rate = audio_info(results[0].reference).sample_rate
    paths = [results[0].reference, *(result.generated for result in results)]
    clips = match_loudness([load_audio(path, rate)[0] for path in paths], rate)
    scores: list[dict[str, float]] = [{}, *(result.scores for result in results)]
    figures = []
    for system, clip, picture, values in zip(systems, clips, _pictures(clips, rate), scores, strict=True):
        shown = [key for key in _SHOWN_SCORES if key in values]
        words = " · ".join(f"{METRICS[key].title} {values[key]:.{METRICS[key].decimals}f}" for key in shown)
        label = html.escape(system)
        figures.append(
            f'<figure><figcaption>{label}</figcaption><img alt="waveform and mel spectrogram, {label}" '
            f'src="{_uri("image/webp", picture)}"><audio controls preload="metadata" '
            f'aria-label="{label}" data-item="{html.escape(name)}" data-system="{label}" '
            f'src="{_uri("audio/flac", _flac(clip, rate))}"></audio><p>{html.escape(words)}</p></figure>'
        )
    return f"<article><h3>{html.escape(name)}</h3><div class=clips>{''.join(figures)}</div></article>"


def match_loudness(clips: Sequence[Tensor], sample_rate: int) -> list[Tensor]:
    """Bring clips `(time,)` to the loudness of the first, then all down together if one peaks above 0.99.

    Loudness is the gated one of ITU-R BS.1770-4; a clip in which nothing passes the gate keeps its level.
    """
    loudness = [_loudness(clip, sample_rate) for clip in clips]
    gains = [10 ** ((loudness[0] - own) / 20) if np.isfinite(loudness[0] - own) else 1.0 for own in loudness]
    matched = [clip * gain for clip, gain in zip(clips, gains, strict=True)]
    peak = max(float(clip.abs().max()) for clip in matched)
    return [clip * (_HIGHEST_PEAK / peak) for clip in matched] if peak > _HIGHEST_PEAK else matched


def _loudness(clip: Tensor, sample_rate: int) -> float:
    """Return loudness in LUFS, minus infinity where there is none."""
    import pyloudnorm

    seconds = clip.shape[0] / sample_rate
    meter = pyloudnorm.Meter(sample_rate, block_size=min(_BLOCK_SECONDS, seconds))
    with np.errstate(divide="ignore"):
        return float(meter.integrated_loudness(clip.double().numpy()))


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _flac(clip: Tensor, sample_rate: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, clip.numpy(), sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _pictures(clips: Sequence[Tensor], sample_rate: int) -> list[bytes]:
    """Draw waveform and mel of every clip, on the scales of all and the colours of the first, as WebP."""
    config = looking_glass(sample_rate)
    highest = 1.05 * max(float(clip.abs().max()) for clip in clips)
    pictures, peak_db = [], None
    for clip in clips:
        figure = Figure(figsize=(5.2, 2.925), layout="constrained")
        waveform, mel = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
        plot_waveform(waveform, clip, sample_rate)
        waveform.set(ylabel="", ylim=(-highest, highest), yticks=[])
        peak_db = plot_mel(mel, MelSpectrogram(config)(clip), config, peak_db=peak_db).get_clim()[1]
        mel.set(ylabel="kHz", xlim=(0, len(clip) / sample_rate))
        mel.set_yticks(mel.get_yticks()[1::2], mel.get_yticklabels()[1::2])
        buffer = io.BytesIO()
        figure.savefig(buffer, format="webp", dpi=140, pil_kwargs={"quality": 80})
        pictures.append(buffer.getvalue())
    return pictures


def _tables(evaluation: Evaluation) -> str:
    parts = [_table("Means and 95 % intervals", summary_rows(evaluation))]
    if len(evaluation.systems) > 1:
        caption = f"Against {evaluation.systems[0].name}, recording by recording (sign-flip test)"
        parts.append(_table(caption, comparison_rows(evaluation)))
    if evaluation.problems:
        lines = "".join(f"<li>{html.escape(problem)}</li>" for problem in evaluation.problems)
        parts.append(f"<h3>In no mean</h3><ul>{lines}</ul>")
    cautions = "".join(
        f"<dt>{html.escape(METRICS[name].title)}</dt><dd>{html.escape(METRICS[name].range)}. "
        f"{html.escape(METRICS[name].caution)} <i>{html.escape(METRICS[name].source)}.</i></dd>"
        for name in evaluation.metrics
    )
    parts.append(f"<details><summary>What the numbers are, and mislead about</summary><dl>{cautions}</dl></details>")
    return "\n".join(parts)


def _table(caption: str, rows: Sequence[Sequence[str]]) -> str:
    heading, *body = rows
    top = "".join(f"<th scope=col>{html.escape(text)}</th>" for text in heading)
    lines = "".join(
        f"<tr><th scope=row>{html.escape(first)}</th>{''.join(f'<td>{html.escape(text)}</td>' for text in rest)}</tr>"
        for first, *rest in body
    )
    return (
        f"<div class=scroll><table><caption>{html.escape(caption)}</caption>"
        f"<thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>"
    )
