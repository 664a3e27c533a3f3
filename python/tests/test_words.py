"""What the engine says, in words of Python."""

from __future__ import annotations

import pytest
from basin_volume._words import say


@pytest.mark.parametrize(
    ("engine", "python"),
    [
        ("`l2_reg` is -1: expected more", "l2_reg= is -1: expected more"),
        ("`damping=auto` needs `prior=gaussian`", 'damping="auto" needs prior="gaussian"'),
        ("take fewer with `set=chains=1`", 'take fewer with settings={"chains": 1}'),
        ("raise `trajectories`", 'raise settings={"trajectories": ...}'),
        ("`continue` adds one", "extend=True adds one"),
        ("the key `nothing` of it", "the key `nothing` of it"),
        ("plain", "plain"),
    ],
)
def test_settings_become_keywords(engine: str, python: str) -> None:
    assert say(engine) == python
