"""The page itself: three tabs of Gradio around a `Studio`."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr

from audiodiff.errors import AudiodiffError, explain_os_error
from audiodiff.ui.background import reported
from audiodiff.ui.studio import MOST_STEPS, DamageSettings, Pair, Studio

_WAITING = 60
"""Requests that may wait; there is one computation at a time."""
_KEEP_SECONDS = 3600
_NETWORK: dict[str, Any] = {"concurrency_id": "network", "concurrency_limit": 1}
_DAMAGES = [("Gap", "gap"), ("Clipping", "clipping"), ("Noise", "noise"), ("Missing treble", "bandwidth")]
_SETTINGS_CHANGED = """(...values) => {
  window.audiodiffSettings = JSON.stringify(values);
  window.dispatchEvent(new Event("audiodiff-settings"));
}"""


def make_page(studio: Studio, closed: threading.Event) -> Any:
    """Return the page as `gr.Blocks`, its queue set.

    Args:
        studio: What computes.
        closed: Set when everything is to end.
    """
    with gr.Blocks(title="audiodiff", analytics_enabled=False, delete_cache=(600, _KEEP_SECONDS)) as page:
        gr.Markdown(
            "# audiodiff\nSound by waveform diffusion. What you upload stays between your browser and `audiodiff ui`."
        )
        with gr.Tabs():
            if studio.models.vocoders:
                with gr.Tab("Vocode"):
                    _vocode_tab(studio, closed)
            if studio.models.generators:
                with gr.Tab("Generate"):
                    _generate_tab(page, studio)
            if studio.models.vocoders:
                with gr.Tab("Repair"):
                    _repair_tab(studio, closed)
    page.queue(max_size=_WAITING, default_concurrency_limit=8, api_open=False)
    return page


def theme() -> Any:
    """Return a theme with the fonts of the reader's system; Gradio's own would come from Google."""
    return gr.themes.Soft(primary_hue="sky", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])


def asset(name: str) -> str:
    """Return the text of a style sheet or script of the page."""
    return (files("audiodiff") / "assets" / "ui" / name).read_text(encoding="utf-8")


def _vocode_tab(studio: Studio, closed: threading.Event) -> None:
    def own_steps(start: str, model: str) -> int:
        return 12 if start == "noise" else studio.models.config(model).synthesis.steps

    gr.Markdown(
        "A vocoder sees only the mel spectrogram of your recording, and makes the sound again from it. Hear what it "
        "keeps, and watch how noise becomes sound."
    )
    with gr.Row():
        with gr.Column(scale=3, min_width=300):
            recording = _recording()
            example = gr.Button("Use an example", size="sm")
        with gr.Column(scale=2, min_width=300):
            model = gr.Dropdown(studio.models.vocoders, label="Model")
            start = gr.Radio(
                [("an estimate (best)", "estimate"), ("noise (slower, rougher)", "noise")],
                value="estimate",
                label="Begin with",
            )
            steps = gr.Slider(1, MOST_STEPS, value=own_steps("estimate", model.value), step=1, label="Steps")
            seed = _seed()
    run = gr.Button("Vocode", variant="primary")
    shown = _results("Original", "Result")
    example.click(lambda: str(studio.example()), outputs=recording, api_visibility="private")
    gr.on([start.change, model.change], own_steps, [start, model], steps, api_visibility="private")

    def vocode(recording: str | None, model: str, start: Any, steps: int, seed: int) -> Iterator[list[Any]]:
        compute = partial(studio.vocode, recording, model, start, steps, seed)
        yield from _updates(lambda report: compute(report=report), closed, recording)

    run.click(
        vocode, [recording, model, start, steps, seed], shown, api_name="vocode", show_progress="hidden", **_NETWORK
    )


def _generate_tab(page: Any, studio: Studio) -> None:
    gr.Markdown(
        "Press a button, or its key: the network makes that sound from noise and plays it. The second time it plays at "
        "once. Another seed gives another sound; more guidance a clearer, less varied one."
    )
    names = studio.models.generators
    with gr.Row():
        model = gr.Dropdown(names, label="Model", min_width=200)
        seed = _seed()
        guidance = gr.Slider(1, 6, value=studio.models.config(names[0]).synthesis.guidance, step=0.5, label="Guidance")
    pad = gr.HTML(
        {"labels": studio.models.config(names[0]).labels},
        html_template='<div class="pad"></div><a hidden></a>',
        css_template=asset("pad.css"),
        js_on_load=asset("pad.js"),
        elem_id="pad",
    )

    def choose(model: str) -> tuple[dict[str, Any], float]:
        config = studio.models.config(model)
        return {"labels": config.labels}, config.synthesis.guidance

    def generate(model: str, label: str, seed: int, guidance: float) -> str:
        """Return a clip of a label."""
        try:
            return str(studio.generate(model, label, seed, guidance))
        except (AudiodiffError, OSError, RuntimeError) as error:
            raise _explained(error) from error

    def press(model: str, seed: int, guidance: float, event: gr.EventData) -> dict[str, Any]:
        state = {"labels": studio.models.config(model).labels, "label": event.label, "settings": event.settings}
        try:
            path = studio.generate(model, event.label, seed, guidance)
        except (AudiodiffError, OSError, RuntimeError) as error:
            gr.Warning(str(_explained(error)))
            return state
        return state | {"sound": _encoded(path), "file": path.name}

    settings = [model, seed, guidance]
    model.change(choose, model, [pad, guidance], api_visibility="private", show_progress="hidden")
    gr.on([page.load, *(each.change for each in settings)], None, settings, js=_SETTINGS_CHANGED)
    pad.click(
        press, settings, pad, trigger_mode="multiple", show_progress="hidden", api_visibility="private", **_NETWORK
    )
    gr.api(generate, api_name="generate", **_NETWORK)


def _repair_tab(studio: Studio, closed: threading.Event) -> None:
    gr.Markdown(
        "Say what is wrong with a recording; a vocoder fills in what is missing, and what is known of it stays. It was "
        "trained on speech."
    )
    usual = DamageSettings("gap")
    with gr.Row():
        with gr.Column(scale=3, min_width=300):
            recording = _recording()
            example = gr.Button("Use a damaged example", size="sm")
        with gr.Column(scale=2, min_width=300):
            kind = gr.Radio(_DAMAGES, value="gap", label="Damage")
            with gr.Row() as gap:
                first = gr.Number(usual.first, label="Gap from (s)", minimum=0, step=0.01, min_width=100)
                end = gr.Number(usual.end, label="to (s)", minimum=0, step=0.01, min_width=100)
            snr = gr.Slider(-5, 40, value=usual.snr_db, step=1, label="Signal-to-noise ratio (dB)", visible=False)
            cutoff = gr.Slider(1000, 10_000, value=usual.cutoff, step=100, label="Nothing above (Hz)", visible=False)
            model = gr.Dropdown(studio.models.vocoders, label="Model")
            seed = _seed()
    run = gr.Button("Repair", variant="primary")
    shown = _results("Before", "After")
    damage = [kind, first, end, snr, cutoff]
    kind.change(
        lambda name: [gr.update(visible=name == of) for of in ("gap", "noise", "bandwidth")],
        kind,
        [gap, snr, cutoff],
        api_visibility="private",
        show_progress="hidden",
    )

    def damaged(model: str, *damage: Any) -> str:
        try:
            return str(studio.damaged_example(model, DamageSettings(*damage)))
        except AudiodiffError as error:
            raise _explained(error) from error

    def repair(
        recording: str | None, model: str, seed: int, kind: Any, first: float, end: float, snr: float, cutoff: float
    ) -> Iterator[list[Any]]:
        wrong = DamageSettings(kind, first, end, snr, cutoff)
        yield from _updates(
            lambda report: studio.repair(recording, model, wrong, seed, report=report), closed, recording
        )

    example.click(damaged, [model, *damage], recording, api_visibility="private")
    run.click(repair, [recording, model, seed, *damage], shown, api_name="repair", show_progress="hidden", **_NETWORK)


def _recording() -> Any:
    return gr.Audio(sources=["upload", "microphone"], type="filepath", label="Recording", buttons=[])


def _seed() -> Any:
    return gr.Number(0, label="Seed", precision=0, minimum=0, min_width=100)


def _results(before: str, after: str) -> list[Any]:
    """Lay out what there is to hear and see, in the order of `_updates`; it is hidden until there is something."""
    note = gr.Markdown(elem_classes="note")
    with gr.Column(visible=False) as shown:
        states = gr.HTML(padding=False)
        pair = []
        with gr.Row():
            for name in (before, after):
                with gr.Column(min_width=300):
                    pair += [
                        gr.Audio(label=name, interactive=False, buttons=["download"]),
                        gr.Image(
                            label=name, type="filepath", interactive=False, buttons=["fullscreen"], show_label=False
                        ),
                    ]
    return [note, shown, states, *pair]


def _updates(
    compute: Callable[[Callable[[Pair], None]], Pair], closed: threading.Event, recording: str | None
) -> Iterator[list[Any]]:
    """Yield what changes on the page while something is computed."""
    old: list[Any] | None = None
    try:
        for pair in reported(compute, closed):
            shown, states = gr.Column(visible=True), _film_strip(pair)
            new = [pair.note, states, pair.before, pair.before_picture, pair.after, pair.after_picture]
            changed = new if old is None else [gr.skip() if a == b else a for a, b in zip(new, old, strict=True)]
            yield [changed[0], shown if old is None else gr.skip(), *changed[1:]]
            old = new
    except (AudiodiffError, OSError, RuntimeError) as error:
        raise _explained(error, recording) from error


def _film_strip(pair: Pair) -> str:
    """Return the pictures of the reverse process side by side; they are small, so they travel in the page."""
    figures = (
        f'<figure><img alt="mel spectrogram {caption}" src="data:image/png;base64,{_encoded(picture)}">'
        f"<figcaption>{caption}</figcaption></figure>"
        for picture, caption in pair.states
    )
    return f'<div class="states">{"".join(figures)}</div>' if pair.states else ""


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _explained(error: Exception, recording: str | None = None) -> Any:
    """Return an error for the reader: a sentence, without names of our folders."""
    text = str(error) if isinstance(error, AudiodiffError) else f"It did not work: {error}"
    if isinstance(error, OSError) and error.errno is not None:
        text = explain_os_error(error)
    if recording:
        text = text.replace(recording, recording.rpartition("/")[2])
    return gr.Error(text, duration=20, print_exception=False)
