"""The parts of transformers, one idea a file: each declares its options, how it starts, what it costs."""

from weft.data.rows import IGNORE
from weft.nn.attention import Attention, CrossAttention, DotProduct, DotProductAttention, NoAttention
from weft.nn.block import Block, BlockPart, Parallel, Plain, Post, Pre, Sandwich, Wiring
from weft.nn.cache import Cache, FullEntry
from weft.nn.context import Across, Context, Inputs, Memory
from weft.nn.embeddings import Bigrams, Embeddings, Factorized, TokenEmbedding, Tokens
from weft.nn.feedforward import Bilinear, FeedForward, GeGlu, Gelu, NoFeedForward, ReGlu, Relu, Relu2, Silu, SwiGlu
from weft.nn.gates import Gate, NoGate
from weft.nn.heads import Head, HeadModule, Labelled, LanguageModelHead, Lm, MaskedLm
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
from weft.nn.part import ModelPart
from weft.nn.patterns import MaskPart, NoMask, Window
from weft.nn.positions import T5, Alibi, Learned, NoPositions, Positions, PositionScheme, Sinusoidal
from weft.nn.ring import RingEntry
from weft.nn.rotary import Rotary, RotaryAlibi
from weft.nn.scaling import RotaryScaling
from weft.nn.scores import Score, Softmax, Weighting
from weft.nn.sides import Coverage, Sides
from weft.nn.stochastic_depth import LinearDecay, NoStochasticDepth, StochasticDepth, Uniform
from weft.nn.text_heads import Classifier, ClassifierHead, MultipleChoice, TextEmbedding
from weft.nn.token_heads import Span, TokenClassifier

__all__ = [
    "IGNORE",
    "KERNELS",
    "T5",
    "Across",
    "Alibi",
    "Attention",
    "Bigrams",
    "Bilinear",
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
    "Factorized",
    "FeedForward",
    "FullEntry",
    "Gate",
    "GeGlu",
    "Gelu",
    "Head",
    "HeadModule",
    "Initialization",
    "Inputs",
    "Kernel",
    "Labelled",
    "LanguageModelHead",
    "Layer",
    "Learned",
    "Linear",
    "LinearDecay",
    "Lm",
    "Mask",
    "MaskPart",
    "MaskedLm",
    "Memory",
    "ModelPart",
    "Module",
    "MultipleChoice",
    "Near",
    "NoAttention",
    "NoFeedForward",
    "NoGate",
    "NoMask",
    "NoNorm",
    "NoPositions",
    "NoStochasticDepth",
    "Norm",
    "Normal",
    "Parallel",
    "Plain",
    "PositionScheme",
    "Positions",
    "Post",
    "Pre",
    "ReGlu",
    "Relu",
    "Relu2",
    "RingEntry",
    "Rms",
    "Rotary",
    "RotaryAlibi",
    "RotaryScaling",
    "SameDocument",
    "Sandwich",
    "Score",
    "Sides",
    "Silu",
    "Sinusoidal",
    "Softmax",
    "Span",
    "StochasticDepth",
    "SwiGlu",
    "Term",
    "Terms",
    "TextEmbedding",
    "TokenClassifier",
    "TokenEmbedding",
    "Tokens",
    "Uniform",
    "Valid",
    "Weighting",
    "Window",
    "Wiring",
    "attend",
    "listen",
    "materialize",
    "tap_paths",
]
