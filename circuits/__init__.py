"""The statement that is proved: fixed-point encoding, chunk geometry, the ONNX graph, keys and SRS.

Imports neither torch nor Flower, so that a receipt can be verified without either.
"""
