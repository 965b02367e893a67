"""A checkpoint as a folder for a model hub: what the card says, what other libraries make of it."""

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
from mmgenre.export.parity import Session, parity
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

ROOT = Path(__file__).parent.parent
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
    """Smooth and noisy, as posters are."""
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
    # More threads than one would mostly wait for each other.
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
        # As if it had learned: heads begin small, and what joins towers silent.
        for value in model.head.parameters():
            value.normal_(std=0.2)
        # With the averages of no image at all, random weights make every image the same.
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = None
        model.train()(model.encoder.encode(movies).batch(np.arange(len(movies))))
    return model.eval()


@pytest.fixture(scope="module")
def trained(movies, tmp_path_factory):
    """Folders of checkpoints, by family."""
    root, made = tmp_path_factory.mktemp("checkpoints"), {}

    def of(family, config=None):
        if family not in made:
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
            made[family] = str(root / family)
            checkpoint.save(build(config, movies), card, made[family])
        return made[family]

    return of


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """Exported folders, by family; the name of each is its family's."""
    root = tmp_path_factory.mktemp("exported")

    @functools.cache
    def of(family):
        export(ExportConfig(checkpoint=trained(family), output=str(root / family)))
        return root / family

    return of


def of_each_kind(family, movies):
    """Of a fusion's movies, some have a plot or a poster alone."""
    if family not in FUSIONS:
        return movies
    rows = range(len(movies))
    plots = [None if row % 4 == 1 else movies.plots[row] for row in rows]
    return Movies(movies.titles, plots, [None if row % 4 == 2 else movies.images[row] for row in rows])


def statuses_of(encoded):
    kinds = {(True, True): "text_and_poster", (True, False): "text_only", (False, True): "poster_only"}
    return [kinds[bool(text), bool(image)] for text, image in zip(encoded.has_text, encoded.has_image, strict=True)]


def said_by_the_checkpoint(directory, movies):
    """Probabilities, and decisions where the probability is not at its threshold."""
    card, model = load(str(directory))
    encoded, found = model.encoder.encode(movies), calibrations(card, str(directory))
    statuses = statuses_of(encoded)
    logits = predict_logits(model, encoded, torch.device("cpu"), "fp32")
    chances = probabilities(logits, np.array([[found[status].temperature] for status in statuses]))
    decide = Decisions(found, DecisionConfig())
    is_close = np.abs(chances - np.stack([decide.cutoffs(status) for status in statuses])) < 1e-4
    return chances, np.ma.masked_array(decide(chances, statuses), is_close)


def said_by_onnx(directory, movies, size):
    model = load(str(directory))[1]
    encoded, session = model.encoder.encode(movies), Session(directory / "model.onnx")
    batches = np.split(np.arange(len(movies)), range(size, len(movies), size))
    said = [session(onnx_model.inputs(model, encoded.batch(rows))) for rows in batches]
    return tuple(np.concatenate([one[name] for one in said]) for name in ("probabilities", "predicted"))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_file_says_what_the_checkpoint_says(exported, trained, movies, family):
    seen = of_each_kind(family, movies)
    chances, given = said_by_the_checkpoint(trained(family), seen)

    # One movie, several of different lengths, all at once.
    for size in (1, 5, len(seen)):
        found, predicted = said_by_onnx(exported(family), seen, size)
        assert np.abs(found - chances).max() < 2e-5
        assert (predicted == given).all()
    assert np.ptp(chances, axis=0).max() > 0.01
    # The folder is a checkpoint still.
    assert np.array_equal(said_by_the_checkpoint(exported(family), seen)[0], chances)


def code_of(directory):
    """The card's Python examples, by their headings."""
    card = (directory / "README.md").read_text()
    return dict(re.findall(r"^### With (\w+)\n.*?^```python\n(.*?)^```", card, re.DOTALL | re.MULTILINE))


RUNNER = """
import importlib.machinery, json, sys
blocks, lacking = json.load(sys.stdin)
class Rest(importlib.machinery.PathFinder):
    def find_spec(self, name, *place):
        return None if name.partition(".")[0] in lacking else super().find_spec(name, *place)
usual = sys.meta_path.index(importlib.machinery.PathFinder)
sys.meta_path[usual:] = [Rest()]
said = {}
for name, code in blocks.items():
    known = {}
    exec(compile(code, name, "exec"), known)
    chances = known["probabilities"] if "probabilities" in known and "session" in known else known["chances"]
    said[name] = [known.get("texts"), chances.tolist()]
print(json.dumps(said))
"""


