"""An exported checkpoint: its ONNX outputs, the code examples of its card, and what the hub reads."""

import functools
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

from mmgenre.errors import InputError
from mmgenre.evaluation.job import EvaluateConfig, evaluate
from mmgenre.export import onnx_model
from mmgenre.export.job import ExportConfig, describe, export
from mmgenre.export.parity import OnnxSession, compare
from mmgenre.labels import decode
from mmgenre.models import checkpoint
from mmgenre.models.bilstm import BilstmConfig
from mmgenre.models.checkpoint import Card
from mmgenre.models.clip import ClipConfig
from mmgenre.models.efficientnet import EfficientNetConfig
from mmgenre.models.fusion import ConcatFusionConfig, GatedFusionConfig, LateFusionConfig
from mmgenre.models.inference import predict_logits
from mmgenre.models.movies import Movies
from mmgenre.models.tfidf import TfidfConfig
from mmgenre.models.transformer import TransformerConfig
from mmgenre.models.vgg import VggConfig
from mmgenre.scoring.thresholds import Calibration, Thresholds, probabilities
from mmgenre.tables.schema import PREDICTIONS, per_genre
from mmgenre.tagging.decisions import DecisionConfig, Decisions, calibrations

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
load = functools.cache(checkpoint.load)
NUM = 13
RNG = np.random.default_rng(0)
LAYER = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "initializer_range": 0.2,
}
VISION = LAYER | {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 8}


def transformer(kind, **settings):
    architecture = LAYER | {"model_type": kind}
    return TransformerConfig(pretrained=None, architecture=architecture, vocab_size=300, max_length=24, **settings)


TFIDF, BILSTM = TfidfConfig(title=True, genre_graph=True), BilstmConfig(vector_size=8, hidden=5, max_length=64)
ELECTRA = transformer("electra", title=True)
CLIP = ClipConfig(pretrained=None, architecture=VISION, augment=None, height=32, width=32)
SMALL = {"weights": None, "augment": None, "height": 64, "width": 48}


def towers(text, image):
    return {"text": {"model": text.to_settings()}, "image": {"model": image.to_settings()}}


FAMILIES = {
    "tfidf": TFIDF,
    "bilstm": BILSTM,
    "electra": ELECTRA,
    "bert": transformer("bert", pooling="first", genre_graph=True),
    "vgg": VggConfig(head="light", **SMALL),
    "efficientnet": EfficientNetConfig(**SMALL),
    "clip": CLIP,
    "concat_fusion": ConcatFusionConfig.model_validate(towers(BILSTM, CLIP)),
    "gated_fusion": GatedFusionConfig.model_validate(towers(ELECTRA, CLIP) | {"genre_graph": True}),
    "late_fusion": LateFusionConfig.model_validate(towers(TFIDF, CLIP)),
}
FUSIONS = [name for name in FAMILIES if name.endswith("fusion")]


def poster(seed):
    """A JPEG with smooth areas and noise, like a poster."""
    random, content = np.random.default_rng(seed), io.BytesIO()
    coarse = Image.fromarray(random.integers(0, 255, (6, 4, 3), np.uint8)).resize((160, 240), Image.Resampling.BICUBIC)
    values = np.asarray(coarse, int) + random.integers(-20, 20, (240, 160, 3))
    Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).save(content, "JPEG")
    return content.getvalue()


@pytest.fixture(scope="module")
def table(generated_movies):
    return pq.read_table(f"{generated_movies}/")


@pytest.fixture(scope="module")
def movies(table):
    """Generated plots from short to long, and posters."""
    # More threads would only compete.
    torch.set_num_threads(1)
    rows = table.slice(0, NUM).to_pylist()
    plots = [" ".join([rows[row]["plot"]] * (1 + row % 5))[: 80 * (1 + row)] for row in range(NUM)]
    return Movies([row["title"] for row in rows], plots, [poster(row) for row in range(NUM)])


def thresholds():
    return Thresholds(per_genre=tuple(RNG.uniform(0.2, 0.8, 9)), global_threshold=0.5, kind="per_genre")


def build(config, movies):
    torch.manual_seed(0)
    labels = (RNG.random((len(movies), 9)) < 0.4).astype(np.float32)
    if isinstance(config, TfidfConfig):
        return config.fit(movies, labels)
    if isinstance(config, LateFusionConfig):
        model = config.join({"text": build(TFIDF, movies)}, movies)
    else:
        model = config.build(movies)
    with torch.no_grad():
        # As if trained: heads start small, fusion heads at zero.
        for value in model.head.parameters():
            value.normal_(std=0.2)
        # With the initial statistics, random weights map all images to the same features.
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = None
        model.train()(model.encoder.encode(movies).batch(np.arange(len(movies))))
    return model.eval()


