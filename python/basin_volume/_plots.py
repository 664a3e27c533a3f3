"""The figures of the report, by matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import matplotlib.axes

    from ._result import Result

_LINE, _MARK = "#2b5f8a", "#c4572e"


def draw(result: Result, ax: matplotlib.axes.Axes | None) -> matplotlib.axes.Axes:
    """Draws a result's figure on `ax`, or on axes of its own."""
    if ax is None:
        import matplotlib.pyplot as plt

        _, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
    {"annealed": _ladder, "spectral": _spectrum, "llc": _trace}.get(result.estimator, _log_volumes)(result, ax)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _log_volumes(result: Result, ax: matplotlib.axes.Axes) -> None:
    volumes = result.samples.get("log_volume", np.array([]))
    volumes = volumes[np.isfinite(volumes)]
    ax.hist(volumes, bins=min(30, max(5, int(np.sqrt(len(volumes) + 1)) * 2)), color=_LINE, alpha=0.8)
    if np.isfinite(result.log_probability):
        ax.axvline(result.log_probability, color=_MARK)
        low, high = result.interval
        if low is not None and high is not None:
            ax.axvspan(low, high, color=_MARK, alpha=0.15, lw=0)
    ax.locator_params(axis="x", nbins=5)
    ax.set(xlabel="log-volume of a ray (nats)", ylabel="rays")
    ax.set_title(f"{result.name}: {result.trust}", fontsize="medium")


def _ladder(result: Result, ax: matplotlib.axes.Axes) -> None:
    rungs = result.diagnostics.get("rungs", [])
    for way, color in (("outward", _LINE), ("inward", _MARK)):
        chosen = [rung for rung in rungs if rung["phase"] == way]
        ax.plot([rung["rung"] for rung in chosen], [rung["mean_cost"] for rung in chosen], "o-", ms=3, color=color, label=way)
    ax.axhline(result.cutoff, color="0.6", lw=1, ls="--", label="cutoff")
    ax.set(xlabel="rung", ylabel="mean cost (nats)", yscale="log", title=result.name)
    ax.legend(frameon=False)


def _trace(result: Result, ax: matplotlib.axes.Axes) -> None:
    samples = result.samples
    n_beta, center = result.diagnostics["n_beta"], result.diagnostics["center_cost"]
    for chain in np.unique(samples.get("chain", [])):
        chosen = samples["chain"] == chain
        ax.plot(n_beta * (samples["cost"][chosen] - center), lw=0.8, alpha=0.8, label=f"chain {chain}")
    if result.learning_coefficient is not None:
        ax.axhline(result.learning_coefficient, color=_MARK)
    ax.set(xlabel="trajectory", ylabel="n_beta (C - C(c))", title=f"{result.name}: {result.trust}")


def _spectrum(result: Result, ax: matplotlib.axes.Axes) -> None:
    eigenvalues = sorted(
        (value for record in result.records for value in record.get("eigenvalues", []) if value > 0.0), reverse=True
    )
    if eigenvalues:
        ax.plot(range(1, len(eigenvalues) + 1), eigenvalues, "o-", ms=3, color=_LINE)
        ax.set(xlabel="number", ylabel="eigenvalue of the Fisher matrix", xscale="log", yscale="log", title=result.name)
        return
    for record in result.records:
        alphas, betas, width = record.get("alphas", []), record.get("betas", []), record.get("width", 1)
        if width != 1 or not alphas:
            continue
        matrix = np.diag(alphas) + np.diag(betas[: len(alphas) - 1], 1) + np.diag(betas[: len(alphas) - 1], -1)
        values, vectors = np.linalg.eigh(matrix)
        positive = values > 0
        mass = record["mass"] * vectors[0] ** 2
        ax.plot(values[positive], mass[positive], "o", ms=3, color=_MARK if record["part"] == "center" else _LINE)
    ax.set(xlabel="eigenvalue of the Fisher matrix", ylabel="weight", xscale="log", yscale="log", title=result.name)
