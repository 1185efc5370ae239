"""Dynamic int8 quantisation of the network in an exported ONNX graph, by onnxruntime."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory

_NOT_OF_THE_NETWORK = ("stft", "whitening", "spectrogram")
"""Parts of names of matrices that transform signals; int8 would be heard in them."""


def quantise(source: Path, target: Path) -> int:
    """Write a graph whose network multiplies 8-bit integers: weights by output channel, inputs as they come.

    Args:
        source: An ONNX file of `export_graphs`.
        target: The file to write.

    Returns:
        How many matrix products were quantised.
    """
    import onnx
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with TemporaryDirectory() as folder:
        folded = Path(folder) / "folded.onnx"  # weights must be constants, not transposes of constants
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folded)
        onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
        graph = onnx.load(folded).graph
        weights = {
            weight.name
            for weight in graph.initializer
            if weight.data_type == onnx.TensorProto.FLOAT
            and not any(part in weight.name for part in _NOT_OF_THE_NETWORK)
        }
        products = [node.name for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights]
        logging.disable(logging.WARNING)  # it advises a preparation that graphs of dynamic length do not take
        try:
            quantize_dynamic(
                folded,
                target,
                op_types_to_quantize=["MatMul"],
                nodes_to_quantize=products,
                weight_type=QuantType.QInt8,
                per_channel=True,
            )
        finally:
            logging.disable(logging.NOTSET)
    model = onnx.load(target)
    del model.metadata_props[:]
    model.metadata_props.extend(onnx.load(source, load_external_data=False).metadata_props)
    onnx.save(model, target)
    return len(products)
