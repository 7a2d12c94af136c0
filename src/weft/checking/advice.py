"""What to change where a property does not hold."""

from __future__ import annotations

WITHIN = "a part of this slot sees one position at a time: no sum, mean, sort or convolution along T"

ADVICE = {
    "builds": "",
    "starts_alike": "draw nothing at random but in training (self.training), and keep nothing from one call to the"
    " next; a model is made without memory first, so declare what it needs: parameters by self.parameter(name, shape,"
    " initialization) or as Linear and Embedding, other tensors as buffers, computed in reset_buffers()",
    "rows_alone": "something looks across the rows of a batch (axis 0), or is kept from one call to the next",
    "causal": "a position may look at itself and at what came before it",
    "padded": "padding is let in: leave out what inputs.valid_BT says is none (masks do: self.mask & context.mask)",
    "source_padded": "padding of the source is let in: context.across.mask says what may be seen",
    "source_seen": "what the decoder writes no longer depends on all that the encoder read",
    "encoded_once": "what an encoder makes of a source must depend on the source alone",
    "documents_apart": "packed documents see each other: place and order are those of a document, not of the row"
    " (sides.q_index_BT - sides.k_index_BS, context.mask)",
    "cached": "with a cache the same tokens come in pieces: take places from sides or positions_BT, never from"
    " torch.arange(T); read keys and values of earlier tokens from the cache entry",
    "cached_beyond_a_window": "a window's cache holds its last keys only, not in order: ask sides where they stand",
    "cached_ragged": "rows of a cache have their own lengths: a place is sides.q_index_BT[row], not one number for all",
    "same_greedy_tokens": "in float32 the pieces and the whole give different tokens: something depends on how many"
    " tokens come at once",
    "numbered_to_the_limit": "a scheme that can number only so many positions says so in `limit`; others take any",
    "computed_alike": "the kernels disagree: what a weighting does must be in weights() and scores(), and `needs` must"
    " name what a kernel has to be able to do for it",
    "every_parameter_learns": "a parameter that nothing uses is paid for and never learns: use it, or leave it out",
    "right_gradients": "autograd is cut or wrong: look for detach(), .data, item(), torch.no_grad(), in-place changes,"
    " or a backward() of its own",
    "bf16_rounds_only": "in bf16 sums lose small terms: take norms, softmax, sums over many and angles in float32"
    " (x.float()) and go back with .to(x.dtype)",
    "costs_as_declared": "cost(length) of a module tells what it has beyond its Linears: its own parameters, FLOPs"
    " a token of its own matrix products (a multiply-add is 2, all `length` keys counted), numbers a token it caches",
    "options_alive": "an option that changes nothing misleads: use it in build(), drop it, or mark it EXECUTION if it"
    " changes how something is computed and not what",
    "compiles": "torch.compile cannot follow: no .item(), no Python branch on a tensor's values, no sizes that depend"
    " on them",
}
"""By property."""

OF_SLOT = {
    ("causal", "feedforward"): WITHIN,
    ("causal", "norm"): f"{WITHIN}; a norm is over the last axis",
    (
        "causal",
        "attention",
    ): "let nothing look along T but what the mask shows: no mean, norm or softmax of its own over"
    " positions; hand the kernel `self.mask & context.mask`, or weights() what sides.dense(mask) allows",
    ("causal", "mask"): "combine with what you are given: build(dims, order) returns `order & Mine(...)`, since a mask"
    " may only hide more",
    (
        "causal",
        "score",
    ): "weights() may use no score that is not allowed: fill those with -inf before any sum or maximum",
    ("causal", "positions"): "what bias() adds must be finite; causality is the mask's",
    ("causal", "block"): "mix() may hand x only to its attention, its feed-forward and its norms",
    ("documents_apart", "feedforward"): WITHIN,
    ("padded", "feedforward"): WITHIN,
    ("padded", "positions"): "take places from positions_BT or sides, which do not count padding, never from"
    " torch.arange(T)",
    ("padded", "score"): "weights() may use no score that is not allowed, and gives 0 where nothing is",
    ("padded", "head"): "a head that speaks for a whole text is given valid_BT: leave padding out",
    ("rows_alone", "norm"): "a norm is over the last axis: of each vector by itself",
}
"""More to the point, by property and slot."""


def advice(name: str, slot: str) -> str:
    """What to change in a part of that slot where the property does not hold."""
    return OF_SLOT.get((name, slot), ADVICE[name])
