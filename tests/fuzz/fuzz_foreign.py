"""What comes from elsewhere: FITS images of one cluster, images and tables to be imported, and the files of a sweep."""

from __future__ import annotations

import random

import fuzz_text
import yaml
from exported import write_import
from fuzz_case import Case
from fuzz_inputs import link_or_copy

OPTIONS = {"redshift": "0.25", "ra": "150.3", "dec": "32", "width": "12.8", "r500": "1", "r200": "1.6"}
"""Of the command line, each with a value that fits."""


def images(case: Case) -> None:
    """FITS images of one cluster, on the sky or in lengths, and what the command line says of them."""
    rng, paths = case.rng, {}
    kind = rng.choice(["sky", "sky", "lengths"])
    for field in ("sz", "xray"):
        end = ".fits.gz" if rng.random() < 0.1 else ".fits"
        paths[field] = case.folder / "in" / f"{field}_{kind}{end}"
        link_or_copy(case.base / "cluster" / paths[field].name, paths[field])
    case.mutate(paths[rng.choice(["sz", "sz", "xray"])])
    extension = {field: rng.choice(["[0]", "[1]", "[x"]) if rng.random() < 0.05 else "" for field in paths}
    words = [word for field, path in paths.items() for word in (f"--{field}", f"{path}{extension[field]}")]
    for name, fits in rng.sample(list(OPTIONS.items()), rng.choice([0] * 8 + [1, 2])):
        words.append(f"--{name}={rng.choice([fits, *fuzz_text.WORDS]) if rng.random() < 0.5 else fits}".replace("\x00", " "))
    words += rng.choice([[], [], ["--fill-nan"], ["--dry-run"]])
    full = case.base / "full"
    case.stage("sample", f"run.model={full / 'model'}", f"run.maps={full / 'maps.h5'}", "--out", str(case.run / "out"), *words)


def imported(case: Case) -> None:
    """IMPORT.yaml, its table, its .npy stacks and FITS cubes; where the maps go is said on the command line."""
    rng, folder = case.rng, case.folder / "in"
    link_or_copy(case.base / "elsewhere", folder)
    names = {"dm": "dm.npy", "gas": "gas.fits", "sz": "sz.npy", "xray": "one_{halo_id}.fits"}
    path = write_import(folder, fields={field: str(folder / name) for field, name in names.items()})
    stacks = sorted((*folder.glob("*.npy"), *folder.glob("*.fits")))
    case.mutate(rng.choice([path, path, folder / "halos.csv", folder / "halos.csv", *rng.sample(stacks, 4)]))
    case.command("maps", "import", str(path), f"out={case.run / 'maps.h5'}", *rng.choice([[], [], ["--dry-run"], ["--overwrite"]]))


def sweep(case: Case) -> None:
    """SWEEP.yaml, and what a sweep has left: its list of members, their states and metrics."""
    rng, folder = case.rng, case.run / "sweep"
    link_or_copy(case.base / "sweep", folder)
    path = case.folder / "sweep.yaml"
    path.write_text((case.base / "sweep.yaml").read_text().replace("SWEEP", str(folder)))
    left = [folder / "members.json", *sorted(folder.glob("*/*.json"))]
    if rng.random() < 0.5:
        case.mutate(rng.choice(left))
        case.command("sweep", str(path), rng.choice(["--gather", "--gather", "--dry-run"]))
        return
    if rng.random() < 0.5:
        case.mutate(path)
    else:
        tree = yaml.safe_load(path.read_text())
        vary(rng, tree)
        path.write_text(yaml.safe_dump(tree, allow_unicode=True))
        case.what = "sweep.yaml by what varies"
    if rng.random() < 0.3:
        (folder / "members.json").unlink()
    case.command("sweep", str(path), "--dry-run")


def vary(rng: random.Random, tree: dict) -> None:
    """Other keys and values in a sweep's own YAML."""
    odd = [
        0,
        -1,
        1,
        1e308,
        float("nan"),
        None,
        True,
        "",
        "a\0b",
        "x" * 5000,
        [],
        {},
        [[]],
        {"a": [1]},
        "../../outside/victim",
        10**30,
        [1] * 2000,
    ]
    for _ in range(rng.choice([1, 1, 2])):
        what = rng.randrange(6)
        if what == 0:
            tree["vary"] = {
                f"run.{key}" if rng.random() < 0.3 else key: odd
                for key in rng.sample(["run.seed", "train.lr", "task.inputs", "sample.steps"], 2)
            }
        elif what == 1:
            tree["vary"][rng.choice(["run.seed", "train.lr", "run.dir", "x", 3, None, "project.npix"])] = rng.choice(
                [*odd, list(range(rng.choice([3, 300, 30_000])))]
            )
        elif what == 2:
            tree["members"] = rng.choice([*odd, [{"run.seed": rng.choice(odd)}], [{"run.seed": k} for k in range(rng.choice([3, 3000]))]])
        elif what == 3:
            tree["vary"] = {
                key: list(range(rng.choice([3, 50, 400]))) for key in ("run.seed", "train.images", "train.batch_size", "sample.steps")
            }
        else:
            tree[rng.choice([*tree, "x", "throttle", "sbatch", "stages"])] = rng.choice(odd)
