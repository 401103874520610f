// The phase transition: one snippet's tokens over the deployed ranks, from audits of the same candidate set.

import * as api from "./api.js";
import { el, label, probability, shade, short } from "./format.js";
import { markRank, showSet } from "./law.js";

const $ = (id) => document.getElementById(id);
const view = { sets: [], set: null, steps: [], position: 0, entries: [], request: 0 };

export async function show(sets) {
  const signature = JSON.stringify(sets);
  if (signature === view.signature) return;
  view.sets = sets;
  $("phase").hidden = sets.length === 0;
  if (!sets.length) return;
  const before = $("sets").value;
  $("sets").replaceChildren(
    ...sets.map((set) =>
      el("option", { value: set.candidate_set }, `${set.candidates} (${set.snippets} snippets, ${short(set.candidate_set)}, ${set.adapters} adapters)`),
    ),
  );
  if (sets.some((set) => set.candidate_set === before)) $("sets").value = before;
  await chooseSet();
  view.signature = signature; // only now: what failed is tried again
}

async function chooseSet() {
  const slider = $("rank");
  const before = view.steps[Number(slider.value)]?.adapter;
  view.set = view.sets.find((set) => set.candidate_set === $("sets").value);
  view.steps = view.set.rows;
  const last = view.steps.length - 1;
  const same = view.steps.findIndex((step) => step.adapter === before);
  slider.max = String(last);
  slider.value = String(same < 0 ? last : same);
  slider.disabled = last === 0;
  $("position").max = String(view.set.snippets);
  $("left-out").hidden = view.set.adapters === last + 1;
  $("left-out").textContent = `${last + 1} of ${view.set.adapters} adapters are shown: of each rank the one that was audited last.`;
  $("of").textContent = `of ${view.set.snippets}`;
  const { set } = view;
  const shown = (found) => {
    if (set !== view.set) return;
    showSet(set.rows, found);
    markRank(set.rows[Number(slider.value)].rank);
  };
  shown(null);
  api.law(set.candidate_set).then(shown, () => shown({ reason: "none was fitted" })); // it may take seconds: nothing waits for it
  await choosePosition(Math.min(view.position, view.set.snippets - 1));
}

async function choosePosition(position) {
  const request = ++view.request;
  const entries = await Promise.all(view.steps.map((step) => api.snippets(step.audit_id, position, 1)));
  if (request !== view.request) return; // a later choice has replaced this one
  view.position = position;
  view.entries = entries.map((found) => found[0]);
  $("position").value = String(position + 1);
  $("previous").disabled = position === 0;
  $("next").disabled = position === view.set.snippets - 1;
  build();
  draw();
}

// The wells of the tokens and the stops of the slider; what moves with the rank is set by draw().
function build() {
  const tokens = view.entries.find((entry) => entry?.tokens.length)?.tokens ?? [];
  $("bars").replaceChildren(
    ...tokens.map((token, index) => {
      const base = el("i", { className: "base", title: `base p ${probability(token.base_p)}` });
      base.style.bottom = `${100 * (token.base_p ?? 0)}%`;
      const well = el("div", { className: "well" }, el("div", { className: "fill" }), base);
      const from = lockedFrom(index);
      const order = el("small", { className: "from", title: from ? `locked from rank ${from} on` : "not locked at the largest rank" }, from ? `r ${from}` : "–");
      return el("figure", {}, well, el("figcaption", {}, label(token, index), el("small", { className: "p" }), order));
    }),
  );
  $("stops").replaceChildren(
    ...view.steps.map((step, index) => {
      const { locked, of } = count(view.entries[index]);
      const stop = el("button", { type: "button", title: step.adapter }, el("b", {}, String(step.rank)), `${locked}/${of}`, el("small", {}, step.adapter));
      stop.addEventListener("click", () => {
        $("rank").value = String(index);
        draw();
      });
      return stop;
    }),
  );
}

// The rank from which on a token is locked, at every larger one too: the order in which tokens lock.
function lockedFrom(token) {
  let from = null;
  for (const [index, step] of view.steps.entries()) {
    if (!view.entries[index]?.locked?.includes(token)) from = null;
    else from ??= step.rank;
  }
  return from;
}

export function count(entry) {
  return { locked: entry?.locked?.length ?? 0, of: entry?.tokens.length ?? 0 };
}

function draw() {
  const index = Number($("rank").value);
  const [step, entry] = [view.steps[index], view.entries[index]];
  const { locked, of } = count(entry);
  const held = new Set(entry?.locked ?? []);
  [...$("bars").children].forEach((figure, at) => {
    const token = entry?.tokens[at];
    const p = token?.p ?? 0;
    const fill = figure.querySelector(".fill");
    fill.className = `fill s${shade(p)}`;
    fill.style.height = `${100 * p}%`;
    figure.classList.toggle("is-locked", held.has(at));
    figure.querySelector(".p").textContent = probability(token?.p);
    figure.title = token ? `token ${at + 1} · p ${probability(token.p)} · rank ${token.rank}` : "";
  });
  $("bars").setAttribute("aria-label", `${locked} of ${of} tokens locked at rank ${step.rank}`);
  $("locked").replaceChildren(`${locked} of ${of}`, el("small", {}, "locked"));
  $("locked").classList.toggle("all", of > 0 && locked === of);
  markRank(step.rank);
  $("locked-note").textContent = `${step.adapter}, r = ${step.rank}, ${step.effective_parameters.toLocaleString("en-US")} parameters: recites ${step.recited} of ${step.of} snippets`;
  $("rank").setAttribute("aria-valuetext", `rank ${step.rank}: ${locked} of ${of} locked`);
  [...$("stops").children].forEach((stop, at) => stop.setAttribute("aria-current", String(at === index)));
  $("verdict").replaceChildren(
    el("span", { className: "pill" }, el("i", { className: `dot v-${entry?.verdict}` }), `${entry?.id}: ${entry?.verdict}`),
  );
}

export function listen(failed) {
  const guarded = (work) => () => work().catch(failed);
  const go = (position) => choosePosition(Math.max(0, Math.min(view.set.snippets - 1, position)));
  $("sets").addEventListener("change", guarded(chooseSet));
  $("rank").addEventListener("input", draw);
  $("previous").addEventListener("click", guarded(() => go(view.position - 1)));
  $("next").addEventListener("click", guarded(() => go(view.position + 1)));
  $("position").addEventListener("change", guarded(() => go((Number($("position").value) || 1) - 1)));
}
