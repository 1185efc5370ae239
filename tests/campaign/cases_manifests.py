"""Manifests and indices of shards: damaged lines, odd texts and numbers, paths that lead elsewhere, `pipe:` names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from campaign.case import Case, Draw, Result, damage
from campaign.oracle import all_of, says_no_nan
from campaign.world import World

NAN, INF = float("nan"), float("inf")
VALUES: tuple[Any, ...] = (
    None, True, False, NAN, INF, -INF, -1, 0, 1, 3999, 4001, 10**9, 10**19, 10**400, 0.5, 1e-320, 1e308, "", " ", "x",
    "1", "\0", "\u2028", "\x85", "\ud800",
    "x" * 5000, [], [1.0], [NAN], {}, {"a": 1}, [[]], "../clip.wav", "/etc/passwd", "/dev/zero", "/dev/null", ".",
    "..", "~", "pipe:touch pwned",
    "http://127.0.0.1:9/x.wav", "file:///etc/passwd", "a\nb", "-x", "nowhere.wav", "NaN",
)  # fmt: skip
NAMES = (
    "pipe:touch pwned", "pipe:touch pwned; echo x.tar", "| touch pwned", "$(touch pwned)", "file:///etc/passwd",
    "http://127.0.0.1:9/x.tar",
    "https://127.0.0.1:9/x.tar", "s3://bucket/x.tar", "gs://a/b", "hf://a/b", "ftp://127.0.0.1:9/x", "ssh://x/y",
    "../lists/x.tar", "/etc/passwd",
    "/dev/zero", "-", "", ".", "..", "nowhere.tar", "train-{00000..00001}.tar", "train-00000.tar::train-00001.tar",
    "a\0b", "x" * 300, None, 3, ["x"],
    "-x.tar", "PIPE:touch pwned", " pipe:touch pwned", "cmd:touch pwned", "train-00000.tar?x=1", "train-00000.tar#x",
)  # fmt: skip


def make(draw: Draw, folder: Path, world: World) -> Case:
    """Change a manifest or an index of shards, and use it."""
    case = _of_shards(draw, folder, world) if draw.random() < 0.3 else _of_lines(draw, folder, world)
    case.check = all_of(_nothing_was_run, case.check)
    return case


def _nothing_was_run(result: Result) -> str | None:
    return "a shell command was executed" if any(result.folder.rglob("pwned*")) else None


def _of_lines(draw: Draw, folder: Path, world: World) -> Case:
    data, about = _manifest(draw, world)
    (folder / "list.jsonl").write_bytes(data)
    command = draw.choice(["doctor", "doctor", "vocode", "train", "train", "read", "pairs", "classifier", "repair"])
    conf = str(world.conf)
    run, check = {
        "doctor": (["doctor", "list.jsonl", "--workers", "1", *draw.choice([[], ["--json"]])], says_no_nan),
        "vocode": (["vocode", "list.jsonl", "-o", "out", "--model", str(world.vocoder)], _wrote_something),
        "repair": (
            ["repair", "list.jsonl", "-o", "out", "--model", str(world.vocoder), "--denoise", "10", "--steps", "1"],
            _wrote_something,
        ),
        "train": (["train", conf, "--dry-run", "--data", "list.jsonl"], says_no_nan),
        "pairs": (["evaluate", "pairs", "list.jsonl", "list.jsonl", "-m", "m_stft", "-j", "1"], says_no_nan),
        "classifier": (["evaluate", "classifier", "classifier.pt", "list.jsonl", "--updates", "1"], None),
        "read": (_round_trip(folder), None),
    }[command]
    return Case(
        run,
        f"{command}, {about}",
        "accept" if about == "whole" and command != "classifier" and data.count(b"\n") > 1 else "either",
        ["list", ".wav", ".flac", "/dev/", "/etc/"],
        check,
        keeps=command in ("vocode", "repair"),
        seconds=20 if command in ("train", "classifier") else 5,
    )


def _wrote_something(result: Result) -> str | None:
    return None if any((result.folder / "out").glob("**/*.wav")) else "exit 0, and no audio"


def _round_trip(folder: Path):
    def run() -> None:
        from audiodiff.data.manifest import read_manifest, write_manifest

        recordings = read_manifest(folder / "list.jsonl")
        write_manifest(folder / "again.jsonl", recordings)
        again = read_manifest(folder / "again.jsonl")
        assert [
            one.model_copy(update={"audio": two.audio, "mel": two.mel, "vector": two.vector})
            for one, two in zip(recordings, again, strict=True)
        ] == again
        assert [one.audio.resolve() for one in recordings] == [two.audio.resolve() for two in again]

    return run


def _manifest(draw: Draw, world: World) -> tuple[bytes, str]:
    """Return a manifest, and what is odd about it."""
    entries = world.lines()[: draw.choice([1, 2, 8])]
    lines = [json.dumps(entry, ensure_ascii=False) for entry in entries]
    place = draw.randrange(len(lines))
    how = draw.choice(
        ["value"] * 10
        + ["damage"] * 3
        + [
            "whole",
            "bom",
            "crlf",
            "blank",
            "empty",
            "twice",
            "deep",
            "long integer",
            "list",
            "utf-16",
            "remove",
            "unknown key",
            "surrogate",
            "separator",
            "nul",
            "comments",
            "relative",
        ]
    )
    entry = dict(entries[place])
    if how == "value":
        key = draw.choice([*entry, "vector", "mel", "bandwidth", "mel_convention", "synthesis"])
        entry[key] = draw.choice(VALUES)
        lines[place] = json.dumps(entry, ensure_ascii=draw.random() < 0.5)
        return ("\n".join(lines) + "\n").encode(errors="surrogatepass"), f"{key} = {str(entry[key])[:50]!r}"
    if how == "damage":
        data, what = damage("\n".join(lines).encode(), draw)
        return data, what
    if how == "remove":
        del entry[draw.choice(sorted(entry))]
        lines[place] = json.dumps(entry)
    texts = {
        "blank": "\n\n \n",
        "empty": "",
        "deep": "[" * 100_000,
        "long integer": '{"audio": "x", "seconds": ' + "9" * 5000 + "}",
        "list": "[1, 2]\n",
        "twice": "\n".join([*lines, lines[place]]),
        "comments": "# comment\n" + "\n".join(lines),
        "unknown key": json.dumps(entry | {"what": 1}),
        "surrogate": json.dumps(entry | {"text": "\ud800"}),
        "separator": json.dumps(entry | {"text": "a\u2028b\x85c"}, ensure_ascii=False),
        "nul": json.dumps(entry | {"audio": "a\0b.wav"}),
        "relative": json.dumps(entry | {"audio": "../../x.wav"}),
    }
    text = texts.get(how, "\n".join(lines) + "\n")
    encoded = {
        "bom": b"\xef\xbb\xbf" + text.encode(),
        "crlf": text.replace("\n", "\r\n").encode(),
        "utf-16": text.encode("utf-16"),
    }
    return encoded.get(how, text.encode(errors="surrogatepass")), how


def _of_shards(draw: Draw, folder: Path, world: World) -> Case:
    for path in world.shards.parent.glob("train*"):
        shutil.copy(path, folder)
    index = folder / "train.shards.json"
    document = json.loads(index.read_text())
    how = draw.choice(["name"] * 5 + ["seconds", "damage", "tar", "tar", "shape", "whole", "argument"])
    about, argument = how, index.name
    if how == "name":
        name = draw.choice(NAMES)
        document["shards"][draw.randrange(2)]["name"] = name
        about = f"name {str(name)[:40]!r}"
    elif how == "seconds":
        document["shards"][0]["seconds"] = draw.choice(
            [[], [NAN] * 4, [-1] * 4, [1e300] * 4, "x", None, [0] * 4, [1] * 100_000, [True] * 4, [INF] * 4]
        )
        about = f"seconds {str(document['shards'][0]['seconds'])[:30]}"
    elif how == "shape":
        document = draw.choice(
            [
                [],
                {},
                {"shards": []},
                {"shards": {}},
                {"shards": [{}]},
                {"shards": [1]},
                None,
                3,
                {"audiodiff_shards": 2} | document,
            ]
        )
        about = f"shape {str(document)[:40]}"
    index.write_text(json.dumps(document))
    if how == "damage":
        data, about = damage(index.read_bytes(), draw)
        index.write_bytes(data)
    elif how == "tar":
        tar = folder / "train-00000.tar"
        data, about = damage(tar.read_bytes(), draw, draw.choice([512, None]))
        tar.write_bytes(data)
        about = f"tar, {about}"
    elif how == "argument":
        argument = draw.choice(
            [
                "pipe:touch pwned; echo x.shards.json",
                "pipe:cat train.shards.json",
                "http://127.0.0.1:9/x.shards.json",
                "./train.shards.json",
                "nowhere.shards.json",
                "-.shards.json",
                "file:train.shards.json",
            ]
        )
        about = argument
    run = ["train", str(world.conf), "--dry-run", "--data", argument, "--set", f"data.valid={world.manifest}"]
    if draw.random() < 0.3:
        run = ["doctor", argument, "--workers", "1"]
    return Case(
        run,
        f"shards, {about}",
        "accept" if how == "whole" and run[0] == "train" else "either",
        ["shard", ".tar", "line", "-.", "File name too long"],
        seconds=20,
    )
