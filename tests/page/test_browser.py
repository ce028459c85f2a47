"""The page in a real browser: sort, filter, label, undo, export, reload, odd names, 2,000 lenses."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
from page.pages import CLASSES, OpenPage, build, lens, open_browser

ROWS = [lens(k) for k in range(7)]
ODD = [
    "<script>alert(1)</script>.fits",
    "</script><script>alert(2)</script>.npy",
    "<!--<script>.npy",
    "<img src=x onerror=alert(3)>.npy",
    "a, \"b\" & 'c'.fits",
    "line\nbreak.npy",
    "${alert(4)} {{ 7 * 7 }} {% raw %}.npy",
    "naïve/lensé_日本.fits",
    "\u202egnp.exe.npy",
    "\\xff_no_utf8.npy",
    "=1+1.npy",
]


@pytest.fixture(scope="module")
def context():
    with open_browser() as context:
        yield context


@pytest.fixture
def page(context, tmp_path):
    page = OpenPage(context, build(tmp_path / "predictions.html", ROWS))
    yield page
    assert not page.problems
    assert all(address.startswith(("file:", "data:", "blob:")) for address in page.addresses)
    page.tab.close()


SORTED = {
    "name": lambda row: row.name,
    "class": lambda row: row.class_name,
    "surest": lambda row: -max(row.probabilities),
    "entropy": lambda row: sum(p * np.log(p) for p in row.probabilities if p > 0),
    "p_1": lambda row: -row.probabilities[1],
    "flag": lambda row: (not row.flag, row.flag),  # what is empty comes last
    "novelty": lambda row: -row.novelty,
    "chi_square": lambda row: -row.chi_square,
    "radius": lambda row: -row.einstein_radius,
    "radius_error": lambda row: -row.einstein_radius_sd,
    "column_0": lambda row: row.columns["id"],
    "column_1": lambda row: float(row.columns["ra"]),
}


def test_sorts_by_every_column(page):
    assert page.names() == [row.name for row in ROWS]
    for key, value in SORTED.items():
        page.tab.select_option("#sort", key)
        assert page.names() == [row.name for row in sorted(ROWS, key=value)], key
    page.tab.click("#direction")
    assert page.names() == [row.name for row in sorted(ROWS, key=SORTED["column_1"])][::-1]
    options = page.tab.locator("#sort option").evaluate_all("all => all.map(option => option.value)")
    assert set(SORTED) | {"table", "useful", "label", "p_0", "p_2"} == set(options)


def test_filters_by_class_flag_and_text(page):
    for number, name in enumerate(CLASSES):
        page.tab.locator("#classes button").nth(number).click()
        assert page.names() == [row.name for row in ROWS if row.class_name != name]
        page.tab.locator("#classes button").nth(number).click()
    flags = {"without": lambda flag: not flag, "with": bool, "=smooth lens: poor fit": lambda flag: "poor fit" in flag}
    for value, test in flags.items():
        page.tab.select_option("#flag", value)
        assert page.names() == [row.name for row in ROWS if test(row.flag)]
    page.tab.select_option("#flag", "")
    page.tab.fill("#text", ROWS[4].columns["id"].lower())
    assert page.names() == [ROWS[4].name]
    page.tab.fill("#text", "nothing has this")
    assert page.names() == []
    page.tab.click("#clear")
    assert len(page.names()) == len(ROWS)


def test_keys_label_undo_and_export(page):
    page.press("1", "ArrowDown", "2", "3", "u", "u", "2")
    assert page.selected() == ROWS[3].name
    assert page.export() == (
        f"file,label,class\r\n{ROWS[0].name},no,{ROWS[0].class_name}\r\n{ROWS[2].name},sphere,{ROWS[2].class_name}\r\n"
    )
    page.tab.select_option("#labelled", "no")
    assert page.names() == [row.name for row in ROWS if row.name not in (ROWS[0].name, ROWS[2].name)]
    page.tab.select_option("#labelled", "=sphere")
    assert page.names() == [ROWS[2].name]
    page.tab.locator("#scroller").focus()
    page.press("0")
    assert "sphere" not in page.export().split("\r\n")[2]


def test_labels_stay_when_the_page_is_loaded_again_or_built_anew(context, tmp_path):
    page = OpenPage(context, build(tmp_path / "predictions.html", ROWS))
    page.press("3", "2", "1")
    before = page.export()
    page.tab.reload()
    assert page.export() == before
    tuned = OpenPage(context, build(tmp_path / "tuned.html", ROWS[::-1]))  # predicted again, in another order
    assert sorted(tuned.export().split()) == sorted(before.split())
    elsewhere = OpenPage(context, build(tmp_path / "other.html", ROWS, source="another survey"))
    assert elsewhere.tab.locator("#export").is_disabled()
    assert not page.problems + tuned.problems + elsewhere.problems


def test_labels_of_ones_own_and_from_a_file(page, tmp_path):
    page.tab.click("text=Edit labels")
    page.tab.fill("#names", "smooth\nperturbed\n../etc")
    page.tab.click("#names_save")
    assert "no / or" in page.tab.locator("#names_problem").inner_text()
    page.tab.fill("#names", "smooth\nperturbed")
    page.tab.click("#names_save")
    page.tab.locator("#detail button", has_text="perturbed").click()
    (tmp_path / "labels.csv").write_text(f'file,label\n{ROWS[5].name},"a, b"\nunknown.npy,smooth\n{ROWS[6].name},.x\n')
    page.tab.set_input_files("#import_file", tmp_path / "labels.csv")
    page.tab.wait_for_function("document.querySelector('#progress').textContent === '2 labelled'")
    rows = list(csv.DictReader(io.StringIO(page.export(), newline="")))
    assert [(row["file"], row["label"]) for row in rows] == [(ROWS[0].name, "perturbed"), (ROWS[5].name, "a, b")]


def test_arrows_move_in_list_and_grid(page):
    page.press("ArrowDown", "ArrowRight", "ArrowUp")
    assert page.selected() == ROWS[1].name
    page.press("End", "ArrowDown")
    assert page.selected() == ROWS[-1].name
    page.press("Home", "g")
    tops = page.tab.evaluate("[...document.querySelectorAll('.tile')].map(tile => tile.getBoundingClientRect().top)")
    columns = tops.count(min(tops))
    assert 1 < columns < len(ROWS)
    page.press("ArrowDown")
    assert page.selected() == ROWS[columns].name
    page.press("n")
    assert page.selected() == ROWS[columns + 1].name


def test_is_usable_without_a_mouse(page):
    page.press("?")
    assert page.tab.locator("#help_dialog").is_visible()
    page.press("Enter")
    assert not page.tab.locator("#help_dialog").is_visible()
    focused = "[document.activeElement.id, getComputedStyle(document.activeElement).outlineStyle]"
    page.press("/")
    assert page.tab.evaluate(focused)[0] == "text"
    page.press("u", "Escape")
    assert page.tab.evaluate(focused)[0] == "scroller"
    seen = set()
    for _ in range(30):
        page.press("Tab")
        name, outline = page.tab.evaluate(focused)
        assert outline == "solid" or name in ("scroller", "")  # a list's focus is that of its selected row
        seen.add(name)
    assert {"sort", "direction", "flag", "labelled", "text", "import", "help"} <= seen
    unnamed = (
        "[...document.querySelectorAll('button, select, input:not([type=file])')].filter(e => !e.textContent.trim() "
    )
    unnamed += "&& !e.ariaLabel && !(e.labels && e.labels.length)).map(e => e.id)"
    assert page.tab.evaluate(unnamed) == []


def test_odd_names_are_only_text(context, tmp_path):
    rows = [lens(k, name=name, columns={name: name}, flag=name) for k, name in enumerate(ODD)]
    path = build(tmp_path / "<b>odd & 'quoted'.html", rows, classes=["no", "<i>sphere</i>", "vort"])
    page = OpenPage(context, path)
    for _ in ODD:
        page.press("1")
    assert [row["file"] for row in csv.DictReader(io.StringIO(page.export(), newline=""))] == ODD
    shown = [name.replace("\n", "\\u000a").replace("\u202e", "\\u202e") for name in ODD]
    page.press("Home")
    assert page.selected() == shown[0]
    assert set(page.names()) <= set(shown)
    page.press("g")
    assert page.tab.evaluate("document.querySelectorAll('i, img, script:not([type])').length") == 1  # the page's own
    assert not page.problems
    page.tab.close()


def test_two_thousand_lenses_with_their_pictures_in_a_folder(context, tmp_path):
    novelty = np.random.default_rng(0).permutation(2000) / 2000
    rows = [replace(ROWS[k % 7], name=f"lens_{k}.npy", novelty=float(novelty[k])) for k in range(2000)]
    path = build(tmp_path / "large.html", rows, inline_bytes=100_000)
    assert len(list((tmp_path / "large_pictures").iterdir())) == 2000
    page = OpenPage(context, path)
    assert len(page.names()) < 30
    page.press("End")
    assert page.selected() == "lens_1999.npy" and page.names()[-1] == "lens_1999.npy"
    page.tab.select_option("#sort", "novelty")
    order = np.argsort(-novelty)
    assert page.names()[:5] == [f"lens_{k}.npy" for k in order[:5]]
    page.tab.wait_for_load_state("networkidle")
    assert any(address.endswith(f"large_pictures/{order[0]:07d}.png") for address in page.addresses)
    assert not page.problems
    page.tab.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_follows_the_colours_that_the_reader_prefers(page, scheme):
    page.tab.emulate_media(color_scheme=scheme)
    colours = "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    back, text = ([int(x) for x in colour[4:-1].split(",")] for colour in page.tab.evaluate(colours))
    assert (np.mean(back) > 200) == (scheme == "light")
    assert contrast(back, text) > 7  # WCAG 2.2, level AAA


def contrast(one, other) -> float:
    """Of two colours (WCAG 2.2, 'contrast ratio')."""

    def luminance(rgb):
        c = np.array(rgb) / 255
        return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)
