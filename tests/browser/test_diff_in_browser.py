"""The page of a diff in a real browser: offline, by mouse and by keyboard alone, without a complaint."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch
from torch import fx, nn

import dcsurgery as dcs
from dcsurgery.zoo.coverage import CASES

pytestmark = pytest.mark.filterwarnings("ignore")  # selenium's own


@pytest.fixture(scope="module")
def schnet(tmp_path_factory):
    """The page of SchNet and its transformed self."""
    case = next(case for case in CASES if case.name == "PyG SchNet")
    model = case.build()
    inputs = case.inputs(model)
    surgery = dcs.apply(model, dcs.plan(model, rescale=1e3, example_inputs=inputs))
    path = tmp_path_factory.mktemp("page") / "schnet.html"
    path.write_text(surgery.diff(inputs).to_html(), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def norms(tmp_path_factory):
    """A page with deletions, and modules that stay closed."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(3, 8),
        nn.BatchNorm1d(8),
        nn.Sequential(nn.SiLU(), nn.Linear(8, 1)),
        nn.Sequential(nn.Linear(1, 1), nn.Flatten()),
    )
    inputs = (torch.randn(4, 3),)
    path = tmp_path_factory.mktemp("page") / "norms.html"
    path.write_text(dcs.transform(net, example_inputs=inputs).diff(inputs).to_html(), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def quiet(page):
    yield
    assert page.complaints == []
    assert page.requests == []


def test_changes_are_open_and_seen_at_once(page, schnet):
    page.open(schnet)
    labels = page.labels
    assert sum("ShiftedSoftplus => IReLU, replaced" in label for label in labels) == 5
    box = page.find(".box.replaced rect")
    assert box.is_displayed()
    assert float(page.run("return getComputedStyle(arguments[0]).strokeWidth", box).removesuffix("px")) == 2


def test_a_module_opens_and_closes_by_double_click(page, norms):
    from selenium.webdriver.common.action_chains import ActionChains

    page.open(norms)
    assert not any("Flatten" in label for label in page.labels)
    closed = page.find(".box[aria-label^='3: Sequential']")
    ActionChains(page.driver).double_click(closed).perform()
    assert any("Flatten" in label for label in page.labels)
    handle = page.find(".handle[aria-label^='3: Sequential']")
    assert handle.get_attribute("aria-expanded") == "true"
    ActionChains(page.driver).double_click(handle).perform()
    assert not any("Flatten" in label for label in page.labels)


def test_search_finds_and_jumps(page, schnet):
    page.open(schnet)
    page.find("#search").send_keys("irelu 0.mlp")
    found = page.find_all("#found .jump")
    assert [button.text for button in found] == ["interactions.0.mlp.1"]
    assert len(page.find_all(".hit")) == 1
    found[0].click()
    assert page.find(".chosen").get_attribute("aria-label").startswith("1: ShiftedSoftplus => IReLU")
    assert "interactions.0.mlp.1" in page.find("#details").text
    page.find("#search").clear()
    page.find("#search").send_keys("no such thing")
    assert "Nothing found" in page.find("#found").text


def test_filters_dim_the_graph_and_shorten_the_list(page, norms):
    page.open(norms)
    assert len(page.find_all("#changes tbody tr")) == 2
    page.find("#filters input[value=deleted]").click()
    assert [row.text for row in page.find_all("#changes tbody tr")] == ["~ 2.0 SiLU => IReLU"]
    assert "dim" in page.find(".box.deleted").get_attribute("class")
    page.find("#filters input[value=same]").click()
    assert "dim" in page.find(".box[aria-label^='0: Linear']").get_attribute("class")
    assert "dim" not in page.find(".box.replaced").get_attribute("class")


def test_from_a_site_to_its_node_and_back(page, schnet):
    page.open(schnet)
    page.find("#tab-sites").click()
    site = next(b for b in page.find_all("#sites .jump") if b.text == "interactions.1.act")
    site.click()
    assert page.find(".chosen").get_attribute("data-index")
    page.find("#tab-changes").click()
    page.find("#details .jump").click()
    assert page.run("return document.activeElement.textContent") == "interactions.1.act"
    assert page.find("#sites tr.marked").text.startswith("interactions.1.act")


def test_split_view_shows_each_side_its_own_at_the_same_place(page, norms):
    page.open(norms)
    page.find("#view").click()
    before, after = page.find_all(".pane svg")
    from selenium.webdriver.common.by import By

    assert before.find_elements(By.CSS_SELECTOR, ".box.deleted")
    assert not after.find_elements(By.CSS_SELECTOR, ".box.deleted")
    names = [svg.find_element(By.CSS_SELECTOR, ".box.replaced").get_attribute("aria-label") for svg in (before, after)]
    assert names == ["0: SiLU, replaced", "0: IReLU, replaced"]
    places = [svg.find_element(By.CSS_SELECTOR, ".box.replaced").get_attribute("transform") for svg in (before, after)]
    assert places[0] == places[1]


def test_a_link_leads_to_a_node_in_a_closed_module(page, norms):
    page.open(norms, "#node=3.1")
    assert page.find(".chosen").get_attribute("aria-label") == "1: Flatten, unchanged"
    assert page.find("#details a").get_attribute("href").endswith("#node=3.1")
    page.open(norms, "#node=nowhere")
    assert "no node nowhere" in page.find("#said").text


def test_everything_can_be_done_by_keyboard_alone(page, norms):
    from selenium.webdriver.common.keys import Keys

    page.open(norms)
    page.press("n")
    assert page.run("return document.activeElement.ariaLabel") == "1: BatchNorm1d, deleted"
    page.press("n")
    assert page.run("return document.activeElement.ariaLabel") == "0: SiLU => IReLU, replaced"
    page.press("p")
    assert page.run("return document.activeElement.ariaLabel") == "1: BatchNorm1d, deleted"
    page.press(Keys.ARROW_UP)
    assert page.run("return document.activeElement.ariaLabel") == "0: Linear, unchanged"
    page.open(norms, "#node=3")
    page.press(Keys.ENTER)
    assert any("Flatten" in label for label in page.labels)
    page.press(Keys.ARROW_DOWN)
    assert page.run("return document.activeElement.dataset.index") is not None
    page.press("/")
    assert page.run("return document.activeElement.id") == "search"
    page.press("tanh")
    page.press(Keys.TAB, Keys.TAB)
    page.press("o")
    page.press("?")
    assert page.find("#help").is_displayed()
    page.press(Keys.ESCAPE)
    assert not page.find("#details").is_displayed()


def test_details_show_shapes_tensors_and_code(page, norms):
    page.open(norms, "#node=0")
    text = page.find("#details").text
    assert "weight [8, 3]; bias [8]" in text
    assert "parameters 32" in text
    page.open(norms, "#node=2")
    assert "def forward" in page.find("#details pre").text


def test_a_graph_of_10_000_nodes_is_ready_soon_and_opens_part_by_part(page, tmp_path):
    graph = fx.Graph()
    node = graph.placeholder("x")
    for index in range(10_000):
        node = graph.call_function(torch.sin if index % 100 else torch.tanh, (node,))
    graph.output(node)
    model = fx.GraphModule(nn.Module(), graph)
    surgery = dcs.apply(model, dcs.plan(model))
    path = tmp_path / "large.html"
    path.write_text(surgery.diff().to_html(), encoding="utf-8")
    assert path.stat().st_size < 5 * 2**20
    begin = time.perf_counter()
    page.open(path)
    assert time.perf_counter() - begin < 20  # what it takes is measured in benchmarks/
    assert len(page.labels) < 400
    assert len(page.find_all("#changes tbody tr")) == 100
    page.press("n")
    assert page.run("return document.activeElement.ariaLabel") == "tanh => irelu, replaced"


def test_long_lists_show_more_when_asked_and_sites_are_found_in_them(page, tmp_path):
    model = nn.Sequential(*(nn.SiLU() for _ in range(1200)))
    path = tmp_path / "long.html"
    path.write_text(dcs.apply(model, dcs.plan(model)).diff().to_html(), encoding="utf-8")
    page.open(path)
    assert len(page.find_all("#changes tbody tr")) == 500
    assert page.find("#changes .more").text == "Show 500 more of 1200"
    for expected in (1000, 1200):
        page.find("#changes .more").click()
        assert len(page.find_all("#changes tbody tr")) == expected
    assert not page.find_all("#changes .more")
    page.run("DCS.page.panels.markSite('1100')")
    assert page.find("#sites .marked").text.startswith("1100 ")
    assert len(page.find_all("#sites tbody tr")) == 1101


def test_details_show_what_the_report_measured_at_a_site(page, norms):
    page.open(norms, "#node=2.0")
    assert "check: residual 0" in page.find("#details").text
    assert "check: reached 1" in page.find("#details").text
    page.open(norms, "#node=0")
    assert "check:" not in page.find("#details").text


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("split", [False, True])
def test_axe_finds_no_serious_violation(page, schnet, scheme, split):
    script = os.environ.get("AXE_CORE")
    if not script:
        if os.environ.get("DCSURGERY_REQUIRE_BROWSER"):
            pytest.fail("AXE_CORE must name axe.min.js of the npm package axe-core")
        pytest.skip("AXE_CORE does not name axe.min.js of the npm package axe-core")
    page.driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    page.open(schnet, "#node=interactions.0.mlp.1")
    if split:
        page.find("#view").click()
    page.run(Path(script).read_text(encoding="utf-8"))
    result = page.driver.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
    bad = [
        (v["id"], v["impact"], v["nodes"][0]["html"][:200])
        for v in result["violations"]
        if v["impact"] in ("serious", "critical")
    ]
    assert bad == []
    assert len(result["passes"]) > 10
