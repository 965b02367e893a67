"""The BiLSTM: its words, word vectors and logits."""

import gzip

import numpy as np
import pytest
import torch

from mmgenre.errors import InputError
from mmgenre.models.bilstm import BilstmConfig
from mmgenre.models.inference import predict_logits
from mmgenre.models.movies import Movies
from mmgenre.models.words import WordEncoder, build_vocabulary, content_lemmas, word_vectors

PLOTS = ["Two ghosts haunt the old house.", "A ghost kisses a robot.", "Robots, robots and the robots' revenge!"]
VECTORS = "ghost 1 2 3\nrobot 4 5 6\nthe 7 8 9\n"


@pytest.fixture
def glove(tmp_path):
    def write(text=VECTORS, name="glove.txt"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return str(path)

    return write


def logits_of(model, plots):
    return predict_logits(model, model.encoder.encode(Movies.of_plots(plots)), torch.device("cpu"), "fp32")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The Detectives were RUNNING from 3 wolves!", ["detective", "run", "3", "wolf"]),
        ("Amélie's café—naïve?", ["amelie", "cafe", "naive"]),
        ("the of and", []),
        ("電影 🎬 \0", []),
    ],
)
def test_a_plot_is_read_as_the_lemmas_of_its_content_words(text, words):
    assert content_lemmas(text) == words


def test_the_vocabulary_holds_the_most_frequent_words_in_a_fixed_order():
    assert build_vocabulary(PLOTS, 4) == ["robot", "ghost", "haunt", "house"]


def test_words_become_ids_up_to_max_length_and_unknown_words_share_one_id():
    encoder = WordEncoder(["robot", "ghost"], max_length=3, title=True)
    movies = Movies(["Ghost", None, "Robot", "x"], ["robots love ghosts", "ghost", "", "ghost " * 9], [None] * 4)

    encoded = encoder.encode(movies)

    assert encoded.has_text.tolist() == [True, True, False, True]
    assert encoded.lengths.tolist() == [3, 1, 0, 3]
    assert encoded.batch(np.arange(3))["input_ids"].tolist() == [[3, 2, 1], [3, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("name", ["glove.txt", "glove.txt.gz"])
def test_vectors_are_read_from_the_file_and_random_for_other_words(glove, name):
    vectors = word_vectors(glove(f"3 3\n{VECTORS}", name), ["robot", "zebra", "ghost"])

    assert vectors.shape == (5, 3)
    assert vectors[[2, 4]].tolist() == [[4, 5, 6], [1, 2, 3]]
    assert vectors[0].tolist() == [0, 0, 0]
    assert np.ptp(vectors[3]) > 0


def test_a_word_may_contain_spaces(glove):
    assert word_vectors(glove(f"{VECTORS}. . . 1 2 3\n"), [". . .", "robot"])[2].tolist() == [1, 2, 3]


@pytest.mark.parametrize("line", ["robot 4 5", "robot 4 5 six", "robot 4 5 6 7", "robot 4 5 nan", "", "robot"])
def test_a_malformed_line_is_reported_with_its_number(glove, line):
    with pytest.raises(InputError, match=r"glove\.txt, line 2: found '.*'…; expected a word and 3 numbers"):
        word_vectors(glove(f"ghost 1 2 3\n{line}\n"), ["ghost", "robot"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("glove.txt", "zebra 1 2 3\n", "contains none of the 1 words of the plots"),
        ("glove.txt", "", "contains none of the 1 words of the plots"),
    ],
)
def test_a_file_without_any_word_of_the_plots_is_rejected(glove, name, text, message):
    with pytest.raises(InputError, match=message):
        word_vectors(glove(text, name), ["robot"])


def test_an_unreadable_file_is_rejected(tmp_path):
    cut = tmp_path / "cut.gz"
    cut.write_bytes(gzip.compress(VECTORS.encode() * 99)[:40])

    for file in (cut, tmp_path / "nowhere.txt"):
        with pytest.raises(InputError, match=r"model\.vectors: cannot read .*expected GloVe's text format"):
            word_vectors(str(file), ["robot"])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return BilstmConfig(vector_size=8, hidden=5).build(Movies.of_plots(PLOTS)).eval()


def test_logits_do_not_depend_on_padding_or_order(model):
    plots = ["ghost", *PLOTS, "", "zebra unheard of"]

    together = logits_of(model, plots)

    assert together.shape == (6, 9)
    assert np.isfinite(together).all()
    for row, plot in enumerate(plots):
        assert together[row] == pytest.approx(logits_of(model, [plot])[0], abs=1e-5)
    assert np.ptp(together, axis=0).max() > 1e-3


def test_the_order_of_words_matters(model):
    assert logits_of(model, ["ghost haunt robot"]) != pytest.approx(logits_of(model, ["robot haunt ghost"]), abs=1e-4)
    assert model.feature_dim == 10


def test_a_restored_model_gives_the_same_logits(model, tmp_path):
    model.save_assets(tmp_path)
    restored = BilstmConfig(vector_size=8, hidden=5).restore(tmp_path).eval()
    restored.load_state_dict(model.state_dict())

    assert (logits_of(restored, PLOTS) == logits_of(model, PLOTS)).all()


@pytest.mark.parametrize("frozen", [True, False])
def test_vectors_from_a_file_are_trained_or_frozen(glove, frozen):
    model = BilstmConfig(vectors=glove(), frozen_vectors=frozen, hidden=4).build(Movies.of_plots(PLOTS)).train()

    model(model.encoder.encode(Movies.of_plots(PLOTS)).batch(np.arange(3))).square().sum().backward()

    assert (model.vectors.weight.grad is None) == frozen
    assert all(value.grad is not None for name, value in model.named_parameters() if name != "vectors.weight")
    assert model.vectors.weight[2].tolist() == [4, 5, 6]
