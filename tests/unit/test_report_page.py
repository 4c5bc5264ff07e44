"""Report page: its size, its text if something is missing, and escaping of the user's text."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from crysatom.figures.style import hover, new_figure
from crysatom.report.heat import Heat, four, number
from crysatom.report.inline import inline
from crysatom.report.overview import arranged
from crysatom.report.page import Scale, page
from crysatom.report.page_data import About, Details, GroupDetails, StudyDetails
from crysatom.report.sweep_figures import parallel_coordinates
from crysatom.tracking.reading import Store, TrackedRun
from crysatom.vectors.controls import random_vectors
from tests.tracked_runs import tracked

ABOUT = About(
    title="Title",
    experiments=("mine",),
    store="sqlite:////tmp/mlflow.db",
    address="http://127.0.0.1:5000",
    command="mlflow ui",
    made=datetime(2026, 11, 25, tzinfo=UTC),
    version="0",
)
EVIL = "\"><script>alert(1)</script><img src=x onerror='alert(2)'>{{ 7 * 7 }}"


class Elements(HTMLParser):
    """Elements of the page, as parsed by a browser."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def made(runs: list[TrackedRun], details: Details | None = None) -> str:
    return page(ABOUT, runs, arranged(runs), details or Details(), 20)


def group_details(count: int, seeds: int) -> GroupDetails:
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"material_id": [f"JVASP-{i}" for i in range(count)], "target": generator.normal(size=count)})
    frame["prediction"] = frame["target"] + generator.normal(size=count)
    history = [(step, 1 / (step + 1)) for step in range(1000)]
    errors = pd.DataFrame({"element": ["Fe", "O"], "num_crystals": [3, 5], "mae": [0.25, 0.5]})
    return GroupDetails(
        predictions=frame,
        histories=[{"train/mae": history, "val/mae": history}] * seeds,
        selected=[4] * seeds,
        element_errors=[errors] * seeds,
    )


def test_two_hundred_runs_are_less_than_five_megabytes() -> None:
    runs = [tracked(n, tags={"seed": str(n % 2), "vectors_digest": f"v{n // 2}"}) for n in range(160)]
    for n in range(160, 200):
        run = tracked(n, params={"embedding_dim": "64", "ssl_loss": "none"})
        del run.tags["predictor"]  # type: ignore[attr-defined]
        runs.append(run)
    overview = arranged(runs)
    vectors = random_vectors(seed=0, dim=64)
    history = [(step, 1 / (step + 1)) for step in range(1000)]

    def drawn(count: int) -> str:
        details = Details(
            groups={group.runs[0].run_id: group_details(7500, 2) for group in overview.tables[0].groups[:count]},
            losses={run.run_id: {"train/loss": history, "train/ssl": history} for run in overview.pretrainings[:count]},
            vectors={run.run_id: vectors for run in overview.pretrainings[:count]},
        )
        return made(runs, details)

    one, none = drawn(1), drawn(0)
    assert len(overview.tables[0].groups) == 80
    assert len(none.encode()) + 20 * (len(one.encode()) - len(none.encode())) < 5e6, (
        "as if twenty of each had been drawn, which takes a second for each"
    )
    assert "79 of 80 groups" in one
    assert "39 of 40 pretrainings" in one


