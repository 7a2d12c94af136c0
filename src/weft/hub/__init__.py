"""What MODEL names: model folders in and out."""

from weft.hub.folder import save
from weft.hub.names import load, model_config

load_model = load

__all__ = ["load", "load_model", "model_config", "save"]
