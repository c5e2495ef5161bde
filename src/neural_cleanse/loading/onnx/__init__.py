"""ONNX: parsed with the onnx package, built by our own table, compared with onnxruntime."""
