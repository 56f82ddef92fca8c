"""How fast scenes are loaded, as a multiple of how fast a model learns from them in the same minute."""

import pytest
import torch
from timing import seconds

import heimdall_lab as hl
from heimdall_lab.learning import data
from heimdall_lab.learning.architectures import build
from heimdall_lab.learning.lightning_module import Learner
from heimdall_lab.learning.options import options_for
from heimdall_lab.learning.sources import open_source

SCENES = {"triangulation": (512, "feature_based"), "iq_vggnet": (64, "iq_raw"), "iq_resnet18": (64, "iq_raw")}


@pytest.mark.parametrize("memory_gb", [4.0, 0.0])
@pytest.mark.parametrize("architecture", SCENES)
def test_scenes_are_loaded_1_5_times_as_fast_as_a_model_learns(architecture, memory_gb, benchmark, tmp_path):
    """One thread; the least of several rounds each, in turns; signals in memory and read from disk."""
    count, data_type = SCENES[architecture]
    config = hl.preset("los_sync", num_samples=count, seed=2, data_type=data_type, signal={"duration_s": 0.05})
    hl.generate(config, tmp_path / "dataset", progress=False)
    options = options_for(architecture, {"batch_size": count // 4})
    model = build(architecture)
    source = open_source(tmp_path / "dataset")
    scenes = data.SceneDataModule(
        source, model, batch_size=options.batch_size, seed=0, receiver_dropout=0.1, memory_gb=memory_gb
    )
    scenes.measure(lambda *_: None)
    model.fit(scenes.statistics())
    learner = Learner(model, options, {}, scenes.batches_per_epoch)
    batches = list(scenes.train_dataloader())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def learn() -> None:
        for batch in batches:
            optimizer.zero_grad()
            learner.loss(batch).backward()
            optimizer.step()

    learning_s = []
    benchmark.pedantic(
        lambda: list(scenes.train_dataloader()),
        setup=lambda: learning_s.append(seconds(learn)),
        rounds=4,
        warmup_rounds=1,
    )
    source.dataset.close()
    ratio = min(learning_s) / benchmark.stats.stats.min
    trained = sum(len(batch["target"]) for batch in batches)
    benchmark.extra_info["loading over learning"] = round(ratio, 1)
    benchmark.extra_info["scenes learned per second"] = round(trained / min(learning_s))
    assert ratio >= 1.5
