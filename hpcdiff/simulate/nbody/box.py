"""One box from its random waves to its chunk of the snapshot."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hpcdiff import checked, files
from hpcdiff.errors import UserError
from hpcdiff.simulate import profiles
from hpcdiff.simulate.chunks import Folder, header, stored
from hpcdiff.simulate.nbody.coarse import CoarseBoxes, also_fine, sphere_of
from hpcdiff.simulate.nbody.evolve import State, evolve
from hpcdiff.simulate.nbody.gas import Gas, index, settle
from hpcdiff.simulate.nbody.gravity import gravity_of
from hpcdiff.simulate.nbody.halos import Halo, Matter, formation, wrapped
from hpcdiff.simulate.nbody.peak import central, start
from hpcdiff.simulate.nbody.plan import COARSER, Plan
from hpcdiff.simulate.nbody.zoom import Levels, levels
from hpcdiff.simulate.neighbours import smoothing

KEPT = (0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.93)
"""Scale factors at which positions are kept, for the halos' history."""
SMALLEST = 30
"""Least mass of a halo that is looked for, in dark-matter particles."""
WRITTEN = 6
"""What a finished box's chunk and rows say; those of another number are made anew."""
RESOLVED = 3.0
"""Concentrations are fitted beyond this many softenings."""
SAVE_EVERY = 300.0
"""Seconds between two saves of the state of a box."""


def run_box(
    plan: Plan,
    folder: Folder,
    box: int,
    provenance: str,
    threads: int,
    after: Callable[[State], None],
    in_coarse: Callable[[State], None] | None = None,
) -> None:
    """Evolve a box, find its halos, settle its gas, and write its chunk and its rows of the catalogue.

    Args:
        after: called after each step; if it raises, the state is saved first, and the next call goes on from there.
        in_coarse: called after each step of the coarse boxes before; if it raises, the next call goes on with the one that was at work.
    """
    b, saved = plan.background, folder.draw(box)
    tried = saved.with_name(f"coarse_{box:06d}.json")
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

    state = State.load(saved)
    if state is None:
        state = begun(plan, box, threads, in_coarse, tried)
        state.save(saved)
    of = levels(plan, state.sphere, plan.lattice, state.also_fine)
    mass = of.masses(plan)
    gravity = gravity_of(plan.period, plan.mesh, of.softened(plan.softening), b.Om0, threads, plan.device)
    state = evolve(state, mass, gravity, b.Om0, plan.softening, plan.config.simulate.accuracy, keep=KEPT, after=look, fine=of.is_fine())
    phi = (100 * b.h) ** 2 * gravity.potential(state.x, mass)
    matter = Matter(state.x, mass, phi, plan.period, b, threads)
    halos = matter.halos(SMALLEST * plan.m_dm, of.is_fine())
    peak = None if plan.single else central(halos, matter, of.began_in(plan, state.sphere))
    if not halos or (peak is None and not plan.single):
        how = "take another run.seed or lighter particles"
        raise UserError(
            f"nothing of {SMALLEST} particles has collapsed {'in' if plan.single else 'at the peak of'} box {box}", "simulate", how
        )
    formed = [_formed(plan, state, matter, halo) for halo in halos]
    retention, flatness = scatter(plan.seed, box, len(halos))
    each = list(zip(halos, formed, retention, map(index, formed, flatness), strict=True))
    h, gas = _settled(plan, of, of.apart(state.x), of.apart(phi), each, threads)
    written = Matter(of.apart(state.x), np.concatenate([of.masses_apart(plan)[: of.n], gas.mass]), of.apart(phi), plan.period, b, threads)
    rows = _as_written(plan, written, each if plan.single else [each[peak]])
    shift = plan.corner(box) + (0 if plan.single else plan.cell / 2 - halos[peak].centre)
    _write_rows(plan, folder, box, written, of, rows, shift, state)
    _write_chunk(plan, folder, box, provenance, state, of, shift, h, gas)
    files.remove(saved)
    files.remove(tried)


def begun(plan: Plan, box: int, threads: int, in_coarse: Callable[[State], None] | None = None, tried: Path | None = None) -> State:
    """A box at the scale factor that it begins with, after the coarse boxes that say how large its peak must be; what they gave is kept in the file `tried`."""
    if plan.single:
        return start(plan, box, 0.0, plan.lattice)
    coarse = CoarseBoxes(plan, box, threads, in_coarse, tried)
    sphere = sphere_of(coarse)
    return start(plan, box, sphere, plan.lattice, also_fine(coarse, sphere))


