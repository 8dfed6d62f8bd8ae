"""The schemas that ship with the package are those of the classes that read a bundle."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from benchmarks.pages.schemas import FILES, FOLDER, PAGE, descriptions, page_text, schema_text


@pytest.mark.parametrize("name", FILES)
def test_the_schemas_are_current(name: str) -> None:
    again = "run: python -m benchmarks.pages.schemas"
    assert (FOLDER / f"{name}.schema.json").read_text(encoding="utf-8") == schema_text(name), again


def test_the_page_on_the_format_is_current() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == page_text(), "run: python -m benchmarks.pages.schemas"
    assert text.count("| `normalized_limit` |") == 2, "in the tolerance of an artifact, and in the parity of a run"


def test_a_field_without_a_description_is_refused() -> None:
    @dataclass(frozen=True)
    class OneRecord:
        """One field is said, one is not.

        Attributes:
            said: it is.
        """

        said: int
        unsaid: int

    with pytest.raises(ValueError, match=r"OneRecord: expected a line on each of \['said', 'unsaid'\]"):
        descriptions(OneRecord)
