"""Text to tokens and back. Importing this registers every kind of tokenizer."""

from weft.text.bpe import Bpe, FallbackBpe
from weft.text.characters import Bytes, Characters
from weft.text.files import TokenizerFile, find, open_tokenizer
from weft.text.special import END_OF_DOCUMENT, UNKNOWN, Framed
from weft.text.tokenizers import Tokenizer, TokenizerConfig
from weft.text.unigram import Unigram
from weft.text.wordpiece import WordPiece

__all__ = [
    "END_OF_DOCUMENT",
    "UNKNOWN",
    "Bpe",
    "Bytes",
    "Characters",
    "FallbackBpe",
    "Framed",
    "Tokenizer",
    "TokenizerConfig",
    "TokenizerFile",
    "Unigram",
    "WordPiece",
    "find",
    "open_tokenizer",
]
