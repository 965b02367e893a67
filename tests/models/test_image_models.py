"""Poster models: decoding, augmentation, frozen stages and pretrained weights."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import ViTImageProcessor
from vision import VISION

from mmgenre.errors import InputError
from mmgenre.models import image
from mmgenre.models.clip import ClipConfig
from mmgenre.models.efficientnet import EfficientNetConfig
from mmgenre.models.image import CLIP, IMAGENET, AugmentConfig, ImageEncoder, Preprocessing
from mmgenre.models.inference import predict_logits
from mmgenre.models.movies import Movies
from mmgenre.models.pixels import Pixels, StoredPosters
from mmgenre.models.vgg import VggConfig
from mmgenre.tables import images
from mmgenre.tables.images import StoredImages

CPU = torch.device("cpu")
SIZE = {"height": 64, "width": 32}


def jpeg(colour=(200, 100, 50), size=(60, 90), mode="RGB"):
    content = io.BytesIO()
    Image.new(mode, size, colour).save(content, "JPEG", quality=95)
    return content.getvalue()


def noise(seed, size=(60, 90)):
    content = io.BytesIO()
    values = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(values).save(content, "JPEG")
    return content.getvalue()


def movies(*images):
    unknown = [None] * len(images)
    return Movies(unknown, unknown, images)


def logits_of(model, found):
    return predict_logits(model, model.encoder.encode(found), CPU, "fp32")


def test_posters_of_a_large_split_are_decoded_batch_by_batch_to_the_same_pixels(local_ray, monkeypatch, tmp_path):
    """Each batch takes its JPEGs from Ray's object store."""
    contents = [noise(seed) if seed % 4 else None for seed in range(10)] + [b"broken", b""]
    pq.write_table(pa.table({"image": pa.array(contents, pa.binary())}), tmp_path / "part.parquet")
    order = np.random.default_rng(0).permutation(len(contents))
    files = np.array([-1 if contents[row] is None else 0 for row in order])
    encoder = ImageEncoder(48, 32)
    expected = encoder.encode(movies(*(contents[row] for row in order)))
    unknown = [None] * len(order)
    stored = Movies(unknown, unknown, StoredImages([str(tmp_path / "part.parquet")], files, order))
    in_memory = encoder.encode(stored)
    monkeypatch.setattr(image, "_MAX_PIXEL_BYTES", 0)
    monkeypatch.setattr(images, "_IMAGES_PER_BLOCK", 3)

    found = encoder.encode(stored)

    assert isinstance(found.inputs[0], StoredPosters) and isinstance(in_memory.inputs[0], Pixels)
    rows = np.array([7, 0, 0, 11, 3])
    for encoded in (in_memory, found):
        np.testing.assert_array_equal(encoded.has_image, expected.has_image)
        np.testing.assert_array_equal(encoded.lengths, expected.lengths)
        for have, want in ((encoded, expected), (encoded.take(rows), expected.take(rows))):
            assert torch.equal(have.batch(np.arange(5))["pixels"], want.batch(np.arange(5))["pixels"])


FAMILIES = {
    "vgg": VggConfig(weights=None, augment=None, **SIZE),
    "efficientnet": EfficientNetConfig(weights=None, augment=None, **SIZE),
    "clip": ClipConfig(pretrained=None, architecture=VISION["clip_vision_model"], augment=None, height=32, width=32),
    "vit": ClipConfig(pretrained=None, architecture=VISION["vit"], augment=None, height=32, width=32),
}


@pytest.fixture(scope="module", params=FAMILIES)
def config(request):
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def model(config):
    torch.manual_seed(0)
    model = config.build(movies()).train()
    # With untrained batch norm statistics, random weights would map every image to the same logits.
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None
    with torch.no_grad():
        model(model.encoder.encode(movies(*map(noise, range(8)))).batch(np.arange(8)))
    return model.eval()


# Posters as pixels


def test_posters_of_any_size_and_mode_are_resized_to_rgb():
    encoded = ImageEncoder(40, 30).encode(movies(jpeg(), jpeg(size=(900, 200)), jpeg(128, mode="L")))

    pixels = encoded.batch(np.arange(3))["pixels"]
    assert pixels.shape == (3, 3, 40, 30)
    assert pixels.dtype == torch.uint8
    assert pixels[0].float().mean((1, 2)).tolist() == pytest.approx([200, 100, 50], abs=2)
    assert pixels[2].float().mean((1, 2)).tolist() == pytest.approx([128] * 3, abs=2)


