"""The run folder: layout, manifest, log, content addresses; and nothing about training."""

from weft.runs.folder import RunFolder, free_name, read_json

__all__ = ["RunFolder", "free_name", "read_json"]