def run_code(blocks, directory, without=()):
    """What the examples compute, run as they stand in one process, in the folder above; some packages are not there."""
    (directory / "poster.jpg").write_bytes(poster(0))
    given = json.dumps([blocks, list(without)])
    command = [sys.executable, "-c", RUNNER]
    # As with the package installed.
    known = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, input=given, cwd=directory, env=known, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_cards_onnx_code_runs_without_mmgenre_and_torch(exported, trained):
    blocks = {family: code_of(exported(family))["onnxruntime"] for family in FAMILIES}
    # Lemmas are mmgenre's.
    alone = {family: code for family, code in blocks.items() if "mmgenre" not in code}
    assert set(blocks) - set(alone) == {"bilstm", "concat_fusion"}

    said = run_code(alone, exported("tfidf").parent, without=("mmgenre", "torch"))

    for family, (texts, found) in said.items():
        image = poster(0) if "poster.jpg" in blocks[family] else None
        images = [image] if texts is None else [image, None]
        seen = Movies([None] * len(images), texts or [None], images)
        assert found == pytest.approx(said_by_the_checkpoint(trained(family), seen)[0], abs=2e-5), family


def test_the_cards_other_code_runs_as_it_stands(exported, trained):
    families = ("electra", "bilstm", "gated_fusion", "clip")
    blocks = {f"{family} {name}": code for family in families for name, code in code_of(exported(family)).items()}
    blocks = {name: code for name, code in blocks.items() if "onnxruntime" not in name or "bilstm" in name}
    # By hub, transformers would not find the folder: it loads from it.
    assert "AutoModel.from_pretrained(folder)" in blocks["electra transformers"]

    said = run_code(blocks, exported("electra").parent)

    assert set(said) == {*(f"{family} mmgenre" for family in families), "bilstm onnxruntime", "electra transformers"}
    plot = "A retired detective hunts the smugglers who took her brother."
    for name, (_, found) in said.items():
        family = name.partition(" ")[0]
        seen = Movies(
            ["The Lighthouse Debt"],
            [None if family == "clip" else plot],
            [poster(0) if family in ("clip", "gated_fusion") else None],
        )
        wanted = said_by_the_checkpoint(trained(family), seen)[0]
        assert found[0] == pytest.approx(wanted[0], abs=2e-5), name


def test_a_head_that_transformers_lacks_has_no_code_for_it(exported):
    assert "transformers" not in code_of(exported("bert"))
    assert "a graph of the genres" in (exported("bert") / "README.md").read_text()


@pytest.fixture(scope="module")
def report(trained, generated_movies, table, write_table, tmp_path_factory):
    """Of the TF-IDF model on the test movies."""
    root, rows = tmp_path_factory.mktemp("report"), [row for row in table.to_pylist() if row["split"] == "test"]
    seen = Movies([row["title"] for row in rows], [row["plot"] for row in rows], [None] * len(rows))
    chances, given = said_by_the_checkpoint(trained("tfidf"), seen)
    columns = {
        "imdb_id": [row["imdb_id"] for row in rows],
        "status": ["text_only"] * len(rows),
        "probabilities": per_genre(chances),
        "genres": [decode(one) for one in given.data],
    }
    tags = write_table(root / "tags", PREDICTIONS, columns)
    places = {"predictions": tags, "movies": generated_movies, "output": str(root / "report")}
    return str(root / "report"), evaluate(EvaluateConfig(**places, resamples=20, global_threshold=0.5))


def test_the_card_is_one_of_hugging_faces_and_has_the_reports_scores(trained, report, tmp_path):
    from huggingface_hub import ModelCard

    folder, judged = report
    output = tmp_path / "movies-tfidf"
    config = ExportConfig(checkpoint=trained("tfidf"), output=str(output), report=folder, license="cc-by-nc-4.0")

    said = describe(export(config))

    card = ModelCard.load(output / "README.md")
    assert (card.data.license, card.data.library_name, card.data.pipeline_tag) == (
        "cc-by-nc-4.0",
        "mmgenre",
        "text-classification",
    )
    results = {one.metric_name: one.metric_value for one in card.data.eval_results}
    assert results["Macro F1"] == round(judged.scores.macro.f1, 4)
    assert {one.dataset_split for one in card.data.eval_results} == {"test"}
    # Written again, it is the same front matter: nothing in it is lost on the hub's way.
    front_matter = yaml.safe_load((output / "README.md").read_text().split("---")[1])
    assert yaml.safe_load(card.data.to_yaml()) == front_matter
    for genre in judged.scores.genres:
        assert results[f"F1 of {genre.genre}"] == round(genre.f1, 4)
        row = next(line for line in card.text.splitlines() if line.startswith(f"| {genre.genre} |") and "[" in line)
        cells = [cell.strip() for cell in row.split("|")[2:-1]]
        figures = [f"{genre.precision:.3f}", f"{genre.recall:.3f}", f"{genre.f1:.3f}"]
        assert [*cells[:2], cells[2].split()[0]] == figures
        assert cells[-2:] == [f"{genre.support:,}", f"{genre.predicted:,}"]
    for told in ("Intended use", "Limits and biases", "developer.imdb.com", "themoviedb.org", f"{judged.movies:,} mov"):
        assert told in card.text
    assert "adds scores by genre" not in said


