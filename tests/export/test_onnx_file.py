"""What is quantized in an ONNX file."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from melgpu.export import onnx_file


def test_only_matrices_of_floats_are_quantized():
    weights = np.array([[1, -3], [0.5, 0.25]], np.float32)
    rows = np.array([[1], [0]], np.int64)
    initializers = [
        numpy_helper.from_array(weights, "network.weight"),
        numpy_helper.from_array(rows, "network.rows"),
    ]
    gather = helper.make_node("GatherND", ["network.weight", "network.rows"], ["picked"])
    output = helper.make_tensor_value_info("picked", TensorProto.FLOAT, [2, 2])
    graph = helper.make_graph([gather], "graph", [], [output], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", onnx_file.OPSET)], ir_version=10)
    onnx_file._quantize_weights(model)
    onnx.checker.check_model(model, full_check=True)
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert stored["network.weight_int8"] == TensorProto.INT8
    assert stored["network.rows"] == TensorProto.INT64
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (picked,) = session.run(None, {})
    steps = np.abs(weights[::-1]).max(axis=1, keepdims=True) / onnx_file.MAX_INT8
    assert (np.abs(picked - weights[::-1]) <= steps / 2 + 1e-7).all()


def test_onnxruntime_multiplies_weights_and_scales_when_it_loads_a_file(tmp_path):
    weights = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    product = helper.make_node("MatMul", ["waves", "network.weight"], ["probabilities"])
    waves = helper.make_tensor_value_info("waves", TensorProto.FLOAT, [3, 8])
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [3, 4])
    initializers = [numpy_helper.from_array(weights, "network.weight")]
    graph = helper.make_graph([product], "graph", [waves], [output], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", onnx_file.OPSET)], ir_version=10)
    onnx_file._quantize_weights(model)
    assert len(model.graph.node) == 3
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    loaded = onnx.load(options.optimized_model_filepath)
    assert [node.op_type for node in loaded.graph.node] == ["MatMul"]
