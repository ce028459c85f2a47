// Labels: given by hand, kept in this browser, undone one by one, written and read as CSV.

const PLAIN_NAME = /^[^\u0000-\u001f\u007f/\\]{1,60}$/;

/** Why a name cannot be a label, or "": labels become folders of a data set. */
function labelProblem(name) {
  if (!PLAIN_NAME.test(name)) return `${name}: a label has 1 to 60 characters, no / or \\`;
  return name.startsWith(".") || name.startsWith("__") ? `${name}: a label begins with a letter or digit` : "";
}

class Labels {
  constructor(key, names) {
    this.key = key;
    this.names = names.slice(0, 9);
    this.byName = new Map();
    this.history = [];
    this.kept = true;
    this.read();
  }

  of(lens) {
    return this.byName.get(lens.name) || "";
  }

  /** Set the label of a lens, or take it away ("", null). */
  set(lens, label) {
    const before = this.of(lens);
    if (before === (label || "")) return false;
    this.history.push({ lens, before });
    this.put(lens.name, label);
    this.write();
    return true;
  }

  /** Take the last change back; the lens it was of, or null. */
  undo() {
    const last = this.history.pop();
    if (!last) return null;
    this.put(last.lens.name, last.before);
    this.write();
    return last.lens;
  }

  put(name, label) {
    if (label) this.byName.set(name, label);
    else this.byName.delete(name);
  }

  read() {
    try {
      const stored = JSON.parse(localStorage.getItem(this.key) || "{}");
      const text = (value) => typeof value === "string";
      this.byName = new Map((stored.labels || []).filter((pair) => pair.length === 2 && pair.every(text)));
      const names = (stored.names || []).filter((name) => text(name) && !labelProblem(name));
      if (names.length) this.names = names.slice(0, 9);
    } catch {
      this.kept = false;
    }
  }

  write() {
    try {
      localStorage.setItem(this.key, JSON.stringify({ names: this.names, labels: [...this.byName] }));
      this.kept = true;
    } catch {
      this.kept = false;
    }
  }

  /** The labels of the page's lenses as CSV (RFC 4180), in the order of the table. */
  csv() {
    const cell = (text) => (/[",\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    const names = new Set();
    const rows = LENSES.filter((lens) => this.of(lens) && !names.has(lens.name) && names.add(lens.name));
    const lines = rows.map((lens) => [lens.name, this.of(lens), lens.className].map(cell).join(","));
    return ["file,label,class", ...lines, ""].join("\r\n");
  }

  /** Take the labels of a CSV text over; how many were of lenses of this page. Throws an Error in words. */
  merge(text) {
    const [header, ...rows] = parseCsv(text);
    const [file, label] = ["file", "label"].map((name) => (header || []).indexOf(name));
    if (file < 0 || label < 0) throw new Error("expected a CSV file with the columns file and label");
    const lenses = new Map(LENSES.map((lens) => [lens.name, lens]));
    const pairs = rows.filter((row) => lenses.has(row[file]) && row[label] && !labelProblem(row[label]));
    pairs.forEach((row) => this.set(lenses.get(row[file]), row[label]));
    const names = new Set([...this.names, ...pairs.map((row) => row[label])]);
    this.names = [...names].slice(0, 9);
    this.write();
    return pairs.length;
  }
}

/** The rows of a CSV text (RFC 4180), as lists of cells; empty lines are left out. */
function parseCsv(text) {
  const rows = [[""]];
  let quoted = false;
  const source = text.replace(/^\ufeff/, "");
  for (let i = 0; i < source.length; i++) {
    const row = rows[rows.length - 1];
    const character = source[i];
    if (quoted && character === '"' && source[i + 1] === '"') row[row.length - 1] += source[++i];
    else if (character === '"') quoted = !quoted;
    else if (!quoted && character === ",") row.push("");
    else if (!quoted && (character === "\n" || character === "\r")) rows.push([""]);
    else row[row.length - 1] += character;
  }
  return rows.filter((row) => row.length > 1 || row[0] !== "");
}
