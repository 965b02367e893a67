"""Configs say all that is wrong with them at once, in words for the person who wrote them."""

from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from mmgenre.config import Config, parse_args
from mmgenre.errors import InputError


class Cat(Config):
    kind: Literal["cat"] = "cat"
    lives: int = Field(9, ge=1)


class Dog(Config):
    kind: Literal["dog"] = "dog"
    tricks: tuple[str, ...] = ()
    weight_kg: float = Field(10, gt=0)


class Home(Config):
    """Where pets live."""

    size: Literal["small", "large"] = "small"
    pet: Annotated[Cat | Dog, Field(discriminator="kind")] = Cat()


class Settings(Config):
    """A street of homes."""

    output: str
    rate: float = 1.0
    years: tuple[int, ...] = ()
    limit: int | None = 7
    home: Home = Home()
    others: dict[str, Home] = Field(default_factory=dict)


class Years(Config):
    first: int
    last: int

    @model_validator(mode="after")
    def _check(self):
        if self.first > self.last:
            raise ValueError("first is after last; swap them")
        return self


@pytest.fixture
def load(tmp_path):
    def load_text(text, *overrides, config_type=Settings):
        path = tmp_path / "settings.yaml"
        path.write_text(text)
        return config_type.load(path, overrides)

    return load_text


def complaint(load, text, *overrides, config_type=Settings):
    with pytest.raises(InputError) as error:
        load(text, *overrides, config_type=config_type)
    return str(error.value)


def test_every_wrong_field_is_reported_at_once_with_its_path(load):
    text = """
        rate: fast
        home: {size: huge, pet: {kind: dog, weight_kg: 0}}
        others: {left: {pet: {kind: cat, lives: many}}}
    """

    first, *lines = complaint(load, text).splitlines()

    assert first.endswith("settings.yaml: 5 fields are wrong")
    assert {line.split(":")[0].strip() for line in lines} == {
        "output",
        "rate",
        "home.size",
        "home.pet.weight_kg",
        "others.left.pet.lives",
    }


def test_a_wrong_value_is_shown_with_the_choices(load):
    message = complaint(load, "output: o\nhome: {size: huge}")

    assert "home.size: Input should be 'small' or 'large', found 'huge'" in message
    assert message.count("\n") == 0


def test_a_wrong_number_is_shown_with_its_limit(load):
    message = complaint(load, "output: o\nhome: {pet: {kind: dog, weight_kg: -2}}")

    assert "home.pet.weight_kg: Input should be greater than 0, found -2" in message


def test_a_wrong_kind_is_named_where_a_person_would_type_it(load):
    message = complaint(load, "output: o\nhome: {pet: {kind: fish}}")

    assert "home.pet.kind: 'fish' is not one of 'cat', 'dog'" in message


def test_a_choice_without_its_kind_asks_for_it(load):
    message = complaint(load, "output: o", "home.pet.lives=3")

    assert message.endswith("home.pet.kind: missing; set home.pet.kind to one of 'cat', 'dog'")


def test_an_unknown_field_suggests_the_one_that_was_meant(load):
    message = complaint(load, "output: o\nhome: {pet: {kind: dog, trick: [sit]}}")

    assert "home.pet.trick: unknown field; did you mean tricks? known fields: kind, tricks, weight_kg" in message


def test_an_unknown_field_like_no_other_lists_those_there_are(load):
    message = complaint(load, "output: o\nxyz: 1")

    assert "xyz: unknown field; known fields: home, limit, others, output, rate, years" in message


def test_a_missing_field_says_how_to_give_it(load):
    assert "output: missing; set output=VALUE or add it to the file" in complaint(load, "rate: 2")


def test_a_rule_about_several_fields_speaks_for_itself(load):
    message = complaint(load, "first: 3\nlast: 2", config_type=Years)

    assert message.endswith("settings.yaml: first is after last; swap them")


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("output=123", "123"),
        ("output=1e-5", "1e-5"),
        ("output=a=b", "a=b"),
        ("output={x", "{x"),
        ("rate=1e-5", 1e-5),
        ("rate=3", 3.0),
        ("years=[1990, 2000]", (1990, 2000)),
        ("limit=null", None),
        ("home.size=large", "large"),
        ("home.pet.tricks=[beg]", ("beg",)),
        ("home.pet={kind: dog, tricks: [sit]}", Dog(tricks=("sit",))),
        ("others.left.size=large", "large"),
    ],
)
def test_an_override_replaces_one_field(load, override, value):
    found = load("output: o\nhome: {pet: {kind: dog}}", override)

    for name in override.partition("=")[0].split("."):
        found = found[name] if isinstance(found, dict) else getattr(found, name)

    assert found == value


def test_an_override_to_nothing_is_no_text(load):
    assert "output: Input should be a valid string, found None" in complaint(load, "output: o", "output=")


def test_overrides_keep_what_stands_beside_them_and_the_last_one_wins(load):
    text = "output: o\nhome: {size: large, pet: {kind: dog, tricks: [sit]}}"

    found = load(text, "home.pet.weight_kg=5", "home.pet.weight_kg=6")

    assert found.home == Home(size="large", pet=Dog(tricks=("sit",), weight_kg=6))


def test_an_override_can_fill_an_empty_file(load):
    assert load("# nothing\n", "output=o").output == "o"


@pytest.mark.parametrize("override", ["output", "=o", ""])
def test_an_override_without_key_and_value_is_refused(load, override):
    assert "expected dotted.key=value" in complaint(load, "output: o", override)


def test_nothing_is_set_below_a_plain_value(load):
    assert "'output.name=1': output is a plain value without fields" in complaint(load, "output: o", "output.name=1")
    assert "home.size is a plain value without fields" in complaint(load, "home: {size: small}", "home.size.x.y=1")


def test_a_missing_file_names_its_neighbours(load, tmp_path):
    load("output: o")

    with pytest.raises(InputError) as error:
        Settings.load(tmp_path / "setings.yaml")

    expected = f"No such file or directory); expected a YAML config; in that folder: {tmp_path}/settings.yaml"
    assert str(error.value) == f"{tmp_path}/setings.yaml: cannot be read ({expected}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not a YAML file"),
        ("a:\n\t- 1", "not a YAML file"),
        ("- 1\n- 2", "contains a list"),
        ("plain", "a str"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused_in_one_line(load, text, message):
    found = complaint(load, text)

    assert message in found
    assert "\n" not in found


def test_a_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "settings.yaml").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(InputError, match="not a YAML file"):
        Settings.load(tmp_path / "settings.yaml")


def test_a_config_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Home().size = "large"


def test_settings_are_json_values_without_those_left_out():
    settings = Settings(output="o", years=(1990,)).to_settings(without=("output", "others"))

    assert settings == {
        "rate": 1.0,
        "years": [1990],
        "limit": 7,
        "home": {"size": "small", "pet": {"kind": "cat", "lives": 9}},
    }


def test_the_command_line_is_a_file_and_overrides(tmp_path):
    (tmp_path / "settings.yaml").write_text("rate: 2")

    found = parse_args([Settings], [str(tmp_path / "settings.yaml"), "output=o", "home.size=large"])

    assert (found.rate, found.output, found.home.size) == (2.0, "o", "large")


def test_help_names_the_fields_and_which_are_required(capsys):
    with pytest.raises(SystemExit):
        parse_args([Settings], ["--help"])

    printed = " ".join(capsys.readouterr().out.split())
    assert "A street of homes." in printed
    assert "fields: output (required), rate, years, limit, home, others" in printed
