"""Every option that takes text or a number, of every verb, with odd values; the options are click's own."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click

from campaign.case import Case, Draw, Result
from campaign.oracle import Check, all_of, audio_is, has_files, says_no_nan
from campaign.world import World

NOT_FINITE = ("nan", "NaN", "inf", "-inf", "Infinity", "1e999", "-1e999")
ENDLESS = ("1000000000", "9" * 19, "1" + "0" * 400, "1e308", "1e30")
VALUES = (
    *NOT_FINITE, *ENDLESS, "-1", "0", "-0", "1", "2", "0.5", "1e-320", "1e5", "", " ", "٣", "３", "1_0", "0x10", "+1",
    "1.0", "1,5", "1.", "-",
    "--", "True", "None", "1;2", "$(touch pwned)", "é", "\U0001f600", "7" * 5000, "1-2", "2-1", "nan-nan", "0-inf",
    "1,2,nan", "3,2,1",
    ",", "1,", "nan:1:2", "1e-4:0.05:1000000000", "1e-4:0.05:50", "auto", "a=b", "a.b.c=1", "=", "=1",
    "training.steps=nan",
    "training.steps=1000000000000", "training.learning_rate=.inf", "model=1", "synthesis.steps=0",
    "synthesis.steps=1e9", "x={", "x=*a",
)  # fmt: skip
PLAIN = ("--help", "--debug", "--version")
SLOW = {"new", "bench", "search schedule", "search rbf", "search ema", "evaluate classifier"}
"""Commands that take seconds where they work; they are drawn less often."""


@cache
def commands() -> dict[str, click.Command]:
    """Return every command by the words that call it."""
    from audiodiff.cli.main import VERBS, main

    def inner(words: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                assert found
                yield from inner(f"{words} {name}", found)
        else:
            yield words, command

    context = click.Context(main)
    return {words: found for verb in VERBS for words, found in inner(verb, main.get_command(context, verb))}


@cache
def options() -> tuple[tuple[str, click.Option], ...]:
    """Return every option that takes a value other than a choice or the name of a file."""
    return tuple(
        (words, option)
        for words, command in commands().items()
        for option in command.params
        if isinstance(option, click.Option)
        and not option.is_flag
        and not isinstance(option.type, click.Choice | click.Path)
    )


def make(draw: Draw, folder: Path, world: World) -> Case:
    """Draw an option and a value."""
    words, option = draw.choice(options())
    if words in SLOW and draw.random() < 0.7:
        words, option = draw.choice([found for found in options() if found[0] not in SLOW])
    argv, check = _base(words, world, folder)
    value = draw.choice(VALUES)
    if option.type is not click.STRING and draw.random() < 0.3:
        value = draw.choice(NOT_FINITE + ENDLESS)
    name = draw.choice(option.opts)
    for other in option.opts:  # what the command had of it
        while other in argv:
            place = argv.index(other)
            del argv[place : place + 1 + option.nargs]
    given = [value] * option.nargs
    argv += (
        [f"{name}={value}"] if option.nargs == 1 and name.startswith("--") and draw.random() < 0.5 else [name, *given]
    )
    text = option.type is click.STRING
    if text and check is says_no_nan:
        check = has_words  # what was given may be one of those words
    expect = "refuse" if not text and value in (*NOT_FINITE, "", " ", "True", "None") else "either"
    about = f"{words} {name}"
    return Case(
        argv,
        about,
        expect,
        [name, *option.opts, *_pieces(option, value)],
        check,
        seconds=15 if words in SLOW else 5,
        keeps=words.startswith("search"),  # its study
    )


def _pieces(option: click.Option, value: str) -> list[str]:
    """Return what else may name the culprit: the option's name as a word, or the value itself."""
    return [
        *(other for other in ("--jobs",) if "--workers" in option.opts),
        "cannot listen on",
        value.rpartition("=")[2] or "=",
        (option.name or "").replace("_", " "),
        (option.name or ""),
        value.partition("=")[0].strip() or "=",
        value.partition(".")[0] or "=",
        "Got unexpected extra argument",
        "No such option",
        "audiodiff ui needs",  # where the extra is not installed
    ]


