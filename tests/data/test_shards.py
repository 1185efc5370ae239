"""Shards give back what went in, in an order that seed, epoch and process decide, from disk and over http."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from itertools import islice

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner

from audiodiff.cli.main import main
from audiodiff.config import DataConfig, TransformConfig
from audiodiff.data import shard_files, shards
from audiodiff.data.crops import CropReader
from audiodiff.data.dataset import Replica
from audiodiff.data.manifest import read_manifest, scan_folder
from audiodiff.data.shards import ShardStream, write_shards
from audiodiff.errors import AudioError, DataError, MissingPackageError
from audiodiff.training.checkpoints import RunFolder
from audiodiff.training.trainer import train

pytest.importorskip("webdataset")

PLAIN = DataConfig(train="x", polarity=False, gain_db=(0, 0))
N_RECORDINGS = 12


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Recordings of constant value i / 100, of 2 crops each; FLAC and WAV; in four shards."""
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(N_RECORDINGS):
        samples = np.full(1280, (i + 1) / 100)
        soundfile.write(folder / f"{i}.{('wav', 'flac')[i % 2]}", samples, 8000, subtype="PCM_24")
    recordings = scan_folder(folder).recordings
    write_shards(recordings, folder / "train.shards.json", 4)
    return folder


def stream(folder, config=PLAIN, seed=0):
    return ShardStream(str(folder / "train.shards.json"), CropReader(8000, 640), config, seed)


def taken(stream, n_batches, start_step=0, size=4, workers=0, **options):
    return list(islice(stream.batches(start_step, size, workers, **options), n_batches))


def which(batches):
    """Return which recordings crops are of."""
    return [round(float(audio.mean()) * 100) - 1 for batch in batches for audio in batch.audio]


def test_an_epoch_has_every_recording_as_often_as_it_holds_crops(corpus):
    data = stream(corpus)
    assert (data.n_recordings, data.seconds) == (N_RECORDINGS, pytest.approx(N_RECORDINGS * 0.16))
    numbers = which(taken(data, 12))
    first, second = numbers[:24], numbers[24:]
    assert Counter(first) == Counter(second) == dict.fromkeys(range(N_RECORDINGS), 2)
    assert first != second  # reshuffled


def test_seed_decides_the_order_and_nothing_else_does(corpus):
    first, again, other = (which(taken(stream(corpus, seed=seed), 6)) for seed in (0, 0, 1))
    assert first == again != other
    before = np.random.get_state()[1].tolist(), torch.get_rng_state()
    taken(stream(corpus), 2)
    assert np.random.get_state()[1].tolist() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_processes_see_different_recordings_and_all_of_them(corpus):
    parts = [which(taken(stream(corpus), 3, replica=Replica(rank, 2))) for rank in range(2)]
    assert set(parts[0]).isdisjoint(parts[1])
    assert set(parts[0]) | set(parts[1]) == set(range(N_RECORDINGS))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start_step", [1, 4, 7, 13])
def test_a_resumed_stream_goes_on_where_it_was(corpus, workers, start_step):
    config = DataConfig(train="x", time_reversal=True)
    straight = taken(stream(corpus, config), 16, workers=workers)[start_step:]
    resumed = taken(stream(corpus, config), 16 - start_step, start_step, workers=workers)
    assert all(torch.equal(a.audio, b.audio) for a, b in zip(straight, resumed, strict=True))


def test_augmentation_applies(corpus):
    pytest.importorskip("audiomentations")
    inverted = PLAIN.model_copy(
        update={"transforms": (TransformConfig(name="PolarityInversion", parameters={"p": 1}),)}
    )
    (plain,), (changed,) = taken(stream(corpus), 1), taken(stream(corpus, inverted), 1)
    assert torch.equal(plain.audio, -changed.audio)


def test_one_shots_are_seen_once_an_epoch_and_speed_applies(corpus, tmp_path):
    recordings = scan_folder(corpus).recordings
    write_shards(recordings, tmp_path / "train.shards.json", 2)

    def first(speed):
        config = PLAIN.model_copy(update={"speed": speed})
        data = ShardStream(str(tmp_path / "train.shards.json"), CropReader(8000, 160, one_shots=True), config, 0)
        assert data.n_crops(100.0) == 1
        return next(data.batches(0, 4)).audio

    assert not torch.equal(first((1.0, 1.0)), first((1.5, 1.5)))


def test_labels_and_bandwidth_travel(corpus, tmp_path):
    recordings = [
        recording.model_copy(update={"label": "ab"[i % 2], "bandwidth": 1000.0})
        for i, recording in enumerate(scan_folder(corpus).recordings)
    ]
    write_shards(recordings, tmp_path / "train.shards.json", 2)
    reader = CropReader(8000, 640, labels=("a", "b"))
    data = ShardStream(str(tmp_path / "train.shards.json"), reader, PLAIN, 0)
    batch = next(data.batches(0, 24))
    assert sorted(batch.label.tolist()) == [0] * 12 + [1] * 12
    assert batch.bandwidth.tolist() == [1000.0] * 24


