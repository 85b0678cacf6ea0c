"""Curvature: second moments of a layer's inputs, and their encoding as integer factors."""
