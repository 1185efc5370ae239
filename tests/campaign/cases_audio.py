"""Audio files of every format that soundfile writes, whole, mutated, chained, with wrong sizes and odd samples."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import soundfile

from campaign.case import Case, Check, Draw, Result, damage
from campaign.oracle import all_of, audio_is, has_files, says_no_nan
from campaign.world import HOP, RATE, World, voice

EXTENSIONS = {
    "WAV": "wav", "WAVEX": "wav", "AIFF": "aiff", "AU": "au", "CAF": "caf", "FLAC": "flac", "OGG": "ogg", "MP3": "mp3",
    "RF64": "rf64", "W64": "w64", "NIST": "sph", "SVX": "wav", "VOC": "wav", "AVR": "wav", "MAT4": "wav", "MAT5": "wav",
    "PVF": "wav", "XI": "wav", "HTK": "wav", "SD2": "wav", "IRCAM": "wav", "PAF": "wav", "WVE": "wav", "MPC2K": "wav",
}  # fmt: skip
COMMON = ("WAV", "WAV", "WAVEX", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "W64", "RF64")
SIZES = (0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFE, 0x7FFFF000, 0xFFFFF000, 36, 1000)


def make(draw: Draw, folder: Path, world: World) -> Case:
    """Make a file, and a command that reads it."""
    kind, subtype = _format(draw)
    rate = draw.choice([RATE, RATE, RATE, 16000, 22050, 44100, 48000, 11025])
    if draw.random() < 0.06:
        rate = draw.choice([1, 7, 100, 192000, 384000, 2**31 - 1])
    channels = draw.choice([1, 1, 1, 2, 2, 3, 6])
    samples, signal = _samples(draw, rate, channels)
    if kind == "OGG":
        rate = min(rate, 192_000)
    if subtype not in ("FLOAT", "DOUBLE"):  # libsndfile's encoders crash on what they cannot hold
        samples = np.nan_to_num(samples, posinf=1, neginf=-1).clip(-1, 1)
    written = _write(folder / "in", samples, rate, kind, subtype)
    if written is None:  # this format has no such rate or number of channels
        written, signal = _write(folder / "in", samples[:, :1], RATE, "WAV", "PCM_16"), f"{signal}, as WAV"
        kind, subtype, rate, channels = "WAV", "PCM_16", RATE, 1
    path, n_written = written
    about = f"{kind} {subtype} {rate} Hz {channels} ch, {signal}"
    plain = signal == "voice" and rate in range(8000, 48001) and kind in COMMON
    if draw.random() < 0.6:
        path, mutation, n_written = _mutate(draw, path, kind, n_written)
        about, plain = f"{about}, {mutation}", False
    if draw.random() < 0.05:
        path = path.rename(
            path.with_suffix(draw.choice([".mp3", ".flac", ".wav", ".WAV", ".ogg", ".raw", ".aiff", ".sph"]))
        )
        about, plain = f"{about}, called {path.name}", False
    command = draw.choice(
        ["vocode"] * 6 + ["library"] * 3 + ["prepare", "prepare", "doctor", "plot", "repair", "evaluate"]
    )
    case = COMMANDS[command](draw, path, world, n_written * RATE / rate, signal == "voice" and plain)
    case.about = about
    too_short = command == "evaluate" and n_written < 1500
    case.expect = "accept" if plain and not too_short else "either"
    return case


def _format(draw: Draw) -> tuple[str, str]:
    kind = (
        draw.choice(COMMON)
        if draw.random() < 0.7
        else draw.choice(sorted(set(soundfile.available_formats()) - {"RAW"}))
    )
    subtypes = sorted(soundfile.available_subtypes(kind)) or ["PCM_16"]
    return kind, draw.choice(subtypes)


def _samples(draw: Draw, rate: int, channels: int) -> tuple[np.ndarray, str]:
    """Return samples `(time, channels)` and what they are."""
    seconds = draw.choice([0.1, 0.25, 0.4])
    n = max(1, min(round(seconds * rate), 100_000))
    signal = draw.choice(
        ["voice"] * 10 + ["silence", "dc", "one sample", "square", "integer scale", "huge", "tiny", "nan", "inf"]
    )
    tone = voice(n / 16000, 16000, draw.randrange(20))[:n] if n > 64 else np.full(n, 0.1)
    tone = np.resize(tone, n)
    samples = np.stack([tone * 0.9**i for i in range(channels)], axis=1).astype(np.float64)
    if signal == "silence":
        samples[:] = 0
    elif signal == "dc":
        samples[:] = 0.5
    elif signal == "one sample":
        samples = samples[:1]
    elif signal == "square":
        samples = np.sign(samples)
    elif signal in ("integer scale", "huge", "tiny"):
        samples *= {"integer scale": 32768.0, "huge": 1e30, "tiny": 1e-38}[signal]
    elif signal in ("nan", "inf"):
        samples[draw.randrange(len(samples))] = float(signal)
    return samples, signal


def _write(folder: Path, samples: np.ndarray, rate: int, kind: str, subtype: str) -> tuple[Path, int] | None:
    folder.mkdir(exist_ok=True)
    path = folder / f"sound.{EXTENSIONS.get(kind, 'wav')}"
    try:
        with soundfile.SoundFile(path, "w", rate, samples.shape[1], subtype, format=kind) as file:
            for start in range(0, len(samples), 4096):
                file.write(samples[start : start + 4096])
        with soundfile.SoundFile(path) as file:  # what it holds: some encodings know whole blocks only
            return path, sum(len(block) for block in file.blocks(4096))
    except (soundfile.SoundFileError, ValueError, TypeError):
        path.unlink(missing_ok=True)
        return None


def _mutate(draw: Draw, path: Path, kind: str, n: int) -> tuple[Path, str, int]:
    """Damage a file; return it, how, and how many samples per channel it holds at least (0 where nobody can say)."""
    data = path.read_bytes()
    if kind in ("WAV", "WAVEX") and draw.random() < 0.5:
        data, how, n = _wrong_field(draw, data, n)
    elif kind in ("MP3", "OGG") and draw.random() < 0.4:
        data, how, n = data + data, "two streams joined", 2 * n
    elif kind == "MP3" and draw.random() < 0.3:
        start = data.find(b"Xing") if b"Xing" in data else data.find(b"Info")
        data = data[:start] + bytes(4) + data[start + 4 :] if start > 0 else data
        how, n = "no Xing header", n // 2
    else:
        data, how = damage(data, draw, draw.choice([16, 64, 200, None]))
        n = 0
    path.write_bytes(data)
    return path, how, n


def _wrong_field(draw: Draw, data: bytes, n: int) -> tuple[bytes, str, int]:
    """Put another value into a field of a WAV's header; sizes that claim less or more do not change what is there."""
    at = data.find(b"data")
    value = draw.choice(SIZES)
    field = draw.choice(
        ["data size", "data size", "data size", "riff size", "both sizes", "channels", "rate", "bits", "block", "tag"]
    )
    changed = bytearray(data)
    if field in ("data size", "both sizes") and at > 0:
        changed[at + 4 : at + 8] = struct.pack("<I", value)
    if field in ("riff size", "both sizes"):
        changed[4:8] = struct.pack("<I", value)
    places = {"channels": (22, "<H"), "rate": (24, "<I"), "bits": (34, "<H"), "block": (32, "<H"), "tag": (20, "<H")}
    if field in places:
        offset, form = places[field]
        changed[offset : offset + struct.calcsize(form)] = struct.pack(
            form, value & (0xFFFF if form == "<H" else 0xFFFFFFFF)
        )
        n = 0
    if field == "rate" and 0 < value < 1000:  # few hertz make seconds into hours, which would be read
        changed[24:28] = struct.pack("<I", 1000)
    if 0 < value < 2000:
        n = 0  # a size that claims less is what the file says
    return bytes(changed), f"{field} {value}", n


