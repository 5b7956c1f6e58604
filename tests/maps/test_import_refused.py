"""What an import refuses: one line that says what, where and how to mend it, exit status 2, nothing under the final name."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from exported import export, write_import

from hpcdiff.maps.__main__ import main


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """An exported map file, for tests that change a copy of one of its files."""
    folder = tmp_path_factory.mktemp("source")
    export(folder)
    return folder


def refused(capsys, *words: object) -> str:
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1 and lines[0].startswith("hpcdiff maps: error: "), lines
    return lines[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"redshift": None}, ["'redshift' is missing", "nothing is guessed"]),
        ({"width_mpc": None}, ["'pixel_mpc' is missing", "nothing is guessed"]),
        ({"pixel_mpc": 0.1}, ["pixel_mpc and width_mpc are both given"]),
        ({"units": {"sz": "uK"}}, ["says nothing about 'dm'"]),
        ({"cosmology": {"Om0": 0.3, "h": 0.7}}, ["'cosmology.Ob0' is missing"]),
        ({"cosmology": {"Om0": 0.3, "Ob0": 0.0, "h": 0.7}, "fields": {"gas": "sz.npy"}, "units": {"gas": "Msun/Mpc^2"}}, ["Ob0 is 0"]),
        ({"catalog": None}, ["'catalog' is missing"]),
        ({"fields": None}, ["'fields' is missing"]),
        ({"pixel_mcp": 0.1}, ["unknown key 'pixel_mcp'", "did you mean 'pixel_mpc'", "docs/maps.md"]),
        ({"fields": {"szz": "sz.npy"}, "units": {"szz": "uK"}}, ["fields names 'szz'", "did you mean 'sz'"]),
        ({"redshift": -1}, ["redshift is -1", "at least 0"]),
        ({"redshift": "soon"}, ["redshift is 'soon'", "docs/maps.md"]),
        ({"split": {"by": "region"}}, ["region"]),
        ({"split": {"train": 0.5}}, ["train + val + test must be 1"]),
        ({"catalog": "nowhere.csv"}, ["the catalogue is not there", "nowhere.csv"]),
    ],
)
def test_keys(source, capsys, changes, words):
    line = refused(capsys, "import", write_import(source, **changes))
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("field", "unit", "words"),
    [
        ("sz", "keV", ["sz in 'keV' cannot be turned into 'uK'", "units.sz", "compton_y"]),
        ("sz", "dimensionless", ["compton_y"]),
        ("sz", "deg_C", ["cannot be turned"]),
        ("gas", "Msun/Mpc^3", ["cannot be turned into 'dimensionless'", "Msun/Mpc^2"]),
        ("gas", "Msun h/Mpc^2", ["is an hour", "littleh"]),
        ("gas", "dex(Msun/Mpc^2)", ["logarithmic"]),
        ("gas", "solar masses", ["is not a unit"]),
        ("xray", "Jy", ["cannot be turned", "erg/s/cm^2"]),
    ],
)
def test_units(source, capsys, field, unit, words):
    units = {"dm": "dimensionless", "gas": "dimensionless", "sz": "uK", "xray": "erg/s/cm^2", field: unit}
    line = refused(capsys, "import", write_import(source, units=units))
    assert all(word in line for word in words), line


def test_the_place_of_what_is_wrong_is_where_it_was_written(source, capsys):
    path = write_import(source)
    assert "are both given, command line, " in refused(capsys, "import", path, "pixel_mpc=0.1")
    assert "split does not hold together, command line, " in refused(capsys, "import", path, "split={train: 0.5}")
    assert f"are both given, {path}, " in refused(capsys, "import", write_import(source, pixel_mpc=0.1), "redshift=0.1")


def test_a_mass_over_an_area_needs_the_depth(source, capsys):
    units = {"dm": "Msun/Mpc^2", "gas": "dimensionless", "sz": "uK", "xray": "erg/s/cm^2"}
    assert "give the key depth_mpc" in refused(capsys, "import", write_import(source, units=units, depth_mpc=None))


def with_sz(tmp_path, source, images: np.ndarray | bytes):
    """An import in which sz alone is replaced."""
    path = tmp_path / "sz.npy"
    path.write_bytes(images) if isinstance(images, bytes) else np.save(path, images)
    fields = {"dm": str(source / "dm.npy"), "sz": str(path)}
    return write_import(source, fields=fields, units={"dm": "dimensionless", "sz": "uK"}, out=str(tmp_path / "out" / "maps.h5"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a[:39], ["sz has 39 images, and the catalogue has 40 rows"]),
        (lambda a: a[:, :15], ["sz has shape (40, 15, 16)", "square"]),
        (lambda a: a[:, :15, :15], ["pixels a side"]),
        (lambda a: a[0], ["sz has shape (16, 16)"]),
        (lambda a: a + 1j, ["of type complex", "real numbers"]),
        (lambda a: a.astype(object), ["not a whole .npy file"]),
        (lambda a: b"\x93NUMPY\x01\x00 and no more", ["not a whole .npy file"]),
        (lambda a: np.where(np.arange(40)[:, None, None] == 7, np.nan, a), ["image 7 of sz has values that are not finite", "line 9"]),
        (
            lambda a: np.where(np.arange(40)[:, None, None] == 7, 1e39, a.astype(float)),
            ["image 7 of sz has values that float32 does not hold"],
        ),
        (lambda a: a.astype(float) * 1e-60, ["below what float32 holds"]),
        (lambda a: -a, ["no pixel above 0", "T_cmb y"]),
    ],
)
def test_images(tmp_path, source, capsys, change, words):
    line = refused(capsys, "import", with_sz(tmp_path, source, change(np.load(source / "sz.npy"))))
    assert all(word in line for word in words), line
    assert not (tmp_path / "out" / "maps.h5").exists()


def test_names_of_images(tmp_path, source, capsys):
    for name, words in (
        ("sz_*.npy", "order of the images to chance"),
        ("sz.jpg", ".npy or FITS"),
        ("nowhere.npy", "the images are not there"),
        ("sz_{halo}.npy", "cannot be filled in ('halo')"),
        ("nowhere_{halo_id:04d}_{axis}.npy", "nowhere_00"),
        (f"{source}/{{group!s:.0}}sz.npy", "two views have the same image"),
    ):
        line = refused(capsys, "import", write_import(source, fields={"sz": name}, units={"sz": "uK"}))
        assert words in line, line


def edit(text: str, row: int, column: str, word: str) -> str:
    """A CSV text with one word replaced, or the whole row where `column` is empty."""
    lines = text.splitlines()
    words = lines[row].split(",")
    if column:
        words[lines[0].split(",").index(column)] = word
    lines[row] = ",".join(words) if column else word
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("row", "column", "word", "words"),
    [
        (3, "mass_200m", "nan", ["mass_200m is 'nan'", "line 4", "finite number"]),
        (3, "mass_200m", "-1e14", ["mass_200m is -1e14", "above 0"]),
        (3, "mass_200m", "1e14", ["two values of mass_200m"]),
        (3, "halo_id", "1.5", ["halo_id is '1.5'", "whole number"]),
        (3, "halo_id", "99999999999999999999", ["whole number"]),
        (3, "axis", "w", ["axis is 'w'", "x or y or z"]),
        (3, "sightline_z", "2", ["length 2", "unit vectors"]),
        (3, "", "1,2,3", ["3 words where 14 columns are named", "line 4"]),
        (0, "mass_200m", "mass", ["no column 'mass_200m'", "did you mean 'mass'", "in the key columns"]),
        (0, "richness", "frame", ["cannot have the name 'frame'"]),
        (0, "richness", "M/L", ["cannot have the name 'M/L'"]),
        (0, "richness", "label", ["two columns 'label'"]),
        (0, "z", "redshift_z", ["has x, y alone"]),
        (0, "richness", "redshift", ["redshift is given, and the catalogue has a column"]),
        (0, "axis", "line_of_sight", ["seen twice along one line of sight", "tell them apart by a column axis"]),
    ],
)
def test_catalogues(tmp_path, source, capsys, row, column, word, words):
    (tmp_path / "halos.csv").write_text(edit((source / "halos.csv").read_text(), row, column, word))
    line = refused(capsys, "import", write_import(source, catalog=str(tmp_path / "halos.csv")))
    assert all(w in line for w in words), line


@pytest.mark.parametrize(("content", "words"), [(b"", "empty"), (b"halo_id,mass_200m\n", "no rows"), (b"\xff\xfe\x00", "not a text")])
def test_catalogues_that_are_none(tmp_path, source, capsys, content, words):
    (tmp_path / "halos.csv").write_bytes(content)
    assert words in refused(capsys, "import", write_import(source, catalog=str(tmp_path / "halos.csv")))


def test_the_command_line(source, capsys):
    path = write_import(source)
    assert "did you mean '--dry-run'" in refused(capsys, "import", path, "--dryrun")
    assert "no IMPORT.yaml given" in refused(capsys, "import")
    assert "cannot read the config" in refused(capsys, "import", source / "nowhere.yaml")
    assert "did you mean 'import'" in refused(capsys, "imports", path)
    assert "did you mean 'verify'" in refused(capsys, "verfy")
    assert "--rows is '1-3'" in refused(capsys, "clear", source / "maps.h5", "--rows", "1-3")
    assert "--rows wants numbers" in refused(capsys, "clear", source / "maps.h5", "--rows")
    assert "did you mean '--halos'" in refused(capsys, "clear", source / "maps.h5", "--halo=3")
    assert main(["--help"]) == 0 and "clear FILE" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["", ".partial"])
@pytest.mark.parametrize("what", ["folder", "catalogue", "images", "import.yaml", "projected maps", "text"])
def test_overwrite_removes_imported_maps_alone(tmp_path, source, capsys, what, suffix):
    """Whatever else the key `out` names stays, to the byte."""
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    out = tmp_path / "precious"
    names = {"catalogue": "halos.csv", "images": "sz.npy", "import.yaml": "import.yaml", "projected maps": "maps.h5"}
    if what == "folder":
        (tmp_path / f"precious{suffix}").mkdir()
        (tmp_path / f"precious{suffix}" / "thesis.tex").write_text("all of it")
    elif what == "text":
        (tmp_path / f"precious{suffix}").write_text("notes")
    elif suffix:
        (tmp_path / "precious.partial").symlink_to(tmp_path / names[what])
    else:
        out = tmp_path / names[what]
    write_import(tmp_path, out=str(out))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    line = refused(capsys, "import", tmp_path / "import.yaml", "--overwrite")
    said = {"folder": "a folder stands where", "catalogue": "one of the import's own inputs", "images": "one of the import's own inputs"}
    assert said.get(what, "what no import has made") in line and f"{out}{suffix}, name another file in the key out" in line
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != ".project.lock"}
    assert after == before


def test_overwrite_begins_afresh_what_an_import_left(tmp_path, source, capsys):
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    path = write_import(tmp_path)
    out = tmp_path / "imported" / "maps.h5"
    assert main(["import", str(path)]) == 0
    out.with_name("maps.h5.partial").write_bytes(out.read_bytes())
    made = out.stat().st_ino, out.stat().st_mtime_ns
    assert main(["import", str(path), "--overwrite"]) == 0
    assert "of them from before" not in capsys.readouterr().out and not out.with_name("maps.h5.partial").exists()
    assert (out.stat().st_ino, out.stat().st_mtime_ns) != made and main(["verify", str(out)]) == 0
