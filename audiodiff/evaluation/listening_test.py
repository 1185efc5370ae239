"""Listening tests: a page with players, images and tables in one HTML file, and what listeners answered on it."""

from __future__ import annotations

import base64
import html
import io
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import soundfile
from torch import Tensor
from torch.nn import functional

from audiodiff.audio.finishing import loudness
from audiodiff.audio.io import audio_info, load_audio, replacing
from audiodiff.audio.mel import MelSpectrogram
from audiodiff.errors import AudioError, DataError
from audiodiff.evaluation.results import Estimate, Evaluation, estimate, proportion
from audiodiff.evaluation.scoring import METRICS
from audiodiff.evaluation.tables import comparison_rows, summary_rows
from audiodiff.evaluation.verdict import judge
from audiodiff.text import read_csv, text_table

REFERENCE = "reference"
"""Name of the originals on the page."""

_MAX_PEAK = 0.99
_PAGE_METRICS = ("pesq_wb", "estoi", "distillmos", "mcd", "m_stft")
COLUMNS = ("test", "listener", "item", "system", "other", "x", "answer", "score", "seconds")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class PageItem:
    """One recording of a page.

    Attributes:
        name: Of the recording.
        sample_rate: In Hz.
        clips: One per system, mono `(time,)`.
        words: What is said under each.
    """

    name: str
    sample_rate: int
    clips: Sequence[Tensor]
    words: Sequence[str]


def write_report(
    path: Path,
    evaluation: Evaluation,
    n_items: int = 12,
    on_progress: Callable[[float], object] = lambda fraction: None,
) -> None:
    """Write the listening page of an evaluation.

    All clips of a recording are brought to the loudness of the original (ITU-R BS.1770-4, by pyloudnorm; without that
    package to its mean power), then turned down together if one of them would peak above full scale; the page says so.

    Args:
        path: The HTML file.
        evaluation: What was evaluated; the recordings must still be where they were.
        n_items: How many recordings are shown at most, evenly chosen among those that every system has.
        on_progress: Called with the fraction of the work done since the last call.

    Raises:
        AudioError: If no recording was scored for every system, or one is no longer there.
    """
    names = _choose(evaluation, n_items)
    systems = [REFERENCE, *(system.name for system in evaluation.systems)]
    measure = "loudness of the original (ITU-R BS.1770-4)" if find_spec("pyloudnorm") else "mean power of the original"
    note = (
        f"All clips of a recording have the {measure}; where one would then be clipped, all are turned down together."
    )
    if "rms_ratio_db" in evaluation.metrics:
        note += f" Levels as they were made are under “{METRICS['rms_ratio_db'].title}” above."

    def items() -> Iterator[PageItem]:
        for name in names:
            yield _item(evaluation, name)
            on_progress(1 / len(names))

    facts = (
        f"{len(names)} of {len(evaluation.systems[0].files)} recordings, evaluated {evaluation.created[:10]} with "
        f"audiodiff {evaluation.settings['versions']['audiodiff']}"
    )
    write_page(path, " · ".join(systems[1:]), systems, items(), facts=facts, note=note, tables=_tables(evaluation))


def write_page(
    path: Path,
    title: str,
    systems: Sequence[str],
    items: Iterable[PageItem],
    *,
    facts: str,
    note: str,
    tables: str = "",
) -> None:
    """Write a page with players, pictures and listening tests, whatever the clips are.

    Args:
        path: The HTML file.
        title: What it is headed.
        systems: Names of the versions of each recording, in the order of `PageItem.clips`.
        items: The recordings.
        facts: One line below the title, without a full stop.
        note: What was done to the clips.
        tables: HTML to go above the clips.
    """
    names, articles = [], []
    for item in items:
        names.append(item.name)
        articles.append(_article(item, systems))
    page = _asset("page.html")
    parts = {
        "style": _asset("page.css"),
        "script": _asset("page.js"),
        "title": html.escape(title),
        "facts": html.escape(facts),
        "note": html.escape(note),
        "scores": '<a href="#scores">Scores</a>' if tables else "",
        "tables": f'<section id="scores"><h2>Scores</h2>\n{tables}\n</section>' if tables else "",
        "articles": "\n".join(articles),
        "data": json.dumps({"systems": list(systems), "items": names}).replace("<", "\\u003c"),
    }
    for key, text in parts.items():
        page = page.replace(f"[[{key}]]", text)
    with replacing(path) as part:
        part.write_text(page, encoding="utf-8")


