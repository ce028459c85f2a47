// The list or grid of lenses: only those in view, and a few beyond, are in the document.

const ROW_HEIGHT = 106; // px, as in lenses.css: 92 of pictures, the rest around them
const TILE = 168; // px, at least
const FOOT = 28;
const BEYOND = 400; // px above and below that are drawn too

class LensList {
  constructor(labels, onSelect) {
    this.scroller = byId("scroller");
    this.canvas = byId("canvas");
    this.labels = labels;
    this.onSelect = onSelect;
    this.grid = false;
    this.panel = "image";
    this.cells = new Map(); // place in the order -> element
    this.waiting = false;
    this.scroller.addEventListener("scroll", () => this.schedule(), { passive: true });
    this.canvas.addEventListener("click", (event) => {
      const cell = event.target.closest(".cell");
      if (cell) this.select(Number(cell.dataset.place));
    });
    new ResizeObserver(() => this.refresh()).observe(this.scroller);
  }

  /** Columns, and the width and height of a cell. */
  layout() {
    const width = this.scroller.clientWidth;
    if (!this.grid) return { columns: 1, width, height: ROW_HEIGHT };
    const columns = Math.max(Math.floor(width / TILE), 1);
    return { columns, width: width / columns, height: Math.floor(width / columns) + FOOT };
  }

  schedule() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }

  /** Draw all anew: after sorting, filtering, or a change of the window. */
  refresh() {
    this.cells.forEach((cell) => cell.remove());
    this.cells.clear();
    const { columns, height } = this.layout();
    this.canvas.style.height = `${Math.ceil(VIEW.order.length / columns) * height}px`;
    byId("nothing").hidden = VIEW.order.length > 0;
    this.draw();
  }

  draw() {
    const { columns, width, height } = this.layout();
    const top = this.scroller.scrollTop - BEYOND;
    const bottom = this.scroller.scrollTop + this.scroller.clientHeight + BEYOND;
    const first = Math.max(Math.floor(top / height), 0) * columns;
    const last = Math.min(Math.ceil(bottom / height) * columns, VIEW.order.length);
    for (const [place, cell] of this.cells) {
      if (place >= first && place < last) continue;
      cell.remove();
      this.cells.delete(place);
    }
    const added = document.createDocumentFragment();
    for (let place = first; place < last; place++) {
      if (this.cells.has(place)) continue;
      const cell = this.cell(place);
      const [x, y] = [(place % columns) * width, Math.floor(place / columns) * height];
      cell.style.cssText = `width:${width}px;height:${height}px;transform:translate(${x}px,${y}px)`;
      this.cells.set(place, cell);
      added.append(cell);
    }
    this.canvas.append(added);
    this.scroller.setAttribute("aria-activedescendant", this.cells.has(VIEW.selected) ? `lens_${VIEW.selected}` : "");
  }

  cell(place) {
    const lens = VIEW.order[place];
    const label = this.labels.of(lens);
    const children = this.grid ? gridTile(lens, label, this.panel) : listRow(lens, label);
    const cell = make("div", this.grid ? "cell tile" : "cell row", ...children);
    cell.id = `lens_${place}`;
    cell.dataset.place = place;
    cell.setAttribute("role", "option");
    cell.setAttribute("aria-posinset", place + 1);
    cell.setAttribute("aria-setsize", VIEW.order.length);
    cell.setAttribute("aria-selected", place === VIEW.selected);
    return cell;
  }

  /** Draw one lens again, whose label has changed. */
  redraw(place) {
    const old = this.cells.get(place);
    if (!old) return;
    const cell = this.cell(place);
    cell.style.cssText = old.style.cssText;
    old.replaceWith(cell);
    this.cells.set(place, cell);
  }

  select(place) {
    const before = VIEW.selected;
    VIEW.selected = Math.min(Math.max(place, 0), Math.max(VIEW.order.length - 1, 0));
    this.cells.get(before)?.setAttribute("aria-selected", "false");
    this.reveal();
    this.cells.get(VIEW.selected)?.setAttribute("aria-selected", "true");
    this.onSelect();
  }

  /** Scroll as little as brings the selected lens into view. */
  reveal() {
    const { columns, height } = this.layout();
    const top = Math.floor(VIEW.selected / columns) * height;
    const below = top + height - this.scroller.clientHeight;
    if (this.scroller.scrollTop > top) this.scroller.scrollTop = top;
    else if (this.scroller.scrollTop < below) this.scroller.scrollTop = below;
    this.draw();
  }

  /** How many lenses a key moves by: up and down by a line of the grid, page keys by a screen. */
  stride(key) {
    const { columns, height } = this.layout();
    const page = Math.max(Math.floor(this.scroller.clientHeight / height), 1) * columns;
    const all = VIEW.order.length;
    const strides = { ArrowUp: -columns, ArrowDown: columns, ArrowLeft: -1, ArrowRight: 1 };
    return { ...strides, PageUp: -page, PageDown: page, Home: -all, End: all }[key];
  }
}