def test_no_license_is_claimed_that_the_sources_do_not_give(exported):
    front_matter = yaml.safe_load((exported("electra") / "README.md").read_text().split("---")[1])

    assert (front_matter["license"], front_matter["license_name"]) == ("other", "terms-of-imdb-and-tmdb")


def test_folders_of_the_machine_that_trained_stay_there(trained, tmp_path):
    source = trained("electra")
    card, model = checkpoint.load(source)
    settings = card.model.to_settings() | {"pretrained": "/home/ada/secret/minilm", "architecture": None}
    config = TransformerConfig.model_validate(settings)
    checkpoint.save(model, card.model_copy(update={"model": config}), str(tmp_path / "trained"))

    export(ExportConfig(checkpoint=str(tmp_path / "trained"), output=str(tmp_path / "given"), onnx=False))

    for path in tmp_path.glob("given/**/*.*"):
        assert b"/home/ada" not in path.read_bytes(), path
    assert '"pretrained": "minilm"' in (tmp_path / "given/README.md").read_text()
    checkpoint.load(str(tmp_path / "given"))


def test_a_second_run_finds_it_complete_and_another_is_refused(exported, trained):
    output = exported("tfidf")
    before = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    config = ExportConfig(checkpoint=trained("tfidf"), output=str(output))

    export(config)

    assert before == {path: path.stat().st_mtime_ns for path in output.iterdir()}
    with pytest.raises(InputError, match=r"onnx: False, not True.*overwrite=true"):
        export(config.model_copy(update={"onnx": False}))
    assert before == {path: path.stat().st_mtime_ns for path in output.iterdir()}


def test_what_is_replaced_goes_away_whole(trained, tmp_path):
    config = ExportConfig(checkpoint=trained("bilstm"), output=str(tmp_path / "it"))
    export(config)
    (tmp_path / "it/notes.txt").write_text("mine")

    manifest = export(ExportConfig(checkpoint=trained("tfidf"), output=config.output, overwrite=True, onnx=False))

    names = {str(path.relative_to(tmp_path / "it")) for path in (tmp_path / "it").glob("**/*") if path.is_file()}
    assert names == {*manifest.files, "_run.json", "notes.txt"}
    assert "model.onnx" not in (tmp_path / "it/README.md").read_text()
    assert "adds scores by genre" in describe(manifest)


def damage(file):
    """Another bias of one genre, such as a faulty exporter might leave."""
    import onnx

    graph = onnx.load(file)
    bias = next(one for one in graph.graph.initializer if list(one.dims) == [9] and "bias" in one.name)
    values = onnx.numpy_helper.to_array(bias).copy()
    values[4] += 0.02
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    onnx.save(graph, file)


def test_a_file_that_says_something_else_is_found_and_never_given_away(trained, tmp_path, monkeypatch):
    config = ExportConfig(checkpoint=trained("bilstm"), output=str(tmp_path / "it"))
    export(config)
    before = (tmp_path / "it/README.md").read_text()
    write = onnx_model.write
    monkeypatch.setattr(onnx_model, "write", lambda *given: (write(*given), damage(given[-1])))

    with pytest.raises(InputError, match=r"model.onnx: its probabilities differ .* onnx=false"):
        export(config.model_copy(update={"overwrite": True, "name": "another"}))

    assert (tmp_path / "it/README.md").read_text() == before
    card, model = checkpoint.load(config.checkpoint)
    found = calibrations(card, config.checkpoint)
    seen = onnx_model.example_movies(model, seed=2)
    parity(tmp_path / "it/model.onnx", model, found, seen).require("it")
    damage(tmp_path / "it/model.onnx")
    assert parity(tmp_path / "it/model.onnx", model, found, seen).difference > 1e-3


