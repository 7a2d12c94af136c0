"""From a source of text to packed rows of tokens."""

from weft.data.files import Files
from weft.data.python_docs import PythonDocs
from weft.data.sources import Source

__all__ = ["Files", "PythonDocs", "Source"]
