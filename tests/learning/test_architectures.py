"""Every learned localizer of the registry: what must not change its fixes, what it must be able to learn, its file."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch

import heimdall_lab as hl
from heimdall_lab.datasets import schema
from heimdall_lab.learning import architectures, registry, trained
from heimdall_lab.learning.architectures import iq_networks, layers, localization_net
from heimdall_lab.localization.learned import inputs
from heimdall_lab.signals import pairs

SMALL = {  # what makes tests quick; the convolutions are those of the full networks
    "iq_resnet18": {"max_receivers": 15, "window": 256, "width": 32},
    "iq_vggnet": {"max_receivers": 15, "window": 256, "width": 32},
    "localization_net": {"size": "least", "width": 32},
}
STEPS = {"localization_net": 120}
SCENES = 32
FREEDOM = torch.tensor(8.0)
SILENT = 8  # of each step of learning

_LARGE = ("localization_net", "iq_resnet18", "iq_vggnet", "tdoa_unrolled")  # take far longer than the others
each_architecture = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in _LARGE else n for n in registry.ARCHITECTURES]
)


@pytest.fixture(scope="module", autouse=True)
def quick():
    """One thread, as many small operations want, and a size of localization_net that none would use."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(localization_net.SIZES, "least", ((1, 1, 1, 1), (4, 8, 16, 32)))
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def scenes():
    """Simulated scenes of the Italian network."""
    return hl.generate(hl.preset("los_sync", num_samples=SCENES, seed=11, signal={"duration_s": 0.02}), progress=False)


@pytest.fixture(scope="module")
def crowded():
    """Simulated scenes of fifteen receivers."""
    geometry = {"placement": "random", "num_receivers_min": 15, "num_receivers_max": 15}
    config = hl.preset(
        "los_sync", num_samples=3, seed=2, max_receivers=15, geometry=geometry, signal={"duration_s": 0.02}
    )
    return hl.generate(config, progress=False)


@pytest.fixture(scope="module")
def learned(scenes):
    """A function that fits an architecture to the scenes, once: the network, and its error before and after.

    Among the scenes are such in which at most two receivers hear anything, anywhere anew in every step: of those, it
    can learn only that they tell little.
    """
    found = {}
    batch, target = tensors(scenes), true_position(scenes)
    silent = tensors(silenced(scenes, seed=1))

    def of(name):
        if name not in found:
            found[name] = fitted(name, batch, target, silent)
        return found[name]

    return of


def fitted(name, batch, target, silent):
    torch.manual_seed(1)
    model = small(name)
    model.fit(batch)
    steps = STEPS.get(name, 200)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    before = mean_error(model, batch, target)
    size = layers.size_km(batch["position"], batch["present"])[:, None]
    for _ in range(steps):
        rows = torch.randperm(SCENES)[:SILENT]
        both = {key: torch.cat([batch[key], silent[key][rows]]) for key in model.inputs}
        position, cholesky = model(both)
        anywhere = size[rows] * torch.randn(SILENT, 2)
        loss = layers.negative_log_likelihood(position, cholesky, torch.cat([target, anywhere]), FREEDOM).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval(), before, mean_error(model, batch, target)


def small(name, **parameters):
    return architectures.build(name, {**SMALL.get(name, {}), "dropout": 0.0, **parameters})


def tensors(dataset):
    """Arrays of all kinds, IQ of 256 instants."""
    measured = hl.features(dataset)
    whole = dataset.merge(measured[["spectrogram"]])
    made = inputs.arrays(whole.assign(measured), inputs.ARRAYS, slice(0, 256))
    return {name: torch.from_numpy(array) for name, array in made.items()}


def true_position(dataset):
    return torch.from_numpy(inputs.target(dataset.assign(pairs.pair_features(dataset))))


def silenced(dataset, seed):
    """Leave the signal to none, one or two of the receivers of each scene, in turn; the others hear noise."""
    rng = np.random.Generator(np.random.Philox(seed))
    rank = (-dataset.snr.values).argsort(axis=1).argsort(axis=1)
    heard = rank < np.arange(dataset.sizes["sample"])[:, None] % 3
    deviation = np.sqrt(10 ** (dataset.noise_power.values / 10) / 2)  # √mW, of each component
    full_scale = np.where(heard, dataset.iq_full_scale.values, 8 * deviation)
    noise = rng.normal(size=dataset.iq.shape) * (deviation / full_scale)[..., None, None] * 32767
    code = np.where(heard[..., None, None], dataset.iq.values, np.clip(noise.round(), -32767, 32767))
    return dataset.drop_vars(["features", *schema.MEASURED], errors="ignore").assign(
        iq=dataset.iq.copy(data=code.astype(np.int16)), iq_full_scale=dataset.iq_full_scale.copy(data=full_scale)
    )


