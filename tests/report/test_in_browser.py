"""The report in a real browser: headless Chromium, driven by Selenium."""

import http.server
import json
import os
import re
import shutil
import threading
import time

import numpy as np
import pytest
from hostile import NAMES, hostile_page
from making import TARGET, succeeds, write_picture
from slicing import CASES, VOLUMES, picks, run

from nnunetv2_xssr.commands import select
from nnunetv2_xssr.images.case_table import read_vetoes

REQUIRED = "XSSR_BROWSER_REQUIRED"  # .ci/run sets it: there a missing browser is a failure, not a skip
_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1280,900"
)


def need(found, what):
    if not found:
        (pytest.fail if os.environ.get(REQUIRED) else pytest.skip)(f"{what} is not installed: the report is not opened")
    return found


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """A browser with a fresh profile that notes what its console says and what it requests."""
    program = need(
        next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None), "Chromium"
    )
    chromedriver = need(shutil.which("chromedriver"), "chromedriver")
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        need(None, "selenium")
    folder = tmp_path_factory.mktemp("browser")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in [*_FLAGS.split(), f"--user-data-dir={folder / 'profile'}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(folder / "downloads")})
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    driver.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
    driver.downloads = folder / "downloads"
    yield driver
    driver.quit()


@pytest.fixture
def opened(driver, again):
    page = again.record().parent / "report.html"
    visit(driver, page).execute_script("localStorage.clear()")
    return visit(driver, page)


def visit(driver, page):
    shutil.rmtree(driver.downloads, ignore_errors=True)
    driver.get("about:blank")
    driver.get_log("browser"), driver.get_log("performance")
    driver.get(page.as_uri())
    return driver


def requests(driver):
    """What was requested beyond the page itself and what lies in it."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if not url.startswith(("data:", "blob:", "about:"))]


def shown(driver):
    """Name, kind and longer side of the picture in the panel beside the map."""
    panel = driver.find_element("css selector", ".fold:not([hidden]) .panel")
    parts = [panel.find_element("css selector", part).text for part in (".name", ".kind", ".why")]
    image = panel.find_element("tag name", "img")
    return *parts, driver.execute_script(
        "return Math.max(arguments[0].naturalWidth, arguments[0].naturalHeight)", image
    )


def sides(driver):
    """The longer side of all pictures in the list of picks."""
    return driver.execute_script(
        "return Array.from(document.querySelectorAll('.pick img'), i => Math.max(i.naturalWidth, i.naturalHeight))"
    )


def dots(driver, kind=""):
    return driver.find_elements("css selector", f".fold:not([hidden]) .map > svg .dot{kind}")


def point_at(driver, dot):
    from selenium.webdriver import ActionChains

    driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", dot)
    ActionChains(driver, duration=0).move_to_element(dot).perform()


def press(driver, *keys):
    from selenium.webdriver import ActionChains

    ActionChains(driver, duration=0).send_keys(*keys).perform()


def saved(driver):
    """The veto list after a click on the button."""
    driver.execute_script("document.getElementById('save').click()")
    path = driver.downloads / "exclude.txt"
    for _ in range(100):
        if path.is_file() and path.stat().st_size:
            return path
        time.sleep(0.1)
    raise AssertionError("nothing was saved")


def veto(driver, case):
    boxes = driver.find_elements("css selector", ".fold:not([hidden]) input[data-veto]")
    (box,) = [box for box in boxes if box.get_attribute("data-veto") == case]
    driver.execute_script("arguments[0].click()", box)


def because(driver, case, reason):
    from selenium.webdriver.support.select import Select

    whys = driver.find_elements("css selector", ".fold:not([hidden]) select[data-why]")
    (why,) = [why for why in whys if why.get_attribute("data-why") == case]
    Select(why).select_by_visible_text(reason)


def ticked(driver):
    return driver.execute_script("return Array.from(document.querySelectorAll('input:checked'), b => b.dataset.veto)")


def test_opens_without_an_error_and_asks_nothing_of_a_network(opened):
    assert opened.get_log("browser") == []
    assert [url.rsplit("/", 1)[1] for url in requests(opened)] == ["report.html"]
    # Three picks, each with its four nearest, which may be picks too.
    assert len(sides(opened)) == 3 * 5 and set(sides(opened)[::5]) == {256} and set(sides(opened)) == {96, 256}
    assert "3 of 10 cases picked" in opened.find_element("tag name", "h2").text


def test_policy_keeps_the_page_from_the_network(opened):
    asked = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        ways = f"fetch('{url}fetch').catch(() => 0); new Image().src = '{url}image';" + "".join(
            f"document.body.append(Object.assign(document.createElement('{tag}'), {{src: '{url}{tag}'}}));"
            for tag in ("script", "iframe")
        )
        opened.execute_script(ways)
        time.sleep(1)
        server.shutdown()
    assert asked == []


def test_dot_that_is_pointed_at_shows_its_picture(opened):
    for dot in (dots(opened, ".pick")[1], dots(opened, ".pool")[0], dots(opened, ".source")[0]):
        point_at(opened, dot)
        name, kind, why, width = shown(opened)
        assert name == dot.get_attribute("data-case") and kind.startswith(dot.get_attribute("data-what"))
        assert width >= 96
        rank = dot.get_attribute("data-rank")
        card = opened.find_element("id", f"s0-pick-{rank}").find_element("class name", "reason").text if rank else ""
        assert why == card


def test_map_is_worked_with_the_keyboard(opened):
    from selenium.webdriver.common.keys import Keys

    reachable = [dot for dot in dots(opened) if dot.get_attribute("tabindex") == "0"]
    assert len(reachable) == 1  # one stop of the Tab key, whatever the number of dots
    opened.execute_script("document.querySelector('.budget input').focus()")
    for _ in range(30):
        press(opened, Keys.TAB)
        if opened.execute_script("return document.activeElement.matches('.dot')"):
            break
    (first, second, third) = (dot.get_attribute("data-case") for dot in dots(opened, ".pick"))
    assert shown(opened)[0] == first
    for key, expected in (
        (Keys.PAGE_DOWN, second),
        (Keys.PAGE_DOWN, third),
        (Keys.PAGE_UP, second),
        (Keys.HOME, first),
    ):
        press(opened, key)
        assert shown(opened)[0] == expected and shown(opened)[3] >= 96
    seen = {first}
    for key in (Keys.ARROW_LEFT, Keys.ARROW_UP, Keys.ARROW_RIGHT, Keys.ARROW_DOWN) * 3:
        press(opened, key)
        focused = opened.execute_script("return document.activeElement.dataset.case")
        assert shown(opened)[0] == focused
        seen.add(focused)
    assert len(seen) > 3
    assert len([dot for dot in dots(opened) if dot.get_attribute("tabindex") == "0"]) == 1
    press(opened, Keys.HOME, Keys.ENTER)
    assert opened.execute_script("return location.hash") == "#s0-pick-1"


def test_a_pick_in_the_list_leads_to_the_map_and_back(opened):
    from selenium.webdriver.common.keys import Keys

    link = opened.find_element("css selector", "#s0-pick-2 a[data-on-map]")
    opened.execute_script("arguments[0].click()", link)
    assert shown(opened)[:2] == (dots(opened, ".pick")[1].get_attribute("data-case"), "pick 2")
    assert opened.execute_script("return document.activeElement.dataset.rank") == "2"
    press(opened, Keys.ENTER)
    assert opened.execute_script("return location.hash") == "#s0-pick-2"


def slide(driver, value):
    driver.execute_script(
        "const s = document.querySelector('.fold:not([hidden]) .budget input'); s.value = arguments[0];"
        "s.dispatchEvent(new Event('input'))",
        value,
    )


def ranks(driver, selector, name):
    """The picks that these parts stand for."""
    found = driver.find_elements("css selector", f".fold:not([hidden]) {selector}")
    return sorted(int(part.get_attribute(name)) for part in found)


def test_slider_marks_the_first_picks_everywhere(opened, again):
    from selenium.webdriver.common.keys import Keys

    (selection,) = again.selection()["selections"]
    for k in (1, 2, 3):
        slide(opened, k)
        budget = opened.find_element("class name", "budget")
        assert budget.find_element("tag name", "output").text == str(k)
        assert f"{selection['by_budget']['mean_distance'][k - 1]:.3f}" in budget.text
        later = list(range(k + 1, 4))
        assert ranks(opened, ".map .dot.later", "data-rank") == later
        assert ranks(opened, "li.pick.later", "data-mark") == ranks(opened, ".row .later", "data-mark") == later
        assert ranks(opened, "tr.taken[data-budget]", "data-budget") == [k]
        counts = [part.text for part in opened.find_elements("css selector", ".group .seen")]
        assert sum(int(text.split()[0]) for text in counts) == k
        marker = opened.find_element("class name", "at-budget")
        assert marker.is_displayed() == (k < 3)
    opened.execute_script("document.querySelector('.budget input').focus()")
    for key, expected in ((Keys.HOME, 1), (Keys.ARROW_RIGHT, 2), (Keys.ARROW_RIGHT, 3), (Keys.ARROW_LEFT, 2)):
        press(opened, key)
        assert opened.find_element("css selector", ".budget output").text == str(expected)
    assert opened.get_log("browser") == []


def test_rows_of_groups_show_their_members_with_the_picks_marked(opened):
    shown = opened.execute_script(
        "return Array.from(document.querySelectorAll('.row img'), i => [i.naturalWidth > 0, i.alt, i.clientWidth])"
    )
    assert len(shown) == 10 and all(loaded and width > 0 for loaded, _, width in shown)
    assert ranks(opened, ".row .marked", "data-mark") == [1, 2, 3]
    opened.execute_script("document.querySelector('.row .marked a').click()")
    assert opened.execute_script("return location.hash") == "#s0-pick-1"


def test_what_a_screen_reader_is_told(opened):
    """Every part that can be worked has a role and a name, and no picture is silent."""
    slide(opened, 1)
    nodes = opened.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    nodes = [node for node in nodes if not node.get("ignored") and "role" in node]
    told = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes]
    (slider,) = [node for node in nodes if node["role"]["value"] == "slider"]
    assert (slider["name"]["value"], slider["value"]["value"]) == ("If you annotate the first", 1)
    named = ("slider", "listbox", "option", "image", "img", "checkbox", "button", "link", "combobox", "heading")
    assert not [role for role, name in told if role in named and not name.strip()]
    options = [name for role, name in told if role == "option" and "pick " in name]
    assert sum(name.endswith(", not among the first 1") for name in options) == 2
    assert [name for role, name in told if role == "listbox"] == ["The map: where the picks lie"]


def test_panel_on_a_phone_keeps_no_room_for_a_picture_that_is_not_there(opened):
    metrics = {"width": 375, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    left = "return document.querySelector('.panel .name').getBoundingClientRect().left"
    try:
        assert opened.execute_script(left) < 60
        point_at(opened, dots(opened, ".pick")[0])
        assert opened.execute_script(left) > 100
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_what_is_printed_holds_the_story_and_not_the_slider(opened):
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert opened.find_element("class name", "story").is_displayed()
        assert not opened.find_element("css selector", ".budget input").is_displayed()
        assert opened.find_element("css selector", ".row .marked").is_displayed()
        for of_screen in ("nav", "[id$='-map-help'] span", ".panel", ".pick .veto", "#veto"):
            assert not opened.find_element("css selector", of_screen).is_displayed(), of_screen
        # Its details are closed, and nothing else stands below its heading.
        assert not opened.find_element("id", "made-title").is_displayed()
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_every_dot_can_be_reached_with_arrows(opened):
    reached = opened.execute_script("""
        const dots = Array.from(document.querySelectorAll('.map > svg .dot')), seen = new Set(), todo = [dots[0]];
        while (todo.length) {
            const dot = todo.pop();
            if (seen.has(dot)) continue;
            seen.add(dot);
            for (const key of ['ArrowLeft', 'ArrowRight', 'ArrowUp', 'ArrowDown']) {
                dot.focus();
                dot.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
                todo.push(document.activeElement);
            }
        }
        return [seen.size, dots.length];
    """)
    assert reached[0] == reached[1]


def test_veto_list_is_what_exclude_takes(opened, again, capsys):
    picks = [pick["case"] for pick in again.selection()["selections"][0]["picks"]]
    button = opened.find_element("id", "save")
    assert not button.is_enabled()
    for case in (picks[2], picks[0], picks[1]):
        veto(opened, case)
    veto(opened, picks[1])  # taken back
    assert opened.find_element("id", "veto-count").text == "2 picks are vetoed."
    assert button.is_enabled()
    because(opened, picks[0], "too hard")
    path = saved(opened)
    lines = sorted([f"{picks[0]}\ttoo hard", f"{picks[2]}\tunusable"])
    assert path.read_bytes() == ("\n".join(lines) + "\n").encode()
    argv = ["-d", "2", "-s", "1", "-b", "3", "-device", "cpu", "--exclude", str(path), "--overwrite"]
    succeeds(capsys, select.main, argv)
    now = [pick["case"] for pick in again.selection()["selections"][0]["picks"]]
    assert len(now) == 3 and not {picks[0], picks[2]} & set(now)
    # A second round of vetoes keeps the first one.
    visit(opened, again.record().parent / "report.html")
    veto(opened, now[0])
    assert read_vetoes(saved(opened)) == {picks[0]: "too hard", picks[2]: "unusable", now[0]: "unusable"}


def test_ticks_and_reasons_outlast_a_reload_on_the_page_of_their_selection(opened, again, capsys):
    page, picks = (
        again.record().parent / "report.html",
        [p["case"] for p in again.selection()["selections"][0]["picks"]],
    )
    for case in picks[:2]:
        veto(opened, case)
    because(opened, picks[1], "duplicate")
    visit(opened, page)
    assert opened.get_log("browser") == []
    assert opened.find_element("id", "veto-count").text == "2 picks are vetoed."
    assert ticked(opened) == picks[:2] and len(dots(opened, ".pick.vetoed")) == 2
    assert read_vetoes(saved(opened)) == {picks[0]: "unusable", picks[1]: "duplicate"}
    veto(opened, picks[0])  # taken back
    visit(opened, page)
    assert ticked(opened) == [picks[1]]
    succeeds(capsys, select.main, ["-d", "2", "-s", "1", "-b", "4", "-device", "cpu", "--overwrite"])
    visit(opened, page)
    assert ticked(opened) == []


@pytest.mark.parametrize("kept", ["5", "{", '[["nobody", "unusable"], ["__proto__", "x"], 3]', '[["CASE", "boring"]]'])
def test_what_else_lies_in_the_place_of_ticks_is_left_out(opened, again, kept):
    kept = kept.replace("CASE", again.selection()["selections"][0]["picks"][0]["case"])
    veto(opened, again.selection()["selections"][0]["picks"][0]["case"])
    opened.execute_script("for (const key of Object.keys(localStorage)) localStorage.setItem(key, arguments[0])", kept)
    visit(opened, again.record().parent / "report.html")
    assert opened.get_log("browser") == [] and ticked(opened) == []
    assert opened.find_element("id", "veto-count").text == "No pick is vetoed."


def test_study_shows_one_fold_at_a_time(driver, workspace, capsys):
    for i in range(10):
        write_picture(workspace.raw / TARGET / "labelsTr" / f"t_{i:02d}.png", np.zeros((40, 48), np.uint8))
    succeeds(capsys, select.main, ["-d", "2", "-s", "1", "-b", "2", "-device", "cpu"])
    visit(driver, workspace.record().parent / "report.html")
    assert driver.get_log("browser") == []
    folds = [[pick["case"] for pick in one["picks"]] for one in workspace.selection()["selections"]]
    for number, cases in enumerate(folds):
        driver.execute_script(
            "const f = document.getElementById('fold'); f.value = arguments[0]; f.dispatchEvent(new Event('change'))",
            number,
        )
        visible = [e.text for e in driver.find_elements("css selector", ".pick .case") if e.is_displayed()]
        assert visible == cases
        point_at(driver, dots(driver, ".pick")[1])
        assert shown(driver)[0] == cases[1]
    both = [number for number, cases in enumerate(folds) if folds[0][0] in cases]
    driver.execute_script(
        "const f = document.getElementById('fold'); f.value = 0; f.dispatchEvent(new Event('change'))"
    )
    veto(driver, folds[0][0])
    assert ticked(driver) == [folds[0][0]] * len(both)  # vetoed wherever it is picked


def test_veto_of_a_slice_is_of_its_volume(driver, volumes, capsys):
    run(capsys, "--max_per_volume", "2", budget="8")
    page = volumes.record(VOLUMES).parent / "report.html"
    visit(driver, page)
    assert driver.get_log("browser") == []
    chosen = [pick.case for pick in picks(volumes)]
    twice = next(case for case in chosen if chosen.count(case) == 2)
    box = driver.find_element("css selector", f"input[data-veto='{twice}']")
    driver.execute_script("arguments[0].click()", box)
    assert ticked(driver) == [twice] * 2 and len(dots(driver, ".pick.vetoed")) == 2
    assert driver.find_element("id", "veto-count").text == "1 volume is vetoed."
    path = saved(driver)
    assert read_vetoes(path) == {twice: "unusable"}
    run(capsys, "--max_per_volume", "2", "--exclude", path, "--overwrite", budget="8")
    assert len(picks(volumes)) == 8 and twice not in {pick.case for pick in picks(volumes)}
    visit(driver, page)
    names = {dot.get_attribute("data-case") for dot in dots(driver)}
    assert names == set(CASES) - {twice}


def test_slice_that_is_pointed_at_shows_its_own_picture(driver, volumes, capsys):
    run(capsys)
    visit(driver, volumes.record(VOLUMES).parent / "report.html")
    # The slice, its neighbours and its place, and its four nearest.
    assert len(sides(driver)) == 4 * 8 and set(sides(driver)) <= {256, 160, 96}
    assert all(sides(driver)[8 * i : 8 * i + 4] == [256, 160, 160, 160] for i in range(4))
    first = picks(volumes)[0]
    sources = set()
    for dot in (dots(driver, ".pick")[0], *dots(driver, ".pool")[:3]):
        driver.execute_script("arguments[0].focus()", dot)
        assert shown(driver)[0] == dot.get_attribute("data-name") and shown(driver)[3] >= 96
        sources.add(driver.execute_script("return document.querySelector('.panel img').src"))
    assert len(sources) == 4
    heading = driver.find_element("css selector", "#s0-pick-1 h4").text
    assert heading.split("\n") == ["1", f"{first.case}, slice {first.slice}"]
    assert dots(driver, ".pick")[0].get_attribute("data-name") == f"{first.case}, slice {first.slice}"


def test_hostile_names_do_nothing(driver, again, tmp_path):
    page = tmp_path / "report.html"
    page.write_text(hostile_page()[0], "utf-8")
    visit(driver, page)
    assert driver.get_log("browser") == []
    assert driver.execute_script("return window.hacked") is None
    found = set()
    for dot in dots(driver):
        if not re.match(r"s_\d", dot.get_attribute("data-case")):
            driver.execute_script("arguments[0].focus()", dot)
            assert shown(driver)[3] >= 96
            found.add(driver.execute_script("return document.querySelector('.panel .name').textContent"))
    assert found == set(NAMES)
    assert driver.execute_script("return window.hacked") is None
    assert len(requests(driver)) == 1


@pytest.mark.parametrize("width", [375, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_width_and_no_scheme_breaks_it(opened, width, scheme):
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    try:
        assert opened.execute_script("return document.documentElement.scrollWidth") <= width
        shapes = opened.execute_script(
            "return Array.from(document.querySelectorAll('.pick img'), "
            "i => [i.clientWidth / i.clientHeight, i.naturalWidth / i.naturalHeight])"
        )
        assert all(abs(drawn / natural - 1) < 0.03 for drawn, natural in shapes)
        ground, text = opened.execute_script(
            "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
        )
        brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ground, text)]
        assert (brightness[0] > brightness[1]) == (scheme == "light") and abs(brightness[0] - brightness[1]) > 400
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
