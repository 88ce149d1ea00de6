"""report.html: whole, safe to open, and readable in a real browser."""

import hashlib
import html.parser
import json
import shutil

import pytest
import yaml

from train.reports.curves import Curve
from train.reports.page import Page, StageContent, write_page
from train.scoring.score import Score
from train.system.errors import UserError

HOSTILE = "</pre><script>alert(1)</script><img src='http://evil.example/x.png'>$x^$\x1b[2J"
SECTIONS = (
    *("margins", "scores", "curves", "samples", "sizes-and-times", "settings", "versions"),
    *("hashes", "next-commands"),
)
VOID = {"meta", "img", "br"}


class Parsed(html.parser.HTMLParser):
    """A page's elements, links and texts; every element must be closed where it should be."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.addresses, self.text = [], [], [], [], ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "action", "data", "srcset", "style"):
                self.addresses.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def write_run(run, name, steps, losses):
    run.mkdir(parents=True)
    settings = {
        "data_dir": "data",
        "prompts": [HOSTILE],
        "training": {"steps": steps, "batch_size": 4, "sequence_length": 16, "accumulation": 2},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(settings | {"run_dir": name}))
    part = {"started": "2026-01-02T03:04:05+00:00", "step": 0, "device": "cpu", "devices": 1}
    part |= {"cores": 2, "precision": "float32", "python": "3.11.7", "packages": {"jax": "0.10.2"}}
    (run / "environment.json").write_text(json.dumps([part]))
    records = [
        {"step": step, "loss": loss, "loss/text": loss + 0.1, "tokens_per_second": 1000.0}
        for step, loss in enumerate(losses, 1)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return run


@pytest.fixture
def page(tmp_path):
    """What a page of two stages shows, with names that would be dangerous if they were HTML."""
    first = write_run(tmp_path / "a" / "checkpoints_base", "a", 8, [7, 6, 5, 4.5, 4, 3.9, 3.8, 3.7])
    other = write_run(tmp_path / "b" / "checkpoints_text", HOSTILE, 4, [3.9, 3.7, float("nan"), 3])
    scores = {
        domain: {
            "base": Score(4.0, 54.6, 1.9, 1234, [3.0, 5.0]),
            "expert": Score(3.5, 33.1, 1.7, 1234, [2.4, 4.6]),
        }
        for domain in ("text", "code")
    }
    file = tmp_path / f"{'x' * 100} <b>.pt"
    file.write_bytes(b"weights")
    return Page(
        title=f"run {HOSTILE}",
        lead="Two stages.",
        verdicts=[(True, "expert beats base on text"), (False, HOSTILE)],
        pairs={("expert", "base"): "what more training gains"},
        scores=scores,
        split="test",
        meanings={"base": "the first", "expert": HOSTILE},
        curves=[Curve("base", first), Curve(HOSTILE, other, 8 * 128)],
        levels={"loss/text": {HOSTILE: 3.6}},
        curves_note=HOSTILE,
        stages={
            "base": StageContent(first, {"embedding": 1200, "blocks": 34}, {HOSTILE: "once upon"}),
            "expert": StageContent(other, {"blocks": 34}, {HOSTILE: HOSTILE}),
        },
        files=[file],
        commands={"Look": f"python -m look '{HOSTILE}'"},
    )


def test_a_page_has_all_sections_and_needs_nothing_else(tmp_path, page):
    write_page(tmp_path / "report.html", page)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    parsed = Parsed(text)
    assert tuple(parsed.ids) == SECTIONS
    assert not {"script", "link", "iframe", "object", "form", "base"} & set(parsed.tags)
    assert parsed.tags.count("img") == 4  # the margins, and three losses
    for address in parsed.addresses:
        assert address.startswith(("#", "data:image/svg+xml;base64,"))
    assert {address[1:] for address in parsed.addresses if address[0] == "#"} == set(SECTIONS)
    assert "default-src 'none'" in text
    assert "\x1b" not in text
    for shown in (
        "-0.5000 ± 0.1000",  # the margin's parts differ by 0.6 and 0.4
        HOSTILE.replace("\x1b", r"\x1b"),
        "once upon",
        "1,234",
        "Python 3.11.7, jax 0.10.2",
        hashlib.sha256(b"weights").hexdigest(),
        "2026-01-02 03:04:05 UTC",
    ):
        assert shown in parsed.text, shown


def test_the_same_files_give_the_same_page(tmp_path, page):
    for name in ("one.html", "two.html"):
        write_page(tmp_path / name, page)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path, page):
    (tmp_path / "report.html").write_text("old")
    page.files[0].unlink()
    with pytest.raises(UserError, match=r"cannot write .*report\.html: No such file or directory"):
        write_page(tmp_path / "report.html", page)
    assert (tmp_path / "report.html").read_text() == "old"


BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@pytest.fixture
def browser():
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield opened
    opened.quit()


@pytest.mark.slow
@pytest.mark.skipif(not (BROWSER and DRIVER), reason="no chromium and chromedriver on this machine")
def test_a_browser_shows_it_on_a_desk_and_on_a_phone(tmp_path, page, browser):
    write_page(tmp_path / "report.html", page)
    for width in (1200, 390):
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 800}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        browser.get((tmp_path / "report.html").as_uri())
        assert browser.execute_script("return innerWidth") == width
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        broken = "return [...document.images].filter(i => !i.complete || i.naturalWidth < 300)"
        assert browser.execute_script(broken) == []
        assert browser.execute_script("return document.scripts.length") == 0
    assert browser.title.startswith("run </pre><script>")
    assert not browser.get_log("browser")
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    addresses = {
        event["params"]["request"]["url"].partition(":")[0]
        for event in asked
        if event["method"] == "Network.requestWillBeSent"
    }
    assert addresses == {"file", "data"}
