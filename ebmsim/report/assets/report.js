"use strict";

// Tables of the class "sortable": a button in every column's heading, a filter, and the first rows alone at first.
// Without this the page shows all rows in their order.

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// What a cell is sorted by: the exact number where there is one.
function key(row, column) {
  const cell = row.cells[column];
  const number = cell.querySelector("data");
  return number ? Number(number.value) : cell.textContent;
}

function compare(a, b) {
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
}

function sortable(table) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const headings = Array.from(table.tHead.rows[0].cells);
  const caption = table.caption.textContent;
  const top = Number(table.dataset.top) || rows.length;
  const state = { words: [], all: top >= rows.length };

  const status = element("p", {});
  status.setAttribute("role", "status");
  const filter = element("input", { type: "search", autocomplete: "off" });
  const more = element("button", { type: "button" });

  function show() {
    const found = rows.filter((row) => state.words.every((word) => row.textContent.toLowerCase().includes(word)));
    const shown = new Set(state.all ? found : found.slice(0, top));
    rows.forEach((row) => { row.hidden = !shown.has(row); });
    status.textContent = `${shown.size} of ${rows.length} rows shown`;
    more.textContent = state.all ? `Show the first ${top}` : `Show all ${found.length}`;
    more.hidden = found.length <= top;
  }

  function sort(heading) {
    const column = headings.indexOf(heading);
    const before = heading.getAttribute("aria-sort");
    // Numbers begin with the largest, texts with the first.
    const descending = before ? before === "ascending" : heading.classList.contains("number");
    rows.sort((a, b) => (descending ? -1 : 1) * compare(key(a, column), key(b, column)));
    headings.forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    body.append(...rows);
    show();
  }

  headings.forEach((heading) => {
    const button = element("button", { type: "button" }, ...heading.childNodes);
    button.addEventListener("click", () => sort(heading));
    heading.append(button);
  });
  filter.addEventListener("input", () => {
    state.words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    show();
  });
  more.addEventListener("click", () => {
    state.all = !state.all;
    show();
  });

  const label = element("label", {}, "Filter", filter);
  const controls = element("div", { className: "controls" }, label, more, status);
  controls.setAttribute("role", "group");
  controls.setAttribute("aria-label", caption);
  table.parentElement.before(controls);
  show();
}

document.querySelectorAll("table.sortable").forEach(sortable);
