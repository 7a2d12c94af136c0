"""What must hold of every part, and whether it holds of this one: the property matrix of `weft check` and the tests."""

from weft.checking import numbers
from weft.checking.properties import PROPERTIES, Property

__all__ = ["PROPERTIES", "Property", "numbers"]