def test_missing_and_broken_posters_are_marked_and_do_not_affect_others():
    whole = noise(1)
    encoded = ImageEncoder(40, 30).encode(movies(None, b"<html>", whole[: len(whole) // 2], b"", whole))

    assert encoded.has_image.tolist() == [False, False, False, False, True]
    assert encoded.readable.tolist() == encoded.has_image.tolist()
    assert encoded.batch(np.array([4, 0]))["has_image"].tolist() == [True, False]


def test_pixels_are_normalised_for_each_set_of_weights():
    for normalisation in (IMAGENET, CLIP):
        grey = (np.array(normalisation.mean) * 255).round().astype(np.uint8)
        prepared = Preprocessing(normalisation).eval()(torch.from_numpy(grey).view(1, 3, 1, 1).expand(2, 3, 8, 8))

        assert prepared.abs().max() < 0.01
        assert prepared.shape == (2, 3, 8, 8)


def test_each_poster_is_augmented_differently_and_only_in_training():
    preparation = Preprocessing(IMAGENET, AugmentConfig().build(64, 32))
    poster = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (1, 3, 64, 32), np.uint8))
    pixels = poster.expand(4, -1, -1, -1)

    torch.manual_seed(0)
    learning, using = preparation.train()(pixels), preparation.eval()(pixels)

    assert learning.shape == using.shape == (4, 3, 64, 32)
    assert len({image.sum().item() for image in learning}) == 4
    assert (using == using[0]).all()


def test_each_augmentation_can_be_disabled():
    poster = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (3, 64, 32), np.uint8))

    same = AugmentConfig(flip=False, crop=1, colour=0).build(64, 32)
    flipping = AugmentConfig(crop=1, colour=0).build(64, 32)

    assert (same(poster) == poster).all()
    seen = [flipping(poster) for _ in range(20)]
    assert all((one == poster).all() or (one == poster.flip(2)).all() for one in seen)
    assert len({one.sum(0)[0, 0].item() for one in seen}) == 2


# The families


def test_logits_have_one_column_per_genre_in_the_order_of_the_movies(model):
    found = movies(*[noise(seed) for seed in range(5)])

    logits = logits_of(model, found)

    assert logits.shape == (5, 9)
    assert logits[3] == pytest.approx(logits_of(model, movies(noise(3)))[0], abs=1e-4)
    assert np.ptp(logits, axis=0).max() > 1e-4
    assert model.features(model.encoder.encode(found).batch(np.arange(5))).shape == (5, model.feature_dim)


