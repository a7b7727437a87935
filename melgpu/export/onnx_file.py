"""A traced network as an ONNX file, and its probabilities by onnxruntime on the CPU."""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime import quantization
from onnxscript import opset20
from torch.export import ExportedProgram

from melgpu.export.metadata import KEY, ExportOptions, FileMetadata

OPSET = 20
QUANTIZED_PREFIX = "network."  # of the names of the network's weights; the front end has others
ERRORS_ONLY = 3  # of onnxruntime's log levels


def write(program: ExportedProgram, options: ExportOptions, metadata: FileMetadata, path: Path) -> None:
    """Write a traced network, with dynamic quantization for `int8`."""
    model = _convert(program, options)
    if options.precision == "int8":
        model = _quantized(model)
    model.producer_name = "melgpu"
    model.producer_version = metadata.melgpu_version
    onnx.helper.set_model_props(model, {KEY: metadata.to_json()})
    onnx.save(model, str(path))


def _convert(program: ExportedProgram, options: ExportOptions) -> onnx.ModelProto:
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):  # of torch about its own deprecated functions
        converted = torch.onnx.export(
            program,
            input_names=[options.input_name],
            output_names=["probabilities"],
            opset_version=OPSET,
            custom_translation_table={torch.ops.aten.adaptive_max_pool2d.default: _global_max_pool},
            verbose=False,
        )
    assert converted is not None
    model = converted.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # where in the source each node comes from: as large as a small network
    return model


def _global_max_pool(pictures: Any, output_size: Any) -> tuple[Any, Any]:
    """ONNX for torch's adaptive maximum pooling to one value; the second result stands for indices, which none uses."""
    return opset20.GlobalMaxPool(pictures), opset20.Shape(pictures)


def _quantized(model: onnx.ModelProto) -> onnx.ModelProto:
    """The network with 8-bit weights and activations, whose ranges are found for each batch; the front end is kept."""
    excluded = []
    for node in model.graph.node:
        if not any(QUANTIZED_PREFIX in name for name in node.input):
            excluded.append(node.name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        quantization.quantize_dynamic(model, path, nodes_to_exclude=excluded)
        return onnx.load(path)


def open_file(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The function from waveforms to probabilities that a file holds."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = ERRORS_ONLY
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (network_input,) = session.get_inputs()

    def probs(waves: np.ndarray) -> np.ndarray:
        return session.run(None, {network_input.name: waves})[0]

    return probs
