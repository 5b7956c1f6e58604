"""Split by blocks of the box: no two maps of different parts overlap; what the plan says about the parts."""

from __future__ import annotations

import numpy as np
import pytest

from hpcdiff.cosmology import Background
from hpcdiff.errors import UserError
from hpcdiff.project import regions
from hpcdiff.project.lengths import half_extent
from hpcdiff.project.regions import gap, near_later_part, report
from hpcdiff.project.views import catalogue, notes
from hpcdiff.sections import Project, Split, Views
from hpcdiff.snapshot import Halos


def halos_in(box: float, n: int, seed: int = 0) -> Halos:
    rng = np.random.default_rng(seed)
    mass = 10 ** rng.uniform(14, 15, n)
    return Halos(np.arange(n), rng.uniform(0, box, (n, 3)), mass, Background().radius(mass), np.arange(n))


def split_of(**more: object) -> Split:
    return Split(**{"by": "region", "train": 0.6, "val": 0.2, "test": 0.2, "blocks": 4, **more})


def overlapping(rows: dict[str, np.ndarray], box: float) -> int:
    """Pairs of views of different parts whose cuboids' bounding boxes, along the axes of the periodic box, overlap."""
    reach = half_extent(rows["frame"], rows["width_mpc"] / 2, rows["depth_mpc"] / 2)
    pairs = 0
    for one, other in ((0, 1), (0, 2), (1, 2)):
        a, b = (rows["split"] == k for k in (one, other))
        d = rows["position"][a][:, None] - rows["position"][b][None]
        d = abs(d - box * np.rint(d / box))
        pairs += int((d < (reach[a][:, None] + reach[b][None]) * (1 - 1e-12)).all(axis=2).sum())
    return pairs


@pytest.mark.parametrize("views", [Views(), Views(sightlines=3, axes=["z", "x"])])
@pytest.mark.parametrize(("width", "depth"), [(12.0, 12.0), (8.0, 25.0), ("5 R200m", 12.0)])
def test_no_maps_of_two_parts_overlap(views, width, depth):
    box, halos = 240.0, halos_in(240.0, 500)
    rows = catalogue(halos, Project(split=split_of(seed=2), views=views, width=width, depth=depth), 0.0, box)
    assert set(rows["split"]) == {0, 1, 2} and overlapping(rows, box) == 0
    by_halo = catalogue(halos, Project(split=Split(seed=2), views=views, width=width, depth=depth), 0.0, box)
    assert overlapping(by_halo, box) > 0
    tests = len(np.unique(rows["halo_id"][rows["split"] == 2]))
    cells = (halos.position / 60).astype(int)
    own = {tuple(c) for c in (rows["position"][rows["split"] == 2] / 60).astype(int)}
    assert tests == sum(tuple(c) in own for c in cells)  # the gap is taken from the others


def test_a_gap_may_be_wider_than_a_block():
    halos = halos_in(240.0, 1500)
    split = split_of(train=0.98, val=0.01, test=0.01, blocks=12)
    rows = catalogue(halos, Project(split=split, width=40, depth=40), 0.0, 240.0)
    assert set(rows["split"]) == {0, 1, 2} and overlapping(rows, 240.0) == 0


def test_the_gap_is_one_map():
    width, depth = np.array([10.0, 12.0]), np.array([3.0, 20.0])
    assert gap(Views(), width, depth) == 20 and gap(Views(), width, width) == 12
    assert gap(Views(sightlines=2), width[:1], depth[:1]) == pytest.approx(np.sqrt(209))


def test_physical_widths_make_comoving_gaps():
    halos = halos_in(240.0, 500)
    near, far = (catalogue(halos, Project(split=split_of(seed=2), width=w, depth=w), z, 240.0) for w, z in ((24.0, 0.0), (12.0, 1.0)))
    assert np.array_equal(near["halo_id"], far["halo_id"]) and np.array_equal(near["split"], far["split"])


def test_the_split_is_stable_and_a_block_is_a_group():
    many, few = halos_in(240.0, 600), halos_in(240.0, 600)
    keep = np.random.default_rng(1).random(600) < 0.7
    few = Halos(*(getattr(few, name)[keep] for name in ("halo_id", "position", "mass_200m", "radius_200m", "group")))
    project = Project(split=split_of(seed=2), views=Views(axes=["z"]))
    a, b = catalogue(many, project, 0.0, 240.0), catalogue(few, project, 0.0, 240.0)
    assert np.array_equal(a["split"][np.isin(a["halo_id"], few.halo_id)], b["split"])
    assert set(b["halo_id"]) == set(a["halo_id"]) & set(few.halo_id)
    assert len(np.unique(a["group"])) > 30
    for group in np.unique(a["group"]):
        mine = a["group"] == group
        assert len(set(a["split"][mine])) == 1 and np.ptp(a["position"][mine], axis=0).max() <= 60


def test_an_empty_part_names_a_seed_that_fills_it():
    halos, refused = halos_in(240.0, 60), 0
    for seed in range(20):
        project = Project(split=Split(by="region", blocks=2, seed=seed), views=Views(axes=["z"]))
        try:
            catalogue(halos, project, 0.0, 240.0)
        except UserError as error:
            refused += 1
            project.split.seed = int(str(error).rpartition("=")[2])
            assert set(catalogue(halos, project, 0.0, 240.0)["split"]) == {0, 1, 2}
    assert refused > 5
    with pytest.raises(UserError, match="try a smaller project.width or depth"):
        catalogue(halos_in(24.0, 60), Project(split=Split(by="region", blocks=2)), 0.0, 24.0)


