"""What is learned how fast, and that a training gone on with is the one that was interrupted."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import binary_cross_entropy_with_logits

from mmgenre.errors import InputError
from mmgenre.models.movies import Movies
from mmgenre.models.transformer import TransformerConfig
from mmgenre.training import state as training_state
from mmgenre.training.optimizer import OptimizerConfig
from mmgenre.training.state import EpochMetrics, TrainingProgress

WORDS = ["chase", "kiss", "ghost", "robot", "heist", "joke", "tears", "island", "stalker", "night", "river", "door"]
RANDOM = np.random.default_rng(0)
PLOTS = [" ".join(RANDOM.choice(WORDS, 8)) for _ in range(64)]
LABELS = torch.from_numpy(np.stack([[word in plot.split() for word in WORDS[:9]] for plot in PLOTS]).astype(np.float32))


@pytest.fixture
def build(tiny_model):
    def build_model(**changes):
        torch.manual_seed(0)
        return TransformerConfig.model_validate(tiny_model.model_dump() | changes).build(Movies.of_plots(PLOTS))

    return build_model


def names_of(model, group):
    by_id = {id(value): name for name, value in model.named_parameters()}
    return {by_id[id(value)] for value in group["params"]}


# Parameter groups


def test_head_and_backbone_have_rates_of_their_own(build):
    model = build()
    optimizer, _ = OptimizerConfig(lr_backbone=1e-5, lr_head=1e-3, warmup=0).build(model, num_steps=10)

    rate = {name: group["lr"] for group in optimizer.param_groups for name in names_of(model, group)}

    assert rate.keys() == {name for name, _ in model.named_parameters()}
    assert {name for name, lr in rate.items() if lr == 1e-3} == {"head.weight", "head.bias"}
    assert {lr for name, lr in rate.items() if name.startswith("backbone.")} == {1e-5}


def test_biases_and_normalisations_do_not_decay(build):
    model = build()
    optimizer, _ = OptimizerConfig(weight_decay=0.1).build(model, num_steps=10)

    decay = {name: group["weight_decay"] for group in optimizer.param_groups for name in names_of(model, group)}

    spared = {name for name in decay if name.endswith(".bias") or "LayerNorm" in name}
    assert len(spared) > 10
    assert decay == {name: 0 if name in spared else 0.1 for name in decay}


def test_frozen_parameters_are_left_out(build):
    model = build(frozen_layers=1)
    optimizer, _ = OptimizerConfig().build(model, num_steps=10)

    optimized = set().union(*(names_of(model, group) for group in optimizer.param_groups))

    assert optimized == {"head.weight", "head.bias"}
    assert all(group["params"] for group in optimizer.param_groups)


def test_lower_layers_can_learn_more_slowly(build, tiny_model):
    model = build(architecture=tiny_model.architecture | {"num_hidden_layers": 3, "embedding_size": 16})
    optimizer, _ = OptimizerConfig(lr_backbone=1, lr_head=5, layer_decay=0.5, warmup=0).build(model, num_steps=10)

    rate = {name: group["lr"] for group in optimizer.param_groups for name in names_of(model, group)}

    assert rate.keys() == {name for name, _ in model.named_parameters()}
    for start, expected in {
        "backbone.embeddings": 0.125,
        "backbone.encoder.layer.0.": 0.25,
        "backbone.encoder.layer.1.": 0.5,
        "backbone.encoder.layer.2.": 1,
        "head.": 5,
    }.items():
        assert {lr for name, lr in rate.items() if name.startswith(start)} == {expected}, start


# The schedule


@pytest.fixture
def rates(build):
    """The rates of head and backbone in each step, as shares of their peaks: they are the same."""

    def rates_of(num_steps, **settings):
        optimizer, schedule = OptimizerConfig(lr_backbone=2, lr_head=4, **settings).build(build(), num_steps)
        found = []
        for _ in range(num_steps):
            shares = [group["lr"] / group["initial_lr"] for group in optimizer.param_groups]
            assert shares == pytest.approx([shares[0]] * len(shares))
            found.append(shares[0])
            optimizer.step()
            schedule.step()
        return found

    return rates_of


def test_rates_rise_for_a_share_of_the_steps_and_fall_until_the_last(rates):
    found = rates(20, warmup=0.25)

    assert found[:6] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert found[5:] == pytest.approx([(20 - step) / 15 for step in range(5, 20)])


def test_without_a_warm_up_the_first_step_has_the_peak(rates):
    assert rates(4, warmup=0) == pytest.approx([1, 0.75, 0.5, 0.25])


def test_after_the_warm_up_rates_can_stay_or_follow_a_cosine(rates):
    assert rates(10, warmup=0.2, schedule="constant") == pytest.approx([0, 0.5, *[1] * 8])
    assert rates(10, warmup=0, schedule="cosine")[5] == pytest.approx(0.5)


# Going on


class Training:
    """Steps over the same batches in the same order."""

    def __init__(self, model, num_steps=12):
        self.model = model
        self.optimizer, self.schedule = OptimizerConfig(lr_backbone=1e-3, lr_head=1e-2, warmup=0.4).build(
            model, num_steps
        )
        self.movies = model.encoder.encode(Movies.of_plots(PLOTS))

    def run(self, steps):
        for step in steps:
            rows = np.arange(16) + 16 * (step % 4)
            loss = binary_cross_entropy_with_logits(self.model(self.movies.batch(rows)), LABELS[rows])
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
        return loss.item()


def epoch(number, **scores):
    names = ("loss", "val_loss", "macro_f1", "mean_average_precision", "f1_of_averages", "micro_f1")
    figures = dict.fromkeys(names, 0.5)
    return EpochMetrics(epoch=number, rows_per_second=10, seconds=1, **(figures | scores))


@pytest.mark.parametrize("stop", [2, 7])
def test_a_resumed_training_equals_the_uninterrupted_one_bit_for_bit(build, tmp_path, stop):
    whole, first = Training(build()), Training(build())
    losses = [whole.run(range(stop)), whole.run(range(stop, 12))]
    first.run(range(stop))
    progress = TrainingProgress(history=(epoch(1),))
    training_state.save(tmp_path, first.model, first.optimizer, first.schedule, progress)

    second = Training(build())
    with torch.no_grad():
        second.model.head.weight.fill_(7)
    found = training_state.load(tmp_path, second.model, second.optimizer, second.schedule)

    assert found == training_state.read_progress(tmp_path) == progress
    assert second.run(range(stop, 12)) == losses[1] != losses[0]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value), name
    assert second.schedule.get_last_lr() == whole.schedule.get_last_lr()
    mine, theirs = flat(second.optimizer), flat(whole.optimizer)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())


def flat(optimizer):
    states = optimizer.state_dict()["state"]
    return {(number, name): value for number, state in states.items() for name, value in state.items()}


def test_frozen_parameters_do_not_disturb_going_on(build, tmp_path):
    first, second = Training(build(frozen_layers=1)), Training(build(frozen_layers=1))
    first.run(range(5))
    training_state.save(tmp_path, first.model, first.optimizer, first.schedule, TrainingProgress())

    training_state.load(tmp_path, second.model, second.optimizer, second.schedule)

    assert first.run(range(5, 12)) == second.run(range(5, 12))


def test_a_state_goes_to_the_parameter_it_belongs_to_whatever_the_groups(build, tmp_path):
    """Another layer decay orders the parameters otherwise."""
    first, second = build(), build()
    settings = OptimizerConfig(lr_backbone=1e-3, lr_head=1e-2)
    optimizer, schedule = settings.build(first, num_steps=4)
    movies = first.encoder.encode(Movies.of_plots(PLOTS))
    binary_cross_entropy_with_logits(first(movies.batch(np.arange(64))), LABELS).backward()
    optimizer.step()
    training_state.save(tmp_path, first, optimizer, schedule, TrainingProgress())
    regrouped, later = settings.model_copy(update={"layer_decay": 0.5}).build(second, num_steps=4)
    assert order_of(second, regrouped) != order_of(first, optimizer)

    training_state.load(tmp_path, second, regrouped, later)

    values = dict(second.named_parameters())
    for name, value in first.named_parameters():
        for field, expected in optimizer.state[value].items():
            assert torch.equal(regrouped.state[values[name]][field], expected), (name, field)


def order_of(model, optimizer):
    names = {id(value): name for name, value in model.named_parameters()}
    return [names[id(value)] for group in optimizer.param_groups for value in group["params"]]


def test_the_state_of_other_parameters_is_refused(build, tmp_path):
    training, frozen = Training(build()), Training(build(frozen_layers=1))
    training.run(range(1))
    training_state.save(tmp_path, training.model, training.optimizer, training.schedule, TrainingProgress())

    with pytest.raises(InputError, match=r"holds the state of .backbone\.embeddings.*train again with overwrite=true"):
        training_state.load(tmp_path, frozen.model, frozen.optimizer, frozen.schedule)
    # Earlier versions wrote positions in place of names.
    save_file({"0.step": torch.ones(())}, tmp_path / "optimizer.safetensors")
    with pytest.raises(InputError, match="another version of mmgenre wrote it"):
        training_state.load(tmp_path, training.model, training.optimizer, training.schedule)


def test_a_state_holds_no_pickle(build, tmp_path):
    training = Training(build())
    training.run(range(2))

    training_state.save(tmp_path, training.model, training.optimizer, training.schedule, TrainingProgress())

    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}


def test_logits_of_the_validation_are_kept(tmp_path):
    logits = RANDOM.normal(size=(5, 9)).astype(np.float32)

    training_state.save_logits(tmp_path, logits)

    np.testing.assert_array_equal(training_state.load_logits(tmp_path), logits)


def test_training_is_exhausted_when_the_score_has_not_risen_for_a_while():
    scores = [0.1, 0.3, 0.2, 0.3, 0.25]
    history = tuple(epoch(number + 1, macro_f1=score) for number, score in enumerate(scores))

    assert TrainingProgress(history=history).best("macro_f1") == 1
    assert [TrainingProgress(history=history[:count]).exhausted("macro_f1", patience=2) for count in range(6)] == [
        *[False] * 4,
        True,
        True,
    ]
    assert not TrainingProgress(history=history).exhausted("macro_f1", patience=4)
