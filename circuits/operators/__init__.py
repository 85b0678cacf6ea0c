"""The statements that are proved, one module per operator, as ONNX graphs over committed integers."""
