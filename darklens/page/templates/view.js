// Which lenses are shown, and in which order?

const VIEW = {
  sort: "table",
  descending: false,
  classes: new Set(), // that are hidden
  flag: "",
  labelled: "",
  truth: "",
  text: "",
  order: [], // lenses that are shown, in order
  selected: 0, // a place in it
};

/** "smooth lens: poor fit; unlike training data" -> its parts; what follows a number differs from lens to lens. */
const flagParts = (lens) => (lens.flag ? lens.flag.split("; ") : []);

const FLAG_TESTS = {
  "": () => true,
  without: (lens) => !lens.flag && lens.className !== "",
  with: (lens) => lens.flag !== "" && lens.className !== "",
  rejected: (lens) => lens.className === "",
};

function passesFlag(lens) {
  const test = FLAG_TESTS[VIEW.flag];
  return test ? test(lens) : flagParts(lens).includes(VIEW.flag.slice(1));
}

function passesLabel(lens, labels) {
  const label = labels.of(lens);
  if (VIEW.labelled === "no") return !label;
  if (VIEW.labelled === "yes") return label !== "";
  if (VIEW.labelled === "differs") return label !== "" && label !== lens.className;
  return VIEW.labelled === "" || label === VIEW.labelled.slice(1);
}

function passesTruth(lens) {
  if (VIEW.truth === "") return true;
  return lens.truth !== "" && (lens.truth === lens.className) === (VIEW.truth === "right");
}

function passesText(lens) {
  if (!VIEW.text) return true;
  lens.searched ??= [lens.name, lens.className, lens.flag, lens.truth, ...lens.columns].join("\n").toLowerCase();
  return VIEW.text.toLowerCase().split(/\s+/).every((word) => lens.searched.includes(word));
}

/** Numbers before text, and what is missing last, whatever the direction. */
function compare(a, b, sign) {
  const missing = (value) => value === null || value === "";
  if (missing(a) || missing(b)) return missing(a) - missing(b);
  if (typeof a === "number" && typeof b === "number") return sign * (a - b);
  return sign * COLLATOR.compare(a, b);
}

const COLLATOR = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

/** Filter and sort again; the selected lens stays selected where it is still shown. */
function updateView(keys, labels) {
  const current = VIEW.order[VIEW.selected];
  const { value } = keys.get(VIEW.sort);
  const sign = VIEW.descending ? -1 : 1;
  const shown = LENSES.filter(
    (lens) =>
      !VIEW.classes.has(lens.className) &&
      passesFlag(lens) &&
      passesLabel(lens, labels) &&
      passesTruth(lens) &&
      passesText(lens)
  );
  const valued = shown.map((lens) => [value(lens), lens]);
  valued.sort((a, b) => compare(a[0], b[0], sign) || a[1].index - b[1].index);
  VIEW.order = valued.map((pair) => pair[1]);
  VIEW.selected = Math.max(VIEW.order.indexOf(current), 0);
}
