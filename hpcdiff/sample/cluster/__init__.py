"""The posterior of one observed cluster from FITS images: `hpcdiff sample CONFIG --sz FILE.fits --xray FILE.fits --out DIR`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpcdiff.model import Model
    from hpcdiff.sample.cluster.posterior import Posterior
    from hpcdiff.sections import Guide


def sample_cluster(
    model: Model,
    images: dict[str, str | Path],
    out: str | Path | None = None,
    maps: Sequence[str | Path] = (),
    ra: float | None = None,
    dec: float | None = None,
    redshift: float | None = None,
    width_mpc: float | None = None,
    fill_nan: bool = False,
    guide: Guide | None = None,
    samples: int = 10,
    sampler: str = "auto",
    steps: int | None = None,
    seed: int = 0,
    init: str | None = None,
    batch_size: int = 64,
    churn: float = 0.0,
    r500_mpc: float | None = None,
    r200_mpc: float | None = None,
) -> Posterior:
    """The posterior of one cluster from FITS images, in one call.

    Args:
        model: from `hpcdiff.load`.
        images: {input field: FILE.fits or FILE.fits[EXTENSION]}.
        out: folder for FITS maps, masses and a picture (see `write.write`); None = nothing is written.
        maps: map files of the model's training, for models that do not say their maps' cosmology, redshift and depth.
        ra, dec, redshift, width_mpc, fill_nan, guide: see `observe`.
        samples, sampler, steps, seed, init, batch_size, churn: see `Model.sample`.
        r500_mpc, r200_mpc: radii of the cylinders, physical Mpc; None = fitted to each sample.
    Returns:
        Samples {output: (S, npix, npix)} in the map file's units, their mean and spread, the masses, what the model was shown.
    Raises:
        UserError: whatever is wrong with the images, in one line.
    """
    from hpcdiff.sample.cluster.observed import observe
    from hpcdiff.sample.cluster.posterior import infer
    from hpcdiff.sample.cluster.write import write

    observed = observe(model, images, maps, ra, dec, redshift, width_mpc, fill_nan, guide)
    posterior = infer(model, observed, samples, sampler, steps, seed, init, batch_size, churn, r500_mpc, r200_mpc)
    if out is not None:
        write(posterior, out, str(model.device), model.precision)
    return posterior