def test_nothing_of_a_user_becomes_markup() -> None:
    tags = dict.fromkeys(("property", "unit", "vectors", "predictor", "split", "data", "hardware"), EVIL)
    runs = [
        tracked(0, name=EVIL, tags=tags, params={EVIL: EVIL}),
        tracked(1, name=EVIL, tags={**tags, "vectors_digest": "v2"}, params={EVIL: "other"}),
        tracked(2, name=EVIL, status="FAILED", tags={"reason": EVIL}),
        tracked(3, name=EVIL, tags={"search_objective": EVIL}),
        tracked(4, name=EVIL, parent=f"{3:032x}", params={EVIL: EVIL}, metrics={"probe/mae_over_mad": 0.5}),
        tracked(6, name=EVIL, params={"study": EVIL}),
        tracked(5, name=EVIL, parent=f"{3:032x}", params={EVIL: "1"}, metrics={"probe/mae_over_mad": 0.4}),
    ]
    found = group_details(20, 1)
    assert found.predictions is not None
    found.predictions["material_id"] = EVIL
    first = arranged(runs).tables[0].groups[0].runs[0].run_id
    study = StudyDetails(table=pd.DataFrame({EVIL: [EVIL]}), figure=None)
    text = made(runs, Details(groups={first: found}, studies={f"{6:032x}": study}, problems=(EVIL,)))
    parsed = Elements()
    parsed.feed(text)
    assert parsed.names.count("script") == 1
    assert not {"img", "link", "iframe", "object"} & set(parsed.names)
    assert not [name for name in parsed.attributes if name.startswith("on") or name in {"src", "srcset"}]
    assert "".join(parsed.texts).count(EVIL) > 15
    assert "{{ 7 * 7 }}" in text


def test_what_is_missing_is_said() -> None:
    runs = [tracked(0), tracked(1, tags={"seed": "0"}), tracked(2, status="FAILED"), tracked(3, status="KILLED")]
    nothing = GroupDetails(predictions=None, histories=[{}], selected=[None], element_errors=[])
    text = made(runs, Details(groups={runs[1].run_id: nothing}, problems=("vectors of x: broken",)))
    for said in (
        "No predictions among the run", "No errors by epoch were logged", "These runs logged no errors by element",
        "1 earlier run of the same seed, not counted", "No sweep.", "No finished pretraining.", "not logged",
        "Could not be read: vectors of x: broken",
    ):  # fmt: skip
        assert said in text, said
    assert "No finished run that predicts" in made([])


def test_a_study_shows_its_table_and_its_figure() -> None:
    run = tracked(0, name="study-x", params={"study": "table9"}, status="KILLED", tags={"reason": "3 runs left to do"})
    cell = {
        "property": "density", "row": "5%", "column": "ours", "unit": "g/cm^3", "runs": 2, "runs_wanted": 3,
        "test_mae": 0.25, "test_mae_sd": 0.0125, "test_mae_low": 0.125, "test_mae_high": 0.5, "difference": -0.5,
        "difference_low": -0.75, "difference_high": -0.25, "verdict": "better", "verdict_holm": "not resolved",
        "paper": float("nan"),
    }  # fmt: skip
    first = {
        **cell,
        "column": "bits",
        "difference": float("nan"),
        "verdict": float("nan"),
        "verdict_holm": float("nan"),
    }
    few = {**cell, "column": "few", "test_mae_low": float("nan"), "test_mae_high": float("nan")}
    study = StudyDetails(table=pd.DataFrame([first, cell, few]), figure=b"\x89PNG")
    text = made([run], Details(studies={run.run_id: study}))
    for said in (
        "3 runs left to do", "2 of 3", "0.25 ± 0.013 [0.125, 0.5] g/cm^3",
        "0.25 ± 0.013 [too few for an interval] g/cm^3",
        "-0.5 [-0.75, -0.25], better", "not resolved", "data:image/png;base64,iVBORw==", "<b>1</b> studies",
    ):  # fmt: skip
        assert said in text, said
    assert "nan" not in text.partition('id="studies"')[2].partition("</section>")[0]
    assert "Paper" not in text.partition('id="studies"')[2].partition("</section>")[0], "nothing stands in this column"
    assert "Not shown (--figures)" in made([run])


def test_errors_are_those_of_the_runs_with_their_intervals() -> None:
    text = made([tracked(0), tracked(2), tracked(4)])
    assert "3.000 ± 2.0" in text
    assert "[0.5000, 1.500]" in text
    assert "seed 4: 5.000 [4.500, 5.500]" in text


def test_a_scale_holds_all_intervals_and_round_ticks() -> None:
    [table] = arranged([tracked(0), tracked(2), tracked(4)]).tables
    scale = Scale(table)
    assert (scale.place(scale.low), scale.place(scale.high)) == (0, 100)
    places = [place for group in table.groups for _, *ends in scale.strips(group) for place in ends]
    assert 0 < min(places) < max(places) < 100
    assert 2 <= len(scale.ticks()) <= 4


