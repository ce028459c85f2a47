// How one lens looks in the list and in the grid.

/** An element with a class, and text or children in it. */
function make(tag, className = "", ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children.filter((child) => child !== null && child !== ""));
  return element;
}

/** Characters that nobody sees, among them those that turn the order of others around, as \\u202e. */
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]/g;
const visible = (text) => text.replace(HIDDEN, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);

/** The text as it is, whichever way it is written, without changing what stands beside it. */
const isolated = (text) => make("bdi", "", visible(text));

/** One panel of a lens's strip of pictures. */
function shot(lens, panel) {
  const place = lens.panels.indexOf(panel);
  const element = make("span", "shot");
  element.setAttribute("role", "img");
  element.setAttribute("aria-label", `${DATA.panels[panel]} of ${lens.name}`);
  if (place < 0) return element;
  const count = lens.panels.length;
  element.style.backgroundImage = `url("${pictureOf(lens)}")`;
  element.style.backgroundSize = `100% ${100 * count}%`;
  element.style.backgroundPosition = `0 ${count > 1 ? (100 * place) / (count - 1) : 0}%`;
  return element;
}

/** Name, bar and figure of each class. */
function bars(lens) {
  const element = make("div", "bars");
  element.setAttribute("role", "group");
  element.setAttribute("aria-label", DATA.calibrated ? "calibrated probabilities" : "probabilities");
  DATA.classes.forEach((name, k) => {
    const p = lens.probabilities[k];
    if (p === undefined) return;
    const fill = make("div", "fill");
    fill.style.setProperty("--class", DATA.colours[k]);
    fill.style.transform = `scaleX(${p})`;
    const label = make("span", name === lens.className ? "bar_name top_class" : "bar_name", isolated(name));
    label.title = name;
    element.append(label, make("div", "track", fill), make("span", "number", percent(p)));
  });
  return element;
}

/** "χ² 1.02" and the like. */
const figure = (name, value) => make("span", "", name, " ", make("b", "", value));

/** The fit's and the network's figures that there are, then the list's own columns as far as there is room. */
function figures(lens) {
  const parts = [];
  if (lens.radius !== null) parts.push(figure(make("span", "", "θ", make("sub", "", "E")), `${withError(lens.radius, lens.radiusError)}″`));
  if (lens.chiSquare !== null) parts.push(figure("χ²", digits(lens.chiSquare, 3)));
  if (lens.novelty !== null) parts.push(figure("novelty", digits(lens.novelty, 2)));
  return make("div", "figures", ...parts);
}

function listColumns(lens) {
  const parts = DATA.columns
    .map((name, column) => [name, lens.columns[column]])
    .filter(([name, value]) => value !== "" && DATA.listed.includes(name))
    .slice(0, 6)
    .map(([name, value]) => figure(name, isolated(value)));
  return make("div", "figures", ...parts);
}

function badge(label) {
  const element = make("span", label ? "badge set" : "badge", isolated(label || "no label"));
  element.title = label;
  return element;
}

/** A row of the list. */
function listRow(lens, label) {
  const shown = Object.keys(DATA.panels).filter((panel) => lens.panels.includes(panel));
  const strip = make("div", "strip", ...(shown.length ? shown.slice(0, 4) : ["image"]).map((panel) => shot(lens, panel)));
  const truth = lens.truth && lens.truth !== lens.className ? `true class: ${lens.truth}` : "";
  const flag = [truth, lens.flag].filter(Boolean).join("; ");
  const name = make("div", "name", isolated(lens.name));
  name.title = visible(lens.name);
  const flagged = flag ? make("div", "flag", isolated(flag)) : null;
  if (flagged) flagged.title = flag;
  const facts = make("div", "facts", name, lens.className ? figures(lens) : null, listColumns(lens), flagged);
  return [strip, facts, bars(lens), badge(label)];
}

/** A tile of the grid. */
function gridTile(lens, label, panel) {
  const dot = make("span", "dot");
  dot.style.setProperty("--class", colourOf(lens.className));
  const name = make("span", "name", isolated(lens.name.split("/").pop()));
  const foot = make("div", "foot", dot, name, lens.flag ? make("span", "mark", "⚑") : null);
  const inner = make("div", "inner", shot(lens, lens.panels.includes(panel) ? panel : "image"), foot, badge(label));
  inner.title = [lens.name, lens.className, lens.flag].filter(Boolean).map(visible).join("\n");
  return [inner];
}
