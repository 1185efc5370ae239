"""Write the graphs of a model as ONNX files or packages of `torch.export`, and hold them against PyTorch."""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from audiodiff import __version__
from audiodiff.audio.io import load_audio, make_folder, replacing
from audiodiff.config import MelConfig
from audiodiff.diffusion.noise import position_noise
from audiodiff.diffusion.variance import prediction_from
from audiodiff.errors import ConfigError, ModelError, needed
from audiodiff.interop.export.graphs import DOUBLINGS, NetworkGraph, PipelineGraph, StepGraph
from audiodiff.interop.export.quantise import quantise
from audiodiff.networks.conditioning import GlobalConditions
from audiodiff.pipelines.base import Pipeline
from audiodiff.pipelines.generator import Generator
from audiodiff.pipelines.vocoder import Vocoder

TOLERANCE = 1e-4
"""Largest difference to PyTorch that is let pass, in full scale."""
MAX_FRAMES = 1 << DOUBLINGS
MAX_CALLS = 8
"""So many network calls a graph holds at most, one after another: exporters take time in proportion, or worse."""
RUNNER = "run_onnx.py"
_CLIP = "sense-and-sensibility-0870.flac"
_OPSET = 18
_EXAMPLE_FRAMES = 24

Inputs = dict[str, Tensor]
Run = Callable[[Inputs], Tensor]


class Exported(NamedTuple):
    """A file, and its largest difference to PyTorch in full scale."""

    path: Path
    difference: float


def check_packages(form: str) -> None:
    """Refuse to begin what packages are missing for.

    Raises:
        MissingPackageError: If the extra `onnx` is not installed, and the format needs it.
    """
    if form == "onnx":
        with needed("onnx", "--format onnx"):
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401


def export_graphs(pipeline: Pipeline, folder: Path, form: str, name: str, *, int8: bool = False) -> Iterator[Exported]:
    """Export the whole pipeline and one network call, and check both against PyTorch.

    Args:
        pipeline: The pipeline, on the CPU, in float32.
        folder: Where the files go.
        form: "onnx" or "torch".
        name: The model's name, for the metadata.
        int8: Whether the whole pipeline is written with a network in int8 too; "onnx" only.

    Yields:
        Each file once it is written and checked.

    Raises:
        MissingPackageError: If a package is missing.
        ConfigError: If the start cannot be exported, there are too many network calls, or mels are to be converted.
        ModelError: If the exported graph does not compute what PyTorch does.
    """
    check_packages(form)
    _check_calls(pipeline)
    if isinstance(pipeline, Vocoder) and pipeline.given.config != pipeline.mel_config:
        raise ConfigError(
            f"an exported graph takes mels of {pipeline.mel_config.name!r}, which the model was trained on, and "
            f"converts none of {pipeline.given.config.name!r}. Convert them before; export with_mel_convention(None)."
        )
    whole = PipelineGraph(pipeline, pipeline.config.synthesis)
    make_folder(folder)
    about = describe(pipeline, whole, name)
    inputs, reference = _clip_inputs(pipeline, whole)
    exported = _export(whole, folder / "pipeline", form, about, (inputs, reference))
    yield exported
    if int8:
        path = folder / "pipeline-int8.onnx"
        with replacing(path) as part:
            quantise(exported.path, part)
            difference = _difference(_session(part), inputs, reference)
        yield Exported(path, difference)
    step = StepGraph(pipeline)
    inputs = _step_inputs(pipeline, inputs)
    yield _export(step, folder / "step", form, about, (inputs, _plain_step(pipeline, inputs)))
    if form == "onnx":
        with replacing(folder / RUNNER) as part:
            shutil.copyfile(str(files("audiodiff.interop.export") / RUNNER), part)


def _check_calls(pipeline: Pipeline) -> None:
    config, settings = pipeline.config, pipeline.config.synthesis
    has_conditions = bool(config.labels or config.speakers or config.vector_width)
    calls = pipeline.network_calls(settings) * (2 if settings.guidance != 1 and has_conditions else 1)
    if calls > MAX_CALLS:
        raise ConfigError(
            f"The reverse process of this model calls the network {calls} times; a graph holds at most {MAX_CALLS} "
            "calls. Use fewer steps, such as --set synthesis.steps=4 --set synthesis.guidance=1. The graph of one "
            "call, `step`, is the same for all settings: your own loop may call it as often as it likes."
        )


