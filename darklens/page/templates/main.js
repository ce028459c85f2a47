// What buttons and keys do.

const labels = new Labels(DATA.key, DATA.classes);
const KEYS = sortKeys(labels);
const list = new LensList(labels, showDetail);

function showDetail() {
  drawDetail(VIEW.order[VIEW.selected], labels, setLabel, editNames);
}

function update(toTop = false) {
  updateView(KEYS, labels);
  byId("count").textContent =
    VIEW.order.length === LENSES.length ? `${LENSES.length} lenses` : `${VIEW.order.length} of ${LENSES.length} lenses`;
  byId("direction").textContent = VIEW.descending ? "↓" : "↑";
  byId("direction").title = VIEW.descending ? "The largest first" : "The smallest first";
  if (toTop) VIEW.selected = list.scroller.scrollTop = 0;
  list.refresh();
  if (!toTop) list.reveal();
  showDetail();
}

function showProgress() {
  const count = LENSES.filter((lens) => labels.of(lens)).length;
  const kept = labels.kept ? "" : "; this browser keeps no labels: export them before you close the page";
  byId("progress").textContent = count || kept ? `${count} labelled${kept}` : "";
  byId("undo").disabled = labels.history.length === 0;
  byId("export").disabled = count === 0;
}

let toastTimer = 0;
function toast(text) {
  byId("toast").replaceChildren(isolated(text));
  byId("toast").classList.add("shown");
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => byId("toast").classList.remove("shown"), 2600);
}

/** Label the selected lens; a key goes on to the next one. */
function setLabel(label, advance = false) {
  const lens = VIEW.order[VIEW.selected];
  if (!lens) return;
  const changed = labels.set(lens, label);
  list.redraw(VIEW.selected);
  showProgress();
  if (changed) toast(label ? `${lens.name}: ${label}` : `${lens.name}: no label`);
  if (advance && VIEW.selected < VIEW.order.length - 1) list.select(VIEW.selected + 1);
  else showDetail();
}

function undo() {
  const lens = labels.undo();
  if (!lens) return toast("nothing to undo");
  showProgress();
  const place = VIEW.order.indexOf(lens);
  if (place >= 0) {
    list.redraw(place);
    list.select(place);
  }
  return toast(`${lens.name}: ${labels.of(lens) || "no label"} again`);
}

function nextUnlabelled() {
  const place = VIEW.order.findIndex((lens, k) => k > VIEW.selected && !labels.of(lens));
  if (place < 0) toast("no lens without a label after this one");
  else list.select(place);
}

function exportLabels() {
  if (byId("export").disabled) return toast("no labels yet: the keys 1 to 9 set them");
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([labels.csv()], { type: "text/csv;charset=utf-8" }));
  link.download = "labels.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  return undefined;
}

async function importLabels(event) {
  const [file] = event.target.files;
  if (!file) return;
  try {
    toast(`${labels.merge(await file.text())} labels read`);
  } catch (error) {
    toast(`${file.name}: ${error.message}`);
  }
  event.target.value = "";
  fillLabelFilter();
  showProgress();
  update();
}

function editNames() {
  byId("names").value = labels.names.join("\n");
  byId("names_problem").textContent = "";
  byId("names_dialog").showModal();
}

function saveNames() {
  const lines = byId("names").value.split("\n").map((line) => line.trim());
  const names = [...new Set(lines.filter((line) => line))];
  const problem = names.map(labelProblem).find((text) => text) || (names.length ? "" : "at least one label");
  byId("names_problem").textContent = names.length > 9 ? "nine labels at most" : problem;
  if (byId("names_problem").textContent) return;
  labels.names = names;
  labels.write();
  byId("names_dialog").close();
  fillLabelFilter();
  showDetail();
}

function setGrid(grid) {
  list.grid = grid;
  byId("as_list").setAttribute("aria-pressed", !grid);
  byId("as_grid").setAttribute("aria-pressed", grid);
  byId("panel").hidden = !grid || byId("panel").options.length < 2;
  list.refresh();
  list.reveal();
}

/** Fill a select with [value, title] pairs; the value that was chosen stays where it can. */
function fillSelect(id, pairs) {
  const chosen = byId(id).value;
  byId(id).replaceChildren(...pairs.map(([value, title]) => new Option(title, value)));
  if (pairs.some(([value]) => value === chosen)) byId(id).value = chosen;
}

/** The words of flags by how often they come; those that hold a figure of the lens are left to the search. */
function commonFlags() {
  const counts = new Map();
  LENSES.filter((lens) => lens.className).forEach((lens) =>
    flagParts(lens).forEach((part) => counts.set(part, (counts.get(part) || 0) + 1))
  );
  return [...counts].sort((a, b) => b[1] - a[1]).slice(0, 12);
}

