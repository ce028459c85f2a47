"""Pages without a browser: pictures, escaped names, what is kept of many lenses, the order in which to label."""

import json
import re
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from page.pages import CLASSES, build, lens
from PIL import Image

from darklens.errors import ResultsError, UsageError
from darklens.page.builder import write_page
from darklens.page.priority import labelling_order, usefulness
from darklens.page.row import PageInfo, PageRow
from darklens.page.strip import PANELS, Pictures, draw_strip
from darklens.page.template import embed_json


def data_of(path) -> dict:
    """What the page's scripts read."""
    return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text(), re.DOTALL)[1])


def panels_of(strip) -> np.ndarray:
    """(panels, S, S, 4) uint8 colours, as Pillow reads them."""
    pixels = np.asarray(Image.open(BytesIO(strip.png)).convert("RGBA"))
    side = pixels.shape[1]
    return pixels.reshape(-1, side, side, 4)  # (panels * S, S, 4) -> (panels, S, S, 4)


def test_brighter_pixels_are_lighter_and_residuals_have_their_colours():
    image = np.linspace(0, 1000, 400).reshape(20, 20)
    residual = np.linspace(-8, 8, 400).reshape(20, 20)
    strip = draw_strip(Pictures(image, residual=residual, source=np.ones((5, 5))))
    assert strip.panels == ("image", "residual", "source")
    shown, signed, _ = panels_of(strip).astype(int)
    lightness = shown[..., :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness.ravel()) >= -1).all() and lightness.max() - lightness.min() > 200
    red, blue = signed[..., 0].ravel(), signed[..., 2].ravel()
    assert (blue[:150] >= red[:150]).all() and (red[250:] >= blue[250:]).all()  # blue below zero, red above
    assert (signed[..., 3] == 255).all()


def test_the_smooth_lens_has_the_brightness_of_the_image():
    image = np.random.default_rng(0).normal(100, 10, (30, 30))
    image[10:20, 10:20] += 500
    shown, smooth = panels_of(draw_strip(Pictures(image, smooth_lens=image)))
    assert (shown == smooth).all()
    shown, smooth = panels_of(draw_strip(Pictures(image, smooth_lens=np.full_like(image, np.median(image)))))
    assert smooth.std((0, 1))[:3].max() == 0


@pytest.mark.parametrize("fill", [0.0, 7.5, np.nan, np.inf, -1e38])
def test_draws_what_is_constant_missing_or_huge(fill):
    (shown,) = panels_of(draw_strip(Pictures(np.full((12, 12), fill, np.float32))))
    assert (shown[..., 3] == (255 if np.isfinite(fill) else 0)).all()


def test_large_pictures_are_averaged():
    strip = draw_strip(Pictures(np.random.default_rng(0).normal(size=(650, 650))))
    assert panels_of(strip).shape[1] == 130


def test_json_cannot_end_its_element():
    names = ["</script>", "<!--", "<script>", "&amp;", "]]>", "\u2028", "\udcff"]
    text = embed_json(names)
    assert not set("<>&") & set(text) and text.isascii()
    assert json.loads(text) == names


def test_a_title_is_escaped_and_only_the_pages_own_script_may_run(tmp_path):
    path = tmp_path / "page.html"
    with write_page(path, PageInfo("<img src=x onerror=alert(1)>", CLASSES)) as page:
        page.add(lens(0))
    text = path.read_text()
    assert "<img" not in text and "&lt;img src=x" in text
    assert re.search(r"script-src &#39;sha256-[\w+/=]+&#39;; base-uri", text)
    assert not re.search(r"(?:src|href)=\"?https?:|url\(\"?http", text)


def test_equal_rows_give_equal_bytes(tmp_path):
    one, other = (build(tmp_path / name, [lens(k) for k in range(3)]) for name in ("a.html", "b.html"))
    assert one.read_bytes() == other.read_bytes()


def test_of_too_many_lenses_the_most_useful_stay(tmp_path):
    rows = [lens(k, novelty=None) for k in range(40)] + [PageRow("broken.npy", flag="no image")]
    path = build(tmp_path / "page.html", rows, max_rows=10, inline_bytes=20_000)
    entropy = [-sum(p * np.log(p) for p in row.probabilities if p > 0) for row in rows]
    data = data_of(path)
    kept = sorted(np.argsort(entropy)[::-1][:10])
    assert [row[1] for row in data["rows"]] == [rows[k].name for k in kept] and data["total"] == 41
    assert sorted(p.name for p in (tmp_path / "page_pictures").iterdir()) == [f"{k:07d}.png" for k in kept]