def test_an_architecture_that_torch_cannot_export_is_one_line(trained, tmp_path, capfd):
    longformer = transformer("longformer")
    longformer = longformer.model_copy(update={"architecture": longformer.architecture | {"attention_window": 8}})
    config = ExportConfig(checkpoint=trained("longformer", longformer), output=str(tmp_path / "it"))
    capfd.readouterr()

    with pytest.raises(InputError, match=r"^onnx=true: torch cannot export this architecture .*; give onnx=false$"):
        export(config)

    # Torch has pages to say about it.
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "it").exists()
    assert "model.safetensors" in export(config.model_copy(update={"onnx": False})).files


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"checkpoint": "nowhere"}, "no checkpoint.json there"),
        ({"report": "nowhere"}, "report.json of jobs/evaluate.py"),
        ({"report": __file__.replace(".py", ".json")}, "report.json of jobs/evaluate.py"),
        ({"output": str(ROOT)}, "holds other files"),
    ],
)
def test_a_mistake_is_one_line(trained, tmp_path, changes, said):
    config = {"checkpoint": trained("tfidf"), "output": str(tmp_path / "it")} | changes

    with pytest.raises(InputError, match=said) as error:
        export(ExportConfig(**config))

    assert "\n" not in str(error.value)
    assert not (tmp_path / "it").exists()


def test_a_report_of_something_else_is_refused(trained, tmp_path):
    (tmp_path / "report.json").write_text('{"score": 1}')

    with pytest.raises(InputError, match="not a report of this version"):
        export(ExportConfig(checkpoint=trained("tfidf"), output=str(tmp_path / "it"), report=str(tmp_path)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"weights_sha256": "0" * 64}, "scores of another model"), ({"split": "train"}, "that the model learned from")],
)
def test_a_report_that_says_nothing_of_this_model_is_refused(trained, report, tmp_path, changes, said):
    _, judged = report
    (tmp_path / "report.json").write_text(judged.model_copy(update=changes).model_dump_json())

    with pytest.raises(InputError, match=said):
        export(ExportConfig(checkpoint=trained("tfidf"), output=str(tmp_path / "it"), report=str(tmp_path)))


@pytest.mark.parametrize("output", ["", "./"])
def test_the_checkpoint_is_never_replaced_by_its_export(trained, output):
    source = Path(trained("tfidf"))

    with pytest.raises(InputError, match="holds the checkpoint itself"):
        export(ExportConfig(checkpoint=str(source), output=str(source / output), overwrite=True))

    checkpoint.load(str(source))


def test_a_missing_extra_is_named_before_anything_is_done(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    with pytest.raises(InputError, match=r"needs onnxruntime: pip install 'mmgenre\[export\]'; or give onnx=false"):
        export(ExportConfig(checkpoint=trained("tfidf"), output=str(tmp_path / "it")))

    assert not (tmp_path / "it").exists()


def test_the_job_says_how_far_the_file_is_from_the_checkpoint(trained, tmp_path):
    job = [sys.executable, ROOT / "jobs/export.py", ROOT / "configs/export/default.yaml"]
    places = [f"checkpoint={trained('tfidf')}", f"output={tmp_path / 'my model'}"]

    done = subprocess.run([*job, *places], capture_output=True, text=True, check=True)

    assert re.search(r"model.onnx: probabilities differ .* by \d\.\de-\d\d at the most \(6 inputs", done.stdout)
    assert done.stderr == ""
    assert 'folder = "my-model"' in (tmp_path / "my model/README.md").read_text()


def test_real_movies_have_the_same_genres_by_either(data, trained, exported):
    rows = pq.read_table(data / "movies.parquet").slice(0, 400).to_pylist()
    rows = [row for row in rows if row.get("plot") or row.get("overview")][:48]
    images = [path.read_bytes() for path in sorted((data / "posters").glob("*.jpg"))[: len(rows)]]
    plots = [row.get("plot") or row.get("overview") for row in rows]
    seen = of_each_kind("gated_fusion", Movies(["A title"] * len(rows), plots, images))
    chances, given = said_by_the_checkpoint(trained("gated_fusion"), seen)

    found, predicted = said_by_onnx(exported("gated_fusion"), seen, 16)

    assert np.abs(found - chances).max() < 2e-5
    assert (predicted == given).all()
