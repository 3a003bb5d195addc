"""Runs models: batches, the network, ONNX Runtime, and the client that reaches them."""