def _base(words: str, world: World, folder: Path) -> tuple[list[str], Check | None]:
    """Return a command that works, quickly, and the check of its output."""
    vocoder, generator, clip = str(world.vocoder), str(world.generator), str(world.clip)
    run, scores = str(world.run), str(world.evaluation)
    audio = audio_is("out.wav", 4000, sounds=False)
    bases: dict[str, tuple[list[str], Check | None]] = {
        "vocode": ([clip, "-o", "out.wav", "--model", vocoder, "--steps", "1"], audio),
        "generate": (
            ["--model", generator, "-o", "out", "--label", "yes", "--seconds", "0.1", "--steps", "1"],
            _some_clips,
        ),
        "repair": ([clip, "-o", "out.wav", "--model", vocoder, "--steps", "1", "--gap", "0.1-0.12"], audio),
        "prepare": ([str(world.corpus), "out", "--workers", "1"], has_files("out/train.jsonl")),
        "doctor": ([str(world.manifest), "--workers", "1"], says_no_nan),
        "new": (
            ["out", str(world.corpus), "--kind", "voice", "--minutes", "5", "--model", vocoder, "--no-training"],
            has_files("out/conf.yaml", "out/commands.sh"),
        ),
        "train": ([str(world.conf), "--dry-run", "--run", "run"], says_no_nan),
        "search schedule": (
            [
                vocoder,
                "--data",
                str(world.manifest),
                "--steps",
                "1",
                "--study",
                "study.json",
                "--trials",
                "2",
                "--metric",
                "m_stft",
                "--seconds",
                "0.3",
                "-o",
                "found",
            ],
            has_files("study.json", "found/config.json"),
        ),
        "search rbf": (
            [str(world.conf), "--study", "study.json", "-o", "best.yaml", "--trials", "1", "--trial-steps", "1"],
            has_files("study.json", "best.yaml"),
        ),
        "search ema": ([run, "-o", "best", "--widths", "0.1"], has_files("best/config.json", "best/model.safetensors")),
        "evaluate pairs": ([clip, clip, "--metrics", "m_stft", "-j", "1"], says_no_nan),
        "evaluate sets": ([str(world.corpus), str(world.corpus), "--music"], None),
        "evaluate classifier": (["classifier.pt", str(world.words), "--updates", "1"], has_files("classifier.pt")),
        "evaluate metrics": ([], says_no_nan),
        "evaluate show": ([scores], says_no_nan),
        "evaluate tables": ([scores], None),
        "evaluate ratings": ([scores], None),
        "plot waveform": ([clip, "-o", "out.png"], has_files("out.png")),
        "plot mel": ([clip, "-o", "out.png"], has_files("out.png")),
        "plot steps": (
            [clip, "-o", "out.png", "--model", vocoder, "--steps", "1", "--seconds", "0.2"],
            has_files("out.png"),
        ),
        "plot rbf": ([vocoder, "-o", "out.png"], has_files("out.png")),
        "plot schedule": (["-o", "out.png"], has_files("out.png")),
        "plot training": ([run, "-o", "out.png"], has_files("out.png")),
        "plot loss-by-noise-level": ([run, "-o", "out.png"], has_files("out.png")),
        "plot quality": ([scores, "--metric", "m_stft", "-o", "out.png"], has_files("out.png")),
        "convert": ([str(world.checkpoint), "out"], has_files("out/config.json", "out/model.safetensors")),
        "export": ([vocoder, "out"], has_files("out/config.json", "out/model.safetensors")),
        "bench": (
            [vocoder, "--quick", "--no-memory", "--no-training", "--lengths", "0.1", "--repeats", "1"],
            says_no_nan,
        ),
        "info": ([vocoder], says_no_nan),
        "compare": ([run], says_no_nan),
        "mel-match": ([str(world.mel), "--model", vocoder], says_no_nan),
        "ui": (["--model", vocoder, "--host", "192.0.2.1", "--port", str(_listening().getsockname()[1])], None),
        "serve": (["--model", vocoder, "--host", "192.0.2.1", "--port", str(_listening().getsockname()[1])], None),
    }
    argv, check = bases[words]
    return [*words.split(), *argv], check


@cache
def _listening() -> socket.socket:
    """Return what takes a port at every address, so that a server that would start ends."""
    return socket.create_server(("", 0))


def has_words(result: Result) -> str | None:
    """Refuse an empty stdout."""
    return None if result.out.strip() else "nothing on stdout"


def _some_clips(result) -> str | None:
    clips = sorted((result.folder / "out").glob("*.wav"))
    if not clips:
        return "no clips"
    return all_of(*(audio_is(clip.relative_to(result.folder), sounds=False) for clip in clips[:3]))(result)
