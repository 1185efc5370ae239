"""Make audio with an exported model; needs numpy and onnxruntime only.

python run_onnx.py pipeline.onnx mel.npy out.wav [SEED]    a vocoder; mel.npy is (n_mels, frames)
python run_onnx.py pipeline.onnx LABEL out.wav [SEED]      a generator; also a model without labels, with LABEL -
"""

import json
import sys
import wave

import numpy as np
import onnxruntime
from numpy.typing import NDArray


def draw(seed: int, number: int, n_samples: int) -> NDArray[np.float32]:
    """Return the noise of a seed of 32 bits that audiodiff draws too: Philox-2x32-10 and Box-Muller."""
    low, high, key = np.arange(n_samples, dtype=np.uint64), np.uint64(number & 0xFFFFFFFF), seed & 0xFFFFFFFF
    for _ in range(10):
        product = low * np.uint64(0xD256D193)
        low, high = (product >> np.uint64(32)) ^ np.uint64(key) ^ high, product & np.uint64(0xFFFFFFFF)
        key = (key + 0x9E3779B9) & 0xFFFFFFFF
    radius = np.sqrt(-2 * np.log((low.astype(np.float32) + np.float32(0.5)) / np.float32(2**32)))
    noise: NDArray[np.float32] = radius * np.cos(high.astype(np.float32) * np.float32(2 * np.pi / 2**32))
    return noise


def synthesise(model: str, source: str, target: str, seed: str = "0") -> None:
    """Make a WAV file of 16 bits."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["audiodiff"])
    inputs = {}
    if about["mel"]:
        inputs["mel"] = np.load(source).astype(np.float32)[None]
        n_hops = inputs["mel"].shape[2] - about["frames_beyond_hops"]
    else:
        n_hops = -(-round(about["seconds"] * about["sample_rate"]) // about["hop_length"])
        if about["labels"]:
            inputs["label"] = np.array([about["labels"].index(source)])
    if n_hops > about["max_frames"]:
        sys.exit(f"{source} has {n_hops} frames; this model takes at most {about['max_frames']}. Cut it at pauses.")
    noise = [draw(int(seed), number, n_hops * about["hop_length"])[None] for number in about["draws"]]
    audio = session.run(["audio"], {"noise": np.stack(noise).astype(np.float32), **inputs})[0][0]
    with wave.open(target, "wb") as file:
        file.setparams((1, 2, about["sample_rate"], 0, "NONE", ""))
        file.writeframes((audio.clip(-1, 1) * 32767).round().astype("<i2").tobytes())


if __name__ == "__main__":
    synthesise(*sys.argv[1:]) if len(sys.argv) in (4, 5) else sys.exit(__doc__)
