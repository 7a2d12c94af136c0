"""Beam search: all sequences tried one by one, Hugging Face's, greedy without a cache, ends, batches and manners."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from weft.checking.small import small as small_decoder
from weft.checking.small import stir
from weft.errors import WeftError
from weft.generation.search import Hypothesis, _best, _Search, length_penalty_of, search
from weft.models.build import build
from weft.models.transformer import Transformer
from weft.nn import Inputs

START, END = 0, 1


def small(vocab_size: int = 5, seed: int = 0, end: float = 0.0, **decoder: Any) -> Transformer:
    """A random encoder-decoder in float64, its weights so large that its answers differ; `end` favours short ones."""
    stack = {"n_layers": 2, "positions": "rotary", "block": {"attention": {"n_heads": 2}}}
    declaration = {"d_model": 16, "max_length": 32, "vocab_size": vocab_size, "init_std": 0.5,
                   "embedding": {"tied": False}, "encoder": stack, "decoder": {**stack, **decoder},
                   "heads": {"lm": {"kind": "lm", "bias": True}}}  # fmt: skip
    model = build(declaration, seed=seed).double().eval()
    stir(model)
    with torch.no_grad():
        model.heads["lm"].projection.bias[END] = end
    return model


def sources(model: Transformer, *lengths: int, seed: int = 0) -> Inputs:
    """A random source of each length, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    tokens_BT = torch.randint(model.config.vocab_size or 0, (len(lengths), max(lengths)), generator=generator)
    return Inputs(tokens_BT=tokens_BT, valid_BT=torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])


def best(model: Transformer, source: Inputs, **options: Any) -> list[Hypothesis]:
    """The best answer to each source."""
    found = search(model, [[START]] * source.shape[0], source=source, end=END, **options)
    assert {len(each) for each in found} == {1}
    return [each[0] for each in found]


def alone(source: Inputs, row: int) -> Tensor:
    """One source without its padding."""
    assert source.tokens_BT is not None
    assert source.valid_BT is not None
    return source.tokens_BT[row, source.valid_BT[row]][None]


def log_p(model: Transformer, source_BT: Tensor, tokens: tuple[int, ...]) -> Tensor:
    """Log-probability of each next token after the start and these, without a cache: V."""
    with torch.no_grad():
        text_BT = torch.tensor([[START, *tokens]])
        return model(text_BT, source=source_BT).logits_BTV[0, -1].log_softmax(-1)


def best_of_all(model: Transformer, source_BT: Tensor, max_tokens: int, strength: float) -> Hypothesis:
    """Every sequence that ends within so many tokens, scored one by one."""
    others = [token for token in range(model.config.vocab_size or 0) if token != END]
    found = []
    for length in range(max_tokens):
        every = list(itertools.product(others, repeat=length))
        text_BT = torch.tensor([[START, *tokens, END] for tokens in every])
        with torch.no_grad():
            logits_BTV = model(text_BT[:, :-1], source=source_BT.expand(len(every), -1)).logits_BTV
        totals = logits_BTV.log_softmax(-1).gather(2, text_BT[:, 1:, None]).sum((1, 2)).tolist()
        for tokens, total in zip(every, totals, strict=True):
            found.append(Hypothesis(tokens, total, total / ((5 + length + 1) / 6) ** strength, True))
    return max(found, key=lambda each: each.score)


def same(found: Hypothesis, expected: Hypothesis) -> None:
    assert found.tokens == expected.tokens
    assert found.finished == expected.finished
    assert (found.log_probability, found.score) == pytest.approx((expected.log_probability, expected.score), rel=1e-9)


@pytest.mark.parametrize("strength", [0.0, 0.6, 3.0])
def test_a_beam_as_wide_as_everything_finds_the_best_of_all_sequences(strength: float) -> None:
    model = small()
    source = sources(model, 4, 7, 2, 5)
    found = best(model, source, beams=4**4, max_tokens=5, length_penalty=strength)
    for row, each in enumerate(found):
        same(each, best_of_all(model, alone(source, row), 5, strength))
    assert len({each.tokens for each in found}) > 2, "the same answer to all proves little"
    if strength == 3.0:
        assert max(len(each.tokens) for each in found) > 2


