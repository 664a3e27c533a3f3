"""Curvatures, scans, shards, folders; and that nothing of it needs torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import basin_volume as bv
import numpy as np
import pytest

from .bodies import Ball


def test_shards_are_joined() -> None:
    whole = bv.estimate(Ball(), samples=9, sigma=1.0, out="whole", progress=False)
    for index in range(3):
        bv.estimate(Ball(), samples=9, sigma=1.0, shard=(index, 3), out=f"part{index}", progress=False)
    joined = bv.merge([f"part{index}" for index in range(3)], "joined")
    assert isinstance(whole, bv.Result) and isinstance(joined, bv.Result)
    assert joined.log_probability == whole.log_probability
    np.testing.assert_array_equal(joined.samples["radius"], whole.samples["radius"])


def test_a_shard_is_asked_of_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "SLURM_JOB_ID", "SLURM_PROCID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(bv.UsageError, match="which of how many tasks this is"):
        bv.estimate(Ball(), samples=4, sigma=1.0, shard="auto", out="run", progress=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(bv.UsageError, match="out="):
        bv.estimate(Ball(), samples=4, sigma=1.0, shard="auto", progress=False)
    part = bv.estimate(Ball(), samples=4, sigma=1.0, shard="auto", out="run", progress=False)
    assert isinstance(part, bv.Result) and part.samples["index"].tolist() == [1, 3] and not part.interrupted
    assert part.folder.name == "1-of-2"
    monkeypatch.setenv("RANK", "0")
    whole = bv.estimate(Ball(), samples=4, sigma=1.0, shard="auto", out="run", progress=False)
    assert isinstance(whole, bv.Result) and whole.samples["index"].tolist() == [0, 1, 2, 3] and whole.folder.name == "run"


def test_torchrun_spreads_a_module(own_folder: Path) -> None:
    pytest.importorskip("torch")
    script = own_folder / "measure.py"
    script.write_text(
        "import torch\n"
        "import basin_volume as bv\n"
        "torch.manual_seed(0)\n"
        "torch.set_num_threads(1)\n"
        "model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))\n"
        "inputs = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))\n"
        "bv.estimate(model, inputs, samples=8, threads=1, shard='auto', out='run', progress=False)\n"
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(torchrun, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    if not Path("run/manifest.json").exists():
        # Both ended at once, and neither saw the other.
        bv.merge(["run/shards/0-of-2", "run/shards/1-of-2"], "run")
    namespace: dict[str, object] = {}
    exec(script.read_text().replace("shard='auto', out='run'", "out='alone'"), namespace)  # noqa: S102
    spread, alone = bv.load("run"), bv.load("alone")
    assert isinstance(spread, bv.Result) and isinstance(alone, bv.Result)
    np.testing.assert_array_equal(spread.samples["log_volume"], alone.samples["log_volume"])


def test_reports(own_folder: Path) -> None:
    bv.estimate(Ball(), samples=5, sigma=1.0, out="run", progress=False)
    text = bv.report("run", html="page.html")
    assert "Ball" in text and "Ball" in Path("page.html").read_text()
    (own_folder / "empty").mkdir()
    with pytest.raises(bv.EngineError, match="not a run folder"):
        bv.load("empty")
    with pytest.raises(bv.UsageError, match="no scan"):
        bv.load_scan("run")


def network(folder: Path) -> Path:
    command = [sys.executable, "-m", "basin_volume", "train", "digits", "--out", str(folder / "net"), "--width", "16", "--depth", "2", "--epochs", "2"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return folder / "net"


def test_models_on_disk_through_all_jobs(own_folder: Path) -> None:
    net = network(own_folder)
    described = bv.inspect(net)
    assert described
    made = bv.precondition(net, kind="fisher", out="fisher.safetensors", progress=False)
    assert made["trace"] > 0 and Path("fisher.safetensors").exists()
    results = bv.estimate(net, samples=4, preconditioner=["none", "fisher.safetensors"], progress=False)
    assert isinstance(results, bv.Results) and len(results) == 2
    scan = bv.scan("cutoff", net, grid=[1e-3, 1e-2], samples=3, preconditioner=["none"], out="scan", progress=False)
    assert scan.summary and "1e-3" in scan.text().replace("0.001", "1e-3")
    assert isinstance(bv.load_scan("scan"), bv.Scan)
    with pytest.raises(bv.UsageError):
        bv.scan("magic", net, progress=False)
    with pytest.raises(bv.UsageError, match="there is no curvature 'magic'"):
        bv.precondition(net, kind="magic", out="x.safetensors", progress=False)


def test_loading_needs_no_torch(own_folder: Path) -> None:
    bv.estimate(Ball(), samples=5, sigma=1.0, out="run", progress=False)
    script = (
        "import sys, basin_volume as bv\n"
        "result = bv.load('run')\n"
        "assert result.samples['radius'].shape == (5,) and result.summary() and result._repr_html_()\n"
        "assert not {'torch', 'pandas', 'matplotlib', 'xarray', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_tables_trees_and_figures() -> None:
    result = bv.estimate(Ball(), samples=5, sigma=1.0, progress=False)
    assert isinstance(result, bv.Result)
    pandas = pytest.importorskip("pandas")
    table = result.to_dataframe()
    assert isinstance(table, pandas.DataFrame) and len(table) == 5 and "log_volume" in table
    if pytest.importorskip("matplotlib"):
        import matplotlib

        matplotlib.use("Agg")
        axes = result.plot()
        assert axes.get_xlabel() == "log-volume of a ray (nats)"
        assert result.plot(ax=axes) is axes


def test_a_tree_of_chains() -> None:
    pytest.importorskip("xarray")
    from .bodies import Valley

    settings = {"trajectories": 40, "chains": 2}
    result = bv.estimate(Valley(), cutoff=0.05, sigma=0.7, estimator="annealed", settings=settings, progress=False)
    assert isinstance(result, bv.Result)
    tree = result.to_datatree()
    assert set(tree["posterior"].dims) == {"chain", "draw"} and tree["posterior"].sizes["chain"] == 2
    assert "acceptance" in tree["sample_stats"] and "rung" in tree["posterior"].coords
    rays = bv.estimate(Valley(), cutoff=0.05, sigma=0.7, samples=4, progress=False)
    assert isinstance(rays, bv.Result)
    assert rays.to_datatree()["posterior"]["log_volume"].shape == (1, 4)