def scatter(seed: int, box: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """How much more gas each of the n halos of a box kept than others of its mass, and how much flatter its core is, in standard deviations, (n,) each."""
    streams = (np.random.SeedSequence([seed, box, which]) for which in (11, 13))
    return tuple(np.random.Generator(np.random.PCG64(stream)).standard_normal(n) for stream in streams)


def in_cell(plan: Plan, x: np.ndarray, middle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which particles the cell about a point of the box has: all, or those of a cube in a wider box; and where all are about it, Mpc (n, 3)."""
    away = wrapped(x - middle, plan.period)
    return (np.flatnonzero((np.abs(away) < plan.cell / 2).all(axis=1)) if plan.zoomed else np.arange(len(x))), away


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


def _as_written(plan: Plan, written: Matter, each: list[tuple]) -> list[tuple]:
    """The halos with what is known of them, measured again where their gas has settled; of the one box those in `mass_range`, by falling mass."""
    low, high = plan.config.simulate.mass_range if plan.single else (0, np.inf)
    rows = [(written.at(halo.centre), *what) for halo, *what in each]
    found = [row for row in rows if low <= row[0].mass_200m <= high]
    if not found:
        most = max(row[0].mass_200m for row in rows)
        raise UserError(
            f"the box has no halo of {low:.3g} to {high:.3g} Msun, its heaviest has {most:.3g}",
            "simulate.mass_range",
            "widen it or take a larger simulate.box, with --overwrite, as the box is evolved again",
        )
    return sorted(found, key=lambda row: -row[0].mass_200m)


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


def _write_rows(plan, folder, box, written: Matter, of: Levels, chosen, shift, state: State) -> None:
    """The halos' rows of the catalogue, until all boxes are there; all of what is written, after the gas has settled."""
    b, rows = plan.background, []
    is_dm = np.arange(2 * of.n) < of.n
    is_fine = of.apart(of.is_fine())
    for halo, formed, retention, power in chosen:
        there, _ = written.about(halo.centre, halo.radius_200m)
        mass = written.mass[there]
        c = written.concentration(halo, RESOLVED * plan.softening, is_dm)
        rows.append(
            {
                "position": (halo.centre + shift) % plan.side,
                "mass_200m": halo.mass_200m,
                "radius_200m": halo.radius_200m,
                "mass_500c": halo.mass_500c,
                "radius_500c": halo.radius_500c,
                "mass_200c": halo.mass_200c,
                "radius_200c": halo.radius_200c,
                "concentration_200c": c,
                "concentration_200m": c * halo.radius_200m / halo.radius_200c,
                "formation_scale_factor": formed,
                "gas_fraction": float(mass[~is_dm[there]].sum() / halo.mass_200m * b.Om0 / b.Ob0),
                "retention": retention,
                "polytropic_index": power,
                **({} if plan.single else {"target_mass": float(plan.mass[box])}),
                "steps": float(state.steps),
                **({"coarse_fraction": float(mass[~is_fine[there]].sum() / mass.sum())} if plan.zoomed else {}),
            }
        )
    write_rows(folder, box, {name: np.array([row[name] for row in rows]) for name in rows[0]})


def write_rows(folder: Folder, box: int, columns: dict[str, np.ndarray]) -> None:
    """Keep a box's rows of the catalogue, whole or not at all."""
    path = folder.rows(box)
    temporary = path.with_suffix(".tmp")
    with open(temporary, "wb") as f:
        np.savez(f, format=WRITTEN, **columns)
    files.sync(temporary)
    os.replace(temporary, path)


def _write_chunk(plan, folder, box, provenance, state: State, of: Levels, shift, h: np.ndarray, gas: Gas) -> None:
    """What lies in the box's cell."""
    kpc, unit = 1e3 * plan.background.h, 1e10 / plan.background.h  # per Mpc; Msun
    path, n = folder.chunk(box), plan.n_box
    temporary = path.with_name(path.name + ".tmp")
    middle, mass = plan.corner(box) + plan.cell / 2, of.masses_apart(plan)
    mass[of.n :] = gas.mass
    there, away = in_cell(plan, of.apart(state.x), middle - shift)
    inside = (middle + away) % plan.side
    speed = 100 * plan.background.h * of.apart(state.p)  # a^2 dx/dt today: peculiar velocities, km/s
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