def slow(model: Transformer, source_BT: Tensor, beams: int, max_tokens: int, strength: float) -> Hypothesis:
    """Beam search to the last token, written a second time: no batch, no cache, no early end, every end kept."""
    live, ended = [((), 0.0)], list[Hypothesis]()
    for _ in range(max_tokens):
        grown = [
            ((*tokens, token), total + more)
            for tokens, total in live
            for token, more in enumerate(log_p(model, source_BT, tokens).tolist())
        ]
        grown = sorted(grown, key=lambda each: -each[1])[: 2 * beams]
        for tokens, total in grown[:beams]:
            if tokens[-1] == END:
                ended.append(Hypothesis(tokens[:-1], total, total / ((5 + len(tokens)) / 6) ** strength, True))
        live = [each for each in grown if each[0][-1] != END][:beams]
    tokens, total = live[0]
    return max(
        ended or [Hypothesis(tokens, total, total / ((5 + max_tokens) / 6) ** strength, False)],
        key=lambda each: each.score,
    )


@pytest.mark.parametrize(("beams", "strength"), [(2, 0.0), (3, 0.6), (4, 2.0)])
def test_narrow_beams_in_a_batch_find_what_each_source_s_own_search_finds(beams: int, strength: float) -> None:
    model = small(vocab_size=9, seed=1)
    source = sources(model, 6, 3, 8, 1, 5, seed=1)
    found = best(model, source, beams=beams, max_tokens=8, length_penalty=strength)
    for row, each in enumerate(found):
        same(each, slow(model, alone(source, row), beams, 8, strength))
    assert len({len(each.tokens) for each in found}) > 1, "sources leave the batch at different steps"


def test_one_beam_is_greedy() -> None:
    """The likeliest token each time, to its end or the number of tokens; whatever the length penalty says."""
    model = small(vocab_size=9, seed=2)
    source, answers = sources(model, 6, 3, 8, 1, 5, 4, seed=2), list[tuple[int, ...]]()
    for row in range(6):
        tokens: tuple[int, ...] = ()
        while len(tokens) < 7 and END not in tokens:
            tokens = (*tokens, int(log_p(model, alone(source, row), tokens).argmax()))
        answers.append(tokens)
    for strength in (0.0, 5.0):
        found = best(model, source, max_tokens=7, length_penalty=strength)
        assert [each.tokens for each in found] == [tuple(t for t in tokens if t != END) for tokens in answers]
        assert [each.finished for each in found] == [END in tokens for tokens in answers]
    assert {each.finished for each in found} == {True, False}, "some end, some are cut"


def test_windows_search_as_if_there_were_no_cache() -> None:
    window = {"n_heads": 2, "mask": {"kind": "window", "size": 2}}
    model = small(vocab_size=7, seed=4, end=-9.0, block={"attention": window})
    source = sources(model, 6, 3)
    found = best(model, source, beams=2, max_tokens=22, length_penalty=1.0)
    for row, each in enumerate(found):
        same(each, slow(model, alone(source, row), 2, 22, 1.0))
    assert max(len(each.tokens) for each in found) > 18, "beyond the ring"


