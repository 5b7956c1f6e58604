"""Three ranks or more: the order in which gradients are summed shows in the last bit, and must not change with a restart."""

from conftest import make_maps, run

CONFIG = """
run: {{dir: {dir}, maps: {maps}}}
task: {{transform: asinh}}
network: {{channels: 8, multipliers: [1, 2], blocks: 1}}
diffusion: {{precondition: edm}}
train: {{batch_size: 6, images: 120, precision: fp32, lr: 1.0e-3, ema: 0.9}}
"""


def test_a_restart_on_three_ranks_gives_the_same_bytes(tmp_path):
    """Two ranks cannot tell: a + b is b + a."""
    make_maps(tmp_path / "maps.h5")
    for name, parts in (("whole", (120,)), ("parts", (60, 120))):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.yaml").write_text(CONFIG.format(dir=tmp_path / name, maps=tmp_path / "maps.h5"))
        for images in parts:
            done = run("train", tmp_path / f"{name}.yaml", f"train.images={images}", ranks=3)
            assert done.returncode == 0, done.stderr[-4000:]
    assert "from image 60 to 120 on 3 rank(s)" in done.stdout
    whole, parts = ((tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "parts"))
    assert whole == parts