def located(model, batch):
    with torch.inference_mode():
        return model({name: batch[name] for name in model.inputs})


def mean_error(model, batch, target):
    return (located(model, batch)[0] - target).norm(dim=-1).mean().item()


def deviation_km(model, batch):
    """Root of the trace of the covariance, (S,)."""
    return located(model, batch)[1].norm(dim=-1)


def assert_same_fixes(found, expected, batch):
    """To 1e-5 of the network's size."""
    size = layers.size_km(batch["position"], batch["present"])[:, None]
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().div(size).max() < 1e-5


def assert_sound(position, cholesky, scenes):
    assert position.shape == (scenes, 2)
    assert cholesky.shape == (scenes, 3)
    assert position.isfinite().all()
    assert cholesky.isfinite().all()
    assert (cholesky[:, [0, 2]] > 0).all()


@pytest.mark.slow
@each_architecture
def test_order_of_receivers_changes_nothing(name, learned, scenes):
    model, batch = learned(name)[0], tensors(scenes)
    order = torch.tensor([4, 2, 6, 0, 5, 1, 3])
    turned = {key: values[:, order] for key, values in batch.items()}
    assert_same_fixes(located(model, turned), located(model, batch), batch)


@each_architecture
def test_absent_receivers_change_nothing(name, learned, scenes):
    """Whatever is in their slots, which lie between the others'; nor while learning, in which nothing is dropped."""
    model, batch = learned(name)[0], tensors(scenes)
    generator = torch.Generator().manual_seed(4)
    slots = torch.tensor([7, 0, 1, 8, 2, 3, 9, 4, 5, 6])
    padded = {"present": torch.cat([batch["present"], torch.zeros(SCENES, 3, dtype=torch.bool)], dim=1)}
    for key in set(batch) - {"present"}:
        garbage = 100 * torch.randn(SCENES, 3, *batch[key].shape[2:], generator=generator)
        garbage[10:20] = torch.inf
        garbage[20:] = torch.nan
        padded[key] = torch.cat([batch[key], garbage], dim=1)
    padded = {key: values[:, slots] for key, values in padded.items()}
    assert_same_fixes(located(model, padded), located(model, batch), batch)
    learning = copy.deepcopy(model).train()
    assert_same_fixes(located(learning, padded), located(learning, batch), batch)


@each_architecture
def test_absent_receivers_are_not_standardised_by(name, scenes):
    batch = {key: values[:6] for key, values in tensors(scenes).items()}
    batch["present"] = batch["present"].clone()
    batch["present"][:, 5:] = False
    garbage = {key: values.clone() for key, values in batch.items()}
    for key in set(batch) - {"present"}:
        garbage[key][:, 5:] = torch.nan
    model, other = small(name), small(name)
    model.fit(batch)
    other.fit(garbage)
    constants = dict(model.named_buffers())
    assert any((values != small(name).get_buffer(key)).any() for key, values in constants.items())
    for key, values in other.named_buffers():
        torch.testing.assert_close(values, constants[key])


@each_architecture
@pytest.mark.parametrize("receivers", [5, 10, 15])
def test_any_number_of_receivers(name, receivers, learned, crowded):
    """In a batch, and each scene by itself."""
    model = learned(name)[0]
    batch = tensors(crowded.isel(receiver=slice(receivers)))
    fixes = located(model, batch)
    assert_sound(*fixes, scenes=3)
    alone = [located(model, {key: values[[row]] for key, values in batch.items()}) for row in range(3)]
    assert_same_fixes([torch.cat([fix[part] for fix in alone]) for part in (0, 1)], fixes, batch)


@each_architecture
def test_overfits_few_scenes(name, learned):
    _, before, after = learned(name)
    assert after < 0.05 * before