class Witness:
    """A small random Marian of Hugging Face, the model of Vaswani et al. 2017, and weft's with its weights."""

    V, PAD = 23, 22
    NAMES = {
        "self_attn.": "attention.",
        "encoder_attn.": "cross_attention.",
        "self_attn_layer_norm": "attention_norm",
        "encoder_attn_layer_norm": "cross_attention_norm",
        "final_layer_norm": "feedforward_norm",
        "fc1": "feedforward.up",
        "fc2": "feedforward.down",
        "q_proj": "query",
        "k_proj": "key",
        "v_proj": "value",
        "out_proj": "output",
        "layers.": "blocks.",
        "shared": "embedding.tokens",
        "lm_head": "heads.lm.projection",
    }

    def __init__(self) -> None:
        transformers = pytest.importorskip("transformers")
        config = transformers.MarianConfig(
            vocab_size=self.V, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=24, decoder_ffn_dim=24, activation_function="relu", dropout=0.0,
            scale_embedding=True, max_position_embeddings=64, init_std=1.0, decoder_start_token_id=START,
            eos_token_id=END, pad_token_id=self.PAD, forced_eos_token_id=None,
        )  # fmt: skip
        torch.manual_seed(2)
        self.theirs = transformers.MarianMTModel(config).double().eval()
        # an output of its own: with a tied one, random weights say the same token over and over
        self.theirs.lm_head.weight = torch.nn.Parameter(torch.randn(self.V, 16, dtype=torch.float64))
        stack = {"n_layers": 2, "positions": "sinusoidal",
                 "block": {"kind": "post", "attention": {"n_heads": 4, "bias": True},
                           "feedforward": {"kind": "relu", "width": 24, "bias": True}}}  # fmt: skip
        declaration = {"d_model": 16, "max_length": 64, "vocab_size": self.V, "encoder": stack, "decoder": stack,
                       "embedding": {"kind": "tokens", "scaled": True, "tied": False},
                       "heads": {"lm": {"kind": "lm", "bias": True}}}  # fmt: skip
        self.mine = build(declaration).double().eval()
        stir(self.theirs, 0.2)
        waves_TD = self.mine.decoder.positions.embed(torch.zeros(1, 64, 16).double(), torch.arange(64)[None])[0]
        with torch.no_grad():
            for half in (self.theirs.model.encoder, self.theirs.model.decoder):
                half.embed_positions.weight.copy_(waves_TD)  # the same waves: theirs are sines first, then cosines
            state = dict(self.mine.named_parameters())
            self.theirs.final_logits_bias.normal_()
            state.pop("heads.lm.projection.bias")
            for name, parameter in self.theirs.named_parameters():
                if "embed_positions" in name:
                    continue
                path = name.removeprefix("model.")
                for theirs, mine in self.NAMES.items():
                    path = path.replace(theirs, mine)
                state.pop(path).copy_(parameter)
        assert not state, "parameters that Marian has not"
        self.favour(0.0)

    def favour(self, end: float) -> None:
        """Make the end so much likelier, in both."""
        bias_V = self.mine.heads["lm"].projection.bias
        with torch.no_grad():
            bias_V.copy_(self.theirs.final_logits_bias[0])
            bias_V[END] = end
            self.theirs.final_logits_bias[0].copy_(bias_V)


@pytest.fixture(scope="module")
def witness() -> Witness:
    return Witness()


def test_logits_of_an_encoder_decoder_are_hugging_face_s(witness: Witness) -> None:
    source = sources(witness.mine, 5, 9, 2)
    text_BT = torch.randint(witness.V, (3, 6), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected = witness.theirs(
            input_ids=source.tokens_BT, attention_mask=source.valid_BT.long(), decoder_input_ids=text_BT
        ).logits
        found = witness.mine(text_BT, source=source).logits_BTV
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("beams", "end"), [(1, 0.0), (1, 8.0), (2, 0.0), (2, 6.0), (4, 6.0), (7, 5.0)])
def test_answers_are_hugging_face_s(witness: Witness, beams: int, end: float) -> None:
    """Without a length penalty, theirs being another formula; several sources of unequal lengths at once."""
    witness.favour(end)
    source = sources(witness.mine, 5, 9, 2, 7, 4, seed=3)
    expected = witness.theirs.generate(
        input_ids=source.tokens_BT, attention_mask=source.valid_BT.long(), num_beams=beams, do_sample=False,
        length_penalty=0.0, max_new_tokens=20, early_stopping="never" if beams > 1 else False,
    )  # fmt: skip
    found = best(witness.mine, source, beams=beams, max_tokens=20, length_penalty=0.0)
    for row, each in enumerate(found):
        text = tuple(expected[row, 1:].tolist())
        ended = END in text
        if each.finished and not ended:  # theirs lets one that was cut win, where it is likelier
            steps = [log_p(witness.mine, alone(source, row), text[:place])[text[place]] for place in range(20)]
            assert sum(steps) > each.log_probability
            continue
        assert each.finished == ended
        assert each.tokens == (text[: text.index(END)] if ended else text)
    assert len({each.tokens for each in found}) > 2


def test_a_search_goes_on_while_a_longer_answer_may_win() -> None:
    """The bound is what a beginning would score if it went on to the last token for nothing."""
    for max_tokens, goes_on in ((4, False), (20, True)):
        one = _Search(END, 2, max_tokens, strength=1.0)
        one.step([(-2.0, 0, END), (-3.0, 0, 2), (-4.0, 0, 3)])
        assert one.ended == [Hypothesis((), -2.0, -2.0, True)]
        # -3 over a penalty of (5 + 4) / 6 is -2, no better than -2; of (5 + 20) / 6 it is -0.72
        assert one.goes_on() == goes_on
    one.step([(-3.1, 0, END), (-3.5, 0, 4)])
    assert one.ended[0].tokens == (), "-3.1 over (5 + 2) / 6 is worse than -2"
    strong = _Search(END, 2, 20, strength=3.0)
    strong.step([(-2.0, 0, END), (-3.0, 0, 2), (-4.0, 0, 3)])
    strong.step([(-3.1, 0, END), (-3.5, 0, 4)])
    assert strong.ended == [Hypothesis((2,), -3.1, -3.1 / (7 / 6) ** 3, True)], "better than -2 there"