def describe(pipeline: Pipeline, graph: PipelineGraph, name: str) -> dict[str, Any]:
    """Return what a user of the graph needs to know, as JSON has it."""
    config = pipeline.config
    return {
        "model": name,
        "version": __version__,
        "sample_rate": config.sample_rate,
        "hop_length": config.hop_length,
        "mel": config.mel.model_dump(mode="json") if config.mel else None,
        "frames_beyond_hops": _frames_beyond_hops(config.mel),
        "max_frames": MAX_FRAMES,
        "draws": graph.draws,
        "labels": list(config.labels),
        "speakers": list(config.speakers),
        "vector_width": config.vector_width,
        "seconds": config.clip_seconds or 1.0,
        "synthesis": config.synthesis.model_dump(mode="json"),
    }


def _frames_beyond_hops(mel: MelConfig | None) -> int:
    return mel.frames_beyond_hops if mel else 0


def _conditions(pipeline: Pipeline, batch: int) -> Inputs:
    """Return the first label, the first speaker and a vector of zeros for so many clips, where the model has them."""
    config = pipeline.config
    conditions = {
        name: torch.zeros(batch, dtype=torch.int64) for name in ("label", "speaker") if getattr(config, f"{name}s")
    }
    if config.vector_width:
        conditions["vector"] = torch.zeros(batch, config.vector_width)
    return conditions


def _noise(graph: PipelineGraph, n_samples: int) -> Tensor:
    return torch.stack([position_noise([0, 1], draw, n_samples=n_samples)[:, 0] for draw in graph.draws])


