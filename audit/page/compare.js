// Two audits of one adapter: what became worse, better, new or gone from the earlier to the later.

import * as api from "./api.js";
import { el, probability, short, thousands, when } from "./format.js";
import { differs } from "./tables.js";

const $ = (id) => document.getElementById(id);
const ROWS = 200;
const ANSWERS = { 0: "No worse", 1: "Worse", 3: "Not comparable" };
const view = { before: "", after: "" };

// Offer the other audits of the adapter that are done, by date and version; show the one that was chosen.
export async function show(audit, audits, against) {
  const others = audits.filter((one) => one.adapter === audit.adapter && one.state === "done" && one.id !== audit.id);
  $("compare").hidden = audit.state !== "done" || others.length === 0;
  const chosen = others.find((one) => one.id === against);
  if (differs($("against"), others.map((one) => one.id))) offer(others);
  $("against").value = chosen?.id ?? "";
  if ($("compare").hidden || !chosen) return clear();
  const [before, after] = [audit, chosen].sort((a, b) => a.created_at.localeCompare(b.created_at));
  if (before.id !== view.before || after.id !== view.after) await load(before, after);
}

function offer(others) {
  const options = others.map((one) => el("option", { value: one.id }, `${when(one.finished_at)} · version ${short(one.version)} · ${one.inputs.candidates.name} · ${short(one.id)}`));
  $("against").replaceChildren(el("option", { value: "" }, "no other audit"), ...options);
}

function clear() {
  view.before = view.after = "";
  $("diff").hidden = true;
}

async function load(before, after) {
  clear();
  view.before = before.id;
  view.after = after.id;
  try {
    const found = await api.diff(before.id, after.id, "json").then((blob) => blob.text()).then(JSON.parse);
    if (before.id === view.before && after.id === view.after) draw(found, before, after);
  } catch (error) {
    clear(); // so that it is tried again
    throw error;
  }
}

function draw(found, before, after) {
  const side = (one) => `audit ${short(one.id)} of version ${short(one.version)}, ${when(one.finished_at)}`;
  $("diff-lead").textContent = `From ${side(before)} to ${side(after)}.`;
  $("diff-answer").classList.toggle("fails", found.exit_code !== 0);
  $("diff-answer").querySelector("b").textContent = ANSWERS[found.exit_code];
  const said = [...found.obstacles.map((why) => `Not comparable: ${why}`), ...found.remarks];
  $("diff-answer").querySelector("ul").replaceChildren(...said.map((words) => el("li", {}, words)));
  const counts = Object.entries(found.counts).map(([change, count]) => el("span", { className: "pill", "data-change": change }, el("i", { className: `dot c-${change}` }), `${thousands(count)} ${change}`));
  $("diff-answer").querySelector(".finding").replaceChildren(...counts);
  $("changes").parentElement.hidden = found.snippets.length === 0;
  $("changes").tBodies[0].replaceChildren(...found.snippets.slice(0, ROWS).map(row));
  $("diff-more").hidden = found.snippets.length <= ROWS;
  $("diff-more").textContent = `${ROWS} of ${thousands(found.snippets.length)} are shown; the files have all of them.`;
  $("diff").hidden = false;
}

function row(one) {
  const verdict = (name) => (name ? el("span", { className: "pill" }, el("i", { className: `dot v-${name}` }), name) : "not asked");
  return el(
    "tr",
    { "data-id": one.id },
    el("td", { className: "id" }, one.id),
    el("td", {}, el("span", { className: "pill" }, el("i", { className: `dot c-${one.change}` }), one.change)),
    el("td", {}, verdict(one.before)),
    el("td", {}, verdict(one.after), one.unsure ? el("div", { className: "alarm" }, one.unsure) : null),
    el("td", { className: "n wide" }, probability(one.before_min_p)),
    el("td", { className: "n wide" }, probability(one.after_min_p)),
    el("td", {}, one.target.text ?? `${one.target.characters} characters`),
  );
}

export function listen(choose, failed) {
  $("against").addEventListener("change", () => choose($("against").value));
  for (const button of document.querySelectorAll("button[data-diff]")) {
    const kind = button.dataset.diff;
    const name = () => `${short(view.before)}-${short(view.after)}.${kind}`;
    button.addEventListener("click", () => api.diff(view.before, view.after, kind).then((blob) => api.save(blob, name())).catch(failed));
  }
}
