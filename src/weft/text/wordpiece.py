"""WordPiece: a word is cut into the longest pieces there are, from left to right; ## marks what continues a word.

Schuster and Nakajima 2012; Wu et al. 2016, section 4.1; Devlin et al. 2019, "BERT", section 3.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import tokenizers
from pydantic import Field, PositiveInt
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from weft.text.accents import accents_lost
from weft.text.special import BERT, bert_frame, unfilled
from weft.text.tokenizers import Tokenizer, TokenizerConfig, fewer, sample, sampled

CONTINUES = "##"
LONGEST = 100
"""Characters of a word beyond which it is unknown as a whole."""
_PRIVATE = 0xF0000
"""Where Unicode's plane of private use begins: BERT's normalisation leaves none of its characters in a text."""

Casing = Literal["uncased", "uncased-accents", "cased"]


class WordPiece(TokenizerConfig, kind="wordpiece"):
    """Words cut into the longest known pieces, with BERT's special tokens; spaces are lost (Devlin et al. 2019)."""

    vocab_size: int = Field(4096, ge=32)
    """number of tokens, special ones included; half of the others at most are single characters"""
    casing: Casing = "uncased"
    """uncased: no capitals, no accents (BERT's); uncased-accents: no capitals; cased: letters as they are, composed"""
    sample_bytes: PositiveInt = 16_000_000
    """about how much of the training text it is trained on; documents are taken evenly from all of it"""

    def train(self, texts: Iterable[str], total_bytes: int, special: Sequence[str] = ()) -> Tokenizer:
        names = [*BERT, *unfilled(special, BERT)]
        composed = self.casing != "uncased"  # which strips them
        frame = bert_like({name: id for id, name in enumerate(names)}, self.casing, names, composed=composed)
        kept = list(sample(texts, total_bytes, self.sample_bytes))
        words = Counter(word for text in kept for word in _words(frame.inner, text))
        pieces, rare = learn(words, self.vocab_size - len(names))
        notes = [f"tokenizer: {rare:,} rare characters have no token, words with them are unknown"] * bool(rare)
        vocabulary = {token: id for id, token in enumerate([*names, *pieces])}
        found = bert_like(vocabulary, self.casing, names, composed=composed)
        lost = accents_lost(found, kept)
        return Tokenizer(found.inner, [*notes, *([lost] if lost else ())])

    def notes(self, tokenizer: Tokenizer, total_bytes: int) -> list[str]:
        short = fewer(tokenizer.vocab_size, self.vocab_size)
        return [*sampled(total_bytes, self.sample_bytes), *tokenizer.notes, *short]


def bert_like(
    vocabulary: Mapping[str, int],
    casing: Casing,
    special: Sequence[str],
    notes: Sequence[str] = (),
    composed: bool = False,
) -> Tokenizer:
    """BERT's tokenizer with this vocabulary: its normalisation, words and punctuation, longest match, [CLS] A [SEP].

    BERT takes letters and their accents as they come; `composed` makes one character of them where there is one.
    """
    model = models.WordPiece(
        dict(vocabulary), unk_token="[UNK]", max_input_chars_per_word=LONGEST, continuing_subword_prefix=CONTINUES
    )
    inner = tokenizers.Tokenizer(model)
    bert = normalizers.BertNormalizer(lowercase=casing != "cased", strip_accents=casing == "uncased")
    inner.normalizer = normalizers.Sequence([normalizers.NFC(), bert]) if composed else bert
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece(CONTINUES, cleanup=False)  # which would guess where spaces were not
    inner.add_special_tokens(list(special))
    if "[CLS]" in vocabulary and "[SEP]" in vocabulary:
        inner.post_processor = bert_frame(("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"]))
    return Tokenizer(inner, notes)


def learn(words: Counter[str], room: int) -> tuple[list[str], int]:
    """The at most `room` pieces for counted words, by merging the most frequent neighbours, and how many characters
    got none. The same words give the same pieces.

    What `tokenizers` has for WordPiece breaks ties by chance. So its trainer for byte-pair encoding does the work, on
    words in which each character that continues a word is another one, of private use.
    """
    forms: Counter[str] = Counter()
    for word, count in words.items():
        for form in _forms(word):
            forms[form] += count
    kept = sorted(forms, key=lambda form: (-forms[form], form))[: room // 2]
    code = {form: chr(_PRIVATE + index) for index, form in enumerate(sorted(kept))}
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=room,
        initial_alphabet=sorted(code.values()),
        limit_alphabet=len(code),
        show_progress=False,
    )
    inner.train_from_iterator(_coded(words, code), trainer)
    vocabulary = json.loads(inner.to_str())["model"]["vocab"]
    plain = {character: form for form, character in code.items()}
    pieces = [_piece([plain[c] for c in token]) for token in sorted(vocabulary, key=vocabulary.__getitem__)]
    characters = {form.removeprefix(CONTINUES) for form in forms}
    return pieces, len(characters - {form.removeprefix(CONTINUES) for form in kept})


def _words(inner: tokenizers.Tokenizer, text: str) -> Iterator[str]:
    normal = inner.normalizer.normalize_str(text)
    return (word for word, _ in inner.pre_tokenizer.pre_tokenize_str(normal) if len(word) <= LONGEST)


def _forms(word: str) -> list[str]:
    """A word's characters, those that continue it with ## before them."""
    return [word[0], *(CONTINUES + character for character in word[1:])]


def _piece(forms: Sequence[str]) -> str:
    return forms[0] + "".join(form.removeprefix(CONTINUES) for form in forms[1:])


def _coded(words: Counter[str], code: Mapping[str, str], at_once: int = 1000) -> Iterator[str]:
    """The words that have only known characters, each as often as it was counted."""
    for word, count in sorted(words.items()):
        forms = _forms(word)
        if all(form in code for form in forms):
            coded = "".join(code[form] for form in forms)
            for start in range(0, count, at_once):
                yield " ".join([coded] * min(at_once, count - start))
