"""Where commands run: odd streams, variables, limits, full and read-only places, devices, FIFOs, links in circles."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from campaign.case import Case, Draw, Result
from campaign.oracle import Check, audio_is, has_files, says_no_nan
from campaign.world import World

ENVIRONMENTS: dict[str, dict[str, str | None]] = {
    "ascii": {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "notebook": {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
    "backend": {"MPLBACKEND": "nonsense"},
    "no home": {"HOME": None, "XDG_CACHE_HOME": None},
    "home that is not there": {"HOME": "/nowhere"},
    "home that is a file": {"HOME": "/etc/passwd"},
    "no path": {"PATH": None},
    "no TMPDIR": {"TMPDIR": "/nowhere"},
    "one column": {"COLUMNS": "1"},
    "odd columns": {"COLUMNS": "x"},
    "threads": {"OMP_NUM_THREADS": "0"},
    "odd threads": {"OMP_NUM_THREADS": "x", "MKL_NUM_THREADS": "x"},
    "language": {"LANG": "tr_TR.UTF-8", "LC_ALL": "xx_XX"},
    "no colour": {"NO_COLOR": "1", "TERM": "dumb", "FORCE_COLOR": "1"},
    "warnings": {"PYTHONWARNINGS": "error::UserWarning"},
    "offline": {"HF_HUB_OFFLINE": "1"},
    "visible devices": {"CUDA_VISIBLE_DEVICES": "7"},
    "unbuffered": {"PYTHONUNBUFFERED": "1"},
    "no docstrings": {"PYTHONOPTIMIZE": "2"},
}


def make(draw: Draw, folder: Path, world: World) -> Case:
    """Draw a place and a command."""
    return draw.choice(
        [
            _environment,
            _environment,
            _environment,
            _streams,
            _limits,
            _limits,
            _odd_input,
            _odd_input,
            _odd_input,
            _odd_output,
            _odd_output,
        ]
    )(draw, folder, world)


def _commands(world: World) -> dict[str, tuple[list[str], Check]]:
    return {
        "vocode": (
            ["vocode", str(world.clip), "-o", "out.wav", "--model", str(world.vocoder)],
            audio_is("out.wav", 4000),
        ),
        "generate": (
            ["generate", "--model", str(world.generator), "--label", "yes", "-o", "out"],
            has_files("out/yes_0.wav"),
        ),
        "prepare": (["prepare", str(world.corpus), "out", "--workers", "1"], has_files("out/train.jsonl")),
        "doctor": (["doctor", str(world.corpus), "--workers", "1"], says_no_nan),
        "train": (
            ["train", str(world.conf), "--run", "run"],
            has_files("run/best/model.safetensors", "run/last/model.safetensors"),
        ),
        "evaluate": (
            ["evaluate", "pairs", str(world.clip), str(world.clip), "-m", "m_stft", "-j", "1", "--json", "out.json"],
            has_files("out.json"),
        ),
        "plot": (["plot", "waveform", str(world.clip), "-o", "out.png"], has_files("out.png")),
        "convert": (["convert", str(world.checkpoint), "out"], has_files("out/model.safetensors")),
        "info": (["info", str(world.vocoder)], says_no_nan),
    }


def _environment(draw: Draw, folder: Path, world: World) -> Case:
    name = draw.choice(sorted(ENVIRONMENTS))
    words = draw.choice(["vocode", "info", "train", "plot", "doctor"])
    run, check = _commands(world)[words]
    at_start = ("unbuffered", "no docstrings", "threads", "odd threads", "warnings", "language")  # read by Python then
    new = draw.random() < (0.3 if name in at_start else 0.05)
    encoding = {"ascii": "ascii", "latin-1": "latin-1"}.get(name)

    def prepare() -> None:
        if encoding and not new:
            sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
            sys.stderr = open(2, "w", encoding=encoding, errors="backslashreplace", closefd=False)  # noqa: SIM115

    expect = "either" if name in ("no docstrings", "warnings") else "accept"
    return Case(
        run,
        f"{words}, {name}",
        expect,
        [],
        check,
        environment=ENVIRONMENTS[name],
        new_process=new,
        prepare=prepare,
        seconds=60,
    )


def _streams(draw: Draw, folder: Path, world: World) -> Case:
    """Close or replace stdin, stdout and stderr."""
    words = draw.choice(["vocode", "vocode", "info", "doctor", "prepare", "evaluate"])
    run, check = _commands(world)[words]
    how = draw.choice(
        ["stdout closed", "stderr closed", "all closed", "stdout full", "stderr full", "stdout broken", "stdin closed"]
    )
    descriptors = {"stdout": [1], "stderr": [2], "stdin": [0], "all": [0, 1, 2]}[how.split()[0]]

    new = draw.random() < 0.1

    def prepare() -> None:
        for descriptor in descriptors:
            if how.endswith("closed"):
                os.close(descriptor)
                if not new:  # as Python does where it finds none at its start
                    setattr(sys, ("stdin", "stdout", "stderr")[descriptor], None)
            elif how.endswith("full"):
                os.dup2(os.open("/dev/full", os.O_WRONLY), descriptor)
            else:
                reader, writer = os.pipe()
                os.close(reader)
                os.dup2(writer, descriptor)

    if check is says_no_nan:
        check = _anything
    return Case(
        run,
        f"{words}, {how}",
        "either",
        [],
        check,
        new_process=new,
        prepare=prepare,
        silent=True,
        keeps=True,
        seconds=60,
    )


def _anything(result: Result) -> str | None:
    return None


def _limits(draw: Draw, folder: Path, world: World) -> Case:
    """Let writing fail after some bytes, as on a full disk."""
    words = draw.choice(["vocode", "generate", "prepare", "train", "train", "evaluate", "plot", "convert"])
    run, check = _commands(world)[words]
    size = draw.choice([0, 1, 100, 1000, 4000, 20_000, 100_000])

    return Case(
        run,
        f"{words}, files of at most {size} bytes",
        "either",
        [],
        check,
        file_limit=size,
        keeps=words in ("train", "prepare"),
        seconds=30,
    )


def _odd_input(draw: Draw, folder: Path, world: World) -> Case:
    """Give a device, a FIFO, a socket, a folder or links in a circle where a file is expected."""
    makers: dict[str, Callable[[Path], object]] = {
        "fifo": os.mkfifo,
        "device": lambda path: path.symlink_to("/dev/zero"),
        "random": lambda path: path.symlink_to("/dev/urandom"),
        "null": lambda path: path.symlink_to("/dev/null"),
        "stdin": lambda path: path.symlink_to("/dev/stdin"),
        "circle": lambda path: path.symlink_to(path.name),
        "folder": Path.mkdir,
        "self": lambda path: path.symlink_to("/proc/self/mem"),
        "sparse": lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 2**40),
        "empty": Path.touch,
    }
    how = draw.choice(sorted(makers))
    words = draw.choice(
        [
            "vocode",
            "mel",
            "vocode folder",
            "manifest",
            "doctor",
            "prepare",
            "evaluate",
            "train",
            "conf",
            "model",
            "plot",
            "convert",
            "show",
            "index",
        ]
    )
    names = {
        "mel": "odd.npy",
        "manifest": "odd.jsonl",
        "conf": "odd.yaml",
        "convert": "odd.pt",
        "show": "odd.json",
        "index": "odd.shards.json",
        "model": "model/model.safetensors",
        "train": "odd.jsonl",
    }
    path = folder / "in" / names.get(words, "odd.wav")
    (folder / "in").mkdir()
    if words == "model":
        world.copy(world.vocoder, folder / "in" / "model")
        path.unlink()
    makers[how](path)
    if words in ("vocode folder", "doctor", "prepare"):
        for i in range(3):
            world.copy(world.corpus / "a" / "clip0.wav", folder / "in" / f"good{i}.wav")
    odd, model, conf, clip = (
        str(path.relative_to(folder)),
        ["--model", str(world.vocoder)],
        str(world.conf),
        str(world.clip),
    )
    run = {
        "vocode": ["vocode", odd, "-o", "out.wav", *model],
        "mel": ["vocode", odd, "-o", "out.wav", *model],
        "vocode folder": ["vocode", "in", "-o", "out", *model],
        "manifest": ["vocode", odd, "-o", "out", *model],
        "doctor": ["doctor", "in", "--workers", "1"],
        "prepare": ["prepare", "in", "out", "--workers", "1"],
        "evaluate": ["evaluate", "pairs", clip, odd, "-m", "m_stft", "-j", "1"],
        "train": ["train", conf, "--dry-run", "--data", odd],
        "conf": ["train", odd, "--dry-run"],
        "model": ["vocode", clip, "-o", "out.wav", "--model", "in/model"],
        "plot": ["plot", "waveform", odd, "-o", "out.png"],
        "convert": ["convert", odd, "out"],
        "show": ["evaluate", "show", odd],
        "index": ["train", conf, "--dry-run", "--data", odd],
    }[words]
    several = words in ("vocode folder", "doctor", "prepare")
    return Case(
        run,
        f"{words}, {how}",
        "either" if several else "refuse",
        [] if several else ["odd", "model", "output"],
        None,
        keeps=several,
        seconds=5,
    )


def _odd_output(draw: Draw, folder: Path, world: World) -> Case:
    """Write to a device, below a file, into /proc, onto a folder, to a dangling link, or onto the input itself."""
    words = draw.choice(
        ["vocode", "generate", "prepare", "train", "evaluate", "plot", "convert", "export", "classifier"]
    )
    suffix = {"vocode": ".wav", "evaluate": ".json", "plot": ".png"}.get(words, "")
    (folder / "file").write_text("x")
    (folder / f"folder{suffix}").mkdir()
    (folder / f"dangling{suffix}").symlink_to(folder / "nowhere" / "x")
    os.mkfifo(folder / f"fifo{suffix}")
    (folder / f"null{suffix}").symlink_to("/dev/null")
    os.symlink(f"circle{suffix}", folder / f"circle{suffix}")
    target = draw.choice(
        [
            f"file/below{suffix}",
            f"/proc/nowhere{suffix}",
            f"/dev/full{suffix and ''}",
            "/dev/null",
            f"folder{suffix}",
            f"dangling{suffix}",
            f"fifo{suffix}",
            f"null{suffix}",
            "",
            f"{'x' * 300}{suffix}",
            f"new/deep/er{suffix}",
            f"circle{suffix}",
            "/",
            ".",
        ]
    )
    clip, vocoder = str(world.clip), str(world.vocoder)
    run = {
        "vocode": ["vocode", clip, "-o", target, "--model", vocoder],
        "generate": ["generate", "--model", str(world.generator), "--label", "yes", "-o", target],
        "prepare": ["prepare", str(world.corpus), target, "--workers", "1"],
        "train": ["train", str(world.conf), "--run", target],
        "evaluate": ["evaluate", "pairs", clip, clip, "-m", "m_stft", "-j", "1", "--json", target],
        "plot": ["plot", "waveform", clip, "-o", target],
        "convert": ["convert", str(world.checkpoint), target],
        "export": ["export", vocoder, target],
        "classifier": ["evaluate", "classifier", target, str(world.words), "--updates", "1"],
    }[words]

    def check(result: Result) -> str | None:
        import stat

        for device in ("/dev/null", "/dev/full"):
            if not stat.S_ISCHR(os.stat(device).st_mode):
                return f"{device} was replaced"
        return None

    names = [target, "output", "FOLDER", "OUT_DIR", "run"] if target else []
    if target in ("/", ".") and words in ("convert", "export", "train", "prepare", "generate", "vocode"):
        target = "."
        run = [
            ("out" if word == "/" else word) for word in run
        ]  # nothing of this may be written to the root of the machine
    return Case(run, f"{words} to {target[:20]!r}", "either", names, check, seconds=30, keeps=words == "prepare")
