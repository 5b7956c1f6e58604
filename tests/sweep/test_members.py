"""SWEEP.yaml: which members it makes, their names and configs, and what is refused."""

import json

import pytest
import yaml
from conftest import refused, run

from hpcdiff.config import read_config
from hpcdiff.errors import UserError
from hpcdiff.sweep.members import expand, read_members, refuse_change, text_of, write_members
from hpcdiff.sweep.spec import read_sweep

VARY = {"run.seed": [0, 1], "train.subset": [0.25, 1.0], "task.inputs": [["sz"], ["xray"], ["sz", "xray"]]}


@pytest.fixture
def write(tmp_path):
    """Writes base.yaml and SWEEP.yaml; what is given replaces or adds keys, None removes one."""
    (tmp_path / "base.yaml").write_text(f"run: {{dir: {tmp_path}/base}}\ntrain: {{lr: 3.0e-4}}\n")

    def make(name="sweep.yaml", **keys):
        tree = {"base": str(tmp_path / "base.yaml"), "dir": str(tmp_path / "sweep"), "vary": VARY, **keys}
        path = tmp_path / name
        path.write_text(yaml.safe_dump({k: v for k, v in tree.items() if v is not None}, sort_keys=False))
        return path

    return make


def test_every_combination_is_a_member_once(write):
    members = expand(read_sweep(write()))
    assert [m.number for m in members] == list(range(12))
    seen = {(m.config.run.seed, m.config.train.subset, tuple(m.config.task.inputs)) for m in members}
    assert seen == {(s, f, tuple(i)) for s in (0, 1) for f in (0.25, 1.0) for i in VARY["task.inputs"]}
    assert members[0].config.run.seed == members[5].config.run.seed == 0 and members[6].config.run.seed == 1  # the first key is the slowest
    assert {m.config.train.lr for m in members} == {3.0e-4}


def test_explicit_members_follow_the_grid_and_say_what_they_leave_as_it_is(write):
    members = expand(read_sweep(write(vary={"run.seed": [0, 1]}, members=[{"train.lr": 1e-5, "run.seed": 7}])))
    assert [m.settings for m in members] == [
        {"run.seed": 0, "train.lr": 3.0e-4},
        {"run.seed": 1, "train.lr": 3.0e-4},
        {"run.seed": 7, "train.lr": 1e-5},
    ]


def test_names_are_readable_unique_and_safe_in_a_shell(write):
    members = expand(read_sweep(write(vary=VARY | {"task.transform": ["asinh", {"sz": "log10 standard"}]})))
    names = [m.name for m in members]
    assert names[0] == "000-seed0-subset0.25-inputs_sz-transform_asinh"
    assert names[5] == "005-seed0-subset0.25-inputs_sz+xray-transform_sz.log10_standard"[:64]
    assert len(set(names)) == len(names) and all(len(n) <= 64 and set(n) <= set(text_of("") + SAFE) for n in names)


SAFE = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.+_-"


def test_keys_with_the_same_last_word_stay_apart(write):
    (member,) = expand(read_sweep(write(vary={"train.batch_size": [8], "sample.batch_size": [16]})))
    assert member.name == "000-train.batch_size8-sample.batch_size16"


def test_a_members_config_file_gives_its_whole_config_back(write, tmp_path):
    sweep = read_sweep(write())
    members = expand(sweep)
    write_members(sweep, members)
    for m in members:
        again = read_config(m.folder / "config.yaml")
        assert again.resolved() == m.config.resolved()
        assert again.dir == m.folder and again.map_paths() == [tmp_path / "base" / "maps.h5"]
    assert [m["settings"] for m in read_members(sweep.folder)["members"]] == [m.settings for m in members]


