"""The command of the package is the program itself."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "basin_volume", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)  # type: ignore[call-overload,no-any-return]


def test_help_and_version() -> None:
    said = run("--help")
    assert said.returncode == 0 and "estimate" in said.stdout and "precondition" in said.stdout
    assert run("--version").stdout.startswith("basin-volume ")


def test_usage_errors_have_their_exit_code() -> None:
    said = run("estimate", "digits", "--cutoff=-1")
    assert said.returncode == 2 and "--cutoff" in said.stderr
    assert run("nonsense").returncode == 2


def test_a_job_from_argv_is_read_by_the_package(own_folder: Path) -> None:
    trained = run("train", "digits", "--out", "net", "--width", "16", "--depth", "2", "--epochs", "2", cwd=own_folder)
    assert trained.returncode == 0, trained.stderr
    said = run("estimate", "net", "--samples", "3", "--preconditioner", "none", "--out", "run", cwd=own_folder)
    assert said.returncode == 0, said.stderr
    import basin_volume as bv

    result = bv.load(own_folder / "run")
    assert isinstance(result, bv.Result) and result.samples["index"].tolist() == [0, 1, 2]
    same = bv.estimate(own_folder / "net", samples=3, preconditioner="none", seed=42, progress=False)
    assert isinstance(same, bv.Result)
    assert same.log_probability == result.log_probability


def test_ctrl_c_keeps_what_is_done(own_folder: Path) -> None:
    assert run("train", "digits", "--out", "net", "--width", "16", "--depth", "2", "--epochs", "1", cwd=own_folder).returncode == 0
    command = [sys.executable, "-m", "basin_volume", "estimate", "net", "--samples", "1000000", "--preconditioner", "none", "--out", "run"]
    job = subprocess.Popen(command, cwd=own_folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    samples = own_folder / "run" / "samples.jsonl"
    deadline = time.monotonic() + 60
    while not (samples.exists() and samples.stat().st_size > 0) and time.monotonic() < deadline:
        time.sleep(0.05)
    job.send_signal(signal.SIGINT)
    _, said = job.communicate(timeout=60)
    assert job.returncode == 130 and "the same command continues it" in said
    assert "Traceback" not in said
