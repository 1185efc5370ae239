"""Mels of other programs: read as they are, or refused with what to do."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from audiodiff.cli.main import main
from audiodiff.data.mels import OTHER_MELS, SAVE_MEL, load_mel
from audiodiff.errors import DataError, MelError
from audiodiff.pipelines.files import collect_jobs

MEL = np.random.default_rng(0).normal(size=(80, 7)).astype(np.float32)


@pytest.mark.parametrize("change", [np.asfortranarray, lambda m: m.astype(">f4"), lambda m: m[None], np.float64])
def test_arrays_of_any_layout_are_read(tmp_path, change):
    np.save(tmp_path / "m.npy", change(MEL))
    assert np.array_equal(load_mel(tmp_path / "m.npy").numpy(), MEL)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([MEL, None], dtype=object), r"m.npy cannot be read as a mel \(ValueError\)"),
        (MEL.astype(np.complex64), "m.npy is an array of complex64"),
        (MEL.astype(np.int16), "m.npy holds torch.int16; expected floating point"),
        (MEL > 0, "m.npy holds torch.bool; expected floating point"),
        (np.array([["a"]]), "m.npy is an array of <U1"),
        (np.zeros(3, dtype=[("a", "f4")]), "m.npy is an array of .*'a'"),
        (np.zeros((3, 1), dtype="M8[s]"), "m.npy is an array of datetime64"),
        (MEL.astype(np.longdouble), "m.npy is an array of float128"),
        (MEL[0], r"m.npy has shape \(7,\); expected one mel"),
    ],
)
def test_other_arrays_are_refused_by_type(tmp_path, array, message):
    np.save(tmp_path / "m.npy", array)
    with pytest.raises(MelError, match=message):
        load_mel(tmp_path / "m.npy")


def test_a_header_that_promises_more_than_there_is_is_refused(tmp_path):
    np.save(tmp_path / "m.npy", MEL)
    content = (tmp_path / "m.npy").read_bytes()
    (tmp_path / "m.npy").write_bytes(content.replace(b"(80, 7), }" + b" " * 12, b"(80, 7000000000000), }"))
    with pytest.raises(MelError, match="cannot be read as a mel .*damaged"):
        load_mel(tmp_path / "m.npy")
    with (tmp_path / "m.npy").open("wb") as file:
        np.savez(file, MEL)
    with pytest.raises(MelError, match=r"holds a NpzFile; expected one tensor .*numpy.save"):
        load_mel(tmp_path / "m.npy")


@pytest.mark.parametrize("suffix", [*OTHER_MELS, ".NPZ"])
def test_mels_in_other_formats_are_to_be_saved_by_numpy(tmp_path, suffix):
    path = tmp_path / f"mel{suffix}"
    torch.save(torch.from_numpy(MEL), path)
    result = CliRunner().invoke(main, ["vocode", str(path), "-o", str(tmp_path / "out"), "--model", "speech-22k-tiny"])
    assert result.exit_code == 1
    assert (
        f"mel{suffix} is no mel that is read here: expected .npy, or .pt with one tensor. {SAVE_MEL}" in result.stderr
    )
    assert "WAV" not in result.stderr
    with pytest.raises(
        DataError, match=rf"holds no audio and no mels .*Is mel{suffix} a mel\? Save it with numpy.save"
    ):
        collect_jobs([tmp_path], tmp_path / "out")


def test_the_advice_works(tmp_path):
    exec(
        SAVE_MEL.partition("with ")[2].partition(", one")[0].replace("NAME", str(tmp_path / "m")),
        {"numpy": np, "mel": MEL},
    )
    assert np.array_equal(load_mel(tmp_path / "m.npy").numpy(), MEL)


def test_an_empty_manifest_is_no_success(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    result = CliRunner().invoke(main, ["vocode", str(tmp_path / "empty.jsonl"), "-o", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "empty.jsonl lists no recordings. `audiodiff prepare` writes manifests." in result.stderr
    line = json.dumps({"audio": "a.wav", "seconds": 1.0, "sample_rate": 22050})
    (tmp_path / "one.jsonl").write_text(line + "\n")
    (job,) = collect_jobs([tmp_path / "one.jsonl"], tmp_path / "out")
    assert job.source == tmp_path / "a.wav"