def test_a_page_appears_whole_or_not_at_all(tmp_path):
    path = build(tmp_path / "page.html", [lens(k) for k in range(9)], inline_bytes=0)
    before = path.read_bytes(), sorted((tmp_path / "page_pictures").iterdir())
    with pytest.raises(KeyError), write_page(path, PageInfo("again", CLASSES), inline_bytes=0) as page:
        page.add(lens(0))
        raise KeyError
    assert (path.read_bytes(), sorted((tmp_path / "page_pictures").iterdir())) == before
    assert len(list(tmp_path.iterdir())) == 2
    build(path, [lens(k) for k in range(3)])  # fewer: all in one file
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]


def test_never_removes_what_is_not_its_own(tmp_path):
    (tmp_path / "page_pictures").mkdir()
    (tmp_path / "page_pictures" / "holiday.png").write_bytes(b"dear")
    with pytest.raises(UsageError, match="holds other files"):
        build(tmp_path / "page.html", [lens(0)])
    assert (tmp_path / "page_pictures" / "holiday.png").read_bytes() == b"dear"
    with pytest.raises(ResultsError, match="cannot be written"):
        build(tmp_path / "nowhere" / "page.html", [lens(0)])


def test_figures_and_places_reach_the_page(tmp_path):
    rows = [lens(k) for k in range(5)] + [PageRow("broken.npy", flag="no image", columns={"dec": "1"})]
    rows[2] = replace(rows[2], chi_square=np.nan, novelty=None)
    data = data_of(build(tmp_path / "page.html", rows))
    assert data["columns"] == ["id", "ra", "dec"]
    for row, shown in zip(rows, data["rows"], strict=True):
        assert shown[1:3] == [row.name, row.class_name] and shown[5] == row.flag
        np.testing.assert_allclose(shown[4], row.probabilities, atol=1e-6)
        assert shown[11] == ([] if row.strip is None else ["image", "smooth_lens", "residual"])
        assert set(shown[11]) <= set(PANELS)
    assert data["rows"][2][6:8] == [None, None] and data["rows"][5][12] == ["", "", "1"]
    assert sorted(row[10] for row in data["rows"]) == [1, 2, 3, 4, 5, 6] and data["rows"][5][10] == 6


def test_labels_are_kept_by_survey_and_lenses():
    info = PageInfo("a", CLASSES, source="survey")
    assert info.storage_key(["a", "b"]) == replace(info, title="tuned").storage_key(["b", "a"])
    assert info.storage_key(["a", "b"]) != info.storage_key(["a", "c"])
    assert info.storage_key(["a", "b"]) != replace(info, source="other").storage_key(["a", "b"])


def test_unsure_and_new_lenses_are_useful():
    p = np.array([[1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0], [1, 0, 0]])
    novelty = np.array([0.2, np.nan, 0.1, 0.9])
    np.testing.assert_allclose(usefulness(p, novelty), [0.2, 1, np.log(2) / np.log(3), 0.9])
    assert labelling_order(p, novelty).tolist() == [4, 1, 3, 2]


def test_twins_do_not_follow_each_other():
    """Six lenses in three groups of twins, those of the first group the least sure: one of each group comes first."""
    p = np.array([[0.5, 0.5], [0.5, 0.5], [0.6, 0.4], [0.6, 0.4], [0.7, 0.3], [0.7, 0.3]])
    embedding = np.array([[0, 0], [0, 0.01], [5, 0], [5, 0.01], [0, 5], [0.01, 5]])
    places = labelling_order(p, np.zeros(6), embedding)
    assert sorted(np.argsort(places)[:3] // 2) == [0, 1, 2]
    assert sorted(places) == [1, 2, 3, 4, 5, 6]


def test_the_order_is_that_of_the_greedy_definition():
    """Against the definition, one distance at a time."""
    rng = np.random.default_rng(3)
    p, novelty, embedding = rng.dirichlet([1, 1, 1], 40), rng.uniform(0, 1.2, 40), rng.normal(size=(40, 6))
    weight = usefulness(p, novelty)
    scaled = (embedding - embedding.mean(0)) / embedding.std(0)
    order = [int(weight.argmax())]
    while len(order) < 40:
        distance = {k: min(np.linalg.norm(scaled[k] - scaled[j]) for j in order) for k in set(range(40)) - set(order)}
        order.append(max(distance, key=lambda k: weight[k] * distance[k]))
    assert (np.argsort(labelling_order(p, novelty, embedding)) == order).all()
