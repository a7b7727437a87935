"""One trained network -> one file, ONNX or pt2, from waveforms to class probabilities, checked against the network."""
