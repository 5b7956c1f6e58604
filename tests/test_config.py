"""Config: strict keys, types, overrides, environment, differences, and the generated reference."""

import subprocess
import sys

import pytest
import yaml
from conftest import ROOT

from hpcdiff import config, strict
from hpcdiff.config import Config, read_config
from hpcdiff.errors import UserError
from hpcdiff.sections import AUTO_INIT, AUTO_STEPS


@pytest.fixture
def write(tmp_path):
    def write(text: str):
        path = tmp_path / "c.yaml"
        path.write_text(text)
        return path

    return write


def test_defaults_are_the_contracts(write):
    c = read_config(write(""))
    assert c.project.npix == 128 and c.project.split.by == "halo" and c.train.lr == 1e-4
    assert read_config(write("sample: {sampler: heun}")).sample.steps == 1000
    assert c.evaluate.mass_bins == {"low": [2.0e14, 6.0e14], "high": [6.0e14, 1.0e15]}
    assert c.given == frozenset()


def test_auto_takes_its_own_steps_and_start_where_none_are_given(write):
    auto = read_config(write("")).sample
    assert (auto.sampler, auto.steps, auto.init) == ("auto", AUTO_STEPS, AUTO_INIT)
    given = read_config(write("sample: {steps: 20, init: prior}")).sample
    assert (given.sampler, given.steps, given.init) == ("auto", 20, "prior")


def test_a_large_seed_keeps_every_digit(write):
    assert read_config(write(f"run: {{seed: {2**62 + 1}}}")).run.seed == 2**62 + 1
    assert read_config(write(""), [f"run.seed={2**62 + 1}"]).run.seed == 2**62 + 1
    with pytest.raises(UserError, match="at most"):
        read_config(write(f"run: {{seed: {2**64}}}"))