@each_architecture
def test_few_receivers_with_signal_give_a_wide_covariance(name, learned, scenes):
    """Of scenes with other noise than those it learned from."""
    model, batch, silent = learned(name)[0], tensors(scenes), tensors(silenced(scenes, seed=2))
    assert silent["features"][..., inputs.FEATURES.index("heard")].sum(dim=1).max() == 2
    assert_sound(*located(model, silent), scenes=SCENES)
    heard, unheard = deviation_km(model, batch), deviation_km(model, silent)
    assert unheard.median() > 3 * heard.max()
    assert unheard.median() > layers.size_km(batch["position"], batch["present"]).median() / 2


@each_architecture
def test_gradients_are_finite(name, scenes):
    """Of scenes heard, hardly heard and not heard at all, and of every weight."""
    batch = {key: values[:6] for key, values in tensors(silenced(scenes, seed=3)).items()}
    target = true_position(scenes)[:6]
    model = small(name)
    model.fit(batch)
    position, cholesky = model(batch)
    assert_sound(position.detach(), cholesky.detach(), scenes=6)
    layers.negative_log_likelihood(position, cholesky, target, FREEDOM).mean().backward()
    assert {key for key, weight in model.named_parameters() if weight.grad is None} == set()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


@each_architecture
def test_counts_are_those_of_the_weights(name):
    row = registry.architectures().set_index("architecture").loc[name]
    assert row.num_parameters == sum(weight.numel() for weight in architectures.build(name).parameters())
    assert row.num_parameters == architectures.num_parameters(name)
    assert row.num_parameters > 1000


def test_sizes_of_localization_net():
    """The published ones, with a head for 1,000 classes, are 28.6, 50.2, 88.6 and 197.8 million (Liu et al. 2022)."""
    counts = [architectures.num_parameters("localization_net", {"size": size}) / 1e6 for size in localization_net.SIZES]
    atto, tiny, small_, base, large, _ = counts
    assert atto < tiny < small_ < base < large
    assert 190 < large < 205
    # Without those classes, 1,001 times the last stage's channels, and two of three channels of pictures.
    assert tiny == pytest.approx(28.589 - 1.001 * 0.768, rel=0.02)
    assert base == pytest.approx(88.591 - 1.001 * 1.024, rel=0.02)


def test_convnext_blocks_begin_as_nearly_nothing_but_a_residual():
    block = localization_net.ConvNextBlock(8)
    picture = torch.randn(2, 8, 16, 4)
    change = block(picture) - picture
    assert 0 < change.abs().max() < 1e-4
    with torch.no_grad():
        block.scale.zero_()
    assert torch.equal(block(picture), picture)


def test_resnet_has_eight_blocks_whose_shortcuts_carry():
    """With both convolutions at zero, what goes in comes out; four stages, three of which begin by halving."""
    blocks = [module for module in small("iq_resnet18").modules() if isinstance(module, iq_networks.ResidualBlock)]
    assert len(blocks) == 8
    shapes = []
    for block in blocks:
        signal = torch.rand(3, block.first.in_channels, 64)
        with torch.no_grad():
            block.first.weight.zero_()
            block.second.weight.zero_()
            out = block(signal)
            assert torch.equal(out, block.shortcut(signal).relu())
        assert out.abs().sum() > 0
        shapes.append(tuple(out.shape[1:]))
        if isinstance(block.shortcut, torch.nn.Identity):
            assert torch.equal(out, signal)
    assert shapes == [(4, 64), (4, 64), (8, 32), (8, 64), (16, 32), (16, 64), (32, 32), (32, 64)]


@pytest.mark.parametrize("name", ["iq_resnet18", "iq_vggnet"])
def test_iq_networks_take_windows_of_their_length_and_so_many_receivers(name, crowded):
    batch = tensors(crowded)
    with pytest.raises(
        ValueError, match=r"^max_receivers: a scene has 15 .* takes 10; build it with max_receivers=15$"
    ):
        small(name, max_receivers=10)(batch)
    with pytest.raises(ValueError, match=r"^iq: has 256 instants, and the network takes 1024; cut windows"):
        small(name, window=1024)(batch)
    with pytest.raises(ValueError, match=r"^max_receivers: 16 is not in 1 … 15"):
        small(name, max_receivers=16)
    with pytest.raises(ValueError, match=r"^width: 12 is no multiple of 8"):
        small(name, width=12)
    few = {**batch, "present": torch.arange(15) < torch.tensor([[10], [7], [3]])}
    assert_sound(*located(small(name, max_receivers=10), few), scenes=3)


