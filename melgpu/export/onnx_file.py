"""A traced network as an ONNX file, and its probabilities by onnxruntime on the CPU."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnxscript import opset20
from torch.export import ExportedProgram

from melgpu.export.check import Probs
from melgpu.export.metadata import KEY, ExportOptions, FileMetadata

OPSET = 20
QUANTIZED_PREFIX = "network."  # of the names of the network's weights; the front end has others
MAX_INT8 = 127
ERRORS_ONLY = 3  # of onnxruntime's log levels


def write(program: ExportedProgram, options: ExportOptions, metadata: FileMetadata, path: Path) -> None:
    """Write a traced network, for `int8` with quantized weights."""
    model = _convert(program, options)
    if options.precision == "int8":
        _quantize_weights(model)
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


def _quantize_weights(model: onnx.ModelProto) -> None:
    """Store the network's matrices and kernels in 8 bits, with a scale for each output channel; computed in float32.

    Dynamic quantization by onnxruntime has one scale for all channels: once batch norms are folded into the kernels, it
    changed the labels of EfficientNet-Lite0. The weights are products in the graph, which onnxruntime computes when it
    loads the file; those of DequantizeLinear it would compute for every window.
    """
    graph = model.graph
    nodes = []
    for tensor in list(graph.initializer):
        is_float = tensor.data_type == onnx.TensorProto.FLOAT
        if QUANTIZED_PREFIX not in tensor.name or len(tensor.dims) < 2 or not is_float:
            continue
        weights = onnx.numpy_helper.to_array(tensor)
        channel_axes = tuple(range(1, weights.ndim))
        largest = np.abs(weights).max(axis=channel_axes, keepdims=True)
        scales = (np.maximum(largest, np.finfo(np.float32).tiny * MAX_INT8) / MAX_INT8).astype(np.float32)
        levels = np.rint(weights / scales).astype(np.int8)
        stored, floats, factors = (f"{tensor.name}_{part}" for part in ("int8", "floats", "scales"))
        nodes.append(onnx.helper.make_node("Cast", [stored], [floats], floats, to=onnx.TensorProto.FLOAT))
        nodes.append(onnx.helper.make_node("Mul", [floats, factors], [tensor.name], tensor.name))
        graph.initializer.remove(tensor)
        graph.initializer.append(onnx.numpy_helper.from_array(levels, stored))
        graph.initializer.append(onnx.numpy_helper.from_array(scales, factors))
    for node in reversed(nodes):
        graph.node.insert(0, node)


def open_file(path: Path) -> Probs:
    """The function from waveforms to probabilities that a file holds."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = ERRORS_ONLY
    # Idle threads would spin on the cores of the next file, where several are compared.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (network_input,) = session.get_inputs()

    def probs(waves: np.ndarray) -> np.ndarray:
        return session.run(None, {network_input.name: waves})[0]

    return probs
