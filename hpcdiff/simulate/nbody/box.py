"""One box from its random waves to its chunk of the snapshot."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np

from hpcdiff import checked, files
from hpcdiff.errors import UserError
from hpcdiff.simulate import profiles
from hpcdiff.simulate.chunks import Folder, header, stored
from hpcdiff.simulate.nbody.evolve import State, evolve
from hpcdiff.simulate.nbody.gas import Gas, settle
from hpcdiff.simulate.nbody.gravity import gravity_of
from hpcdiff.simulate.nbody.halos import Halo, Matter, formation, wrapped
from hpcdiff.simulate.nbody.peak import central, sphere_of, start
from hpcdiff.simulate.nbody.plan import COARSER, Plan
from hpcdiff.simulate.nbody.zoom import Levels, levels
from hpcdiff.simulate.neighbours import smoothing

KEPT = (0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.93)
"""Scale factors at which positions are kept, for the halos' history."""
SMALLEST = 30
"""Least mass of a halo that is looked for, in dark-matter particles."""
SAVE_EVERY = 300.0
"""Seconds between two saves of the state of a box."""


def run_box(plan: Plan, folder: Folder, box: int, provenance: str, threads: int, after: Callable[[State], None]) -> None:
    """Evolve a box, find its halos, settle its gas, and write its chunk and its rows of the catalogue.

    Args:
        after: called after each step; if it raises, the state is saved first, and the next call goes on from there.
    """
    b, saved = plan.background, folder.draw(box)
    gravity = gravity_of(plan.period, plan.mesh, plan.softening, b.Om0, threads, plan.device)
    last = time.monotonic()

    def look(state: State) -> None:
        nonlocal last
        try:
            after(state)
        except BaseException:
            state.save(saved)
            raise
        if time.monotonic() - last > SAVE_EVERY:
            state.save(saved)
            last = time.monotonic()

    state = State.load(saved) or start(plan, box, 0.0 if plan.single else sphere_of(plan, box, threads), plan.lattice)
    of = levels(plan, state.sphere, plan.lattice)
    mass = of.masses(plan)
    state = evolve(state, mass, gravity, b.Om0, plan.softening, plan.config.simulate.accuracy, keep=KEPT, after=look)
    phi = (100 * b.h) ** 2 * gravity.potential(state.x, mass)
    matter = Matter(state.x, mass, phi, plan.period, b, threads)
    halos = matter.halos(SMALLEST * plan.m_dm, of.is_fine())
    if not halos:
        how = "take another run.seed or lighter particles"
        raise UserError(f"nothing of {SMALLEST} particles has collapsed in box {box}", "simulate", how)
    formed = [_formed(plan, state, matter, halo) for halo in halos]
    each = list(zip(halos, formed, retentions(plan.seed, box, len(halos)), strict=True))
    h, gas = _settled(plan, of, state.x, phi, each, threads)
    chosen = _chosen(plan, halos)
    shift = plan.corner(box) + (0 if plan.single else plan.cell / 2 - halos[chosen[0]].centre)
    _write_rows(plan, folder, box, matter, of, [each[i] for i in chosen], shift, gas, state)
    _write_chunk(plan, folder, box, provenance, state, of, shift, h, gas)
    files.remove(saved)


