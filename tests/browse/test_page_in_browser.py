"""The page of a run with planted defects, in a real browser: it loads nothing, sorts, searches, zooms, and warns."""

import json

import pytest
from browser import WHY_NOT, started
from planted_run import BROKEN, COLORS, NUM_COPIES, NUM_EACH, NUM_GIANT, NUM_INTRUDERS, make

from vissl_clusterfit.commands.main import main

pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return make(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def page(planted):
    assert main(["report", str(planted.run), "--images", str(planted.images), "--map", "pca"]) == 0
    return planted.run / "report.html"


@pytest.fixture(scope="module")
def chromium():
    with started() as browser:
        yield browser


@pytest.fixture
def opened(chromium, page):
    chromium.open(page)
    return chromium


def shown_clusters(browser) -> list[int]:
    return [int(text) for text in browser.texts("#rows td:first-child button")]


def column(browser, key: str) -> list[str]:
    place = [head.get_attribute("data-key") for head in browser.all("#heads th")].index(key) + 1
    return browser.texts(f"#rows td:nth-child({place})")


def finding(browser, title: str):
    (found,) = [each for each in browser.all(".findings li") if title in each.text]
    return found


def test_it_loads_without_an_error_or_a_request(opened, page):
    assert opened.errors == []
    assert opened.requests == [page.as_uri()]
    assert opened.driver.title.endswith("run – clusters")
    assert opened.texts("h1") == [str(page.parent)]


def test_all_pictures_are_there_and_say_what_they_are(opened):
    script = "return [...document.querySelectorAll('.strip img')].map(i => [i.naturalWidth, i.alt])"
    opened.load_pictures()
    pictures = opened.driver.execute_script(script)
    assert len(pictures) > 50
    assert all(width > 0 and alt.endswith(".jpg") for width, alt in pictures)
    assert all(figure.get_attribute("aria-label") for figure in opened.all("svg.plot"))


@pytest.mark.parametrize(
    ("title", "said", "setting"),
    [
        ("Near-copies", f"{NUM_COPIES} samples", "DATA_PATHS"),
        ("Giant clusters", f"The largest has {NUM_GIANT}", "MAX_CLUSTER_SIZE"),
        ("Empty clusters", "1 of 7 clusters", "START=k-means++"),
        ("Contaminated clusters", "1 mix them", "NUM_CLUSTERS"),
        ("Unreadable samples", "2 of ", "MAX_UNREADABLE"),
    ],
)
def test_a_planted_defect_is_warned_of_with_the_setting_to_change(opened, title, said, setting):
    text = finding(opened, title).text
    assert said in text
    assert setting in text.partition("To change:")[2]


@pytest.mark.parametrize(("title", "color"), [("Giant", "blue"), ("Empty", "empty"), ("Contaminated", "violet")])
def test_a_warning_leads_to_its_cluster(opened, planted, title, color):
    (link,) = finding(opened, title).find_elements("css selector", "button")
    number = planted.clusters[color]
    assert link.text == str(number)
    link.click()
    assert opened.texts("#detail h3") == [f"Cluster {number}"]
    sizes = {"blue": NUM_GIANT, "empty": 0, "violet": NUM_EACH + NUM_INTRUDERS}
    assert opened.texts("#detail dd")[0] == str(sizes[color])


def test_broken_files_are_named_with_their_reason(opened):
    rows = opened.texts("section[aria-labelledby=unreadable] tbody tr")
    assert len(rows) == len(BROKEN)
    for name, reason in zip(BROKEN, ("Truncated File Read", "cannot identify image file"), strict=True):
        (row,) = [row for row in rows if name in row]
        assert reason in row


def test_shown_clusters_say_from_which_folders_they_are(opened, planted):
    (text,) = [text for text in opened.texts(f"#cluster-{planted.clusters['violet']} p") if text.startswith("Folders")]
    assert text == "Folders: violet 60 %, grey 40 %"


def test_copies_are_shown_beside_each_other(opened):
    names = [element.get_attribute("alt") for element in opened.all("section[aria-labelledby=copies] img")]
    assert {name.partition(" ")[0].rstrip("0123456789.jpg") for name in names} == {"green/copy", "green/"}


def test_a_name_that_is_markup_is_shown_as_it_is(opened):
    assert opened.driver.execute_script("return [...document.images].filter(i => i.src.endsWith('/x')).length") == 0
    assert opened.driver.title.endswith("– clusters")
    box = opened.all("#search")[0]
    box.send_keys("onerror")
    assert shown_clusters(opened) == []  # it is not the nearest one of its cluster
    html = opened.driver.page_source
    assert "<img src=x" not in html
    cluster = json.loads(opened.all("#data")[0].get_property("textContent"))
    assert cluster["num_clusters"] == len(COLORS) + 1


def test_the_table_is_searched(opened, planted):
    box = opened.all("#search")[0]
    box.send_keys("YELLOW/")
    assert shown_clusters(opened) == [planted.clusters["yellow"]]
    box.clear()
    box.send_keys("3")
    assert 3 in shown_clusters(opened)
    box.clear()
    box.send_keys("nothing has this name")
    assert shown_clusters(opened) == []
    assert opened.texts("#range") == ["No cluster matches."]


def test_the_table_is_sorted_by_each_column_in_both_directions(opened):
    sizes = [int(text) for text in column(opened, "size")]
    assert sizes == sorted(sizes, reverse=True)
    opened.click("#heads th[data-key=size] button")
    assert [int(text) for text in column(opened, "size")] == sizes[::-1]
    assert [head.get_attribute("data-key") for head in opened.all("#heads th[aria-sort=ascending]")] == ["size"]
    opened.click("#heads th[data-key=number] button")
    assert shown_clusters(opened) == list(range(len(COLORS) + 1))
    opened.click("#heads th[data-key=folder] button")
    folders = column(opened, "folder")
    assert folders == [*sorted(folders[:-1]), "–"]  # what is not known comes last
    opened.click("#heads th[data-key=folder] button")
    assert column(opened, "folder") == [*sorted(folders[:-1], reverse=True), "–"]


def test_by_keyboard_alone_a_column_is_sorted_and_a_cluster_opened(opened):
    from selenium.webdriver.common.keys import Keys

    box = opened.all("#search")[0]
    box.send_keys(Keys.TAB * 1)
    active = opened.driver.switch_to.active_element
    while active.text != "cluster":
        active.send_keys(Keys.TAB)
        active = opened.driver.switch_to.active_element
    active.send_keys(Keys.ENTER)
    assert shown_clusters(opened) == list(range(len(COLORS) + 1))
    while active.text != "4":
        active.send_keys(Keys.TAB)
        active = opened.driver.switch_to.active_element
    active.send_keys(Keys.ENTER)
    assert opened.driver.switch_to.active_element.text == "Cluster 4"


def test_neighbours_lead_from_cluster_to_cluster(opened):
    opened.click("#rows button")
    first = opened.texts("#detail h3")
    opened.click("#detail dd button")
    second = opened.texts("#detail h3")
    assert first != second
    assert opened.errors == []


def test_a_picture_is_enlarged_and_closed_by_escape(opened):
    from selenium.webdriver.common.keys import Keys

    picture = opened.all(".strip button.picture")[0]
    opened.driver.execute_script("arguments[0].scrollIntoView()", picture)
    picture.send_keys(Keys.ENTER)
    dialog = opened.all("dialog")[0]
    assert dialog.get_property("open")
    assert dialog.find_element("css selector", "p").text == opened.all(".strip img")[0].get_attribute("alt")
    opened.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not dialog.get_property("open")


def test_the_map_zooms_and_its_points_are_clusters(opened, planted):
    drawing = opened.all("#map svg")[0]
    whole = drawing.get_dom_attribute("viewBox")
    opened.click("#zoom-in")
    zoomed = drawing.get_dom_attribute("viewBox")
    assert float(zoomed.split()[2]) == pytest.approx(0.6 * float(whole.split()[2]))
    drawing.send_keys("-")
    assert drawing.get_dom_attribute("viewBox") == whole
    points = opened.all("#map [data-cluster]")
    of_clusters = {int(point.get_attribute("data-cluster")): point for point in points}
    assert sorted(of_clusters) == list(range(len(planted.clusters)))
    click = "arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))"
    opened.driver.execute_script(click, of_clusters[planted.clusters["red"]])
    assert opened.texts("#detail h3") == [f"Cluster {planted.clusters['red']}"]


def test_it_fits_a_phone_and_has_a_dark_side(opened, page):
    opened.emulate("Emulation.setDeviceMetricsOverride", width=375, height=700, deviceScaleFactor=2, mobile=True)
    opened.emulate("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    try:
        opened.open(page)
        assert opened.driver.execute_script("return document.documentElement.scrollWidth") <= 375
        style = "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
        back, text = opened.driver.execute_script(style)
        assert brightness(back) < 60
        assert brightness(text) > 200
        axis = opened.driver.execute_script("return getComputedStyle(document.querySelector('svg.plot text')).fill")
        assert brightness(axis) > 200
    finally:
        opened.emulate("Emulation.clearDeviceMetricsOverride")
        opened.emulate("Emulation.setEmulatedMedia", features=[])


def brightness(color: str) -> float:
    return sum(map(int, color.removeprefix("rgb(").rstrip(")").split(", "))) / 3


def test_without_scripts_samples_and_warnings_are_there(opened, page):
    opened.emulate("Emulation.setScriptExecutionDisabled", value=True)
    try:
        opened.open(page)
        assert len(opened.all(".findings li")) == 5
        assert len(opened.all("article.cluster")) == len(COLORS)
    finally:
        opened.emulate("Emulation.setScriptExecutionDisabled", value=False)


def test_a_folder_has_full_pictures_beside_the_page(chromium, planted, tmp_path):
    words = ["report", str(planted.run), "--images", str(planted.images), "--folder", str(tmp_path / "page")]
    assert main(words) == 0
    chromium.open(tmp_path / "page/index.html")
    assert (chromium.errors, len(chromium.requests)) == ([], 1)
    links = [link.get_attribute("href") for link in chromium.all("a.picture")]
    files = sorted((tmp_path / "page/pictures").iterdir())
    assert {link.rpartition("/")[2] for link in links} == {file.name for file in files}
    assert all(file.stem.isdecimal() for file in files)  # no name of a sample
    chromium.driver.get(links[0])
    assert chromium.driver.execute_script("return document.images[0].naturalWidth") == 32


def test_another_seed_of_the_same_run_is_compared(chromium, planted, tmp_path, monkeypatch):
    from vissl_clusterfit import make_codebook, make_labels

    features = planted.run / "features"
    make_labels(features, make_codebook(features, tmp_path / "codebook", 3, seed=5), tmp_path / "labels")
    words = ["report", str(planted.run), str(tmp_path), "--html", str(tmp_path / "compared.html")]
    assert main(words) == 0
    chromium.open(tmp_path / "compared.html")
    assert chromium.errors == []
    assert "Where the samples of the least stable clusters are in the other run" in chromium.texts("h3")
    rows = chromium.texts("section[aria-labelledby=stability] tbody tr")
    assert len(rows) == len(COLORS)
    assert chromium.all(".strip img") == []
    assert any("Name the place of the images: --images PLACE." in text for text in chromium.texts("p"))
