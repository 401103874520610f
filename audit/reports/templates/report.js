"use strict";
(() => {
  const table = document.getElementById("snippets");
  if (!table) return;
  const bodies = Array.from(table.tBodies);
  const verdicts = Array.from(document.querySelectorAll("button[data-verdict]"));
  const search = document.getElementById("search");
  const group = document.getElementById("group");
  const count = document.getElementById("shown");

  const filter = () => {
    const hidden = new Set(verdicts.filter((b) => b.getAttribute("aria-pressed") === "false").map((b) => b.dataset.verdict));
    const words = search.value.toLowerCase();
    let shown = 0;
    for (const body of bodies) {
      const visible = !hidden.has(body.dataset.verdict)
        && (!group || !group.value || body.dataset.group === group.value)
        && (!words || body.textContent.toLowerCase().includes(words));
      body.hidden = !visible;
      shown += visible ? 1 : 0;
    }
    count.textContent = String(shown);
  };
  for (const button of verdicts) {
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") === "false"));
      filter();
    });
  }
  search.addEventListener("input", filter);
  if (group) group.addEventListener("change", filter);

  const headers = Array.from(table.querySelectorAll("th[data-key]"));
  for (const header of headers) {
    header.querySelector("button").addEventListener("click", () => {
      const ascending = header.getAttribute("aria-sort") !== "ascending";
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const key = header.dataset.key;
      const value = (body) => body.dataset[key] ?? "";
      const compare = header.classList.contains("n") || key === "order"
        ? (a, b) => (value(a) === "") - (value(b) === "") || Number(value(a)) - Number(value(b))
        : (a, b) => value(a).localeCompare(value(b), undefined, { numeric: true });
      bodies.sort((a, b) => (ascending ? compare(a, b) : compare(b, a)));
      table.append(...bodies);
    });
  }
  table.addEventListener("click", (event) => {
    const button = event.target.closest("td.id button");
    if (!button) return;
    const open = button.closest("tbody").classList.toggle("open");
    button.setAttribute("aria-expanded", String(open));
  });
})();
