"""Keywords have one meaning and one default, whatever they are given to."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import basin_volume as bv
import pytest
from basin_volume._settings import CostSettings

from .bodies import Ball

JOBS = (bv.estimate, bv.precondition, bv.inspect, bv.scan)


def test_one_default_everywhere() -> None:
    defaults: dict[str, dict[str, Any]] = {}
    for job in JOBS:
        for name, parameter in inspect.signature(job).parameters.items():
            if parameter.default is not inspect.Parameter.empty:
                defaults.setdefault(name, {})[job.__name__] = parameter.default
    # A curvature or a scan may have no cutoff of its own.
    for name, found in defaults.items():
        if name not in ("cutoff", "kind"):
            assert len({repr(value) for value in found.values()}) == 1, (name, found)
    shared = {field.name: field.default for field in fields(CostSettings)}
    for job in JOBS:
        takes = inspect.signature(job).parameters
        assert {name for name in shared if name not in takes} <= ({"cost"} if job is bv.scan else set()), job
        for name in set(shared) & set(takes):
            assert takes[name].default == shared[name], (job, name)


def test_every_keyword_is_documented() -> None:
    text = inspect.getdoc(bv.estimate) or ""
    for name in inspect.signature(bv.estimate).parameters:
        assert name in text, name


def net(folder: Path) -> Path:
    command = [sys.executable, "-m", "basin_volume", "train", "digits", "--out", str(folder / "net"), "--width", "8", "--depth", "1", "--epochs", "1"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return folder / "net"


def test_what_a_model_on_disk_does_not_take_is_refused_by_every_job(own_folder: Path) -> None:
    model = net(own_folder)
    jobs = {
        "estimate": lambda **settings: bv.estimate(model, samples=1, progress=False, **settings),
        "precondition": lambda **settings: bv.precondition(model, out="c.safetensors", progress=False, **settings),
        "inspect": lambda **settings: bv.inspect(model, **settings),
        "scan": lambda **settings: bv.scan("cutoff", model, grid=[1e-3, 1e-2], samples=1, progress=False, **settings),
    }
    for name, job in jobs.items():
        for settings, words in [
            ({"val_size": None}, r"val_size=None \(all there are\) is for torch modules"),
            ({"max_seq_len": None}, r"max_seq_len=None \(all there are\) is for torch modules"),
            ({"val_size": 0}, "val_size=0: expected a whole number of at least 1"),
            ({"val_size": 2.5}, "val_size=2.5"),
            ({"positions": "first"}, "positions='first'"),
            ({"dtype": "float16"}, "dtype='float16': expected 'float32' or 'bfloat16'"),
            ({"tokenizer": object()}, "tokenizer= is object"),
            ({"val_size": 3}, "val_size="),
            ({"parameters": "nothing"}, "parameters="),
            *([] if name == "scan" else [({"cost": "mse"}, "cost= means nothing for a model= that is a path or hub id")]),
        ]:
            with pytest.raises((bv.UsageError, bv.EngineError), match=words):
                job(**settings)
    described = bv.inspect(model, parameters="weight", dtype="float32", threads=1)
    assert all(entry["name"].endswith("weight") for entry in described["parameters"])
    assert described["dimension"] < bv.inspect(model)["dimension"]


def test_a_scan_takes_the_keywords_of_an_estimate(own_folder: Path) -> None:
    model = net(own_folder)
    scan = bv.scan(
        "cutoff", model, "digits:test:64", grid=[1e-3, 1e-2], samples=3, seed=4, preconditioner="none", settings={"max_evaluations": 50}, sigma=0.3, progress=False
    )
    one = bv.estimate(model, "digits:test:64", samples=3, seed=4, settings={"max_evaluations": 50}, sigma=0.3, progress=False)
    assert isinstance(one, bv.Result)
    assert f"{one.log_probability:,.2f}".replace("-", "")[:6] in scan.text().replace("−", "").replace("-", "")
    with pytest.raises(bv.UsageError, match="estimator='magic'"):
        bv.scan("cutoff", model, estimator=["radial", "magic"], progress=False)
    with pytest.raises(TypeError, match="maximum"):
        bv.scan("cutoff", model, maximum=3)  # type: ignore[call-arg]


def test_a_cost_of_weights_takes_none_of_them() -> None:
    for name, value in [
        ("val_size", None),
        ("chunk", True),
        ("positions", "last"),
        ("text_key", "story"),
        ("split", "test"),
        ("pad_token_id", 0),
        ("max_seq_len", 12),
        ("cost", "mse"),
        ("optimizer", {}),
    ]:
        preconditioner = "adam2" if name == "optimizer" else None
        with pytest.raises(bv.UsageError, match=f"{name}= means nothing for a model= that is Ball"):
            bv.estimate(Ball(), sigma=1.0, samples=1, progress=False, preconditioner=preconditioner, **{name: value})  # type: ignore[arg-type]
