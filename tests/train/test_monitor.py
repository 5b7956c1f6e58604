"""What training says of itself: each step once, in TensorBoard and in the file, whatever died when; names with units; the model card."""

import json
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import monitor_dies as script
import pytest
import torch
from conftest import ROOT, environment
from matplotlib.figure import Figure
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hpcdiff.config import Config
from hpcdiff.train.card import model_card, observed
from hpcdiff.train.meter import BINS, Meter, noise_edges
from hpcdiff.train.monitor import TAGS, Monitor, duration, line, noise_tags
from hpcdiff.transform import Transform
from hpcdiff.world import World


def lines(folder):
    return [json.loads(text) for text in (folder / "stats.jsonl").read_text().splitlines()]


def events(folder):
    return EventAccumulator(str(folder / "tensorboard"), {"scalars": 0, "images": 0, "tensors": 0}).Reload()


def texts(folder):
    """Step and content of each text, as TensorBoard's own pages read them."""
    read = plugin_event_accumulator.EventAccumulator(str(folder / "tensorboard")).Reload()
    return [(e.step, e.tensor_proto.string_val[0].decode().strip()) for e in read.Tensors("config/text_summary")]


def curve(read, tag):
    return [(e.step, e.value) for e in read.Scalars(tag)]


def die(folder, resumed, last, value):
    command = [sys.executable, script.__file__, str(folder), str(resumed), str(last), str(value)]
    done = subprocess.run(command, env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_after_kills_each_step_stands_once(tmp_path):
    die(tmp_path, 0, 60, 1000)  # died before its first checkpoint: all of it is void
    die(tmp_path, 0, 80, 2000)  # its last checkpoint was at 40
    newest = max((tmp_path / "tensorboard").iterdir(), key=lambda p: p.name)
    newest.write_bytes(newest.read_bytes()[:-7])  # the record of step 80, cut short
    with open(tmp_path / "stats.jsonl", "a") as f:
        f.write('{"images": 90, "lo')
    before = curve(events(tmp_path), "loss/train")
    assert before[0] == (10, 2010) and before[-1][0] >= 70
    monitor = Monitor(tmp_path, 40, script.EDGES)
    monitor.text("config", "run: {seed: 3000}\n")
    script.write(monitor, 50, 100, 3000)
    monitor.close()
    monitor = Monitor(tmp_path, 100, script.EDGES)  # went on after a quiet end
    monitor.text("config", "run: {seed: 4000}\n")
    script.write(monitor, 110, 110, 4000)
    monitor.close()

    expected = [(s, (2000 if s <= 40 else 3000 if s <= 100 else 4000) + s) for s in range(10, 111, 10)]
    assert [(n["images"], n["loss"]) for n in lines(tmp_path)] == expected
    read = events(tmp_path)
    assert curve(read, "loss/train") == expected
    assert [v for _, v in curve(read, "speed/maps per s")] == [v - s for s, v in expected]
    assert [s for s, _ in curve(read, "loss by noise/0.01-0.1")] == [s for s, _ in expected]
    assert texts(tmp_path) == [(0, "run: {seed: 2000}"), (41, "run: {seed: 3000}"), (101, "run: {seed: 4000}")]


def test_a_start_at_the_image_of_the_last_start_leaves_one_text(tmp_path):
    for seed in (1, 2):
        monitor = Monitor(tmp_path, 40)
        monitor.text("config", f"seed: {seed}")
        monitor.close()
    assert texts(tmp_path) == [(41, "seed: 2")]


def test_a_damaged_file_loses_only_its_damaged_lines(tmp_path):
    good = [json.dumps({"images": i, "loss": 0.5}) for i in (10, 20, 30)]
    content = "\n".join([good[0], "\0\0\0", "[1]", '{"images": "x"}', '{"loss": 1}', good[1], good[1], "5", good[2], '{"ima'])
    (tmp_path / "stats.jsonl").write_bytes(content.encode() + b"\xff\xfe")
    monitor = Monitor(tmp_path, 20)
    monitor.write(30, {"loss": 0.1})
    monitor.close()
    assert [(n["images"], n["loss"]) for n in lines(tmp_path)] == [(10, 0.5), (20, 0.5), (30, 0.1)]


def test_numbers_are_there_as_soon_as_they_are_written(tmp_path, monkeypatch):
    monitor = Monitor(tmp_path, 0)
    queue = monitor.board.file_writer.event_writer._async_writer
    written = queue._writer.write
    monkeypatch.setattr(queue._writer, "write", lambda data: (time.sleep(0.2), written(data)))  # a slow disk
    monitor.write(10, {"loss": 0.25})
    assert curve(events(tmp_path), "loss/train") == [(10, 0.25)] and lines(tmp_path) == [{"images": 10, "loss": 0.25}]
    monitor.close()


def test_what_is_not_finite_is_null_and_in_no_curve(tmp_path):
    monitor = Monitor(tmp_path, 0)
    monitor.write(10, {"loss": 0.5, "gradient_norm": float("nan"), "checkpoint_s": float("inf"), "another": 3.0})
    monitor.close()
    assert lines(tmp_path) == [{"images": 10, "loss": 0.5, "gradient_norm": None, "checkpoint_s": None, "another": 3.0}]
    assert events(tmp_path).Tags()["scalars"] == ["loss/train"]


def test_every_number_of_the_meter_has_a_name_with_its_unit():
    denoiser = SimpleNamespace(parameters=lambda: iter([torch.zeros(1)]), noise_levels=lambda u: 0.001 * 1000**u)
    tags = TAGS | noise_tags(noise_edges(denoiser))
    meter = Meter(World(), torch.device("cpu"), 1e9, 1e12)
    for _ in range(2):
        meter.step(torch.ones(64), (torch.arange(64) + 0.5) / 64)
    meter.saved(1.0)
    counters = {"updates": 1, "skipped": 0, "skipped_in_a_row": 0, "gradient_norm": 1.0}
    numbers = meter.numbers(1e-4, 0.99, counters)
    assert set(numbers) | {"validation_loss", "memory_reserved_gb"} == set(tags)
    assert len(set(tags.values())) == len(tags) == len(TAGS) + BINS
    units = {"percent": r"\(%\)$", "per_s": r"per s$", "per_gpu": r"per s per GPU$", "gb": r"GB$", "checkpoint_s": r"/s$", "tflops": "TFLOP per s$"}  # fmt: skip
    for name, tag in tags.items():
        assert re.fullmatch(r"[\w ]+/\S.*", tag)
        for end, unit in units.items():
            if name.endswith(end):
                assert re.search(unit, tag), (name, tag)
    assert tags["loss_0"] == "loss by noise/0.001-0.00237" and tags["loss_7"] == "loss by noise/0.422-1"
    assert noise_tags([0.0, 0.5, float("inf")]) == {"loss_0": "loss by noise/0-0.5", "loss_1": "loss by noise/0.5-inf"}


def test_pictures_stand_at_their_step(tmp_path):
    monitor = Monitor(tmp_path, 0)
    monitor.picture(20, {"validation/maps": Figure(figsize=(2, 1), dpi=100), "validation/b(k) and r(k)": Figure(figsize=(1, 1), dpi=100)})
    monitor.close()
    read = events(tmp_path)
    assert set(read.Tags()["images"]) == {"validation/maps", "validation/b(k) and r(k)"}
    assert [(e.step, e.width, e.height) for e in read.Images("validation/maps")] == [(20, 200, 100)]


def test_the_console_line():
    numbers = {"loss": 0.2134, "lr": 1e-4, "maps_per_s": 118.4, "mfu_percent": 31.4, "data_percent": 0.21, "validation_loss": 0.22}
    assert (
        line(12_000, 100_000, numbers | {"skipped": 0})
        == "image 12,000/100,000  loss 0.213  val 0.22  118 maps/s  MFU 31 %  data 0.2 %  lr 0.0001  left 12 min"
    )
    assert line(1000, 1000, {"loss": float("nan"), "skipped": 2, "maps_per_s": 3.14159}) == "image 1,000/1,000  3.14 maps/s  skipped 2"
    assert line(0, 10, {}) == "image 0/10"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59, "59 s"), (90, "2 min"), (3599, "1 h 00 min"), (11_100, "3 h 05 min"), (86_399, "1 d 0 h"), (180_000, "2 d 2 h")],
)
def test_durations(seconds, words):
    assert duration(seconds) == words