@pytest.fixture(scope="module")
def trained(movies, tmp_path_factory):
    """Saves a checkpoint of a family once, and returns its folder."""
    root, folders = tmp_path_factory.mktemp("checkpoints"), {}

    def of(family, config=None):
        if family not in folders:
            config = config or FAMILIES[family]
            alone = {status: Calibration(thresholds=thresholds(), temperature=0.7) for status in ("text_only",)}
            card = Card(
                model=config,
                thresholds=thresholds(),
                temperature=1.6,
                alone=alone if family in FUSIONS else {},
                scores={"macro_f1": 0.5},
                training={"epochs": 3, "seed": 0},
                dataset="f" * 32,
            )
            folders[family] = str(root / family)
            checkpoint.save(build(config, movies), card, folders[family])
        return folders[family]

    return of


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """Exports a family once, and returns the folder, which has the family's name."""
    root = tmp_path_factory.mktemp("exported")

    @functools.cache
    def of(family):
        export(ExportConfig(checkpoint=trained(family), output=str(root / family)))
        return root / family

    return of


def with_missing_inputs(family, movies):
    """The movies; for a fusion, some with only a plot or only a poster."""
    if family not in FUSIONS:
        return movies
    rows = range(len(movies))
    plots = [None if row % 4 == 1 else movies.plots[row] for row in rows]
    return Movies(movies.titles, plots, [None if row % 4 == 2 else movies.images[row] for row in rows])


def statuses_of(encoded):
    kinds = {(True, True): "text_and_poster", (True, False): "text_only", (False, True): "poster_only"}
    return [kinds[bool(text), bool(image)] for text, image in zip(encoded.has_text, encoded.has_image, strict=True)]


def predict_with_checkpoint(directory, movies):
    """Probabilities, and decisions; decisions at a threshold are masked."""
    card, model = load(str(directory))
    encoded, by_status = model.encoder.encode(movies), calibrations(card, str(directory))
    statuses = statuses_of(encoded)
    logits = predict_logits(model, encoded, torch.device("cpu"), "fp32")
    values = probabilities(logits, np.array([[by_status[status].temperature] for status in statuses]))
    decide = Decisions(by_status, DecisionConfig())
    is_close = np.abs(values - np.stack([decide.cutoffs(status) for status in statuses])) < 1e-4
    return values, np.ma.masked_array(decide(values, statuses), is_close)


def predict_with_onnx(directory, movies, size):
    """Probabilities and decisions, computed in batches of this size."""
    model = load(str(directory))[1]
    encoded, session = model.encoder.encode(movies), OnnxSession(directory / "model.onnx")
    batches = np.split(np.arange(len(movies)), range(size, len(movies), size))
    outputs = [session(onnx_model.graph_inputs(model, encoded.batch(rows))) for rows in batches]
    return tuple(np.concatenate([output[name] for output in outputs]) for name in ("probabilities", "predicted"))


@pytest.mark.parametrize("family", FAMILIES)
def test_onnx_and_checkpoint_agree(exported, trained, movies, family):
    seen = with_missing_inputs(family, movies)
    expected, decisions = predict_with_checkpoint(trained(family), seen)

    # Single movies, batches of different lengths, one batch.
    for size in (1, 5, len(seen)):
        actual, predicted = predict_with_onnx(exported(family), seen, size)
        assert np.abs(actual - expected).max() < 2e-5
        assert (predicted == decisions).all()
    assert np.ptp(expected, axis=0).max() > 0.01
    # The folder is still a checkpoint.
    assert np.array_equal(predict_with_checkpoint(exported(family), seen)[0], expected)


def code_of(directory):
    """The card's Python examples, by heading."""
    card = (directory / "README.md").read_text()
    return dict(re.findall(r"^### With (\w+)\n.*?^```python\n(.*?)^```", card, re.DOTALL | re.MULTILINE))


RUNNER = """
import importlib.machinery, json, sys
blocks, hidden = json.load(sys.stdin)
class Finder(importlib.machinery.PathFinder):
    def find_spec(self, name, *place):
        return None if name.partition(".")[0] in hidden else super().find_spec(name, *place)
index = sys.meta_path.index(importlib.machinery.PathFinder)
sys.meta_path[index:] = [Finder()]
outputs = {}
for name, code in blocks.items():
    variables = {}
    exec(compile(code, name, "exec"), variables)
    scores = variables["probabilities"] if "session" in variables else variables["scores"]
    outputs[name] = [variables.get("texts"), scores.tolist()]
print(json.dumps(outputs))
"""