@pytest.mark.parametrize("name", ["iq_resnet18", "iq_vggnet", "localization_net"])
def test_gain_of_all_receivers_is_seen(name, scenes):
    """A scene 20 dB stronger everywhere is another scene: transmitters may be nearer."""
    model, batch = small(name), tensors(scenes)
    model.fit(batch)
    louder = {**batch, "iq": 10 * batch["iq"], "spectrogram": batch["spectrogram"] + 20}
    assert (located(model, louder)[0] - located(model, batch)[0]).norm(dim=-1).min() > 1e-3


@each_architecture
def test_only_fitting_datasets_are_learned_from(name):
    fitting = registry.ARCHITECTURES[name].data_types
    assert (
        fitting
        == {
            "triangulation": ("iq_raw", "feature_based"),
            "tdoa_unrolled": ("iq_raw", "feature_based"),
            "localization_net": ("feature_based",),
            "iq_resnet18": ("iq_raw",),
            "iq_vggnet": ("iq_raw",),
        }[name]
    )
    for data_type in ("iq_raw", "feature_based"):
        if data_type in fitting:
            registry.check_compatible(name, data_type)
            continue
        with pytest.raises(ValueError, match=f"^architecture: '{name}' cannot learn from {data_type}") as refusal:
            registry.check_compatible(name, data_type)
        named = str(refusal.value).split("; use ")[1].split(", ")
        assert named == registry.architectures(data_type).architecture.to_list()


def test_what_is_not_in_the_registry_is_named():
    known = ", ".join(registry.ARCHITECTURES)
    for ask in (
        architectures.build,
        architectures.num_parameters,
        lambda name: registry.check_compatible(name, "iq_raw"),
    ):
        with pytest.raises(ValueError, match=f"^architecture: 'resnet' is unknown; choose one of {known}$"):
            ask("resnet")
    with pytest.raises(ValueError, match=r"^depth: is no parameter of triangulation; set any of width, heads"):
        architectures.build("triangulation", {"depth": 3})
    with pytest.raises(ValueError, match=r"^size: 'huge' is unknown; choose one of atto, tiny"):
        architectures.build("localization_net", {"size": "huge"})
    with pytest.raises(ValueError, match=r"^heads: 5 do not divide the width of 32; set a number that does$"):
        architectures.build("triangulation", {"heads": 5})


@each_architecture
def test_a_trained_localizer_returns_from_its_file_as_it_was(name, learned, scenes, tmp_path):
    model, _, _ = learned(name)
    kept = trained.Trained(name, {**SMALL.get(name, {}), "dropout": 0.0}, model, {"dataset_seed": 11})
    trained.save(kept, tmp_path / "model.pt")
    read = trained.load(tmp_path / "model.pt")
    assert (read.architecture, read.parameters, read.about) == (kept.architecture, kept.parameters, kept.about)
    assert (read.name, read.num_parameters, read.inputs, read.window) == (
        name,
        sum(weight.numel() for weight in model.parameters()),
        model.inputs,
        256 if "iq" in model.inputs else None,
    )
    batch = {key: values.numpy() for key, values in tensors(scenes).items()}
    for found, expected in zip(read(batch), kept(batch), strict=True):
        assert found.dtype == np.float64
        assert (found == expected).all()


def test_the_spread_widens_and_moves_nothing(learned, scenes):
    model, batch = learned("triangulation")[0], tensors(scenes)
    position, cholesky = located(model, batch)
    model.spread.fill_(2.0)
    try:
        wide = located(model, batch)
    finally:
        model.spread.fill_(1.0)
    assert torch.equal(wide[0], position)
    assert torch.equal(wide[1], 2 * cholesky)


@pytest.mark.slow
def test_torch_is_imported_when_it_is_needed():
    """Not for what classical estimators do, nor for the list of architectures."""
    code = f"""
import sys
import heimdall_lab as hl
config = hl.preset("los_sync", num_samples=2, seed=3, signal={{"duration_s": 0.02}})
hl.locate(hl.generate(config, progress=False), "tdoa_ls")
assert {{"architectures", "train", "export_onnx", "locate"}} <= set(dir(hl)) & set(hl.__all__)
assert list(hl.architectures().architecture) == {list(registry.ARCHITECTURES)}
assert not {{"torch", "lightning", "onnxruntime"}} & set(sys.modules)
hl.export_onnx  # of which the first look imports it
assert "torch" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="module 'heimdall_lab' has no attribute 'trains'"):
        hl.trains  # noqa: B018
