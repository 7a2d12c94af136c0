"""What weft says when a person's input cannot be used."""

from __future__ import annotations


class WeftError(ValueError):
    """A mistake in what was asked for: names the field or file, its value, and a way out.

    The command line prints it in one line, without a traceback, and exits with 2.
    """


class ConfigError(WeftError):
    """Every problem of one declaration at once, a line each."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))
