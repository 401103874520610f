// Tables that are drawn again only where something changed, and leave the keyboard's focus where it was.

import { el, short, state, thousands, verdictBar, when } from "./format.js";

const $ = (id) => document.getElementById(id);
const drawn = new WeakMap();

// Whether an element shows other data than the last time.
export function differs(element, data) {
  const now = JSON.stringify(data);
  if (drawn.get(element) === now) return false;
  drawn.set(element, now);
  return true;
}

// Draw one row for each item; `more` is whatever else the rows show.
export function fill(id, items, row, more = null) {
  const table = $(id);
  if (!differs(table, [items, more])) return;
  const focused = table.contains(document.activeElement) ? document.activeElement.dataset.focus : undefined;
  table.tBodies[0].replaceChildren(...items.map(row));
  table.hidden = items.length === 0;
  table.parentElement.querySelector(".empty").hidden = items.length > 0;
  if (focused) table.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

// A link to one thing of the page, which keeps the focus when its table is drawn again.
export const link = (hash, ...content) => el("a", { href: `#${hash}`, "data-focus": hash }, ...content);
export const linkTo = (kind, name, ...content) => link(new URLSearchParams({ [kind]: name }), ...content);
export const cell = (content, className = "") => el("td", { className }, content);

export function auditRow(one) {
  return el(
    "tr",
    {},
    cell(linkTo("audit", one.id, el("code", {}, short(one.id)))),
    cell(one.adapter, "name"),
    cell(String(one.rank), "n wide"),
    cell(one.inputs.candidates.name, "wide"),
    cell(one.state === "running" ? progress(one) : state(one.state)),
    cell(one.summary ? verdictBar(one.summary.verdicts) : one.error, "wide"),
    cell(gate(one)),
    cell(when(one.finished_at ?? one.created_at), "n wide"),
  );
}

function gate(one) {
  if (!one.gate) return "";
  return el("span", { className: one.gate.passed ? "clean" : "leaks", title: one.gate.reasons.join("; ") }, one.gate.passed ? "passes" : "fails");
}

function progress({ progress: { done, total } }) {
  const bar = el("i");
  bar.style.width = `${total ? (100 * done) / total : 0}%`;
  return el("span", {}, el("span", { className: "progress" }, bar), `${thousands(done)} of ${thousands(total)}`);
}

// An event: what was done with its reason under it, then the rest of what it keeps, where there is room.
export function eventRow(one, of = cell(one.name ? linkTo("adapter", one.name, one.name) : "")) {
  const { reason, override, key, ...rest } = one.detail ?? {};
  const details = Object.entries(rest).map(([name, value]) => `${name.replaceAll("_", " ")} ${name === "audit_id" ? short(value) : value}`);
  return el(
    "tr",
    {},
    cell(when(one.at), "when"),
    cell(one.actor),
    el("td", { className: "said" }, one.action, note(reason ?? override), details.length ? el("div", { className: "lead wide" }, details.join(" · ")) : null),
    of,
    cell(one.version ? el("code", {}, short(one.version)) : "", "wide"),
  );
}

export const note = (text) => (text ? el("div", { className: "why" }, text) : null);