def retentions(seed: int, box: int, n: int) -> np.ndarray:
    """How much more gas each of the n halos of a box kept than others of its mass, in standard deviations (n,)."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, box, 11]))).standard_normal(n)


def _formed(plan: Plan, state: State, matter: Matter, halo: Halo) -> float:
    members, _ = matter.about(halo.centre, halo.radius_200m)
    final = float(matter.mass[members].sum())
    return formation(state.kept, members, matter.mass, final, plan.period, plan.background.rho_mean())


def _settled(plan: Plan, of: Levels, x: np.ndarray, phi: np.ndarray, halos: list, threads: int) -> tuple[np.ndarray, Gas]:
    """The smoothing lengths of all particles (2 n,), and the gas, both from neighbours of the same kind; coarse gas is in no halo."""
    h, parts = np.empty(len(x)), []
    for part, mass, own in zip(of.parts(), (0.0, 0.0, plan.m_gas, plan.m_gas * COARSER**3), (None, None, halos, []), strict=True):
        if part.stop > part.start:
            h[part], number = _smoothing(x[part], plan.period, own is not None, threads)
            if own is not None:
                parts.append(settle(own, x[part], phi[part], number, mass, plan.period, plan.background))
    return h, Gas(*(np.concatenate([getattr(gas, name) for gas in parts]) for name in ("mass", "density", "energy")))


def _chosen(plan: Plan, halos: list[Halo]) -> list[int]:
    """Which halos go into the catalogue: of the one box those in `mass_range`, else the heaviest near the peak."""
    low, high = plan.config.simulate.mass_range
    if plan.single:
        return [i for i, h in enumerate(halos) if low <= h.mass_200m <= high]
    return [central(halos, plan.period)]


def _smoothing(x: np.ndarray, side: float, densities: bool, threads: int) -> tuple[np.ndarray, np.ndarray | None]:
    def around(margin: float) -> np.ndarray:
        """All particles, and those that the walls hide."""
        found = x
        for axis in range(3):
            low, high = found[found[:, axis] < margin], found[found[:, axis] >= side - margin]
            step = side * np.eye(3)[axis]
            found = np.concatenate([found, low + step, high - step])
        return found

    margin = min(3 * side / len(x) ** (1 / 3), 0.5 * side)
    return smoothing(x, around, margin, densities, threads)


def _write_rows(plan, folder, box, matter, of: Levels, chosen, shift, gas: Gas, state: State) -> None:
    """The halos' rows of the catalogue, until all boxes are there."""
    b, rows = plan.background, []
    for halo, formed, retention in chosen:
        r = np.linalg.norm(wrapped(state.x[of.n :] - halo.centre, plan.period), axis=1)
        rows.append(
            {
                "position": (halo.centre + shift) % plan.side,
                "mass_200m": halo.mass_200m,
                "radius_200m": halo.radius_200m,
                "mass_500c": halo.mass_500c,
                "radius_500c": halo.radius_500c,
                "mass_200c": halo.mass_200c,
                "radius_200c": halo.radius_200c,
                "concentration_200m": matter.concentration(halo, 3 * plan.softening),
                "formation_scale_factor": formed,
                "gas_fraction": float(gas.mass[r < halo.radius_200m].sum() / halo.mass_200m * b.Om0 / b.Ob0),
                "retention": retention,
                "target_mass": 0.0 if plan.single else float(plan.mass[box]),
                "steps": float(state.steps),
            }
        )
    path = folder.rows(box)
    temporary = path.with_suffix(".tmp")
    with open(temporary, "wb") as f:
        np.savez(f, **{name: np.array([row[name] for row in rows]) for name in (rows[0] if rows else ())})
    files.sync(temporary)
    os.replace(temporary, path)


def _write_chunk(plan, folder, box, provenance, state: State, of: Levels, shift, h: np.ndarray, gas: Gas) -> None:
    """What lies in the box's cell: all, or the cell's cube about the cluster in a wider box."""
    kpc, unit = 1e3 * plan.background.h, 1e10 / plan.background.h  # per Mpc; Msun
    path, n = folder.chunk(box), plan.n_box
    temporary = path.with_name(path.name + ".tmp")
    corner, mass = plan.corner(box), of.masses(plan)
    mass[of.n :] = gas.mass
    there = np.arange(2 * of.n)
    if plan.zoomed:
        middle = corner + plan.cell / 2
        inside = middle + wrapped(state.x + shift - middle, plan.period)
        there = np.flatnonzero((np.abs(inside - middle) < plan.cell / 2).all(axis=1))
    else:
        inside = corner + (state.x + shift - corner) % plan.cell
    speed = 100 * plan.background.h * state.p  # a^2 dx/dt today: peculiar velocities, km/s
    inside[inside >= plan.side] = 0.0
    dm, own = there[there < of.n], there[there >= of.n]
    with checked.create(temporary) as f:
        f.attrs.update(
            {
                **{"format": "hpcdiff-snapshot", "version": 1, "config": stored(plan.config), "provenance": provenance, "inputs": "{}"},
                "engine": plan.engine,
            }
        )
        header(f.create_group("Header"), plan, len(own), len(dm))
        for kind, part, first in (("PartType0", own, box * n - of.n), ("PartType1", dm, plan.n_total + box * n)):
            checked.put(f, f"{kind}/Coordinates", np.minimum(inside[part] * kpc, np.nextafter(plan.side * kpc, 0)))
            checked.put(f, f"{kind}/Velocities", speed[part].astype("<f4"))
            checked.put(f, f"{kind}/Masses", (mass[part] / unit).astype("<f4"))
            checked.put(f, f"{kind}/SmoothingLength", (h[part] * kpc).astype("<f4"))
            checked.put(f, f"{kind}/ParticleIDs", (part + first).astype("<u8"))
        checked.put(f, "PartType0/Density", (gas.density[own - of.n] / unit / kpc**3).astype("<f4"))
        checked.put(f, "PartType0/InternalEnergy", gas.energy[own - of.n].astype("<f4"))
        checked.put(f, "PartType0/ElectronAbundance", np.full(len(own), profiles.X_E, "<f4"))
    os.replace(temporary, path)
