"""The page of a report in a headless Chromium: sorting, filtering, hovering, keys, themes, phones."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import ActionChains, Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from analysis.report import page
from gpt_opt.cli import main
from gpt_opt.cli.report import Reader
from gpt_opt.records.state import State
from tests.analysis.sweeps import begun, rows_of, submitted
from tests.dispatch.on_disk import held

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="needs Chromium: apt-get install chromium chromium-driver (`make test` does, as root)",
)
BETAS, SEEDS = (0.05, 0.1, 0.3), (0, 1, 2)
POINTS = [{"loss.beta": beta, "seed": seed} for beta in BETAS for seed in SEEDS]
EVIL = "</script><img src=x onerror=hacked=1>"


def started(profile: Path) -> Chrome:
    """Returns a browser with a profile of its own."""
    options = ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return Chrome(options=options, service=Service(DRIVER))


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    try:
        browser = started(tmp_path_factory.mktemp("chromium"))
    except WebDriverException:  # a machine with much else to do may be too slow for the driver: once more
        browser = started(tmp_path_factory.mktemp("chromium"))
    try:
        yield browser
    finally:
        browser.quit()


class Page:
    """A report in the browser."""

    def __init__(self, browser: Chrome) -> None:
        self.browser = browser

    def open(self, file: Path, width: int = 1300, scheme: str = "light") -> None:
        """Opens a report as someone who has not seen it before."""
        size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.emulate(scheme)
        self.browser.get("about:blank")
        self.browser.get_log("performance")
        self.browser.get(file.as_uri())
        self.run("sessionStorage.clear(); localStorage.clear(); view.selected = []; Object.assign(view, {sort: null})")

    def emulate(self, scheme: str, media: str = "screen") -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})

    def run(self, script: str, *arguments: object) -> Any:
        return self.browser.execute_script(script, *arguments)

    def all(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.run(
            "return [...document.querySelectorAll(arguments[0])].map((n) => n.textContent)", selector
        )
        return found

    def column(self, title: str) -> list[str]:
        place = self.texts("#table th button").index(title) + 1
        return self.texts(f"#table tbody td:nth-child({place})")

    def sort(self, title: str) -> str | None:
        button = next(button for button in self.all("#table th button") if button.text == title)
        button.click()
        return self.one(f"#table th:nth-child({self.texts('#table th button').index(title) + 1})").get_attribute(
            "aria-sort"
        )

    def runs(self, selector: str) -> set[str]:
        """Returns the runs whose marks match a selector."""
        return set(self.run("return [...document.querySelectorAll(arguments[0])].map((n) => n.dataset.run)", selector))

    def type(self, text: str) -> None:
        box = self.one("#text")
        box.clear()
        box.send_keys(text or Keys.SPACE)

    def end_of(self, run: int) -> tuple[float, float]:
        """Returns where in the window the curve of a run ends."""
        script = """const line = document.querySelector(`#curves g[data-run="${arguments[0]}"] path`);
            line.scrollIntoView({ block: "center" });
            const point = line.getPointAtLength(line.getTotalLength()).matrixTransform(line.getScreenCTM());
            return [point.x, point.y];"""
        x, y = self.run(script, run)
        return x, y

    def point_at(self, run: int) -> ActionChains:
        x, y = self.end_of(run)
        actions = ActionChains(self.browser, duration=0)
        actions.w3c_actions.pointer_action.move_to_location(round(x), round(y))
        return actions

    def requests(self) -> list[str]:
        """Returns what was asked for since it was opened."""
        events = (json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance"))
        return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]


@pytest.fixture
def look(chromium: Chrome) -> Iterator[Page]:
    """A page; at the end of each test nothing was asked of any network, and nothing went wrong in the browser."""
    chromium.get_log("browser")
    shown = Page(chromium)
    yield shown
    assert [entry["message"] for entry in chromium.get_log("browser")] == []
    assert [url for url in shown.requests() if not url.startswith(("file:", "data:", "about:"))] == []


Reported = Callable[[str], Path]


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Reported:
    """Returns a function that makes the report of a kind of sweep, each once."""

    def make(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        MAKERS[kind](folder)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            assert main(["report", "beta", "-o", str(folder / "report.html")]) == 0
        return folder / "report.html"

    return functools.cache(make)


def done(folder: Path) -> None:
    sweep = submitted(folder, POINTS)
    for index, point in enumerate(POINTS):
        begun(sweep, index, point)


def failed(folder: Path) -> None:
    sweep = submitted(folder, POINTS)
    trace = {"traceback": "Traceback: line 3"}
    for index, point in enumerate(POINTS):
        if point["loss.beta"] == 0.3 and point["seed"]:
            memory = {"type": "OutOfMemoryError", "message": "CUDA out of memory", **trace}
            begun(sweep, index, point, State.FAILED, 60, cause="out_of_gpu_memory", error=memory, gpus=["0"])
        elif index == 2:
            nan = {"type": "LossNotFinite", "message": "loss is NaN", **trace}
            rows = [row | {"loss": 10 ** (row["step"] / 20)} if "loss" in row else row for row in rows_of(point, 120)]
            begun(sweep, index, point, State.FAILED, 120, rows=rows, cause="exception", error=nan, gpus=["0"])
        elif index != 4:
            begun(sweep, index, point, gpus=["0"])


def evil(folder: Path) -> None:
    points = [{"data.dataset.name": EVIL, "seed": 0}, {"data.dataset.name": "<b>" + "long" * 90, "seed": 1}]
    sweep = submitted(folder, points, file=EVIL)
    begun(sweep, 0, points[0], host=EVIL)
    error = {"type": EVIL, "message": EVIL, "traceback": EVIL}
    begun(sweep, 1, points[1], State.FAILED, cause="exception", error=error)


def pipeline(folder: Path) -> None:
    points = [{"optimizer.optimizer_params.lr": 0.003}, {"loss.beta": 0.1}, {"loss.beta": 0.3}]
    sweep = submitted(folder, points, [("pretrain", None), ("dpo", 0), ("dpo", 0)])
    rows = [row for row in rows_of({}, 200) if "loss" in row]
    begun(sweep, 0, points[0], rows=[{name: row[name] for name in ("step", "time", "loss")} for row in rows])
    begun(sweep, 1, points[1])


MAKERS = {"done": done, "failed": failed, "evil": evil, "pipeline": pipeline}


def test_the_table_is_sorted_by_every_column_what_has_no_value_last(look: Page, reported: Reported) -> None:
    look.open(reported("failed"))
    assert look.column("run") == [str(index) for index in range(9)]
    assert look.sort("eval accuracy") == "ascending"
    values = look.column("eval accuracy")
    assert values[-1] == "–"  # noqa: RUF001 (what the page shows)
    numbers = [float(text.rstrip("%")) for text in values[:-1]]
    assert numbers == sorted(numbers)
    assert look.sort("eval accuracy") == "descending"
    assert look.column("eval accuracy") == [*reversed(values[:-1]), values[-1]]
    assert look.browser.switch_to.active_element.text == "eval accuracy"
    assert look.sort("state") == "ascending"
    assert look.column("state") == sorted(look.column("state"), key=lambda text: text.split()[1])


def test_filters_leave_the_same_runs_in_table_and_figures(look: Page, reported: Reported) -> None:
    look.open(reported("failed"))
    assert look.runs("#curves [data-run]") == {"0", "1", "2", "3", "5", "6", "7", "8"}  # 4 has not begun
    look.type("beta=0.1")
    assert look.column("run") == ["3", "4", "5"]
    assert look.texts("#count")[0].startswith("3 of 9 runs")
    for figure in ("curves", "parameters"):
        assert look.runs(f"#{figure} [data-run]") == {"3", "5"}
    assert look.runs("#parallel [data-run]") == set()  # one thing varies
    look.type("FAILED memory")
    assert look.column("run") == ["7", "8"]
    look.type("nothing like it")
    assert look.column("run") == []
    assert "No run that is shown" in look.one("#curves").text
    look.type("")
    chip = next(button for button in look.all("#states button") if "FAILED" in button.text)
    chip.click()
    assert chip.get_attribute("aria-pressed") == "false"
    assert look.column("run") == ["0", "1", "3", "4", "5", "6"]
    assert look.runs("#curves [data-run]") == {"0", "1", "3", "5", "6"}


def test_the_pointer_on_a_curve_names_its_run_and_values(look: Page, reported: Reported) -> None:
    look.open(reported("done"))
    best = look.one("#table tr.best").get_attribute("data-run")
    assert best is not None
    look.point_at(int(best)).perform()
    tip = look.one("#tip")
    assert tip.is_displayed()
    run, parameters, value, step = tip.text.splitlines()
    assert run == best
    assert parameters == f"beta={BETAS[int(best) // 3]}, seed={int(best) % 3}"
    assert value == f"eval accuracy: {look.texts('#table tr.best td:nth-child(5)')[0]}"
    assert step == "step 200"
    assert look.runs(".hovered") == {best}
    assert len(look.all(".hovered")) == 4  # in three figures and the table
    ActionChains(look.browser, duration=0).move_to_element(look.one("h1")).perform()
    assert not tip.is_displayed()
    assert look.runs(".hovered") == set()


def test_a_click_highlights_a_run_in_table_and_figures(look: Page, reported: Reported) -> None:
    look.open(reported("done"))
    look.one('#table tr[data-run="4"]').click()
    assert look.runs("#curves .selected, #parameters .selected, #parallel .selected") == {"4"}
    assert look.runs('tr[aria-selected="true"]') == {"4"}
    faint = look.run("return getComputedStyle(document.querySelector('#curves g[data-run=\"3\"]')).opacity")
    assert float(faint) < 0.5
    panel = look.one("#selected")
    assert panel.text.splitlines()[:3] == ["4", "beta=0.1, seed=1", "✓ COMPLETED"]
    config = next(item for item in panel.find_elements(By.TAG_NAME, "details") if item.text == "Config")
    config.click()
    text = config.find_element(By.TAG_NAME, "pre").text
    assert "\nloss.beta: 0.1\n" in text
    assert "\nmodel.config.n_embd: 128\n" in text
    look.point_at(7).click().perform()  # and the other way round
    assert look.runs('tr[aria-selected="true"]') == {"7"}
    ActionChains(look.browser).key_down(Keys.SHIFT).click(look.one('#table tr[data-run="4"]')).key_up(
        Keys.SHIFT
    ).perform()
    assert look.runs(".selected[data-run]") == {"4", "7"}
    assert look.one("#selected").text.startswith("2 selected runs\n4, 7")
    look.one("#selected button").click()
    assert look.runs(".selected") == set()


def test_everything_is_reached_by_keys(look: Page, reported: Reported) -> None:
    look.open(reported("done"))
    row = look.one("#table tbody tr")
    look.run("arguments[0].focus()", row)
    row.send_keys(Keys.ARROW_DOWN)
    look.browser.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    look.browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert look.runs('tr[aria-selected="true"]') == {"2"}
    assert look.texts("#live") == ["selected: 2"]
    figure = look.one("#curves svg.plot")
    look.run("arguments[0].focus()", figure)
    for key in (Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_LEFT):
        figure.send_keys(key)
    assert look.one("#tip").text.splitlines()[0] == "1"
    assert look.one("#tip").text.splitlines()[-1] == "step 150"
    figure.send_keys(Keys.ENTER)
    assert look.runs('tr[aria-selected="true"]') == {"1"}
    figure.send_keys(Keys.ESCAPE)
    assert look.runs(".selected") == set()
    focusable = "a, button, select, input, summary, [tabindex]"
    stops = look.run(f"return [...document.querySelectorAll('{focusable}')].filter((n) => n.tabIndex >= 0).length")
    look.run("document.activeElement.blur()")
    seen = set()
    for _ in range(stops + 5):
        ActionChains(look.browser, duration=0).send_keys(Keys.TAB).perform()
        seen.add(
            look.run("const n = document.activeElement; return n.id || n.dataset?.column || n.closest('[id]')?.id")
        )
    assert {
        "theme",
        "text",
        "metric",
        "axis",
        "colour",
        "curves",
        "parameters",
        "parallel",
        "state",
        "loss.beta",
    } <= seen


def test_metric_axis_and_colours_are_chosen(look: Page, reported: Reported) -> None:
    look.open(reported("done"))
    choose = (
        "const s = document.getElementById(arguments[0]); s.value = arguments[1]; s.dispatchEvent(new Event('change'))"
    )
    look.run(choose, "metric", "kl")
    assert "train KL (nats)" in look.one("#curves").text
    assert look.texts("#table th button")[4] == "train KL"
    for axis, title in (("tokens", "tokens"), ("time", "time since the first value (min)")):
        look.run(choose, "axis", axis)
        assert title in look.texts("#curves svg .name")
    dashes = """return new Set([...document.querySelectorAll("#curves path.curve")]
        .map((line) => line.getAttribute("stroke-dasharray"))).size"""
    assert look.run(dashes) == len(BETAS)  # told apart in grey
    look.run(choose, "colour", "name")
    assert look.run(dashes) == 8
    assert len(look.all("#curves .legend button")) == 9
    look.run(choose, "smooth", "0.9")
    look.one("#log").click()
    assert "train KL (nats) (log)" in look.texts("#curves svg .name")


def test_an_axis_is_cut_where_a_run_diverged(look: Page, reported: Reported) -> None:
    look.open(reported("failed"))
    choose = "const s = document.getElementById('metric'); s.value = 'loss'; s.dispatchEvent(new Event('change'))"
    look.run(choose)
    assert "cut at 1.5: 1 run went beyond" in look.one("#curves").text
    assert look.texts("#parameters svg .name").count("beta (log)") == 1


def test_failures_are_told_by_cause(look: Page, reported: Reported) -> None:
    look.open(reported("failed"))
    groups = [item.text.splitlines() for item in look.all(".failure")]
    assert [lines[0] for lines in groups] == [
        "2 runs ✗ FAILED: GPU out of memory",
        "1 run ✗ FAILED: LossNotFinite: loss is NaN",
    ]
    assert groups[0][1] == "all of them have loss.beta=0.3"
    look.one('.failure button[data-run="8"]').click()
    assert look.runs(".selected[data-run]") == {"8"}
    look.one("#selected summary").click()
    assert "Traceback: line 3" in look.one("#selected").text
    assert "GPU-hours" in look.one("#facts").text


def test_light_dark_and_print(look: Page, reported: Reported) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    stroke = "return document.querySelector('#curves g[data-run=\"0\"]').getAttribute('stroke')"
    look.open(reported("done"))
    light, of_light = look.run(ground), look.run(stroke)
    look.emulate("dark")
    dark = look.run(ground)
    assert (light, dark) == ("rgb(255, 255, 255)", "rgb(20, 23, 28)")
    WebDriverWait(look.browser, 10).until(lambda _: look.run(stroke) != of_light)  # figures follow the event
    button = look.one("#theme")
    button.click()
    assert (button.text, look.run(ground), look.run(stroke)) == ("theme: light", light, of_light)
    look.browser.refresh()
    assert look.run(ground) == light  # kept
    look.one("#theme").click()
    assert look.run(ground) == dark
    look.emulate("dark", "print")
    assert look.run(ground) == light
    assert not look.one(".tools").is_displayed()
    look.emulate("light")


@pytest.mark.parametrize("kind", ["done", "failed", "evil", "pipeline"])
def test_nothing_is_wider_than_a_phone(look: Page, reported: Reported, kind: str) -> None:
    look.open(reported(kind), width=360)
    assert look.run("return document.documentElement.scrollWidth") == 360
    look.run("document.querySelectorAll('details').forEach((item) => { item.open = true; }); select(0)")
    assert look.run("return document.documentElement.scrollWidth") == 360
    inside = "return document.querySelector('#curves svg').getBoundingClientRect().right <= innerWidth"
    assert look.run(inside)


def test_values_that_are_markup_do_no_harm(look: Page, reported: Reported) -> None:
    look.open(reported("evil"))
    look.one("#table tbody tr").click()
    look.run("document.querySelectorAll('details').forEach((item) => { item.open = true; })")
    look.point_at(0).perform()
    assert EVIL in look.one("#tip").text
    assert EVIL in look.one("#failures").text
    assert EVIL in look.one("#provenance").text
    assert EVIL in look.column("dataset")[0]
    assert look.run("return typeof hacked") == "undefined"
    assert look.run("return document.images.length + document.querySelectorAll('main b').length") == 0


def test_a_pipeline_is_a_tree(look: Page, reported: Reported) -> None:
    look.open(reported("pipeline"))
    assert look.texts(".tree > li > strong") == ["pretrain"]
    below = '.tree > li > ul > li:has(> button[data-run="0"]) > ul > li'
    assert look.texts(f"{below} > strong") == ["dpo"]
    assert look.texts(f"{below} > ul > li > button") == ["dpo/0", "dpo/1"]
    assert "1/2" in look.one(below).text
    look.one('.tree button[data-run="1"]').click()
    assert look.runs(".selected[data-run]") == {"1"}
    choose = "const s = document.getElementById('stage'); s.value = 'dpo'; s.dispatchEvent(new Event('change'))"
    look.run(choose)
    assert look.column("run") == ["dpo/0", "dpo/1"]


def test_a_page_that_is_written_again_loads_itself_and_stays_as_it_is(
    look: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep, file = submitted(tmp_path, POINTS), tmp_path / "report.html"
    for index in range(3):
        begun(sweep, index, POINTS[index])
    with held(sweep.driver):
        file.write_text(page(Reader("beta", None).read()[0], every_s=600))  # time enough to switch it off
        look.open(file)
        look.one("#reloads").click()
        file.write_text(page(Reader("beta", None).read()[0], every_s=4))
        look.one("#reload").click()
        waiting = WebDriverWait(look.browser, 60, ignored_exceptions=[WebDriverException])
        waiting.until(lambda _: look.one("#age").text.endswith("again every 4 s"))
        assert not look.one("#reloads").is_selected()
        look.type("seed")
        look.sort("eval loss")
        look.one('#table tr[data-run="1"]').click()
        look.run("scrollTo(0, 300); window.old = true")
        top = "return document.querySelector('#runs').getBoundingClientRect().top"
        before = look.run(top)
        begun(sweep, 3, POINTS[3])
    file.write_text(page(Reader("beta", None).read()[0], every_s=1))  # the last time: nothing works on it any more
    look.run("document.getElementById('reloads').click()")
    renewed = "return !window.old && document.readyState === 'complete'"
    waiting.until(lambda _: look.run(renewed))
    assert look.texts("#facts dd")[0].startswith("4 of 9")
    assert look.runs('tr[aria-selected="true"]') == {"1"}
    assert look.one("#text").get_attribute("value") == "seed"
    assert look.one('#table th[aria-sort="ascending"]').text.startswith("eval loss")
    assert abs(look.run(top) - before) < 2
    assert look.all("#reloads") == []
