"""The catalogue: built-in blocks, those of other packages, and the page about them."""

import logging
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.conf import settings
from django.core.management import CommandError, call_command
from jsonschema import Draft202012Validator

from flows.blocks import catalogue, get_block, nearest
from flows.blocks.base import Block, Effects
from flows.organism import validate

pytestmark = pytest.mark.once

BUILT_IN = [
    "blox.transform",
    "blox.branch",
    "blox.http",
    "blox.for_each",
    "blox.merge",
    "blox.delay",
    "blox.approval",
    "blox.call_flow",
    "blox.key_value",
    "blox.calculate",
    "blox.llm",
    "blox.agent",
    "blox.email",
    "blox.respond",
    "blox.log",
    "blox.fail",
    "blox.output",
]

MODULE = """
from flows.blocks.base import Block, BlockConfig


class Config(BlockConfig):
    greeting: str = "hello"


class Base(Block):
    title = description = "Greets"
    category = "data"
    Config = Config
    example = "- {name: greet, handler: acme.greet}"

    async def run(self, ctx, config, payload):
        return f"{config.greeting} {payload}"


class Greet(Base):
    name = "acme.greet"


class Again(Base):
    name = "acme.greet"


class Impostor(Base):
    name = "blox.http"


class Squatter(Base):
    name = "blox.greet"


class Unprefixed(Base):
    name = "greet"


class Nameless(Base):
    pass


class Untitled(Base):
    name = "acme.untitled"
    title = None


class Unconfigured(Base):
    name = "acme.unconfigured"
    Config = dict


class Abstract(Block):
    name = "acme.abstract"


NOT_A_CLASS = Greet()


def explode():
    raise SystemError("at import")
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Installs a real distribution with these entry points, for one test."""
    number = iter(range(100))

    def run(**entry_points: str) -> None:
        package = f"acme_blocks_{next(number)}_{tmp_path.name.replace('-', '_')}"
        (tmp_path / f"{package}.py").write_text(MODULE)
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = {value.format(module=package)}" for name, value in entry_points.items()]
        (info / "entry_points.txt").write_text("[bloxserver.blocks]\n" + "\n".join(lines) + "\n")
        catalogue.cache_clear()

    monkeypatch.syspath_prepend(tmp_path)
    yield run
    monkeypatch.undo()
    catalogue.cache_clear()


def test_the_catalogue_holds_the_built_in_blocks_under_their_names() -> None:
    assert [name for name in catalogue() if name.startswith("blox.")] == BUILT_IN
    assert all(block.name == name for name, block in catalogue().items())


def test_a_block_of_another_package_joins_the_catalogue(install: Any) -> None:
    install(greet="{module}:Greet")
    block = get_block("acme.greet")
    assert isinstance(block, Block)
    assert block.effects({}) is Effects.NONE
    assert list(catalogue()) == [*BUILT_IN, "acme.greet"]


@pytest.mark.parametrize(
    ("entry_point", "reason"),
    [
        ("{module}:Impostor", "needs a prefix of its own"),
        ("{module}:Squatter", "needs a prefix of its own"),
        ("{module}:Unprefixed", "needs a prefix of its own"),
        ("{module}:Nameless", "name"),
        ("{module}:Untitled", "has no title"),
        ("{module}:Unconfigured", "Config"),
        ("{module}:Abstract", "abstract"),
        ("{module}:NOT_A_CLASS", "not a subclass"),
        ("{module}:missing", "missing"),
        ("no_such_module_anywhere:Block", "no_such_module_anywhere"),
        ("{module}:explode", "not a subclass"),
    ],
)
def test_a_block_that_is_not_fit_is_left_out_and_logged(
    install: Any, entry_point: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    install(bad=entry_point, good="{module}:Greet")
    with caplog.at_level(logging.ERROR):
        assert list(catalogue()) == [*BUILT_IN, "acme.greet"]
    assert type(catalogue()["blox.http"]).__module__ == "flows.blocks.http"
    [record] = [record for record in caplog.records if record.name == "flows.blocks.registry"]
    assert record.getMessage().startswith("The block bad (")
    assert record.exc_info and reason in str(record.exc_info[1])


def test_of_two_blocks_with_one_name_the_first_stays(install: Any, caplog: pytest.LogCaptureFixture) -> None:
    install(one="{module}:Greet", two="{module}:Again")
    with caplog.at_level(logging.ERROR):
        assert type(catalogue()["acme.greet"]).__name__ == "Again"
    [record] = caplog.records
    assert record.exc_info and "there is a block acme.greet already" in str(record.exc_info[1])


@pytest.mark.parametrize(
    ("handler", "name"),
    [
        ("http", "blox.http"),
        ("blox.htp", "blox.http"),
        ("HTTP", "blox.http"),
        ("foreach", "blox.for_each"),
        ("n8n.branches", "blox.branch"),
        ("blox.keyvalue", "blox.key_value"),
        ("xml_pipeline.tools.shell.run", None),
        ("", None),
    ],
)
def test_the_nearest_block_is_the_one_that_was_meant(handler: str, name: str | None) -> None:
    assert nearest(handler) == name


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_block_can_be_shown(name: str) -> None:
    block = catalogue()[name]
    schema = block.Config.model_json_schema(by_alias=True)
    Draft202012Validator.check_schema(schema)
    Draft202012Validator.check_schema(block.input_schema)
    assert schema["additionalProperties"] is False
    assert all("description" in field for field in schema["properties"].values()), "every option says what it is"
    [listener] = yaml.safe_load(block.example)
    assert listener["handler"] == name
    on_listener = {key: listener[key] for key in block.listener_keys if key in listener}
    Draft202012Validator(schema).validate({**listener.get("config", {}), **on_listener})


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_example_of_a_block_is_a_valid_listener(name: str) -> None:
    example = catalogue()[name].example
    [listener] = yaml.safe_load(example)
    peers = [*listener.get("peers", []), *listener.get("next", [])]
    others = "".join(f"- {{name: {peer}, handler: blox.output}}\n" for peer in peers)
    validation = validate(f"organism: {{name: example}}\nlisteners:\n{example}{others}")
    assert (validation.errors, validation.warnings) == ([], [])


def test_the_page_about_blocks_is_current() -> None:
    out = StringIO()
    call_command("block_docs", stdout=out)
    assert (settings.BASE_DIR / "docs" / "blocks.md").read_text() == out.getvalue()
    call_command("block_docs", check=True)


def test_a_page_about_blocks_that_is_not_current_fails_the_check(install: Any, tmp_path: Path) -> None:
    page = tmp_path / "blocks.md"
    page.write_text("old")
    with pytest.raises(CommandError, match=r"manage\.py block_docs --write"):
        call_command("block_docs", check=True, path=str(page))
    call_command("block_docs", write=True, path=str(page))
    call_command("block_docs", check=True, path=str(page))