def run_code(blocks, directory, without=()):
    """Texts and probabilities of each example, all run in one process in this directory; `without` hides packages."""
    (directory / "poster.jpg").write_bytes(poster(0))
    blocks_and_hidden = json.dumps([blocks, list(without)])
    command = [sys.executable, "-c", RUNNER]
    # As if the package were installed.
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, input=blocks_and_hidden, cwd=directory, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.process
def test_onnx_examples_of_the_cards_run_without_mmgenre_and_torch(exported, trained):
    blocks = {family: code_of(exported(family))["onnxruntime"] for family in FAMILIES}
    # The BiLSTM needs mmgenre's lemmas.
    standalone = {family: code for family, code in blocks.items() if "mmgenre" not in code}
    assert set(blocks) - set(standalone) == {"bilstm", "concat_fusion"}

    outputs = run_code(standalone, exported("tfidf").parent, without=("mmgenre", "torch"))

    for family, (texts, actual) in outputs.items():
        image = poster(0) if "poster.jpg" in blocks[family] else None
        images = [image] if texts is None else [image, None]
        seen = Movies([None] * len(images), texts or [None], images)
        assert actual == pytest.approx(predict_with_checkpoint(trained(family), seen)[0], abs=2e-5), family


@pytest.mark.process
def test_other_examples_of_the_cards_run_unchanged(exported, trained):
    families = ("electra", "bilstm", "gated_fusion", "clip")
    blocks = {f"{family} {name}": code for family in families for name, code in code_of(exported(family)).items()}
    blocks = {name: code for name, code in blocks.items() if "onnxruntime" not in name or "bilstm" in name}
    # transformers loads the local folder, not a hub name.
    assert "AutoModel.from_pretrained(folder)" in blocks["electra transformers"]

    outputs = run_code(blocks, exported("electra").parent)

    assert set(outputs) == {*(f"{family} mmgenre" for family in families), "bilstm onnxruntime", "electra transformers"}
    plot = "A retired detective hunts the smugglers who took her brother."
    for name, (_, actual) in outputs.items():
        family = name.partition(" ")[0]
        seen = Movies(
            ["The Lighthouse Debt"],
            [None if family == "clip" else plot],
            [poster(0) if family in ("clip", "gated_fusion") else None],
        )
        expected = predict_with_checkpoint(trained(family), seen)[0]
        assert actual[0] == pytest.approx(expected[0], abs=2e-5), name


def test_a_head_that_transformers_lacks_has_no_example(exported):
    assert "transformers" not in code_of(exported("bert"))
    assert "a graph of genres" in (exported("bert") / "README.md").read_text()


@pytest.fixture(scope="module")
def report(trained, generated_movies, table, write_table, tmp_path_factory):
    """The report of the TF-IDF model on the test movies, and its folder."""
    root, rows = tmp_path_factory.mktemp("report"), [row for row in table.to_pylist() if row["split"] == "test"]
    seen = Movies([row["title"] for row in rows], [row["plot"] for row in rows], [None] * len(rows))
    expected, decisions = predict_with_checkpoint(trained("tfidf"), seen)
    columns = {
        "imdb_id": [row["imdb_id"] for row in rows],
        "status": ["text_only"] * len(rows),
        "probabilities": per_genre(expected),
        "genres": [decode(one) for one in decisions.data],
    }
    tags = write_table(root / "tags", PREDICTIONS, columns)
    places = {"predictions": tags, "movies": generated_movies, "output": str(root / "report")}
    return str(root / "report"), evaluate(EvaluateConfig(**places, resamples=20, global_threshold=0.5))


