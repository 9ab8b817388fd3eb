"""A shipped file as it was measured: without the lineage that was written into it."""

import onnx

PREFIX = "temper.lineage."
"""Of all its keys in a file's metadata."""


def unstamp(data: bytes) -> bytes:
    """A stamped file as it was measured, so that what is known of it is found; others unchanged."""
    model = onnx.load_model_from_string(data)
    kept = [prop for prop in model.metadata_props if not is_ours(prop)]
    if len(kept) == len(model.metadata_props):
        return data
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    return bytes(model.SerializeToString(deterministic=True))


def is_ours(prop: onnx.StringStringEntryProto) -> bool:
    """Whether an entry of a file's metadata is part of a lineage."""
    # What is no UTF-8 arrives as bytes.
    return isinstance(prop.key, str) and prop.key.startswith(PREFIX)
