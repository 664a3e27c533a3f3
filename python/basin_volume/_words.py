"""Settings in the words of Python.

The engine names settings in backticks, as `` `damping=auto` ``; here they are keywords, ``damping="auto"``, or what ``settings=`` takes.
"""

from __future__ import annotations

import re
from functools import cache

from . import _engine

KEYWORDS = frozenset(
    """cutoff samples estimator sigma prior preconditioner proposal seed parameters exclude component tokenizer text_key max_seq_len val_size chunk
    positions cost center dtype device threads memory out shard time_limit progress settings skip split data_config eos_token_id pad_token_id
    l2_reg exponent eps damping radius_tolerance profile per_sequence set_kind prior_mean reference reference_scale spectrum_out optimizer devices ray data model kind grid of targets probes rank steps""".split()
)

ESTIMATORS = ("radial", "spectral", "annealed", "llc")


@cache
def _estimator_settings() -> frozenset[str]:
    return frozenset(name for estimator in ESTIMATORS for name in _engine.setting_names(estimator))


def _said(quoted: str) -> str:
    name, equals, value = quoted.partition("=")
    if name == "set" and equals:
        name, equals, value = value.partition("=")
        return f'settings={{"{name}": {_value(value)}}}' if equals else f'settings={{"{name}": ...}}'
    if name == "continue":
        return "extend=True"
    if name in KEYWORDS:
        return f"{name}={_value(value)}" if equals else f"{name}="
    if name.split(".")[-1] in _estimator_settings():
        return f'settings={{"{name}": {_value(value) if equals else "..."}}}'
    return f"`{quoted}`"


def _value(text: str) -> str:
    try:
        float(text)
    except ValueError:
        return text if text in ("N", "True", "False") else f'"{text}"'
    return text


def say(text: str) -> str:
    """The text of the engine with its settings as keywords; what stands in backticks and is no setting stays."""
    return re.sub(r"`([^`\n]+)`", lambda match: _said(match.group(1)), text)


def flags_as_keywords(text: str) -> str:
    """A message of the command line with its flags as keywords."""

    def keyword(match: re.Match[str]) -> str:
        name = match.group(1).replace("-", "_")
        return f"{name}=" if name in KEYWORDS else match.group(0)

    return say(re.sub(r"--([a-z][a-z-]*)", keyword, text))
