"""The file that ships: exported, quantized, run by ONNX Runtime, and mirrored by a twin."""