def test_resolved_config_reads_back_to_itself(write):
    c = read_config(write("project: {views: {sightlines: 3}}\ntask: {transform: {sz: log10}}"))
    assert read_config(write(c.to_yaml())).resolved() == c.resolved()


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e14", 1e14), ("1.0e14", 1e14), ("'2.5e14'", 2.5e14), ("3", 3.0)],
)
def test_numbers_that_yaml_takes_for_text(write, text, value):
    assert read_config(write(f"simulate: {{mass_range: [1.0e13, {text}]}}" if value > 1e13 else f"cosmology: {{ns: {text}}}"))
    c = read_config(write(f"simulate: {{particle_mass: {text}}}"))
    assert c.simulate.particle_mass == value and isinstance(c.simulate.particle_mass, float)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("trian: {lr: 1}", ["trian", "train"]),
        ("train: {lrr: 1.0}", ["train.lrr", "train.lr"]),
        ("project: {views: {sightline: 3}}", ["project.views.sightline", "project.views.sightlines"]),
        ("project: {lr: 3}", ["train.lr"]),
        ("train: {lr: fast}", ["train.lr", "fast", "not a number,"]),
        ("train: {batch_size: 2.5}", ["train.batch_size", "not a whole number,"]),
        ("train: {batch_size: true}", ["train.batch_size"]),
        ("project: {mass_range: [a, b]}", ["['a', 'b'], not a list of numbers or null"]),
        ("evaluate: {mass_bins: {low: 3}}", ["not a mapping of names to a list of numbers"]),
        ("project: {depth: []}", ["not a number or a text or a mapping of names to a number or a text"]),
        ("train: {batch_size: 0}", ["at least 1"]),
        ("train: {lr: 0}", ["above 0"]),
        ("train: {lr: .nan}", ["train.lr"]),
        ("train: 3", ["section"]),
        ("task: {inputs: [sz, xrays]}", ["xrays", "xray"]),
        ("task: {inputs: [sz], outputs: [sz]}", ["task.outputs"]),
        ("task: {transform: {gaz: log10}}", ["gaz", "gas"]),
        ("project: {split: {train: 0.9}}", ["project.split"]),
        ("diffusion: {sigma_min: 2.0}", ["sigma_min"]),
        ("run: {dir: '${HPCDIFF_NO_SUCH}/x'}", ["HPCDIFF_NO_SUCH", "export"]),
        ("a: [", ["not YAML"]),
        ("- 1", ["mapping"]),
        ("train: {5: 1}", ["train.5"]),
    ],
)
def test_bad_config_is_one_line_that_names_the_key(write, text, words):
    with pytest.raises(UserError) as error:
        read_config(write(text))
    message = str(error.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_overrides_win_and_are_checked(write):
    path = write("train: {lr: 1.0e-3, batch_size: 8}")
    c = read_config(path, ["train.lr=2e-3", "project.split.seed=4", "task.outputs=[dm]", "sample={steps: 18, init: matched}"])
    assert (c.train.lr, c.train.batch_size, c.project.split.seed, c.task.outputs) == (2e-3, 8, 4, ["dm"])
    assert (c.sample.steps, c.sample.init) == (18, "matched")
    assert {"train.lr", "project.split.seed", "sample.steps"} <= c.given
    for bad in ("train.lrx=1", "trian.lr=1", "lr=1", "train.lr", "train.lr.x=1", "given.x=1", "train=4", "train={5: 1}", "train={null: 1}"):
        with pytest.raises(UserError):
            read_config(path, [bad])


@pytest.mark.parametrize(
    ("override", "at_fault"),
    [
        ("train.lr=0", True),
        ("train.lr=fast", True),
        ("train={lr: 0}", True),
        ("train.lrr=1", True),
        ("project.split.train=0.5", True),
        ("project.fields=[gas, gaz]", True),
        ("diffusion.sigma_max=0.001", True),
        ("task.inputs=[gas]", True),
        ("train.batch_size=4", False),
        ("train={batch_size: 4}", False),
        ("network.channels=4", False),
        ("project.split.seed=3", False),
        ("sample.guide.beam=1", False),
        ("run.maps=[a, b]", False),
    ],
)
def test_the_place_of_what_is_wrong_is_where_it_was_written(write, override, at_fault):
    at_home = {"project": "project: {split: {train: 0.5}}", "sample": "sample: {guide: {field: dm}}", "run": "train: {map_weights: [0, 1]}"}
    path = write("" if at_fault else at_home.get(override.split(".")[0], "train: {lr: 0}"))
    with pytest.raises(UserError) as error:
        read_config(path, [override])
    assert (", command line, " in str(error.value)) == at_fault and (f", {path}, " in str(error.value)) != at_fault
    with pytest.raises(UserError, match=", sweep.yaml, " if at_fault else f", {path}, "):
        read_config(path, [override], "sweep.yaml")


def test_environment_is_expanded(write, monkeypatch):
    monkeypatch.setenv("HPCDIFF_DATA", "/data")
    assert read_config(write("project: {snapshot: '${HPCDIFF_DATA}/s.hdf5'}")).project.snapshot == "/data/s.hdf5"


def test_missing_and_unreadable_files(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(UserError, match="cannot read"):
            read_config(path)
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError):
        read_config(tmp_path / "b.yaml")


def test_difference_names_key_old_and_new():
    old, new = Config().resolved(), Config().resolved()
    assert strict.difference(old, new) is None
    new["project"]["views"]["sightlines"] = 5
    assert strict.difference(old, new) == ("project.views.sightlines", 1, 5)
    assert strict.difference(old, new, exempt=("project.views.sightlines",)) is None
    del new["project"]["views"]["sightlines"]
    assert strict.difference(old, new)[0] == "project.views.sightlines"
    with pytest.raises(UserError, match=r"sightlines was 1 and is now"):
        strict.refuse_difference(old, new, "here", "project")


def test_reference_in_docs_is_up_to_date():
    assert (ROOT / "docs" / "config.md").read_text() == config.key_reference(), "python -m hpcdiff.config > docs/config.md"


def test_every_key_has_a_docstring():
    lines = [line for line in config.key_reference().splitlines() if line.startswith("| `")]
    assert len(lines) == len(config.all_keys())
    assert all(len(line.split("|")[3].strip()) > 10 for line in lines)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_configs_are_valid(path, monkeypatch):
    monkeypatch.setenv("GADGET4_DATA", "/data")
    read_config(path)
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_get_prints_one_value_for_job_scripts(write):
    path = write("run: {dir: there}")
    command = [sys.executable, "-m", "hpcdiff.config", "get", "run.dir", path]
    assert subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout == "there\n"
    bad = subprocess.run([*command[:4], "run.dri", path], capture_output=True, text=True, cwd=ROOT)
    assert bad.returncode == 2 and "run.dir" in bad.stderr and bad.stderr.count("\n") == 1
