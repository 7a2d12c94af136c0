"""What is to be beaten: the most frequent class, words and letters counted, the source copied."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

CHARACTERS, EXAMPLES, TEXT = 1_000, 20_000, 4_000_000
"""Characters of each text, texts, and characters in all that are looked at (texts evenly spread): about a minute."""
HOW = "TF-IDF of words (1-2) and letters (2-4) + logistic regression"
_FOLDS = 3
_CHOSEN_ON = 3_000
"""Examples on which the weight of classes is chosen."""
_FEW = 4_000
"""Examples of which all pairs are looked at at once."""
_WEIGHTS = 1_000_000
"""Of the logistic regression, for words and for letters each: classes x features."""


def majority(train_labels: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """Accuracy and macro F1 on `labels` of always giving the most frequent class of the training part."""
    most, _ = Counter(train_labels).most_common(1)[0]
    return _scores(labels, [most] * len(labels))


def tf_idf(
    train_texts: Sequence[str], train_labels: Sequence[str], texts: Sequence[str], labels: Sequence[str]
) -> dict[str, float]:
    """Accuracy and macro F1 on `texts` of a logistic regression on weighted counts of words and letters.

    Features and strength were chosen by cross-validation on the training parts of UIT-VSFC and SIB-200; whether rare
    classes get more weight is chosen on this training part.
    """
    kept, measured = _spread(train_texts), _spread(texts)
    train_labels, labels = [train_labels[n] for n in kept], [labels[n] for n in measured]
    train_texts, texts = ([part[n][:CHARACTERS] for n in few] for part, few in ((train_texts, kept), (texts, measured)))
    classes = len(set(train_labels))
    if classes < 2 or not any(re.search(r"\w", text) for text in train_texts):
        return majority(train_labels, labels)
    features = _features(max(1, _WEIGHTS // classes))
    x_NF = features.fit_transform(train_texts)
    y_N = np.asarray(train_labels)
    x_MF, weight = features.transform(texts), _weight(x_NF, y_N)
    if len(y_N) <= _FEW:
        products_NN, products_MN = (x @ x_NF.T for x in (x_NF, x_MF))
        return _scores(labels, _told(products_NN.toarray(), y_N, weight, products_MN.toarray()))
    return _scores(labels, _fitted(x_NF, y_N, weight).predict(x_MF))


def copied(sources: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
    """BLEU and chrF (sacrebleu's, from 0 to 100) of giving each source as its own target."""
    bleu, chrf, _ = corpus_scores(sources, targets)
    return {"bleu": bleu, "chrf": chrf}


def corpus_scores(answers: Sequence[str], references: Sequence[str]) -> tuple[float, float, tuple[str, str]]:
    """Corpus BLEU (Papineni et al. 2002) and chrF (Popovic 2015) by sacrebleu, and their signatures (Post 2018)."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    bleu, chrf = BLEU(), CHRF()
    found = [float(metric.corpus_score(list(answers), [list(references)]).score) for metric in (bleu, chrf)]
    names = (f"BLEU|{bleu.get_signature()}", f"chrF2|{chrf.get_signature()}")
    return found[0], found[1], names


def sentence_chrf(answer: str, reference: str) -> float:
    """chrF of one answer by itself, by sacrebleu."""
    from sacrebleu.metrics.chrf import CHRF

    return float(CHRF().sentence_score(answer, [reference]).score)


def _features(most: int) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_union

    shared = {"sublinear_tf": True, "dtype": np.float32, "max_features": most}
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+", **shared)
    return make_union(words, TfidfVectorizer(ngram_range=(2, 4), analyzer="char_wb", **shared))


def _fitted(x_NF: Any, y_N: Any, weight: str | None) -> Any:
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the last digits have not converged
        return LogisticRegression(C=3.0, class_weight=weight, max_iter=300, tol=1e-3).fit(x_NF, y_N)


def _told(products_NN: Any, y_N: Any, weight: str | None, products_MN: Any) -> Any:
    """What the same regression, fitted to the N examples, says of M others, from their products x.x' alone.

    With fewer examples than features its weights are a mixture of the examples, so each example may stand as N numbers
    that have the same products (Hastie and Tibshirani 2004, "Efficient quadratic regularization for expression arrays",
    section 3): its row of the products' Cholesky factor. The same answers, 10 times sooner.
    """
    from scipy.linalg import cholesky, solve_triangular

    # examples that are there twice leave the products singular but for this
    factor_NN = cholesky(products_NN + 1e-4 * np.eye(len(y_N), dtype=products_NN.dtype), lower=True)
    others_MN = solve_triangular(factor_NN, products_MN.T, lower=True).T
    return _fitted(factor_NN, y_N, weight).predict(others_MN)


def _weight(x_NF: Any, y_N: Any) -> str | None:
    """The weight of classes, all examples alike or all classes alike, that is right more often on what it has not
    seen."""
    kept = np.arange(len(y_N))[:: -(-len(y_N) // _CHOSEN_ON)]
    x_NF, y_N = x_NF[kept], y_N[kept]
    fold_N = np.arange(len(y_N)) % _FOLDS
    if any(len(set(y_N[fold_N != fold])) < 2 for fold in range(_FOLDS)):
        return None
    products_NN, right = (x_NF @ x_NF.T).toarray(), Counter[str | None]()
    for fold in range(_FOLDS):
        seen, unseen = np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold)
        for weight in (None, "balanced"):
            said = _told(products_NN[np.ix_(seen, seen)], y_N[seen], weight, products_NN[np.ix_(unseen, seen)])
            right[weight] += int((said == y_N[unseen]).sum())
    return "balanced" if right["balanced"] > right[None] else None


def _spread(texts: Sequence[str]) -> range:
    """Places of texts, evenly spread, that are within the bounds."""
    total = sum(min(len(text), CHARACTERS) for text in texts)
    step = max(-(-len(texts) // EXAMPLES), -(-total // TEXT), 1)
    return range(0, len(texts), step)


def _scores(truth: Sequence[str], predicted: Sequence[str]) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, f1_score

    present = sorted(set(truth))
    f1 = f1_score(truth, predicted, labels=present, average="macro", zero_division=0.0)
    return {"accuracy": float(accuracy_score(truth, predicted)), "macro_f1": float(f1), "examples": float(len(truth))}
