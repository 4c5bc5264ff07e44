"""Every broken input gets its reason and the message in docs/ingest.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.broken_inputs import BEGIN, BROKEN, DOCUMENT, END, Broken, message, table


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.title)
def test_broken_input_gets_its_reason_and_says_where(broken: Broken, tmp_path: Path) -> None:
    reason, text = message(broken, tmp_path)
    assert reason == broken.reason
    assert len(text) > 30, "a message says what is wrong, where and what to do"
    assert "\n" not in text
    assert "Traceback" not in text


def test_document_shows_these_messages() -> None:
    shown = DOCUMENT.read_text().split(BEGIN)[1].split(END)[0].strip()
    assert shown == table(), "renew it: python -m tests.unit.broken_inputs"


def test_there_are_at_least_twenty_kinds() -> None:
    assert len({broken.title for broken in BROKEN}) == len(BROKEN) >= 20