def _clip_inputs(pipeline: Pipeline, graph: PipelineGraph) -> tuple[Inputs, Tensor]:
    """Return inputs of the whole pipeline for two clips, and what the library makes of them."""
    conditions = _conditions(pipeline, 2)
    named = {name: getattr(pipeline.config, f"{name}s")[0] for name in conditions if name != "vector"}
    if "vector" in conditions:
        named["vector"] = conditions["vector"][0]
    if isinstance(pipeline, Vocoder):
        clip = files("audiodiff") / "assets" / "clips" / _CLIP
        audio = load_audio(Path(str(clip)), sample_rate=pipeline.sample_rate)[..., : 2 * pipeline.sample_rate]
        mel = pipeline.mel(audio.reshape(1, -1)).clone()
        mel = torch.cat([mel, mel.flip(2)])
        n_hops = mel.shape[2] - _frames_beyond_hops(pipeline.config.mel)
        vocoder = pipeline.with_conditions(**named) if named else pipeline
        reference, inputs = vocoder(mel, seed=[0, 1]), {"mel": mel}
    else:
        reference = cast(Generator, pipeline).generate(count=2, seconds=pipeline.config.clip_seconds or 1.0, **named)[
            :, 0
        ]
        inputs, n_hops = {}, -(-reference.shape[1] // pipeline.config.hop_length)
    return {"noise": _noise(graph, n_hops * pipeline.config.hop_length)} | inputs | conditions, reference.clone()


def _step_inputs(pipeline: Pipeline, inputs: Inputs) -> Inputs:
    """Return inputs of one network call on two signals of noise, at two levels."""
    rest = dict(inputs)
    x = rest.pop("noise")[-1]
    if "mel" in rest:
        rest["mel"] = rest["mel"][..., : x.shape[1] // pipeline.config.hop_length].contiguous()
    diffusion = pipeline.config.diffusion
    return {"x": x, "log_snr": torch.tensor([diffusion.log_snr_min, diffusion.log_snr_max])} | rest


@torch.no_grad()
def _plain_step(pipeline: Pipeline, inputs: Inputs) -> Tensor:
    network = pipeline.network
    condition = network.encode(inputs["mel"]) if "mel" in inputs else None
    named = {name: value for name, value in inputs.items() if name in GlobalConditions._fields}
    global_condition = network.embed(GlobalConditions(**named)) if named else None
    output = network(inputs["x"].unsqueeze(1), inputs["log_snr"], condition, global_condition)
    return prediction_from(output, inputs["x"].unsqueeze(1), inputs["log_snr"], pipeline.config.diffusion).noise[:, 0]


def _export(
    graph: NetworkGraph, path: Path, form: str, about: dict[str, Any], check: tuple[Inputs, Tensor]
) -> Exported:
    inputs, reference = check
    program = trace(graph, inputs)
    path = path.with_suffix(".onnx" if form == "onnx" else ".pt2")
    with replacing(path) as part:
        run = (_write_onnx if form == "onnx" else _write_package)(program, part, json.dumps(about), graph.output)
        difference = _difference(run, inputs, reference)
        if not difference <= TOLERANCE * max(1.0, float(reference.abs().max())):
            raise ModelError(
                f"{path.name} differs from PyTorch by {difference:.2g}; expected at most {TOLERANCE:g}. It is not "
                "written. Rounding grows in every round of Griffin-Lim: try --set synthesis.griffin_lim_iterations=1."
            )
    return Exported(path, difference)


def _difference(run: Run, inputs: Inputs, reference: Tensor) -> float:
    return float((run(inputs)[:, : reference.shape[1]] - reference).abs().max())


def trace(graph: NetworkGraph, inputs: Inputs) -> ExportedProgram:
    """Export a graph with dynamic batch and length.

    Args:
        graph: The graph.
        inputs: By name, a batch of two; a short part of them is traced.
    """
    hop_length, batch, frames = (
        graph.config.hop_length,
        Dim("batch", max=MAX_FRAMES),
        Dim("frames", min=4, max=MAX_FRAMES),
    )
    beyond = _frames_beyond_hops(graph.config.mel) if "noise" in inputs else 0
    shapes: dict[str, dict[int, Any]] = {name: {0: batch} for name in inputs}
    example = dict(inputs)
    for name, axis in {"noise": 2, "x": 1}.items():
        if name in inputs:
            shapes[name] = {axis - 1: batch, axis: hop_length * frames}
            example[name] = inputs[name][..., : hop_length * _EXAMPLE_FRAMES].clone()
    if "mel" in inputs:
        shapes["mel"] = {0: batch, 2: frames + beyond if beyond else frames}
        example["mel"] = inputs["mel"][..., : _EXAMPLE_FRAMES + beyond].contiguous().clone()
    with torch.no_grad():
        return torch.export.export(graph, (), example, dynamic_shapes=shapes, strict=False)


def _write_package(program: ExportedProgram, path: Path, about: str, _output: str) -> Run:
    with path.open("wb") as file:  # by name, only .pt2 is accepted
        torch.export.save(program, file, extra_files={"audiodiff.json": about})
    with path.open("rb") as file:
        module = torch.export.load(file).module()
    return lambda inputs: module(**inputs)


def _store_in_half(graph: Any) -> None:
    """Store the matrices in float16 that lose nothing by it: all of a network that was saved with `--half`."""
    from onnxscript import ir

    for name, value in list(graph.initializers.items()):
        matrix = value.const_value.numpy()
        half = matrix.astype(np.float16)
        if matrix.dtype == np.float32 and matrix.ndim > 1 and np.array_equal(half, matrix):
            stored = ir.Value(name=f"{name}.half", const_value=ir.tensor(half, name=f"{name}.half"))
            cast = ir.Node("", "Cast", [stored], [ir.AttrInt64("to", ir.DataType.FLOAT)])
            graph.register_initializer(stored)
            graph.insert_before(graph[0], cast)
            ir.convenience.replace_all_uses_with(value, cast.outputs[0])
            del graph.initializers[name]


def _write_onnx(program: ExportedProgram, path: Path, about: str, output: str) -> Run:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, which has nothing to do here
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        try:
            onnx = torch.onnx.export(program, dynamo=True, opset_version=_OPSET, optimize=False, verbose=False)
        except torch.onnx.OnnxExporterError as error:
            raise ModelError(
                f"torch {torch.__version__} cannot convert this model to ONNX: use torch 2.13, which is tested, "
                "or --format torch (--debug shows what it lacks)."
            ) from error
    if onnx is None:
        raise ModelError("torch.onnx.export returned no program.")
    onnx.model.graph.outputs[0].name = output
    for node in onnx.model.graph:
        node.metadata_props.clear()  # a third of the file: where in which source file it comes from, with full paths
    _store_in_half(onnx.model.graph)
    onnx.model.metadata_props["audiodiff"] = about
    onnx.save(path)
    return _session(path)


def _session(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of nodes that it casts at run time instead of once
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(
        session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]
    )