def test_the_hub_reads_the_card_with_the_scores_of_the_report(trained, report, tmp_path):
    from huggingface_hub import ModelCard

    folder, scored = report
    output = tmp_path / "movies-tfidf"
    config = ExportConfig(checkpoint=trained("tfidf"), output=str(output), report=folder, license="cc-by-nc-4.0")

    description = describe(export(config))

    card = ModelCard.load(output / "README.md")
    assert (card.data.license, card.data.library_name, card.data.pipeline_tag) == (
        "cc-by-nc-4.0",
        "mmgenre",
        "text-classification",
    )
    results = {one.metric_name: one.metric_value for one in card.data.eval_results}
    assert results["Macro F1"] == round(scored.scores.macro.f1, 4)
    assert {one.dataset_split for one in card.data.eval_results} == {"test"}
    # The hub keeps all of the front matter.
    front_matter = yaml.safe_load((output / "README.md").read_text().split("---")[1])
    assert yaml.safe_load(card.data.to_yaml()) == front_matter
    for genre in scored.scores.genres:
        assert results[f"F1 of {genre.genre}"] == round(genre.f1, 4)
        row = next(line for line in card.text.splitlines() if line.startswith(f"| {genre.genre} |") and "[" in line)
        cells = [cell.strip() for cell in row.split("|")[2:-1]]
        figures = [f"{genre.precision:.3f}", f"{genre.recall:.3f}", f"{genre.f1:.3f}"]
        assert [*cells[:2], cells[2].split()[0]] == figures
        assert cells[-2:] == [f"{genre.support:,}", f"{genre.predicted:,}"]
    for text in ("Intended use", "Limits and biases", "developer.imdb.com", "themoviedb.org", f"{scored.movies:,} mov"):
        assert text in card.text
    assert "adds scores per genre" not in description


def test_the_default_licence_is_the_terms_of_the_sources(exported):
    front_matter = yaml.safe_load((exported("electra") / "README.md").read_text().split("---")[1])

    assert (front_matter["license"], front_matter["license_name"]) == ("other", "terms-of-imdb-and-tmdb")


def test_paths_of_the_training_machine_are_not_exported(trained, tmp_path):
    source = trained("electra")
    card, model = checkpoint.load(source)
    settings = card.model.to_settings() | {"pretrained": "/home/ada/secret/minilm", "architecture": None}
    config = TransformerConfig.model_validate(settings)
    checkpoint.save(model, card.model_copy(update={"model": config}), str(tmp_path / "trained"))

    export(ExportConfig(checkpoint=str(tmp_path / "trained"), output=str(tmp_path / "exported"), onnx=False))

    for path in tmp_path.glob("exported/**/*.*"):
        assert b"/home/ada" not in path.read_bytes(), path
    assert '"pretrained": "minilm"' in (tmp_path / "exported/README.md").read_text()
    checkpoint.load(str(tmp_path / "exported"))


def test_a_finished_export_is_kept_and_other_settings_are_refused(exported, trained):
    output = exported("tfidf")
    before = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    config = ExportConfig(checkpoint=trained("tfidf"), output=str(output))

    export(config)

    assert before == {path: path.stat().st_mtime_ns for path in output.iterdir()}
    with pytest.raises(InputError, match=r"onnx: False, not True.*overwrite=true"):
        export(config.model_copy(update={"onnx": False}))
    assert before == {path: path.stat().st_mtime_ns for path in output.iterdir()}


def test_overwriting_removes_all_files_of_the_earlier_export(trained, tmp_path):
    config = ExportConfig(checkpoint=trained("bilstm"), output=str(tmp_path / "it"))
    export(config)
    (tmp_path / "it/notes.txt").write_text("mine")

    manifest = export(ExportConfig(checkpoint=trained("tfidf"), output=config.output, overwrite=True, onnx=False))

    names = {str(path.relative_to(tmp_path / "it")) for path in (tmp_path / "it").glob("**/*") if path.is_file()}
    assert names == {*manifest.files, "_run.json", "notes.txt"}
    assert "model.onnx" not in (tmp_path / "it/README.md").read_text()
    assert "adds scores per genre" in describe(manifest)


def damage(file):
    """Change the bias of one genre, as a faulty exporter might."""
    import onnx

    graph = onnx.load(file)
    bias = next(one for one in graph.graph.initializer if list(one.dims) == [9] and "bias" in one.name)
    values = onnx.numpy_helper.to_array(bias).copy()
    values[4] += 0.02
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    onnx.save(graph, file)


def test_a_wrong_onnx_file_is_detected_and_not_exported(trained, tmp_path, monkeypatch):
    config = ExportConfig(checkpoint=trained("bilstm"), output=str(tmp_path / "it"))
    export(config)
    before = (tmp_path / "it/README.md").read_text()
    write = onnx_model.write
    monkeypatch.setattr(onnx_model, "write", lambda *arguments: (write(*arguments), damage(arguments[-1])))

    with pytest.raises(InputError, match=r"model.onnx: its probabilities differ .* onnx=false"):
        export(config.model_copy(update={"overwrite": True, "name": "another"}))

    assert (tmp_path / "it/README.md").read_text() == before
    card, model = checkpoint.load(config.checkpoint)
    by_status = calibrations(card, config.checkpoint)
    seen = onnx_model.example_movies(model, seed=2)
    compare(tmp_path / "it/model.onnx", model, by_status, seen).require("it")
    damage(tmp_path / "it/model.onnx")
    assert compare(tmp_path / "it/model.onnx", model, by_status, seen).difference > 1e-3


