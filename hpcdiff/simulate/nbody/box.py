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
from hpcdiff.simulate.nbody.plan import Plan
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
    gravity = gravity_of(plan.cell, plan.mesh, plan.softening, b.Om0, threads, plan.device)
    mass = np.repeat([plan.m_dm, plan.m_gas], plan.n_box)
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
    state = evolve(state, mass, gravity, b.Om0, plan.softening, plan.config.simulate.accuracy, keep=KEPT, after=look)
    phi = (100 * b.h) ** 2 * gravity.potential(state.x, mass)
    matter = Matter(state.x, mass, phi, plan.cell, b, threads)
    halos = matter.halos(SMALLEST * plan.m_dm)
    if not halos:
        how = "take another run.seed or lighter particles"
        raise UserError(f"nothing of {SMALLEST} particles has collapsed in box {box}", "simulate", how)
    formed = [_formed(plan, state, matter, halo) for halo in halos]
    gas_x = state.x[plan.n_box :]
    h_dm, _ = _smoothing(state.x[: plan.n_box], plan.cell, False, threads)
    h_gas, number = _smoothing(gas_x, plan.cell, True, threads)
    each = list(zip(halos, formed, retentions(plan.seed, box, len(halos)), strict=True))
    gas = settle(each, gas_x, phi[plan.n_box :], number, plan.m_gas, plan.cell, b)
    chosen = _chosen(plan, halos)
    shift = plan.corner(box) + (0 if plan.single else plan.cell / 2 - halos[chosen[0]].centre)
    _write_rows(plan, folder, box, matter, [each[i] for i in chosen], shift, gas, state)
    _write_chunk(plan, folder, box, provenance, state, shift, h_dm, h_gas, gas)
    files.remove(saved)


def retentions(seed: int, box: int, n: int) -> np.ndarray:
    """How much more gas each of the n halos of a box kept than others of its mass, in standard deviations (n,)."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, box, 11]))).standard_normal(n)


def _formed(plan: Plan, state: State, matter: Matter, halo: Halo) -> float:
    members, _ = matter.about(halo.centre, halo.radius_200m)
    final = float(matter.mass[members].sum())
    return formation(state.kept, members, matter.mass, final, plan.cell, plan.background.rho_mean())


def _chosen(plan: Plan, halos: list[Halo]) -> list[int]:
    """Which halos go into the catalogue: of the one box those in `mass_range`, else the heaviest near the peak."""
    low, high = plan.config.simulate.mass_range
    if plan.single:
        return [i for i, h in enumerate(halos) if low <= h.mass_200m <= high]
    return [central(halos, plan.cell)]


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


def _write_rows(plan, folder, box, matter, chosen, shift, gas: Gas, state: State) -> None:
    """The halos' rows of the catalogue, until all boxes are there."""
    b, rows = plan.background, []
    for halo, formed, retention in chosen:
        r = np.linalg.norm(wrapped(state.x[plan.n_box :] - halo.centre, plan.cell), axis=1)
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


def _write_chunk(plan, folder, box, provenance, state: State, shift, h_dm, h_gas, gas: Gas) -> None:
    kpc, unit = 1e3 * plan.background.h, 1e10 / plan.background.h  # per Mpc; Msun
    path, n = folder.chunk(box), plan.n_box
    temporary = path.with_name(path.name + ".tmp")
    corner = plan.corner(box)
    inside = corner + (state.x + shift - corner) % plan.cell
    speed = 100 * plan.background.h * state.p  # a^2 dx/dt today: peculiar velocities, km/s
    inside[inside >= plan.side] = 0.0
    with checked.create(temporary) as f:
        f.attrs.update(
            {
                **{"format": "hpcdiff-snapshot", "version": 1, "config": stored(plan.config), "provenance": provenance, "inputs": "{}"},
                "engine": plan.engine,
            }
        )
        header(f.create_group("Header"), plan, n)
        for kind, part, h, mass, first in (
            ("PartType0", slice(n, None), h_gas, gas.mass, 0),
            ("PartType1", slice(0, n), h_dm, np.full(n, plan.m_dm), plan.n_total),
        ):
            checked.put(f, f"{kind}/Coordinates", np.minimum(inside[part] * kpc, np.nextafter(plan.side * kpc, 0)))
            checked.put(f, f"{kind}/Velocities", speed[part].astype("<f4"))
            checked.put(f, f"{kind}/Masses", (mass / unit).astype("<f4"))
            checked.put(f, f"{kind}/SmoothingLength", (h * kpc).astype("<f4"))
            checked.put(f, f"{kind}/ParticleIDs", np.arange(first + box * n, first + (box + 1) * n, dtype="<u8"))
        checked.put(f, "PartType0/Density", (gas.density / unit / kpc**3).astype("<f4"))
        checked.put(f, "PartType0/InternalEnergy", gas.energy.astype("<f4"))
        checked.put(f, "PartType0/ElectronAbundance", np.full(n, profiles.X_E, "<f4"))
    os.replace(temporary, path)