def missing_packages() -> list[str]:
    """Return what a page will lack here, one sentence for each package that is not installed."""
    lacks = {
        "matplotlib": "The page has no pictures: `pip install 'audiodiff[plots]'` brings them.",
        "pyloudnorm": "Clips are matched by mean power: `pip install 'audiodiff[eval]'` brings loudness.",
    }
    return [sentence for package, sentence in lacks.items() if not find_spec(package)]


def _asset(name: str) -> str:
    return (files("audiodiff") / "assets" / "report" / name).read_text(encoding="utf-8")


def _choose(evaluation: Evaluation, n_items: int) -> list[str]:
    """Return the names of recordings that were scored for every system, evenly spread."""
    scored = [{file.name for file in system.files} for system in evaluation.systems]
    common = sorted(set.intersection(*scored))
    if not common:
        raise AudioError("no recording was scored for every system, so there is nothing to show side by side.")
    return [common[i * len(common) // n_items] for i in range(n_items)] if len(common) > n_items else common


def _item(evaluation: Evaluation, name: str) -> PageItem:
    """Read one recording in all versions, equally loud, with their scores in words."""
    results = [next(file for file in system.files if file.name == name) for system in evaluation.systems]
    rate = audio_info(results[0].reference).sample_rate
    paths = [results[0].reference, *(result.generated for result in results)]
    words = [""]
    for result in results:
        shown = [key for key in _PAGE_METRICS if key in result.scores]
        words.append(
            " · ".join(f"{METRICS[key].title} {result.scores[key]:.{METRICS[key].decimals}f}" for key in shown)
        )
    return PageItem(name, rate, match_loudness([load_audio(path, rate)[0] for path in paths], rate), words)


def _article(item: PageItem, systems: Sequence[str]) -> str:
    """Return the HTML of one recording: a player, an image and words of every system beside each other."""
    pictures = _plot_clips(item.clips, item.sample_rate) if find_spec("matplotlib") else [b""] * len(item.clips)
    figures = []
    for system, clip, picture, words in zip(systems, item.clips, pictures, item.words, strict=True):
        label = html.escape(system)
        image = (
            f'<img alt="waveform and mel spectrogram, {label}" src="{_uri("image/webp", picture)}">' if picture else ""
        )
        figures.append(
            f'<figure><figcaption>{label}</figcaption>{image}<audio controls preload="metadata" '
            f'aria-label="{label}" data-item="{html.escape(item.name)}" data-system="{label}" '
            f'src="{_uri("audio/flac", _flac(clip, item.sample_rate))}"></audio><p>{html.escape(words)}</p></figure>'
        )
    return f"<article><h3>{html.escape(item.name)}</h3><div class=clips>{''.join(figures)}</div></article>"


def match_loudness(clips: Sequence[Tensor], sample_rate: int) -> list[Tensor]:
    """Bring clips `(time,)` to the loudness of the first, then all down together if one peaks above 0.99.

    Loudness is the gated one of ITU-R BS.1770-4, without pyloudnorm the mean power; a clip that has none keeps its
    level.
    """
    if find_spec("pyloudnorm"):
        levels = [loudness(clip.unsqueeze(0), sample_rate) for clip in clips]
    else:
        levels = [float(20 * clip.square().mean().sqrt().log10()) for clip in clips]
    gains = [10 ** ((levels[0] - own) / 20) if np.isfinite(levels[0] - own) else 1.0 for own in levels]
    matched = [clip * gain for clip, gain in zip(clips, gains, strict=True)]
    peak = max(float(clip.abs().max()) for clip in matched)
    return [clip * (_MAX_PEAK / peak) for clip in matched] if peak > _MAX_PEAK else matched


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _flac(clip: Tensor, sample_rate: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, clip.numpy(), sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _plot_clips(clips: Sequence[Tensor], sample_rate: int) -> list[bytes]:
    """Draw waveform and mel of every clip, on the scales of all and the colours of the first, as WebP."""
    from matplotlib.figure import Figure

    from audiodiff.audio.plots import display_mel, plot_mel, plot_waveform

    config = display_mel(sample_rate)
    peak = 1.05 * max(float(clip.abs().max()) for clip in clips) or 1.0  # of silence
    images, peak_db = [], None
    for clip in clips:
        figure = Figure(figsize=(5.2, 2.925), layout="constrained")
        waveform, mel = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
        plot_waveform(waveform, clip, sample_rate)
        waveform.set(ylabel="", ylim=(-peak, peak), yticks=[])
        padded = functional.pad(clip, (0, max(0, config.n_fft - len(clip))))
        peak_db = plot_mel(mel, MelSpectrogram(config)(padded), config, peak_db=peak_db).get_clim()[1]
        mel.set(ylabel="kHz", xlim=(0, len(clip) / sample_rate))
        mel.set_yticks(mel.get_yticks()[1::2], mel.get_yticklabels()[1::2])
        buffer = io.BytesIO()
        figure.savefig(buffer, format="webp", dpi=140, pil_kwargs={"quality": 80})
        images.append(buffer.getvalue())
    return images


def _tables(evaluation: Evaluation) -> str:
    verdicts = (judge(evaluation, 0, number) for number in range(1, len(evaluation.systems)))
    parts = [
        f"<p class=verdict><strong>{html.escape(verdict.headline)}</strong> {html.escape(verdict.reason)}</p>"
        for verdict in verdicts
        if verdict
    ]
    parts.append(_table("Means and 95 % intervals", summary_rows(evaluation)))
    if len(evaluation.systems) > 1:
        caption = f"Against {evaluation.systems[0].name}, recording by recording (sign-flip test)"
        parts.append(_table(caption, comparison_rows(evaluation)))
    if evaluation.problems:
        lines = "".join(f"<li>{html.escape(problem)}</li>" for problem in evaluation.problems)
        parts.append(f"<h3>In no mean</h3><ul>{lines}</ul>")
    descriptions = "".join(
        f"<dt>{html.escape(METRICS[name].title)}</dt><dd>{html.escape(METRICS[name].range)}. "
        f"{html.escape(METRICS[name].description)}</dd>"
        for name in evaluation.metrics
    )
    parts.append(
        f"<details><summary>What the numbers are, and mislead about</summary><dl>{descriptions}</dl></details>"
    )
    return "\n".join(parts)


def _table(caption: str, rows: Sequence[Sequence[str]]) -> str:
    heading, *body = rows
    top = "".join(f"<th scope=col>{html.escape(text)}</th>" for text in heading)
    lines = "".join(
        f"<tr><th scope=row>{html.escape(first)}</th>{''.join(f'<td>{html.escape(text)}</td>' for text in rest)}</tr>"
        for first, *rest in body
    )
    return (
        f"<div class=scroll><table><caption><span>{html.escape(caption)}</span></caption>"
        f"<thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


@dataclass(frozen=True)
class Answer:
    """One answer of one listener.

    Attributes:
        test: "abx" or "mos".
        listener: Who.
        item: Which recording.
        systems: What was heard: one system (MOS) or two, sorted (ABX).
        score: 1 to 5 (MOS); 1 right, 0 wrong (ABX).
    """

    test: str
    listener: str
    item: str
    systems: tuple[str, ...]
    score: int


def read_ratings(paths: Iterable[Path]) -> list[Answer]:
    """Read the files that listeners downloaded; a file given twice under other names counts once.

    Raises:
        DataError: If a file cannot be read or a line is no answer; the message names the line.
    """
    answers: list[Answer] = []
    seen: set[tuple[str, ...]] = set()
    n_duplicates = 0
    for path in paths:
        new: set[tuple[str, ...]] = set()
        for where, row in read_csv(path):
            answer = _answer(row, where)
            key = tuple(row[column] for column in COLUMNS)  # the seconds tell two rounds of one listener apart
            if key in seen:
                n_duplicates += 1
                continue
            new.add(key)
            answers.append(answer)
        seen |= new
    if n_duplicates:
        _LOG.warning("%d answers are in more than one file and count once", n_duplicates)
    if not answers:
        raise DataError("the files hold no answers.")
    return answers


def _answer(row: dict[str, str], where: str) -> Answer:
    allowed = {"abx": {"0", "1"}, "mos": {"1", "2", "3", "4", "5"}}
    if set(row) != set(COLUMNS):
        raise DataError(f"{where} has not the columns {', '.join(COLUMNS)}. Give the CSV files of a listening page.")
    if row["score"] not in allowed.get(row["test"], ()):
        raise DataError(
            f"{where}: test {row['test']!r} with score {row['score']!r}; expected abx with 0 or 1, or mos with 1 to 5."
        )
    systems = sorted(filter(None, (row["system"], row["other"])))
    return Answer(row["test"], row["listener"], row["item"], tuple(systems), int(row["score"]))


def mean_opinion_scores(answers: Sequence[Answer]) -> dict[str, tuple[Estimate, int]]:
    """Return the mean opinion score of every system, and its number of ratings.

    With several listeners, the mean and its interval are those of the listeners' own means, because two ratings by one
    person are not independent. With one listener they are those of the ratings, and say nothing of other people.
    """
    found = {}
    for system in dict.fromkeys(answer.systems[0] for answer in answers if answer.test == "mos"):
        by_listener: dict[str, list[int]] = {}
        for answer in answers:
            if answer.test == "mos" and answer.systems[0] == system:
                by_listener.setdefault(answer.listener, []).append(answer.score)
        every = [score for scores in by_listener.values() for score in scores]
        means = [float(np.mean(scores)) for scores in by_listener.values()]
        found[system] = (estimate(means if len(means) > 1 else [float(score) for score in every]), len(every))
    return found


def rating_tables(answers: Sequence[Answer]) -> str:
    """Return tables of the ratings: mean opinion scores by system, and how often X was identified in ABX."""
    parts = []
    scores_by_system = mean_opinion_scores(answers)
    if scores_by_system:
        rows = [["", "MOS", "95 % interval", "ratings", "listeners"]]
        for system, (mos, n) in sorted(scores_by_system.items(), key=lambda item: -item[1][0].mean):
            n_listeners = len({answer.listener for answer in answers if answer.systems == (system,)})
            interval = "n/a" if mos.low is None else f"{mos.low:.2f} to {mos.high:.2f}"
            rows.append([system, f"{mos.mean:.2f}", interval, str(n), str(n_listeners)])
        parts.append(text_table(rows))
    pairs = dict.fromkeys(answer.systems for answer in answers if answer.test == "abx")
    if pairs:
        rows = [["ABX", "right", "95 % interval", "p against guessing", "answers"]]
        for pair in pairs:
            scores = [answer.score for answer in answers if answer.test == "abx" and answer.systems == pair]
            low, high, p_value = proportion(sum(scores), len(scores))
            correct = f"{sum(scores) / len(scores):.2f}"
            rows.append([" - ".join(pair), correct, f"{low:.2f} to {high:.2f}", f"{p_value:.4f}", str(len(scores))])
        parts.append(text_table(rows))
    if len({answer.listener for answer in answers}) == 1:
        parts.append("One listener: the intervals say nothing of other people.")
    return "\n\n".join(parts)