def test_an_architecture_that_torch_cannot_export_is_refused(trained, tmp_path, capfd):
    longformer = transformer("longformer")
    longformer = longformer.model_copy(update={"architecture": longformer.architecture | {"attention_window": 8}})
    config = ExportConfig(checkpoint=trained("longformer", longformer), output=str(tmp_path / "it"))
    capfd.readouterr()

    with pytest.raises(InputError, match=r"^onnx=true: torch cannot export this architecture .*; set onnx=false$"):
        export(config)

    # Torch's own report is suppressed.
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "it").exists()
    assert "model.safetensors" in export(config.model_copy(update={"onnx": False})).files


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": "nowhere"}, "no checkpoint.json found"),
        ({"report": "nowhere"}, "report.json of jobs/evaluate.py"),
        ({"report": __file__.replace(".py", ".json")}, "report.json of jobs/evaluate.py"),
        ({"output": str(ROOT)}, "holds other files"),
    ],
)
def test_a_mistake_is_reported_in_one_line(trained, tmp_path, changes, message):
    config = {"checkpoint": trained("tfidf"), "output": str(tmp_path / "it")} | changes

    with pytest.raises(InputError, match=message) as error:
        export(ExportConfig(**config))

    assert "\n" not in str(error.value)
    assert not (tmp_path / "it").exists()


def test_a_file_that_is_not_a_report_is_refused(trained, tmp_path):
    (tmp_path / "report.json").write_text('{"score": 1}')

    with pytest.raises(InputError, match="not a report of this version"):
        export(ExportConfig(checkpoint=trained("tfidf"), output=str(tmp_path / "it"), report=str(tmp_path)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"weights_sha256": "0" * 64}, "scores of another model"), ({"split": "train"}, "on the model's training split")],
)
def test_a_report_of_another_model_or_of_training_movies_is_refused(trained, report, tmp_path, changes, message):
    _, scored = report
    (tmp_path / "report.json").write_text(scored.model_copy(update=changes).model_dump_json())

    with pytest.raises(InputError, match=message):
        export(ExportConfig(checkpoint=trained("tfidf"), output=str(tmp_path / "it"), report=str(tmp_path)))


@pytest.mark.parametrize("output", ["", "./"])
def test_an_export_does_not_replace_its_checkpoint(trained, output):
    source = Path(trained("tfidf"))

    with pytest.raises(InputError, match="contains the checkpoint itself"):
        export(ExportConfig(checkpoint=str(source), output=str(source / output), overwrite=True))

    checkpoint.load(str(source))


def test_a_missing_extra_is_reported_first(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    with pytest.raises(InputError, match=r"needs onnxruntime: pip install 'mmgenre\[export\]'; or set onnx=false"):
        export(ExportConfig(checkpoint=trained("tfidf"), output=str(tmp_path / "it")))

    assert not (tmp_path / "it").exists()


def test_an_export_is_silent_and_describes_its_difference(trained, tmp_path, capfd):
    capfd.readouterr()

    manifest = export(ExportConfig(checkpoint=trained("tfidf"), output=str(tmp_path / "my model")))

    assert capfd.readouterr() == ("", "")
    assert re.search(r"model.onnx: probabilities differ .* by at most \d\.\de-\d\d \(6 movies", describe(manifest))
    assert 'folder = "my-model"' in (tmp_path / "my model/README.md").read_text()


def test_onnx_and_checkpoint_agree_on_real_movies(data, trained, exported):
    rows = pq.read_table(data / "movies.parquet").slice(0, 400).to_pylist()
    rows = [row for row in rows if row.get("plot") or row.get("overview")][:48]
    images = [path.read_bytes() for path in sorted((data / "posters").glob("*.jpg"))[: len(rows)]]
    plots = [row.get("plot") or row.get("overview") for row in rows]
    seen = with_missing_inputs("gated_fusion", Movies(["A title"] * len(rows), plots, images))
    expected, decisions = predict_with_checkpoint(trained("gated_fusion"), seen)

    actual, predicted = predict_with_onnx(exported("gated_fusion"), seen, 16)

    assert np.abs(actual - expected).max() < 2e-5
    assert (predicted == decisions).all()