def test_a_restored_model_gives_the_same_logits(config, model, tmp_path):
    model.save_assets(tmp_path)
    restored = config.restore(tmp_path).eval()
    restored.load_state_dict(model.state_dict())

    assert (logits_of(restored, movies(noise(1))) == logits_of(model, movies(noise(1)))).all()


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (VggConfig(weights=None, frozen_blocks=5, **SIZE), set()),
        (VggConfig(weights=None, frozen_blocks=4, head="light", **SIZE), {"stages.4"}),
        (VggConfig(weights=None, frozen_blocks=0, **SIZE), {f"stages.{number}" for number in range(5)}),
        (EfficientNetConfig(weights=None, frozen_stages=7, **SIZE), {"stages.7", "stages.8"}),
        (EfficientNetConfig(weights=None, frozen_stages=9, **SIZE), set()),
        (FAMILIES["clip"], set()),
        (FAMILIES["clip"].model_copy(update={"frozen": False}), {"stages.0"}),
        (FAMILIES["vit"].model_copy(update={"frozen": False}), {"stages.0"}),
    ],
)
def test_only_unfrozen_stages_get_a_gradient_and_change(config, names):
    model = config.build(movies()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(model.encoder.encode(movies(noise(1), noise(2))).batch(np.arange(2))).square().sum().backward()
    optimizer.step()

    with_gradient = {name for name, value in model.named_parameters() if value.grad is not None}
    assert {".".join(name.split(".")[:2]) for name in with_gradient if name.startswith("stages")} == names
    assert any(name.startswith("head.") for name in with_gradient)
    # Includes the running statistics of frozen batch norms.
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {".".join(name.split(".")[:2]) for name in moved if name.startswith("stages")} == names


def test_stages_are_counted_from_the_head(model):
    last = len(model.stages) - 1

    assert model.layers_above(f"stages.{last}.1.weight") == 0
    assert model.layers_above("stages.0.1.weight") == last
    assert model.layers_above("head.weight") == 0


def test_the_published_head_reads_all_positions_and_the_light_one_their_mean_and_maximum():
    published = VggConfig(weights=None).build(movies())
    light = VggConfig(weights=None, head="light").build(movies())

    units = [layer.out_features for layer in published.head if isinstance(layer, torch.nn.Linear)]
    assert published.feature_dim == 512 * 6 * 4
    assert units == [2056, 1024, 9]
    maps = torch.rand(2, 512, 6, 4)
    assert light.pool(maps).shape == (2, light.feature_dim) == (2, 1024)
    assert torch.equal(light.pool(maps)[:, 512:], maps.amax((2, 3)))


# Weights


@pytest.mark.parametrize("config", [FAMILIES["vgg"], FAMILIES["efficientnet"]])
def test_a_weights_file_may_have_any_precision_and_extra_tensors(config, tmp_path):
    source = config.build(movies())
    tensors = {name: value.half() for name, value in source.torchvision_layers().state_dict().items()}
    save_file(tensors | {"classifier.0.weight": torch.zeros(3)}, tmp_path / "weights.safetensors")

    model = config.model_copy(update={"weights": str(tmp_path / "weights.safetensors")}).build(movies())

    for name, value in model.torchvision_layers().state_dict().items():
        torch.testing.assert_close(value, tensors[name].to(value.dtype))


def test_weights_of_another_network_are_rejected_with_the_difference(tmp_path):
    file = tmp_path / "weights.safetensors"
    vgg, net = VggConfig(weights=str(file), **SIZE), EfficientNetConfig(weights=str(file), **SIZE)
    save_file(EfficientNetConfig(weights=None, variant="b2").build(movies()).torchvision_layers().state_dict(), file)

    with pytest.raises(InputError, match=r"weights\.safetensors: no features\.0\.weight; expected weights of VGG-16$"):
        vgg.build(movies())
    with pytest.raises(
        InputError, match=r"model\.weights: .*features\.\S+ has shape \(.*\), in EfficientNet-B0 it has \("
    ):
        net.build(movies())


@pytest.mark.parametrize("content", [None, b"not tensors at all"])
def test_a_file_without_weights_is_rejected(tmp_path, content):
    file = tmp_path / "weights.safetensors"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(InputError, match=r"model\.weights: .*weights\.safetensors: not a readable \.safetensors file"):
        VggConfig(weights=str(file)).build(movies())


def test_a_failed_download_is_reported_with_the_alternatives(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    with pytest.raises(InputError, match=r"model\.weights: torchvision's could not be downloaded .*weights=none"):
        VggConfig().build(movies())


def test_an_image_encoder_is_loaded_from_a_folder_with_its_normalisation(tmp_path):
    source = FAMILIES["vit"].build(movies()).eval()
    source.stages[0].backbone.save_pretrained(tmp_path)
    ViTImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]).save_pretrained(tmp_path)

    model = ClipConfig(pretrained=str(tmp_path), augment=None, height=32, width=32).build(movies()).eval()

    assert model.preprocessing.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    batch = model.encoder.encode(movies(noise(1))).batch(np.arange(1))
    source.preprocessing = model.preprocessing
    with torch.inference_mode():
        torch.testing.assert_close(model.features(batch), source.features(batch))


def test_a_folder_without_an_image_encoder_is_rejected(tmp_path):
    with pytest.raises(InputError, match=r"model\.pretrained: .*could not be loaded .*offline, give a local folder"):
        ClipConfig(pretrained=str(tmp_path)).build(movies())


def test_an_encoder_for_another_image_size_is_rejected():
    with pytest.raises(InputError, match=r"model\.height, model\.width: 224x224; this encoder reads 32x32"):
        ClipConfig(pretrained="none", architecture=VISION["vit"]).build(movies())
