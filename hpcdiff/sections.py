"""The sections of the config: every key, with one docstring line a field."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hpcdiff.strict import number, one_of, some_of

FIELDS = ("gas", "dm", "star", "total", "sz", "compton_y", "xray", "temperature")
HOT_GAS = ("sz", "compton_y", "xray", "temperature")
TRANSFORMS = (
    *("linear", "minmax", "standard", "4sigma"),
    *("log10", "log10 standard", "log10 4sigma"),
    *("asinh", "asinh standard", "asinh 4sigma"),
)
SAMPLERS = ("euler_maruyama", "predictor_corrector", "heun", "dpmpp_2m", "dpmpp_2m_sde")
AUTO_SAMPLER, AUTO_STEPS, AUTO_INIT = "dpmpp_2m_sde", 36, "matched"
"""What `sample.sampler: auto` takes, with `sample.steps` and `sample.init` where these are not given."""


@dataclass
class Run:
    """Where the run lives, and its seed."""

    dir: str = "runs/quickstart"
    """Folder of everything that this run writes."""
    seed: int = number(0, low=0, high=2**63 - 1)
    """Seed of simulation, training and sampling."""
    maps: str | list[str] | None = None
    """Map file, or a list of them (several simulations); null = `maps.h5` below `run.dir`."""
    model: str | None = None
    """Folder of the trained model; null = `model` below `run.dir`."""
    patience: float = number(900.0, low=0)
    """Seconds of silence after which a rank is held to hang, and the job is ended; 0 = never. `train` has `train.timeout` instead."""


@dataclass
class Cosmology:
    """Flat LambdaCDM; a snapshot's own numbers win, these fill its gaps."""

    Om0: float = number(0.3, above=0, high=1)
    """Matter density today over the critical one."""
    Ob0: float = number(0.045, low=0, high=1)
    """Baryon density today over the critical one; 0 in a run of dark matter alone."""
    h: float = number(0.7, above=0, high=2)
    """Hubble constant over 100 km/s/Mpc."""
    sigma8: float = number(0.8, above=0)
    """Amplitude of linear fluctuations in 8 Mpc/h."""
    ns: float = number(0.96, above=0)
    """Slope of the primordial spectrum."""
    Tcmb0: float = number(2.7255, above=0)
    """Temperature of the microwave background today, K."""


@dataclass
class Simulate:
    """The embedded simulation."""

    engine: str = one_of("halo_model", "nbody")
    """`halo_model`: clusters built from profiles; `nbody`: clusters that gravity made (docs/simulation.md)."""
    clusters: int = number(64, low=1)
    """Number of clusters, one a cell of the box."""
    mass_range: list[float] = field(default_factory=lambda: [1.0e14, 4.82e15])
    """Lowest and highest M200m, Msun; masses are flat in log M (`nbody`: those aimed at)."""
    cell: float = number(40.0, above=0)
    """Side of a cluster's cell of the periodic box, comoving Mpc; `nbody`: of its own periodic box, unless there are `surroundings`."""
    surroundings: float | None = number(None, above=0)
    """`nbody`: side of the periodic box that each cluster is evolved in, comoving Mpc, with particles eight times heavier around its own region; the cell is cut out of it; null = the cell."""
    particle_mass: float = number(1.0e11, above=0)
    """Mass of a dark-matter particle, Msun; gas has Ob/(Om-Ob) of it (the paper: 1.18e10; `nbody`: the nearest of an even lattice, with `surroundings` of one of four's multiples)."""
    box: float | None = number(None, above=0)
    """`nbody`: side of one periodic box with all its halos in `mass_range`, comoving Mpc, in place of `clusters`; null = none."""
    softening: float | None = number(None, above=0)
    """`nbody`: softening of gravity, comoving kpc, as deep as Plummer's and none beyond three of it; null = 33, and 1/43 of the spacing of particles above 1e11 Msun."""
    accuracy: float = number(0.3, low=1e-3, high=1)
    """`nbody`: shortest time step over the time to fall through the softening at the 99th percentile of the accelerations (with `surroundings` at the 98th of the fine particles')."""
    device: str = one_of("cpu", "cuda", "auto")
    """`nbody`: forces on the CPU, on a GPU for each rank, or (`auto`) on GPUs if every rank has one; the bytes are those of one kind of device."""