def model(**changes):
    config = Config()
    config.observe.sz.beam, config.observe.sz.noise = 0.3, 5.0
    config.observe.compton_y.noise = 1e-6
    config.train.engine = "deepspeed"
    resolved = config.resolved()
    info = {"npix": 16, "pixel_mpc": 0.8, "units": dict.fromkeys(("sz", "xray", "gas", "dm"), "u"), "parameters": 123, "images": 10}
    info |= {"training_views": 5, "updates": 2, "skipped": 0, "inputs": {"maps": "abc"}} | changes
    transforms = {f: Transform("linear", 0.0, 2.0) for f in ("sz", "xray", "gas", "dm")}
    return SimpleNamespace(config=resolved, info=info, inputs=["sz", "xray"], outputs=["gas", "dm"], npix=16, transforms=transforms)


def test_the_card_says_engine_precision_maps_and_observation():
    card = model_card(model())
    assert "engine `deepspeed`, bf16, batches of 32, learning rate 0.0001, EMA 0.9999" in card
    assert "| map file | fingerprint abc |" in card
    assert "`sz`: beam of 0.3 Mpc FWHM, white noise of 5 uK a pixel |" in card and "compton_y`:" not in card
    assert "| map files | fingerprints abc, def |" in model_card(model(inputs={"maps": "abc+def"}))


def test_the_observation_in_words():
    config = Config()
    assert observed(config.resolved()) == "the maps themselves, without beam or noise"
    config.observe.xray.psf, config.observe.xray.exposure, config.observe.xray.background = 0.1, 3e7, 0.5
    assert observed(config.resolved()) == ("`xray`: PSF of 0.1 Mpc FWHM, Poisson counts, 3e+07 for each erg/s/cm^2, background 0.5 a pixel")
    assert observed({"task": {"inputs": ["sz"]}}) == "the maps themselves, without beam or noise"