def spoil(folder, target):
    """Damage the audio of the first recording of every shard, such that the tar stays whole."""
    shutil.copytree(folder, target)
    for path in target.glob("*.tar"):
        content = bytearray(path.read_bytes())
        place = min(i for i in (content.find(start) for start in (b"RIFF", b"fLaC")) if i > 0)
        if "1" in path.name:
            place = content.find(b'{"audio"')
        content[place : place + 48] = b"x" * 48
        path.write_bytes(content)
    return target


def test_what_cannot_be_read_is_replaced_and_told(corpus, tmp_path):
    damaged, failures = spoil(corpus, tmp_path / "damaged"), []
    numbers = which(taken(stream(damaged), 6, on_failure=failures.append))
    assert len({failure.path for failure in failures}) == 4
    assert all(".tar/0" in str(failure.path) for failure in failures)
    assert len(set(numbers)) == N_RECORDINGS - 4
    with pytest.raises((AudioError, DataError), match=r"shard|\.tar"):
        taken(stream(damaged), 6)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_cut_shard_is_named(corpus, tmp_path, workers):
    shutil.copytree(corpus, tmp_path / "cut")
    for path in (tmp_path / "cut").glob("*.tar"):
        path.write_bytes(path.read_bytes()[:6000])
    with pytest.raises(DataError, match=r"train-0000\d.tar (cannot be read|holds 1 recordings)"):
        taken(stream(tmp_path / "cut"), 20, workers=workers)


def test_what_cannot_be_packed_or_opened_is_refused(corpus, tmp_path, monkeypatch):
    recordings = scan_folder(corpus).recordings
    with pytest.raises(DataError, match="12 recordings into 13 shards"):
        write_shards(recordings, tmp_path / "train.shards.json", 13)
    with pytest.raises(DataError, match="must be named like"):
        write_shards(recordings, tmp_path / "train.json", 2)
    (tmp_path / "train.shards.json").write_text("[]")
    with pytest.raises(DataError, match="cannot be read as an index"):
        stream(tmp_path)
    with pytest.raises(DataError, match="has 4 shards, too few for 5 processes"):
        taken(stream(corpus), 1, replica=Replica(0, 5))
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(MissingPackageError, match="pip install 'audiodiff.shards.'"):
        stream(corpus)


@pytest.fixture
def no_commands(monkeypatch):
    """Fail as soon as a process is started."""
    for name in ("Popen", "run"):
        monkeypatch.setattr(subprocess, name, lambda *_, **__: pytest.fail("a command was run"))
    monkeypatch.setattr(import_module("webdataset.gopen"), "Popen", lambda *_, **__: pytest.fail("a command was run"))


@pytest.mark.usefixtures("no_commands")
@pytest.mark.parametrize(
    "name",
    [
        *(
            "pipe:touch X",
            "PIPE:touch X",
            "pipe:cat train-00000.tar",
            "file:///etc/passwd",
            "s3://b/x.tar",
            "gs://b/x.tar",
        ),
        *(
            "../train.tar",
            "a/../../train.tar",
            "/etc/passwd",
            "",
            ".",
            "a//b.tar",
            "a\\..\\b.tar",
            "C:/x.tar",
            "x\n.tar",
        ),
        *("http://127.0.0.1:9/x.tar", 5, None, ["x.tar"]),
    ],
)
def test_a_shard_is_a_file_below_the_folder_of_its_index(corpus, tmp_path, name):
    index = tmp_path / "train.shards.json"
    index.write_text(json.dumps({"audiodiff_shards": 1, "shards": [{"name": name, "seconds": [1.0]}]}))
    with pytest.raises(DataError, match="index of shards: a shard is called .*; expected the name of a file beside"):
        stream(tmp_path)
    assert os.listdir(tmp_path) == ["train.shards.json"]


@pytest.mark.usefixtures("no_commands")
@pytest.mark.parametrize(
    "index",
    [
        *("pipe:touch X; echo x.shards.json", "Pipe:touch X;echo .shards.json", "file:///tmp/x.shards.json"),
        *("s3://b/x.shards.json", "gs://b/x.shards.json", "hf://b/x.shards.json", "ais://b/x.shards.json"),
        *("http:pipe:touch X;x.shards.json", "scp://h/x.shards.json"),
    ],
)
def test_an_index_is_a_file_or_an_address_of_http(tmp_path, monkeypatch, index):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        DataError, match="is not opened: shards are files, or addresses that begin with http:// or https"
    ):
        ShardStream(index, CropReader(8000, 640), PLAIN, 0)
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("no_commands")
@pytest.mark.parametrize(
    "index", [" pipe:touch X; echo x.shards.json", "-", "x|touch X.shards.json", "p:touch X.shards.json"]
)
def test_what_has_no_scheme_is_a_file(tmp_path, monkeypatch, index):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="is no file; expected a shard"):
        ShardStream(index, CropReader(8000, 640), PLAIN, 0)
    assert os.listdir(tmp_path) == []