@dataclass
class Views:
    """From where each halo is seen."""

    mode: str = one_of("fixed", "flat_mass")
    """`fixed`: the same sightlines for every halo; `flat_mass`: flat in log mass, as the paper: low masses thinned, high ones seen more often."""
    sightlines: int = number(1, low=1)
    """Sightlines a halo; 1 is the z axis, more lie on a Fibonacci sphere."""
    sphere: str = one_of("half", "full")
    """`half`: a view and its opposite are mirror images; `full`: as in the paper."""
    axes: list[str] = some_of("x", "y", "z", default=("x", "y", "z"))
    """Axes of the rotated frame along which the box is projected."""
    per_dex: int = number(30000, low=1)
    """`flat_mass`: views per decade of mass."""
    max_per_halo: int = number(69, low=1)
    """`flat_mass`: most views of one halo."""

    def across(self, width: float, depth: float) -> float:
        """Side of the cube about a halo, along the box, in which all its views of this width and depth lie, in their unit."""
        turned = self.mode == "flat_mass" or self.sightlines > 1
        return math.sqrt(2 * width**2 + depth**2) if turned else max(width, depth)


@dataclass
class Split:
    """Which halos train, validate and test: a hash of (seed, id) against the cumulative fractions."""

    by: str = one_of("halo", "group", "region")
    """What must stay together; `region`: blocks of the box, with a gap of one map between the parts."""
    blocks: int = number(4, low=2, high=256)
    """`region`: blocks of the box along each side."""
    train: float = number(0.8, low=0, high=1)
    """Fraction for training."""
    val: float = number(0.1, low=0, high=1)
    """Fraction for validation."""
    test: float = number(0.1, low=0, high=1)
    """Fraction for testing."""
    seed: int = number(0, low=0)
    """Another seed deals the halos anew."""


@dataclass
class GasCut:
    """Which gas counts as hot."""

    temperature: float | None = number(None, above=0)
    """Gas colder than this or as cold, K, is left out; null = none is."""
    density: float | None = number(None, above=0)
    """Gas denser than this or as dense, physical g/cm^3, is left out; null = none is."""
    star_forming: bool = True
    """false: star-forming gas and decoupled winds are left out."""
    fields: list[str] = some_of(*HOT_GAS, "gas", default=HOT_GAS)
    """Fields that the cut acts on; `gas` too gives the projected hot gas."""


@dataclass
class Project:
    """Particles to maps."""

    snapshot: str | None = None
    """File, folder or glob of chunk files; null = `snapshot` below `run.dir`."""
    halos: str | None = None
    """Halo catalogue: a file, or a folder or glob of chunks; null = `halos.hdf5` below `run.dir`."""
    catalog: str = one_of("auto", "hpcdiff", "csv", "subfind", "soap", "rockstar", "ahf")
    """Format of the halo catalogue; `auto`: found from its content."""
    mass_range: list[float] | None = None
    """[lowest, highest] M200m of the halos that are projected, Msun; null = all."""
    fields: list[str] = some_of(*FIELDS, default=("gas", "dm", "sz", "xray"))
    """Fields to project."""
    npix: int = number(128, low=2)
    """Pixels a side."""
    width: float | str = 12.8
    """Side of the map, physical Mpc, or a text such as "2 R200m" (or R200c, R500c)."""
    depth: float | str | dict[str, float | str] = 12.8
    """Depth along the line of sight, physical Mpc, likewise; or one a field, as {sz: 100, dm: 12.8}."""
    method: str = one_of("exact", "mesh")
    """`exact`: pixel average of the analytic column; `mesh`: the paper's 3D mesh of npix^3 points, summed, for comparison."""
    beam: float | str | dict[str, float | str] | None = None
    """FWHM of a Gaussian that smooths the maps, physical Mpc, or a text such as "0.015 R200c"; or one a field, as {sz: 0.3}; null = none."""
    oversample: int = number(1, low=1)
    """Maps are made with `oversample` times as many pixels a side, smoothed by the beam, and averaged down."""
    gaunt: float | str = number(1.2, above=0)
    """Free-free Gaunt factor of `xray`: a number, or `fit`: averaged over the thermal spectrum of each particle's temperature."""
    cooling: str | None = None
    """Table of Lambda(T, Z) for `xray` in place of bremsstrahlung, text or HDF5 (`docs/cooling.md`); null = none."""
    gas_cut: GasCut = field(default_factory=GasCut)
    """Which gas counts as hot."""
    mu_e: float = number(1.13, above=0)
    """Mean molecular weight per electron where the snapshot has no electron abundance."""
    particles: str = one_of("all", "members")
    """`all` that a view sees; `members`: those alone that the halo catalogue names as the halo's own."""
    memory_gb: float = number(4.0, above=0)
    """Memory a rank for particles and maps, 1e9 bytes; less means more passes over the snapshot, and the same maps."""
    views: Views = field(default_factory=Views)
    """Sightlines and axes."""
    split: Split = field(default_factory=Split)
    """Training, validation and test parts."""