def test_shared_maps_may_be_named(write):
    assert expand(read_sweep(write(maps="other.h5")))[3].config.run.maps == "other.h5"
    assert expand(read_sweep(write(maps=["a.h5", "b.h5"])))[3].config.run.maps == ["a.h5", "b.h5"]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"vary": {"trian.subset": [1.0]}}, ["vary", "'trian.subset'", "did you mean 'train.subset'"]),
        ({"vary": {"subset": [1.0]}}, ["'subset'", "did you mean 'train.subset'"]),
        ({"members": [{"run.sed": 1}]}, ["members[0]", "did you mean 'run.seed'"]),
        ({"vray": {"run.seed": [0]}}, ["'vray'", "did you mean 'vary'"]),
        ({"vary": {"run.dir": ["a"]}}, ["run.dir", "the sweep sets"]),
        ({"vary": {"project.npix": [32, 64]}}, ["project.npix", "share"]),
        ({"vary": {"run.seed": 3}}, ["vary", "lists"]),
        ({"vary": {"run.seed": [0, 1, 0]}}, ["0 twice", "run.seed"]),
        ({"vary": None}, ["varies nothing"]),
        ({"vary": {"train.subset": [0.5, 1.5]}}, ["member 1", "train.subset is 1.5, ", "sweep.yaml, it must be at most 1"]),
        ({"vary": {"task.transform": ["asinh", "asihn"]}}, ["member 1", "did you mean 'asinh'"]),
        ({"vary": {"run.seed": [0]}, "members": [{"train.lr": 3.0e-4}]}, ["members 0 and 1 are the same"]),
        ({"base": None}, ["'base' is missing"]),
        ({"stages": ["train", "project"]}, ["stages", "'project'"]),
        ({"throttle": -1}, ["throttle", "at least 0"]),
        ({"base": "nowhere.yaml"}, ["nowhere.yaml"]),
    ],
)
def test_refused_in_one_line(write, keys, words):
    with pytest.raises(UserError) as error:
        expand(read_sweep(write(**keys)))
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_another_sweep_in_the_same_folder_is_refused_by_its_key(write, tmp_path):
    first = read_sweep(write())
    write_members(first, expand(first))
    before = (tmp_path / "sweep" / "members.json").read_bytes()
    for keys, words in (
        ({"vary": VARY | {"run.seed": [0, 1, 2]}}, ["vary.run.seed", "[0, 1]", "[0, 1, 2]"]),
        ({"stages": ["train"]}, ["stages", "'evaluate'"]),
        ({"maps": "other.h5"}, ["base.run.maps", "other.h5"]),
    ):
        changed = read_sweep(write(**keys))
        with pytest.raises(UserError) as error:
            refuse_change(changed, expand(changed))
        assert all(word in str(error.value) for word in words)
    (tmp_path / "base.yaml").write_text(f"run: {{dir: {tmp_path}/base}}\ntrain: {{lr: 4.0e-4}}\n")
    with pytest.raises(UserError, match="base.train.lr was 0.0003 and is now 0.0004"):
        refuse_change(first, expand(first))
    (tmp_path / "base.yaml").write_text(f"run: {{dir: {tmp_path}/base}}\ntrain: {{lr: 3.0e-4}}\n")
    again = read_sweep(write(throttle=4))  # how it is run may change
    refuse_change(again, expand(again))
    write_members(again, expand(again))
    assert (tmp_path / "sweep" / "members.json").read_bytes() == before


def test_the_command_refuses_and_plans(write, tmp_path):
    done = run("sweep", write(vary={"train.lrr": [1]}))
    refused(done, "train.lrr", "train.lr")
    refused(run("sweep", write()), "map file is not there", "maps.h5")
    done = run("sweep", write(), "--dry-run")
    assert done.returncode == 0 and "12 members, 12 to run: train, sample, evaluate" in done.stdout
    assert not (tmp_path / "sweep").exists()
    refused(run("sweep", write(), "--gather"), "not been started")
    refused(run("sweep", write(), "--locla", "2"), "--local")
    refused(run("sweep", write(), "--local", "0"), "--local 0")


def test_a_folder_that_bears_a_members_number_is_refused_before_anything_is_written(write, tmp_path):
    """A task of the array finds its member by its number."""
    left = tmp_path / "sweep" / "003-lr0.001"
    left.mkdir(parents=True)
    sweep = read_sweep(write())
    with pytest.raises(UserError, match="left by another sweep, .*003-lr0.001, remove it"):
        write_members(sweep, expand(sweep))
    assert list((tmp_path / "sweep").iterdir()) == [left]
    left.rename(left.with_name("099-lr0.001"))
    write_members(sweep, expand(sweep))
    assert len(list((tmp_path / "sweep").glob("*/config.yaml"))) == 12


def test_members_json_is_plain(write):
    sweep = read_sweep(write(vary={"run.seed": [0], "task.transform": [{"sz": "log10"}]}))
    write_members(sweep, expand(sweep))
    content = json.loads((sweep.folder / "members.json").read_text())
    assert content["format"] == "hpcdiff-sweep" and content["sweep"]["stages"] == ["train", "sample", "evaluate"]
    (sweep.folder / "members.json").write_text("{}")
    with pytest.raises(UserError, match="no list of members"):
        refuse_change(sweep, expand(sweep))