def test_webdataset_enforces_its_own_security(corpus):
    import webdataset
    from webdataset import utils

    stream(corpus)
    assert utils.enforce_security
    with pytest.raises(ValueError, match="pipe|security|unsafe"):
        webdataset.gopen("pipe:true")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "KeyError"),
        ('{"shards": []}', "it lists no shards"),
        ('{"shards": [{"name": "x.tar", "seconds": []}]}', "shard 'x.tar' has no lengths in seconds"),
        ('{"shards": [{"name": "x.tar", "seconds": [NaN]}]}', "shard 'x.tar' has no lengths in seconds"),
        ('{"shards": [{"name": "x.tar", "seconds": [-1]}]}', "shard 'x.tar' has no lengths in seconds"),
        ('{"shards": [{"name": "x.tar", "seconds": [1e300]}]}', "shard 'x.tar' has no lengths in seconds"),
        ("[" * 100_000, "RecursionError"),
    ],
)
def test_an_index_that_makes_no_sense_is_refused(tmp_path, text, message):
    (tmp_path / "train.shards.json").write_text(text)
    with pytest.raises(DataError, match=f"cannot be read as an index of shards: {message}"):
        stream(tmp_path)


def test_a_shard_with_more_than_its_index_says_is_named(corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "more")
    index = tmp_path / "more" / "train.shards.json"
    document = json.loads(index.read_text())
    for shard in document["shards"]:
        shard["seconds"].pop()
    index.write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"train-0000\d.tar holds more recordings, its index says 2"):
        taken(stream(tmp_path / "more"), 20)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_a_file_that_would_fill_the_memory_is_refused(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_files, "LARGEST", 2**20)
    with tarfile.open(tmp_path / "train-0.tar", "w:gz") as tar:
        member = tarfile.TarInfo("0.wav")
        member.size = 2**20 + 1
        tar.addfile(member, io.BytesIO(bytes(member.size)))
    index = {"audiodiff_shards": 1, "shards": [{"name": "train-0.tar", "seconds": [1.0]}]}
    (tmp_path / "train.shards.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match=r"'0\.wav' has 1,048,577 bytes, beyond 1,048,576"):
        taken(stream(tmp_path), 1)
    monkeypatch.setattr(shards, "LARGEST", 1000)
    with pytest.raises(DataError, match="is larger than 1,000 bytes. Cut it"):
        write_shards(scan_folder(corpus).recordings, tmp_path / "new.shards.json", 2)


def test_a_server_without_the_shards_is_named(corpus, tmp_path):
    shutil.copy(corpus / "train.shards.json", tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(DataError, match=f"{address}/other.shards.json cannot be fetched: HTTP Error 404"):
            ShardStream(f"{address}/other.shards.json", CropReader(8000, 640), PLAIN, 0)
        with pytest.raises(DataError, match=rf"{address}/train-0000\d.tar cannot be fetched: HTTP Error 404"):
            taken(ShardStream(f"{address}/train.shards.json", CropReader(8000, 640), PLAIN, 0), 6)
        server.shutdown()
    with pytest.raises(DataError, match="cannot be fetched: .*refused"):
        ShardStream(f"{address}/train.shards.json", CropReader(8000, 640), PLAIN, 0)


def test_shards_are_read_over_http(corpus):
    handler = partial(Quiet, directory=str(corpus))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        index = f"http://127.0.0.1:{server.server_port}/train.shards.json"
        numbers = which(taken(ShardStream(index, CropReader(8000, 640), PLAIN, 0), 6))
        server.shutdown()
    assert numbers == which(taken(stream(corpus), 6))


def test_prepare_packs_and_training_on_shards_resumes_bit_identically(tmp_path, speech_folder, tiny_run_config):
    result = CliRunner().invoke(main, ["prepare", str(speech_folder), str(tmp_path / "lists"), "--shards", "2"])
    assert result.exit_code == 0, result.output
    assert "train.shards.json: 2 shards, " in result.stdout
    packed = {"train": str(tmp_path / "lists" / "train.shards.json"), "valid": str(tmp_path / "lists" / "valid.jsonl")}
    config = tiny_run_config.model_copy(update={"data": tiny_run_config.data.model_copy(update=packed)})

    def terminate(event):
        if (event.kind, event.step) == ("step", 3):
            os.kill(os.getpid(), signal.SIGTERM)

    train(config, tmp_path / "straight")
    assert train(config, tmp_path / "resumed", callback=terminate).step == 3
    assert train(config, tmp_path / "resumed").step == 8
    states = [RunFolder(tmp_path / run).newest().state["network"] for run in ("straight", "resumed")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert (
        len(read_manifest(tmp_path / "lists" / "train.jsonl"))
        == ShardStream(packed["train"], CropReader(8000, 640), PLAIN, 0).n_recordings
    )
    unsplit = config.model_copy(update={"data": config.data.model_copy(update={"valid": None})})
    with pytest.raises(DataError, match=r"set data.valid"):
        train(unsplit, tmp_path / "refused")
