"""From a source of text to packed rows of tokens."""

from weft.data.aligned import Aligned
from weft.data.files import Files
from weft.data.huggingface import HuggingFace
from weft.data.python_docs import PythonDocs
from weft.data.python_source import PythonSource
from weft.data.python_summary import PythonSummary
from weft.data.python_topics import PythonTopics
from weft.data.sources import Source

__all__ = ["Aligned", "Files", "HuggingFace", "PythonDocs", "PythonSource", "PythonSummary", "PythonTopics", "Source"]