@dataclass
class Task:
    """What is inferred from what."""

    inputs: list[str] = some_of(*FIELDS, default=("sz", "xray"))
    """Fields that are observed."""
    outputs: list[str] = some_of(*FIELDS, default=("gas", "dm"))
    """Fields that are inferred."""
    method: str = one_of("diffusion", "regression")
    """`diffusion`: posterior samples; `regression`: their mean alone, by the same network trained on the squared error."""
    transform: str | dict[str, str] = field(default="linear", metadata={"choices": TRANSFORMS})
    """How maps become the network's numbers, by the training split's statistics; or one a field, as {sz: log10, ...}: `linear` (or
    `minmax`), `log10` or `asinh` to [0, 1] by bounds; `standard` (mean 0, deviation 1) or `4sigma` (mean +- 4 deviations to
    [0, 1]) of the values, or of their logarithm or asinh."""


@dataclass
class Microwave:
    """What a microwave telescope makes of a map."""

    beam: float | None = number(None, above=0)
    """FWHM of its Gaussian beam, physical Mpc; null = none."""
    noise: float | None = number(None, above=0)
    """Standard deviation of white noise in a pixel, in the map's units; null = none."""


@dataclass
class XRay:
    """What an X-ray telescope makes of a map: counts, less their background, over the exposure."""

    psf: float | None = number(None, above=0)
    """FWHM of its Gaussian point-spread function, physical Mpc; null = none."""
    exposure: float | None = number(None, above=0)
    """Mean counts in a pixel for each erg/s/cm^2 of the map; null = no photon noise."""
    background: float = number(0.0, low=0)
    """Mean background counts in a pixel."""


@dataclass
class Observe:
    """Observation model of the inputs, drawn anew whenever a map is shown; it needs maps of one width."""

    sz: Microwave = field(default_factory=Microwave)
    """Beam and noise of `sz`, uK."""
    compton_y: Microwave = field(default_factory=Microwave)
    """Beam and noise of `compton_y`."""
    xray: XRay = field(default_factory=XRay)
    """Point-spread function, exposure and background of `xray`."""


@dataclass
class Network:
    """The score network."""

    name: str = one_of("ncsnpp", "unet")
    """`ncsnpp` (Song et al. 2021); `unet` is not built yet."""
    channels: int = number(128, low=4)
    """Channels at full resolution."""
    multipliers: list[int] = field(default_factory=lambda: [2, 2, 2, 2])
    """Channels of each resolution over `channels`."""
    blocks: int = number(2, low=1)
    """Residual blocks a resolution."""
    dropout: float = number(0.0, low=0, high=0.99)
    """Dropout in the residual blocks."""
    attention: str | list[int] = "coarsest"
    """`coarsest`: once, between the way down and the way up (the paper); or factors by which maps are reduced, as [4, 8]: after every block
    there too; [] = none at all."""


@dataclass
class Diffusion:
    """Noise levels and preconditioning."""

    sigma_min: float = number(0.001, above=0)
    """Smallest noise, in transformed units."""
    sigma_max: float = number(1.0, above=0)
    """Largest noise, in transformed units."""
    precondition: str = one_of("ve", "edm")
    """`ve`: the paper's; `edm`: Karras et al. 2022."""
    noise_shift: float = -0.5
    """`edm`: training noise is log-normal; ln of its median over sigma_data (Karras et al. 2022: -0.5)."""
    noise_width: float = number(1.2, above=0)
    """`edm`: standard deviation of the logarithm of the training noise."""


