"""How a tokenizer cuts a text, step by step, by code short enough to read; and whether `tokenizers` does the same."""

from weft.text.steps.account import LONGEST, Account, Stage, Word, account

__all__ = ["LONGEST", "Account", "Stage", "Word", "account"]
