// What the page shows: the table, read from the JSON beside this script. Names come from strangers' files: they are only
// ever set as text, never as HTML.

const byId = (id) => document.getElementById(id);
const DATA = JSON.parse(byId("data").textContent);
const PICTURES = JSON.parse(byId("pictures").textContent);

const LENSES = DATA.rows.map((row, index) => ({
  index,
  number: row[0],
  name: row[1],
  className: row[2],
  truth: row[3],
  probabilities: row[4],
  flag: row[5],
  novelty: row[6],
  chiSquare: row[7],
  radius: row[8],
  radiusError: row[9],
  place: row[10],
  panels: row[11],
  columns: row[12],
}));

const entropy = (p) => -p.reduce((sum, x) => sum + (x > 0 ? x * Math.log2(x) : 0), 0);
const surest = (lens) => (lens.probabilities.length ? Math.max(...lens.probabilities) : null);
const colourOf = (className) => DATA.colours[DATA.classes.indexOf(className)] || "var(--quiet)";

/** A column of numbers sorts as numbers: all of its cells but the empty ones read as such. */
function columnReader(column) {
  const cells = LENSES.map((lens) => lens.columns[column]).filter((cell) => cell !== "");
  const numeric = cells.length > 0 && cells.every((cell) => Number.isFinite(Number(cell)));
  if (numeric) return (lens) => (lens.columns[column] === "" ? null : Number(lens.columns[column]));
  return (lens) => lens.columns[column];
}

/** What lenses are sorted by: key, title, value of a lens, and whether the largest comes first unless asked otherwise. */
function sortKeys(labels) {
  const known = (key) => LENSES.some((lens) => lens[key] !== null && lens[key] !== "");
  const keys = [
    ["table", "order of the table", (lens) => lens.index, false],
    ["useful", "most useful to label next", (lens) => (lens.className ? lens.place : null), false],
    ["name", "file", (lens) => lens.name, false],
    ["class", "class", (lens) => lens.className, false],
    ["surest", "probability of the class", surest, true],
    ["entropy", "entropy of the probabilities", (lens) => (lens.className ? entropy(lens.probabilities) : null), true],
    ...DATA.classes.map((name, k) => [`p_${k}`, `probability of ${name}`, (lens) => lens.probabilities[k] ?? null, true]),
    ["flag", "flag", (lens) => lens.flag, false],
    ["label", "label", (lens) => labels.of(lens), false],
  ];
  if (known("truth")) keys.push(["truth", "true class", (lens) => lens.truth, false]);
  if (known("novelty")) keys.push(["novelty", "novelty", (lens) => lens.novelty, true]);
  if (known("chiSquare")) keys.push(["chi_square", "chi-square per pixel", (lens) => lens.chiSquare, true]);
  if (known("radius")) keys.push(["radius", "Einstein radius", (lens) => lens.radius, true]);
  if (known("radiusError")) keys.push(["radius_error", "error of the Einstein radius", (lens) => lens.radiusError, true]);
  DATA.columns.forEach((name, column) => keys.push([`column_${column}`, name, columnReader(column), false]));
  return new Map(keys.map(([key, title, value, descending]) => [key, { title, value, descending }]));
}

/** The address of a lens's pictures: in the page itself, or a file in the folder beside it. */
function pictureOf(lens) {
  if (DATA.folder) return `${encodeURIComponent(DATA.folder)}/${String(lens.number).padStart(7, "0")}.png`;
  return `data:image/png;base64,${PICTURES[lens.number]}`;
}

/** A number to so many digits, without an exponent where it can be. */
function digits(value, count) {
  if (value === null) return "–";
  return Math.abs(value) >= 10 ** count && Math.abs(value) < 1e7 ? value.toFixed(0) : value.toPrecision(count);
}

/** 1.2345 and 0.0067 -> 1.235 ± 0.007: the error to one digit, or two where it begins with a 1. */
function withError(value, error) {
  if (value === null) return "–";
  if (error === null || !(error > 0)) return digits(value, 4);
  const leading = error / 10 ** Math.floor(Math.log10(error));
  const places = Math.min(Math.max(-Math.floor(Math.log10(error)) + (leading < 1.95 ? 1 : 0), 0), 6);
  return `${value.toFixed(places)} ± ${error.toFixed(places)}`;
}

const percent = (p) => (p > 0.9995 ? ">99.9%" : p < 0.0005 ? "<0.1%" : `${(100 * p).toFixed(1)}%`);