@dataclass
class Train:
    """Training."""

    engine: str = one_of("ddp", "deepspeed")
    """`ddp`: a copy of everything on each rank; `deepspeed`: ZeRO, which shares it out."""
    batch_size: int = number(32, low=1)
    """Global batch: images a step over all ranks."""
    images: int = number(100000, low=1)
    """Training length, in images seen."""
    precision: str = one_of("fp32", "bf16", default="bf16")
    """Arithmetic inside the network; weights and optimiser stay in fp32."""
    lr: float = number(1.0e-4, above=0)
    """Learning rate (Adam)."""
    schedule: str = one_of("constant", "cosine")
    """`constant`, or `cosine` to zero at `images`; either after `warmup`."""
    warmup: int = number(0, low=0)
    """Images over which the learning rate rises from zero."""
    ema: float = number(0.9999, low=0, high=1)
    """Decay of the weights' average a step, with warm-up min(ema, (1+n)/(10+n))."""
    zero_stage: int = number(1, low=0, high=3)
    """`deepspeed`: what is shared out over the ranks: 0 nothing, 1 the optimiser, 2 gradients too, 3 weights too."""
    checkpoint_every: int = number(10000, low=1)
    """Images between checkpoints."""
    keep: int = number(3, low=1)
    """Checkpoints kept."""
    validate_every: int = number(10000, low=1)
    """Images between validation losses and sample pictures."""
    log_every: int = number(1000, low=1)
    """Images between lines of `stats.jsonl`."""
    augment: bool = True
    """Flips and quarter turns of inputs and outputs together."""
    subset: float = number(1.0, above=0, high=1)
    """Fraction of the training halos that is used; a smaller one is part of a larger."""
    map_weights: list[float] | None = None
    """How often each file of `run.maps` is drawn from; null = by its number of training views."""
    stage: str = one_of("auto", "gpu", "shared", "local", "none")
    """Where the maps wait: on the `gpu`; in memory `shared` by the ranks of a node; in a node-`local` copy of the file ($TMPDIR); `none`: read
    in shuffled runs from where they lie; `auto`: the first of gpu, shared, none that has room."""
    compile: bool | None = None
    """Compile the network (`torch.compile`); null = on GPUs."""
    max_skipped: int = number(10, low=1)
    """Steps in a row with a gradient that is not finite, after which training gives up."""
    first_timeout: float = number(1800.0, above=0)
    """Seconds without a finished step, at the start (compilation), after which the job is ended and the ranks that hang are named."""
    timeout: float = number(300.0, above=0)
    """The same for later steps, and for validation and saving."""


@dataclass
class Guide:
    """A further map whose likelihood is known, as a weak-lensing map of `total`, on which the samples are conditioned too."""

    field: str | None = field(default=None, metadata={"choices": FIELDS})
    """Field of the map file that is measured: an output, or `total` where gas and dm are outputs; null = none."""
    noise: float | None = number(None, above=0)
    """Standard deviation of its white noise in a pixel, in the map's units."""
    beam: float | None = number(None, above=0)
    """FWHM of the Gaussian that it is smoothed by before the noise, physical Mpc; null = none."""


@dataclass
class Sample:
    """Posterior sampling."""

    sampler: str = one_of("auto", *SAMPLERS)
    """`auto`: dpmpp_2m_sde, the cheapest as good in CRPS as 1000 steps of Euler-Maruyama and right on Gaussians (docs/samplers.md); `steps` and
    `init` are then 36 and `matched` unless they are given."""
    steps: int = number(1000, low=2)
    """Noise levels."""
    churn: float = number(0.0, low=0)
    """`heun`: noise that is added on the way, S_churn of Karras et al. 2022; 0 = none."""
    samples: int = number(10, low=1)
    """Posterior samples a view."""
    batch_size: int = number(64, low=1)
    """Maps in one network call of a rank, at most."""
    split: str = one_of("train", "val", "test", default="test")
    """Which part of the map file is sampled."""
    init: str = one_of("prior", "matched")
    """`prior` = N(0, sigma_max^2); `matched` = N(E[x], Var[x] + sigma_max^2) of the training split."""
    shuffle_inputs: bool = False
    """A control: every view gets the inputs of another halo, so that skill must vanish."""
    guide: Guide = field(default_factory=Guide)
    """A further map with a known likelihood."""
    compile: bool | None = None
    """Compile the network and capture its CUDA graph; null = on GPUs."""


@dataclass
class Evaluate:
    """Metrics and report."""

    mass_bins: dict[str, list[float]] = field(default_factory=lambda: {"low": [2.0e14, 6.0e14], "high": [6.0e14, 1.0e15]})
    """Bins of true M200m, Msun: [low, high), the last closed."""
    k_split: float = number(2.0, above=0)
    """Wavenumber between large and small scales, h/Mpc."""
    bootstrap: int = number(1000, low=2)
    """Bootstrap draws over halos for the error of a mean."""
    regression: str | None = None
    """Samples file of a run with `task.method: regression` on the same maps, as one more baseline; null = none."""