@pytest.mark.parametrize(("blocks", "distance"), [(2, 3.0), (2, 60.0), (3, 30.0), (5, 20.0), (5, 31.0), (8, 24.0), (7, 1.0)])
def test_the_gap_is_that_of_a_search_by_brute_force(blocks, distance):
    """Distance, along each axis of the periodic box of 100, from a position to the nearest block of a later part."""
    rng = np.random.default_rng(blocks)
    part, position, side = rng.choice(3, p=[0.8, 0.15, 0.05], size=(blocks,) * 3), rng.uniform(0, 100, (300, 3)), 100 / blocks
    centre = (np.array(list(np.ndindex((blocks,) * 3))) + 0.5) * side
    d = np.abs(position[:, None] - centre)
    away = (np.minimum(d, 100 - d) - side / 2).max(axis=2)
    own = part[tuple((position // side).astype(int).T)]
    expected = ((away < distance) & (part.ravel() > own[:, None])).any(axis=1)
    assert np.array_equal(near_later_part(position, 100.0, part.astype(np.int8), distance), expected)


def test_blocks_much_smaller_than_the_gap_are_refused():
    """At once, whatever their number; as many as are named are taken."""
    halos, project = halos_in(240.0, 200), Project(split=split_of(blocks=4096), views=Views(axes=["z"]), width=40, depth=40)
    with pytest.raises(UserError, match="blocks of 0.05859 comoving Mpc, the gap between parts is 40.*at most 12$"):
        catalogue(halos, project, 0.0, 240.0)
    for blocks, what in ((13, "at most 12"), (12, "no halo falls")):
        project.split.blocks = blocks
        with pytest.raises(UserError, match=what):
            catalogue(halos, project, 0.0, 240.0)


@pytest.mark.parametrize(
    ("box", "blocks", "width", "tries"), [(24.0, 2, 13.0, 0), (240.0, 1, 12.0, 0), (240.0, 2, 12.0, 3), (240, 12, 40.0, 3)]
)
def test_seeds_are_sought_where_they_can_help(monkeypatch, box, blocks, width, tries):
    """Not where each block is in the gap of all others, or there are fewer blocks than parts; and not for ever."""
    seeds = []

    def one_part(ids, split):
        seeds.append(split.seed)
        return np.zeros(len(ids), np.int8)

    halos = halos_in(box, 60)
    monkeypatch.setattr(regions, "split_ids", one_part)
    monkeypatch.setattr(regions, "SEARCH", 3.5 * (blocks**3 + 600))
    with pytest.raises(UserError, match="no halo falls into the val part.*other fractions"):
        regions.deal_regions(halos.position, box, width, split_of(blocks=blocks, seed=7))
    assert seeds == [7, *range(tries)]


def test_report_counts_masses_and_leaks():
    """4 training halos and 5 test halos: two tests inside cubes, one of them over the edge of the box, one counted once."""
    position = np.array(
        [[1, 50, 50], [50, 50, 50], [54, 50, 50], [80, 80, 80.0], [97, 50, 50], [52, 52, 54], [50, 50, 57], [20, 20, 20], [80, 80, 93]]
    )
    split = np.array([0, 0, 0, 0, 2, 2, 2, 2, 2])
    mass = 10 ** np.array([14.0, 14.2, 14.4, 15, 14.1, 14.1, 14.1, 14.3, 14.5])
    rows = {"halo_id": np.arange(9), "position": position, "split": split, "mass_200m": mass}
    rows |= {"width_mpc": np.full(9, 6.0), "redshift": np.full(9, 1.0)}  # 12 comoving: 6 on each side
    rows = {name: np.repeat(values, 2, axis=0) for name, values in rows.items()}
    lines = report(rows, 100.0)
    assert lines[0].startswith("train: 4 halos, 8 views, log M200m/Msun 14.00 to 15.00, median 14.30")
    assert lines[1].startswith("test: 5 halos") and lines[2].startswith("2 of 5 test halos (40%)")
    rows["width_mpc"] = np.where(rows["halo_id"] == 3, 14.0, 6.0)
    assert report(rows, 100.0)[2].startswith("3 of 5 test halos")


def test_notes_say_what_the_split_costs():
    halos, box, project = halos_in(240.0, 500), 240.0, Project(split=split_of(seed=2), views=Views(axes=["z"]))
    rows = catalogue(halos, project, 0.0, box)
    lines = notes(halos, rows, project, 0.0, box, Background())
    lost = 500 - len(np.unique(rows["halo_id"]))
    assert lost > 50 and lines[0].startswith(f"{lost} of 500 halos are left out in the gaps of 12.8 comoving Mpc")
    assert lines[-1].startswith("0 of ")
    halos.group = halos.halo_id // 2
    project = Project(split=Split(seed=3), views=Views(axes=["z"]))
    rows = catalogue(halos, project, 0.0, box)
    part = dict(zip(rows["halo_id"].tolist(), rows["split"].tolist(), strict=True))
    torn = sum(part[2 * g] != part[2 * g + 1] for g in range(250))
    assert torn > 50 and notes(halos, rows, project, 0.0, box, Background())[0].startswith(f"{torn} groups of halos")
    project.split.by = "group"
    assert not any("groups" in line for line in notes(halos, catalogue(halos, project, 0.0, box), project, 0.0, box, Background()))