def test_a_figure_in_the_page_says_words_and_keeps_its_numbers() -> None:
    def draw() -> Figure:
        figure = new_figure(3, 2)
        axes = figure.add_subplot()
        [line] = axes.plot([0.123456, 1], [0, 1])
        hover(line, f"0.123456 {EVIL}")
        axes.set_title(f"0.654321 $x$ {EVIL}")
        return figure

    drawn = inline(draw, EVIL)
    assert drawn == inline(draw, EVIL), "the same figure is the same text"
    parsed = Elements()
    parsed.feed(drawn)
    assert not {"script", "img"} & set(parsed.names)
    assert [text for text in parsed.texts if EVIL in text] == [f"0.123456 {EVIL}", f"0.654321 $x$ {EVIL}"]
    assert set(parsed.names) <= {"svg", "g", "path", "defs", "use", "clippath", "rect", "title", "text"}
    assert not re.search(r' d="[^"]*\.\d{3}', drawn), "two decimals are a hundredth of a point"
    assert "id=" not in drawn.replace('<path id="', "").replace('<clipPath id="', "")


def test_a_sweep_shows_numbers_by_size_and_words_by_name() -> None:
    sweep = tracked(3, tags={"search_objective": "downstream"})
    found = [
        tracked(
            4 + k, parent=sweep.run_id, params={"lr": lr, "loss": loss}, metrics={"probe/mae_over_mad": 0.1 * k + 0.1}
        )
        for k, (lr, loss) in enumerate([("0.001", "vicreg"), ("0.1", "barlow_twins"), ("0.01", "vicreg")])
    ]
    figure = parallel_coordinates(arranged([sweep, *found]).sweeps[0], "MAE/MAD")
    [axes] = figure.axes
    lines = [line.get_ydata() for line in axes.lines if len(line.get_ydata()) == 3]
    drawn = sorted([round(float(y), 6) for y in line] for line in lines if len(set(line)) > 1 or line[0] != 0)
    assert drawn == [[0.0, 1.0, 0.0], [0.5, 1.0, 1.0], [1.0, 0.0, 0.5]]
    texts = [text.get_text() for text in axes.texts]
    assert texts[:5] == ["0.001", "0.01", "0.1", "barlow_twins", "vicreg"]


def test_a_periodic_table_says_values_and_shades_them() -> None:
    heat = Heat(title="t", unit="eV", values={26: 1.0, 8: 3.0}, notes={26: ", 5 crystals"})
    assert heat.shades() == {26: 0.0, 8: 1.0}
    cells = {cell.symbol: cell for cell in heat.cells()}
    assert cells["Fe"].tooltip == "Fe: 1 eV, 5 crystals"
    assert cells["Au"].tooltip == "Au: no value"
    assert len(cells) == 118
    assert len({(cell.row, cell.column) for cell in cells.values()}) == 118, "no two elements at one place"
    signed = Heat(title="t", unit="", values={1: -2.0, 2: 1.0}, signed=True)
    assert signed.shades() == {1: -1.0, 2: 0.5}


@pytest.mark.parametrize(
    ("uri", "shown", "address"),
    [
        ("http://me:secret@host:5000/", "http://...@host:5000/", "http://host:5000"),
        ("https://host/mlflow", "https://host/mlflow", "https://host/mlflow"),
        ("postgresql+psycopg2://me:s@cret@host/db", "postgresql+psycopg2://...@host/db", ""),
        ("sqlite:////tmp/a@b/mlflow.db", "sqlite:////tmp/a@b/mlflow.db", ""),
    ],
)
def test_no_password_of_a_store_gets_into_the_page(uri: str, shown: str, address: str) -> None:
    assert (Store(uri=uri).shown, Store(uri=uri).address) == (shown, address)


def test_numbers_have_four_digits_and_no_dot_at_the_end() -> None:
    assert [four(v) for v in (10.9, 12.0, 1234.4, 0.1)] == ["10.90", "12.00", "1234", "0.1000"]
    assert [number(v) for v in (12345.0, 0.25)] == ["12,345", "0.2500"]
