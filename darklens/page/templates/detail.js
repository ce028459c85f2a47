// The selected lens: its pictures large, all that the table says, and the buttons that label it.

/** The colours of a residual, from below zero to above, as in strip.py. */
const SIGNED = "linear-gradient(to right,#08306b,#2166ac,#4393c3,#92c5de,#d1e5f0,#f7f7f7,#fddbc7,#f4a582,#d6604d,#b2182b,#67001f)";

function galleryFigure(lens, panel) {
  const caption = make("figcaption", "", DATA.panels[panel]);
  const element = make("figure", "", shot(lens, panel), caption);
  if (panel !== "residual" && panel !== "detection") return element;
  const scale = make("div", "scale");
  scale.style.background = SIGNED;
  const ends = [-DATA.limit, 0, DATA.limit].map((value) => make("span", "", `${value > 0 ? "+" : ""}${value}${value ? "σ" : ""}`.replace("-", "−")));
  element.append(scale, make("div", "ends", ...ends));
  return element;
}

/** A button for each label, and one to change which labels there are. */
function labelButtons(lens, labels, onLabel, onEdit) {
  const current = labels.of(lens);
  const names = labels.names.includes(current) || !current ? labels.names : [...labels.names, current];
  const buttons = names.map((name, k) => {
    const button = make("button", "", k < labels.names.length ? make("kbd", "", `${k + 1}`) : null, isolated(name));
    button.type = "button";
    button.setAttribute("aria-pressed", name === current);
    button.addEventListener("click", () => onLabel(name === current ? "" : name));
    return button;
  });
  const edit = make("button", "edit", "Edit labels …");
  edit.type = "button";
  edit.addEventListener("click", onEdit);
  return make("div", "labels", ...buttons, edit);
}

/** Name and value of all that is known of a lens. */
function facts(lens) {
  const list = make("dl");
  const add = (name, value) => list.append(make("dt", "", isolated(name)), make("dd", "", isolated(value)));
  if (lens.truth) add("true class", lens.truth);
  if (lens.radius !== null) add("Einstein radius", `${withError(lens.radius, lens.radiusError)} arcsec`);
  if (lens.chiSquare !== null) add("chi-square per pixel", digits(lens.chiSquare, 4));
  if (lens.novelty !== null) add("novelty", digits(lens.novelty, 3));
  if (lens.className) add("to label next", `${lens.place}.`);
  const cells = new Map(DATA.columns.map((name, column) => [name, lens.columns[column]]).filter(([, cell]) => cell));
  cells.forEach((cell, name) => {
    const error = cells.get(`${name}_sd`);
    if (error !== undefined) add(name, withError(Number(cell), Number(error)));
    else if (!cells.has(name.replace(/_sd$/, "")) || !name.endsWith("_sd")) add(name, cell);
  });
  return list;
}

function drawDetail(lens, labels, onLabel, onEdit) {
  const pane = byId("detail");
  const focused = pane.contains(document.activeElement) ? document.activeElement.textContent : null;
  if (!lens) return pane.replaceChildren();
  const shown = Object.keys(DATA.panels).filter((panel) => lens.panels.includes(panel));
  const title = DATA.calibrated ? "Calibrated probabilities" : "Probabilities";
  const probabilities = lens.className ? section(title, bars(lens)) : "";
  pane.replaceChildren(
    make("h2", "", isolated(lens.name)),
    ...(lens.flag ? [make("div", "flag", isolated(lens.flag))] : []),
    section("Your label", labelButtons(lens, labels, onLabel, onEdit)),
    make("div", "gallery", ...shown.map((panel) => galleryFigure(lens, panel)), probabilities),
    facts(lens)
  );
  if (focused === null) return undefined;
  return [...pane.querySelectorAll("button")].find((button) => button.textContent === focused)?.focus();
}

const section = (title, content) => make("section", "", make("h3", "", title), content);