# --- commands ---------------------------------------------------------------------------------------------------------


def _vocode(draw: Draw, path: Path, world: World, n: float, plain: bool) -> Case:
    output = draw.choice(["out.wav", "out.flac"])
    check = audio_is(output, round(n) if plain else None, tolerance=2, sounds=plain, at_least=int(n * 0.98) - HOP)
    return Case(
        ["vocode", f"in/{path.name}", "-o", output, "--model", str(world.vocoder), "--resample"],
        "",
        names=[path.stem],
        check=check,
    )


def _repair(draw: Draw, path: Path, world: World, n: float, plain: bool) -> Case:
    what = draw.choice([["--gap", "0.02-0.03"], ["--declip"], ["--denoise"], ["--denoise", "10"], ["--extend", "2000"]])
    run = [
        "repair",
        f"in/{path.name}",
        "-o",
        "out.wav",
        "--model",
        str(world.vocoder),
        "--resample",
        "--steps",
        "1",
        *what,
    ]
    return Case(run, "", names=[path.stem], check=audio_is("out.wav", rate=None, sounds=plain))


def _library(draw: Draw, path: Path, world: World, n: float, plain: bool) -> Case:
    path = path.resolve()

    def run() -> None:
        from audiodiff.audio.io import audio_info, load_audio

        info, audio = audio_info(path), load_audio(path, mono=False)
        assert audio.shape == (info.channels, info.n_samples), f"{audio.shape} read, {info} said"
        assert bool(audio.isfinite().all())
        if info.n_samples > 20:
            part = load_audio(path, mono=False, start=info.n_samples // 2, n_samples=10)
            assert (part - audio[:, info.n_samples // 2 :][:, :10]).abs().max() <= 1e-3 * max(1, audio.abs().max()), (
                "parts differ"
            )

    return Case(run, "", names=[path.stem])


def _prepare(draw: Draw, path: Path, world: World, n: float, plain: bool) -> Case:
    for i in range(3):
        world.copy(
            world.corpus / "a" / f"clip{2 * i}.{'wav' if i < 2 else 'flac'}",
            path.parent / f"good{i}.{'wav' if i < 2 else 'flac'}",
        )
    return Case(
        ["prepare", "in", "out", "--workers", "1"],
        "",
        names=[path.stem],
        check=_manifests_are_true(path.name, plain),
        keeps=True,
    )


def _manifests_are_true(name: str, plain: bool) -> Check:
    def check(result: Result) -> str | None:
        from audiodiff.audio.io import load_audio
        from audiodiff.errors import AudiodiffError, NotFiniteError

        entries = {}
        for manifest in ("train", "valid", "test"):
            lines = (result.folder / "out" / f"{manifest}.jsonl").read_text(encoding="utf-8").split("\n")
            entries |= {Path(entry["audio"]).name: entry for entry in map(json.loads, filter(None, lines))}
        if not {"good0.wav", "good1.wav", "good2.flac"} <= set(entries):
            return f"good recordings are missing: {sorted(entries)}"
        if name not in entries:
            return f"{name} is in no manifest, without a word" if plain or name not in result.err else None
        try:
            audio = load_audio(result.folder / "in" / name, mono=False)
        except NotFiniteError:  # `doctor` and training read every sample and name it; `prepare` reads headers
            return None
        except AudiodiffError as error:
            return f"the manifest holds what cannot be read: {error}"
        said = entries[name]["channels"], entries[name]["n_samples"]
        return None if tuple(audio.shape) == said else f"the manifest says {said}, reading gives {tuple(audio.shape)}"

    return check


def _doctor(draw: Draw, path: Path, world: World, n: float, plain: bool) -> Case:
    return Case(["doctor", "in", "--workers", "1", *draw.choice([[], ["--json"]])], "", keeps=False, check=says_no_nan)


def _plot(draw: Draw, path: Path, world: World, n: float, plain: bool) -> Case:
    what = draw.choice(["waveform", "mel"])
    return Case(
        ["plot", what, f"in/{path.name}", "-o", "out.png"],
        "",
        names=[path.stem],
        check=has_files("out.png"),
        seconds=10,
    )


def _evaluate(draw: Draw, path: Path, world: World, n: float, plain: bool) -> Case:
    run = [
        "evaluate",
        "pairs",
        f"in/{path.name}",
        f"in/{path.name}",
        "--metrics",
        "m_stft,log_mel,rms_ratio_db",
        "-j",
        "1",
        "--json",
        "scores.json",
    ]
    return Case(run, "", names=[path.stem], check=all_of(has_files("scores.json")), keeps=True)


COMMANDS = {
    "vocode": _vocode,
    "repair": _repair,
    "library": _library,
    "prepare": _prepare,
    "doctor": _doctor,
    "plot": _plot,
    "evaluate": _evaluate,
}