function fillLabelFilter() {
  const names = [...new Set([...labels.names, ...labels.byName.values()])];
  fillSelect("labelled", [
    ["", "any"],
    ["no", "without a label"],
    ["yes", "labelled"],
    ["differs", "other than the class"],
    ...names.map((name) => [`=${name}`, name]),
  ]);
  VIEW.labelled = byId("labelled").value;
}

function fillControls() {
  fillSelect("sort", [...KEYS].map(([key, { title }]) => [key, title]));
  const count = (test) => LENSES.filter(test).length;
  fillSelect("flag", [
    ["", "any"],
    ["without", `without (${count(FLAG_TESTS.without)})`],
    ["with", `with a flag (${count(FLAG_TESTS.with)})`],
    ["rejected", `rejected (${count(FLAG_TESTS.rejected)})`],
    ...commonFlags().map(([part, times]) => [`=${part}`, `${part} (${times})`]),
  ]);
  fillLabelFilter();
  byId("truth_control").hidden = !KEYS.has("truth");
  fillSelect("truth", [["", "any"], ["wrong", "mistakes"], ["right", "right"]]);
  const panels = Object.keys(DATA.panels).filter((panel) => LENSES.some((lens) => lens.panels.includes(panel)));
  fillSelect("panel", panels.map((panel) => [panel, DATA.panels[panel]]));
  byId("classes").replaceChildren(...[...DATA.classes, ""].map(classChip).filter((chip) => chip));
}

/** A button that shows or hides a class; "": the files that were rejected. */
function classChip(name) {
  const count = LENSES.filter((lens) => lens.className === name).length;
  if (!name && !count) return null;
  const dot = make("span", "dot");
  dot.style.setProperty("--class", colourOf(name));
  const chip = make("button", "", dot, isolated(name || "rejected"), ` ${count}`);
  chip.type = "button";
  chip.setAttribute("aria-pressed", true);
  chip.addEventListener("click", () => {
    const shown = VIEW.classes.delete(name) || !VIEW.classes.add(name);
    chip.setAttribute("aria-pressed", shown);
    update(true);
  });
  return chip;
}

function clearFilters() {
  Object.assign(VIEW, { flag: "", labelled: "", truth: "", text: "" });
  ["flag", "labelled", "truth", "text"].forEach((id) => (byId(id).value = ""));
  VIEW.classes.clear();
  byId("classes").querySelectorAll("button").forEach((chip) => chip.setAttribute("aria-pressed", true));
  update(true);
}

const PRESSED = {
  u: undo,
  n: nextUnlabelled,
  e: exportLabels,
  g: () => setGrid(!list.grid),
  "/": () => byId("text").focus(),
  "?": () => byId("help_dialog").showModal(),
  0: () => setLabel(""),
};

function onKey(event) {
  if (event.target === byId("text") && event.key === "Escape") list.scroller.focus();
  const writing = event.target.matches("input, select, textarea") || document.querySelector("dialog[open]");
  if (writing || event.ctrlKey || event.metaKey || event.altKey) return;
  const stride = list.stride(event.key);
  const label = labels.names[Number(event.key) - 1];
  if (stride !== undefined) list.select(VIEW.selected + stride);
  else if (PRESSED[event.key]) PRESSED[event.key]();
  else if (/^[1-9]$/.test(event.key) && label) setLabel(label, true);
  else return;
  event.preventDefault();
}

function onChange(id, act) {
  byId(id).addEventListener(id === "text" ? "input" : "change", (event) => {
    act(event.target.value);
    update(true);
  });
}

function start() {
  fillControls();
  onChange("sort", (key) => Object.assign(VIEW, { sort: key, descending: KEYS.get(key).descending }));
  ["flag", "labelled", "truth", "text"].forEach((id) => onChange(id, (value) => (VIEW[id] = value)));
  const clicks = { undo, export: exportLabels, clear: clearFilters, names_save: saveNames };
  clicks.direction = () => update((VIEW.descending = !VIEW.descending) || true);
  clicks.help = PRESSED["?"];
  clicks.import = () => byId("import_file").click();
  clicks.names_cancel = () => byId("names_dialog").close();
  clicks.as_list = () => setGrid(false);
  clicks.as_grid = () => setGrid(true);
  Object.entries(clicks).forEach(([id, act]) => byId(id).addEventListener("click", () => act()));
  byId("import_file").addEventListener("change", importLabels);
  byId("panel").addEventListener("change", (event) => {
    list.panel = event.target.value;
    list.refresh();
  });
  document.addEventListener("keydown", onKey);
  window.addEventListener("storage", (event) => event.key === DATA.key && (labels.read(), showProgress(), update()));
  const shown = LENSES.length < DATA.total ? `the ${LENSES.length} most useful to label of ${DATA.total} lenses` : "";
  byId("summary").textContent = [shown, DATA.network].filter(Boolean).map((text) => ` · ${text}`).join("");
  showProgress();
  update(true);
  list.scroller.focus();
}

start();
