"""The parts of transformers, one idea a file: each declares its options, how it starts, what it costs."""

from weft.data.rows import IGNORE
from weft.nn.attention import Attention, CrossAttention, DotProduct, DotProductAttention, NoAttention
from weft.nn.block import Block, BlockPart, Plain, Post, Pre
from weft.nn.cache import Cache, FullEntry
from weft.nn.context import Across, Context, Inputs, Memory
from weft.nn.embeddings import Embeddings, TokenEmbedding, Tokens
from weft.nn.feedforward import FeedForward, Gelu, NoFeedForward, Relu, Relu2, SwiGlu
from weft.nn.gates import Gate, NoGate
from weft.nn.heads import Classifier, ClassifierHead, Head, LanguageModelHead, Lm
from weft.nn.initialization import Constant, Initialization, Normal
from weft.nn.kernels import KERNELS, Call, Kernel, attend
from weft.nn.linear import Embedding, Linear
from weft.nn.masks import (
    Both,
    Causal,
    Either,
    Everything,
    Mask,
    Near,
    SameDocument,
    Valid,
)
from weft.nn.module import Cost, Dims, Module, Term, Terms, listen, materialize, tap_paths
from weft.nn.norms import Layer, NoNorm, Norm, Rms
from weft.nn.patterns import MaskPart, NoMask, Window
from weft.nn.positions import Alibi, Learned, NoPositions, Positions, PositionScheme, Rotary, RotaryAlibi, Sinusoidal
from weft.nn.ring import RingEntry
from weft.nn.scores import Score, Softmax, Weighting
from weft.nn.sides import Coverage, Sides

__all__ = [
    "IGNORE",
    "KERNELS",
    "Across",
    "Alibi",
    "Attention",
    "Block",
    "BlockPart",
    "Both",
    "Cache",
    "Call",
    "Causal",
    "Classifier",
    "ClassifierHead",
    "Constant",
    "Context",
    "Cost",
    "Coverage",
    "CrossAttention",
    "Dims",
    "DotProduct",
    "DotProductAttention",
    "Either",
    "Embedding",
    "Embeddings",
    "Everything",
    "FeedForward",
    "FullEntry",
    "Gate",
    "Gelu",
    "Head",
    "Initialization",
    "Inputs",
    "Kernel",
    "LanguageModelHead",
    "Layer",
    "Learned",
    "Linear",
    "Lm",
    "Mask",
    "MaskPart",
    "Memory",
    "Module",
    "Near",
    "NoAttention",
    "NoFeedForward",
    "NoGate",
    "NoMask",
    "NoNorm",
    "NoPositions",
    "Norm",
    "Normal",
    "Plain",
    "PositionScheme",
    "Positions",
    "Post",
    "Pre",
    "Relu",
    "Relu2",
    "RingEntry",
    "Rms",
    "Rotary",
    "RotaryAlibi",
    "SameDocument",
    "Score",
    "Sides",
    "Sinusoidal",
    "Softmax",
    "SwiGlu",
    "Term",
    "Terms",
    "TokenEmbedding",
    "Tokens",
    "Valid",
    "Weighting",
    "Window",
    "attend",
    "listen",
    "materialize",
    "tap_paths",
]