def test_only_the_likeliest_half_may_end() -> None:
    one = _Search(END, 2, 9, strength=0.0)
    one.step([(-1.0, 0, 2), (-2.0, 0, 3), (-2.5, 0, END), (-3.0, 0, 4)])
    assert not one.ended
    assert [live.tokens for live in one.live] == [(2,), (3,)]


def test_the_search_ends_as_soon_as_nothing_better_can_come() -> None:
    model, steps = small(vocab_size=9, seed=1, end=3.0), list[int]()
    model.register_forward_pre_hook(lambda *given: steps.append(1))
    source = sources(model, 6, 3, 8, 1, 5, seed=1)
    found = best(model, source, beams=3, max_tokens=30, length_penalty=0.6)
    assert max(len(each.tokens) for each in found) < len(steps) < 30


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_are_taken_in_float32(dtype: torch.dtype) -> None:
    model = small(vocab_size=9, end=3.0).float()
    model.compute_dtype = dtype
    (found,) = best(model, sources(model, 4), beams=2, max_tokens=6)
    assert found.score == pytest.approx(found.log_probability / length_penalty_of(len(found.tokens) + 1, 0.6))
    assert math.exp(found.log_probability) < 1
    logits_BV = torch.full((1, 3), 100.0, dtype=dtype)
    ((first, *_),) = _best([[0.0]], logits_BV, 1)
    assert first[0] == pytest.approx(-math.log(3), rel=1e-6), "bfloat16 would say -1.1015625"


def test_a_padded_head_s_tokens_are_never_chosen() -> None:
    model = small(vocab_size=9, seed=2)
    with torch.no_grad():
        model.heads["lm"].projection.weight[6:] = 10 * model.heads["lm"].projection.weight[2:5]
    options = {"beams": 3, "max_tokens": 8}
    source = Inputs(tokens_BT=torch.tensor([[2, 3, 4], [3, 5, 2]]))
    assert any(token >= 6 for each in best(model, source, **options) for token in each.tokens)
    assert all(token < 6 for each in best(model, source, **options, vocab_size=6) for token in each.tokens)


def test_a_model_in_training_searches_without_dropout_and_trains_on() -> None:
    model = small(vocab_size=9)
    model.decoder.dropout = 0.9
    source = sources(model, 4, 6)
    calm = best(model, source, beams=2, max_tokens=6)
    model.train()
    assert best(model, source, beams=2, max_tokens=6) == calm
    assert all(module.training for module in model.modules())


REFUSED = [
    ({"beams": 0}, "beams = 0"),
    ({"max_tokens": 0}, "max_tokens = 0"),
    ({"length_penalty": -1.0}, "length_penalty = -1.0"),
    ({"length_penalty": math.nan}, "length_penalty = nan"),
    ({"beams": 2, "number": 3}, "number = 3: a search with beams = 2 finds from 1 to 2"),
    ({"beams": 2, "number": 0}, "number = 0: a search with beams = 2"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED, ids=str)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], said: str) -> None:
    model = small()
    with pytest.raises(WeftError, match=said):
        best(model, sources(model, 3), **{"max_tokens": 4, **options})


def test_models_that_cannot_answer_are_refused() -> None:
    decoder = small_decoder()
    with pytest.raises(WeftError, match="nothing reads a source"):
        best(decoder, sources(decoder, 3), max_tokens=4)
    limited = small(positions="learned")
    with pytest.raises(WeftError, match="max_tokens = 33: the decoder's positions end at 32"):
        best(limited, sources(limited, 3), max_tokens=33)
    damaged = small()
    with torch.no_grad():
        damaged.heads["lm"].projection.weight[3] = math.nan
    with pytest.raises(WeftError, match="not finite numbers"):
        best(damaged, sources(damaged, 3), beams=2, max_tokens=4)
