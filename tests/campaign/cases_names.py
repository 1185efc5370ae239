"""Odd names of files and folders: spaces, newlines, no UTF-8, 230 bytes, leading dashes, `~`."""

from __future__ import annotations

import os
from pathlib import Path

from campaign.case import Case, Draw
from campaign.oracle import audio_is, has_files, says_no_nan
from campaign.world import World

STEMS = (
    b"a b", b" a", b"a ", b"a\nb", b"\n", b"a\tb", b"\xff\xfe", b"na\xc3\xafve", b"nai\xcc\x88ve", "音声".encode(),
    "\U0001f600".encode(), b"x" * 200,
    "é".encode() * 100, b"x" * 230, b"-x", b"--steps", b"~", b"~a~", b"a'b", b'a"b', b"a;touch pwned",
    b"$(touch pwned)", b"`x`", b"%s%n",
    b"{0}", b"a\x1b[31mb", b"\xe2\x80\xa8", b"\xc2\x85", b"a\\b", b"a:b", b"*", b"?", b"[a]", b"CON", b".hidden",
    b"a.b.c", b"a..", b"-",
    b"\xf0\x9f\x91\xa8\xe2\x80\x8d\xf0\x9f\x91\xa9", b"\x7f", b"a\rb", b"\xed\xa0\x80", b"pipe:x", b"http:x", b"a=b",
    b"a@b", b"#", b"&", b"|",
)  # fmt: skip


def make(draw: Draw, folder: Path, world: World) -> Case:
    """Give a sound or a folder an odd name, and use it; the home is the folder of the case."""
    case = _named(draw, folder, world)
    case.environment = {"HOME": str(folder)}
    return case


def _named(draw: Draw, folder: Path, world: World) -> Case:
    stem = draw.choice(STEMS)
    what = draw.choice(
        [
            "vocode",
            "vocode",
            "vocode folder",
            "output",
            "output folder",
            "prepare",
            "doctor",
            "evaluate",
            "generate",
            "plot",
            "model",
            "mel",
            "export",
            "no file",
        ]
    )
    about, name = f"{what} {stem[:40]!r}", stem + b".wav"
    path = os.path.join(os.fsencode(folder), name)
    clip, vocoder = str(world.clip), str(world.vocoder)
    model = ["--model", vocoder]
    inner = stem if len(stem) < 200 else stem[:200]
    fine = stem not in (b"-", b"~", b"--steps") and not stem.startswith(b"-")
    if what in ("vocode", "evaluate", "plot", "no file"):
        world.copy(world.clip, Path(os.fsdecode(path)))
        commands = {
            "vocode": (["vocode", *model, "-o", "out.wav", "--", name], audio_is("out.wav", 4000)),
            "evaluate": (["evaluate", "pairs", "--metrics", "m_stft", "-j", "1", "--", name, name], says_no_nan),
            "plot": (["plot", "waveform", "-o", "out.png", "--", name], has_files("out.png")),
            "no file": (["vocode", *model, "-o", "out.wav", "--", stem + b"x.wav"], None),
        }
        run, check = commands[what]
        return Case(run, about, "refuse" if what == "no file" else "accept", [], check, seconds=5)
    if what in ("vocode folder", "prepare", "doctor"):
        for i in range(3):
            world.copy(
                world.corpus / "a" / f"clip{2 * i}.{'wav' if i < 2 else 'flac'}",
                Path(os.fsdecode(os.path.join(os.fsencode(folder), inner, stem[:20] + b"%d.wav" % i))),
            )
        hidden = stem.startswith(b".")
        utf8 = _is_utf8(stem[:20])
        commands = {
            "vocode folder": (["vocode", *model, "-o", "out", "--", inner], _has_wavs("out", 3)),
            "prepare": (["prepare", "--workers", "1", "--", inner, "out"], has_files("out/train.jsonl")),
            "doctor": (["doctor", "--workers", "1", "--", inner], says_no_nan),
        }
        run, check = commands[what]
        check = None if stem == b"~" else check  # the home folder, which holds it in a folder of that name
        expect = "either" if hidden or what == "doctor" or not utf8 or not fine else "accept"
        return Case(run, about, expect, [], check, keeps=True)
    if what in ("output", "output folder", "generate", "export"):
        target = name if what == "output" else inner
        commands = {
            "output": (
                ["vocode", *model, clip, f"--output={os.fsdecode(target)}"],
                audio_is(os.fsdecode(target), 4000),
            ),
            "output folder": (
                ["vocode", *model, clip, f"--output={os.fsdecode(target)}"],
                _has_wavs(os.fsdecode(target), 1),
            ),
            "generate": (
                ["generate", "--model", str(world.generator), "--label", "yes", f"--output={os.fsdecode(target)}"],
                _has_wavs(os.fsdecode(target), 1),
            ),
            "export": (["export", "--", vocoder, target], has_files(os.fsdecode(target) + "/config.json")),
        }
        run, check = commands[what]
        if not fine and what != "output":
            check = None
        return Case(run, about, "accept" if fine and not stem.startswith(b".") else "either", [], check)
    if what == "model":
        world.copy(world.vocoder, Path(os.fsdecode(os.path.join(os.fsencode(folder), inner))))
        run = ["vocode", clip, "-o", "out.wav", b"--model=./" + inner]
        return Case(run, about, "accept", [], audio_is("out.wav", 4000))
    world.copy(world.mel, Path(os.fsdecode(os.path.join(os.fsencode(folder), stem + b".npy"))))
    return Case(["vocode", *model, "-o", "out.wav", "--", stem + b".npy"], about, "accept", [], audio_is("out.wav"))


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _has_wavs(folder: str, n: int):
    def check(result) -> str | None:
        found = list((result.folder / folder).glob("*.wav"))
        return None if len(found) == n else f"{len(found)} files in {folder!r}, not {n}"

    return check
