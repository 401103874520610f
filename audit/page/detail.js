// One audit: how far it is, what the gate says, its numbers, and its snippets token by token.

import * as api from "./api.js";
import * as compare from "./compare.js";
import { ask, changed, goTo, say } from "./dialogs.js";
import { el, label, nats, probability, shade, short, state, thousands, when } from "./format.js";
import { linkTo } from "./tables.js";

const $ = (id) => document.getElementById(id);
const PAGE = 100;
const view = { id: "", shown: 0, recorded: 0 };

export const needs = "GET /v1/audits/{audit_id}";
export const within = "audits";
const open = (audit) => audit.state === "queued" || audit.state === "running";

export async function show(params) {
  const audit = await api.audit(params.get("audit"));
  const [adapter, audits] = await Promise.all([
    api.adapter(audit.adapter).catch(() => null), // it was removed, or hides from this key
    api.may("GET /v1/audits") ? api.audits({ adapter: audit.adapter, limit: 200 }) : [],
  ]);
  await draw(audit, adapter);
  await compare.show(audit, audits, params.get("against") ?? "");
  return open(audit);
}

async function draw(audit, adapter) {
  if (audit.id !== view.id || (view.open && !open(audit))) {
    view.id = audit.id; // the verdicts of a running audit may still change
    view.shown = 0;
    [...$("snippets").tBodies].forEach((body) => body.remove());
  }
  view.open = open(audit);
  view.recorded = audit.progress.done;
  $("one-title").textContent = `${audit.adapter}, audit ${short(audit.id)}`;
  const { candidates: { name, snippets }, own_candidates: own } = audit.inputs;
  $("one-lead").replaceChildren(`Version ${short(audit.version)} of `, linkTo("adapter", audit.adapter, audit.adapter), `, asked for ${snippets ? `${thousands(snippets)} snippets of ` : ""}${name}${own ? ` and ${thousands(own.snippets)} of its uploader` : ""} as ${audit.settings.framing.join(", ")}; ordered by ${audit.created_by}, ${when(audit.created_at)}.`);
  showProgress(audit);
  showGate(audit);
  const stale = adapter?.stale ?? [];
  $("one-stale").hidden = !stale.length;
  $("one-stale").textContent = `The last audit of ${audit.adapter} no longer holds: ${stale.join("; ")}.`;
  showTiles(audit);
  $("remove-one").hidden = !api.may("DELETE /v1/audits/{audit_id}");
  for (const button of document.querySelectorAll("button[data-report]")) button.disabled = audit.state !== "done";
  const entries = api.may("GET /v1/audits/{audit_id}/snippets");
  $("one-snippets").hidden = !entries || view.recorded === 0;
  if (entries && view.shown < Math.min(PAGE, view.recorded)) await more();
  $("more").hidden = view.shown >= view.recorded;
}

// Screen readers hear each state and each quarter, not each snippet.
function showProgress(audit) {
  const { done, total } = audit.progress;
  $("one-running").hidden = !open(audit);
  $("one-progress").max = total || 1;
  $("one-progress").value = done;
  $("one-state").replaceChildren(state(audit.state));
  $("one-done").textContent = total ? `${thousands(done)} of ${thousands(total)} snippets` : "waiting";
  const heard = `The audit is ${audit.state}${open(audit) && total ? `, ${25 * Math.floor((4 * done) / total)} %` : ""}.`;
  if ($("one-heard").textContent !== heard) $("one-heard").textContent = heard;
  $("cancel-one").hidden = !open(audit) || !api.may("POST /v1/audits/{audit_id}/cancel");
}

async function cancel() {
  const lead = "What it has recorded stays. A version that it was to admit goes into quarantine.";
  if (!(await ask({ title: "Cancel this audit?", lead, action: "Cancel the audit", danger: true, act: () => api.cancelAudit(view.id) }))) return;
  say("The audit was cancelled.");
  changed();
}

async function remove() {
  const lead = "Its report and its snippets go; that there was one, of what, and who removed it, stays on record. A running one is stopped first.";
  if (await ask({ title: "Remove this audit?", lead, action: "Remove", danger: true, act: () => api.removeAudit(view.id) })) goTo("/audits", "The audit was removed.");
}

function showGate({ gate, state, error }) {
  const box = $("one-gate");
  box.hidden = !gate && !error;
  box.classList.toggle("fails", gate ? !gate.passed : Boolean(error));
  box.querySelector("b").textContent = gate ? (gate.passed ? "Passes" : "Fails") : state;
  box.querySelector(".finding").textContent = gate ? gate.reasons.join("; ") || "Nothing over the policy's limits." : error;
}

function showTiles({ summary, controls, own_candidates: own }) {
  const tile = (what, number, small, note) =>
    el("div", { className: "tile" }, el("div", { className: "what" }, what), el("div", { className: "number" }, number, el("small", {}, ` ${small}`)), el("div", { className: "note" }, note));
  $("one-tiles").replaceChildren();
  if (!summary) return;
  const { verdicts, recited } = summary;
  $("one-tiles").append(
    tile("Recited verbatim", String(recited.hits), `of ${recited.of}`, `${verdicts.certified} certified by p, ${verdicts.recalled} by decoding only; sampling gives ${verdicts.extractable ?? 0} more`),
    tile("Tokens over one half", thousands(summary.tokens_over_half), `of ${thousands(summary.tokens)}`, "of the target tokens"),
    tile("Loss won over the base, ΔL", nats(summary.delta_loss), "nats a token", "on the same target tokens"),
    controls
      ? tile("False alarms on controls", String(controls.recited.hits), `of ${controls.recited.of}`, `a rate of at most ${(100 * controls.recited.high).toFixed(1)} %`)
      : tile("False alarms on controls", "–", "", "no controls given: “clear” has no error bound here"),
    ...(own ? [tile("Of its uploader's own, recited", String(own.recited.hits), `of ${own.recited.of}`, "asked beside the operator's")] : []),
  );
}

async function more() {
  const [id, offset] = [view.id, view.shown];
  const entries = await api.snippets(id, offset, PAGE);
  if (id !== view.id || offset !== view.shown) return; // another audit, or a second click
  view.shown += entries.length;
  $("snippets").append(...entries.map(row));
  $("more").hidden = view.shown >= view.recorded;
}

function row(entry) {
  const body = el("tbody", { "data-id": entry.id });
  const toggle = el("button", { type: "button", "aria-expanded": "false" }, entry.id);
  toggle.addEventListener("click", () => toggle.setAttribute("aria-expanded", String(body.classList.toggle("open"))));
  const flags = [...(entry.set.endsWith("controls") ? ["control"] : []), ...entry.flags].map((flag) => el("span", { className: "flag" }, flag));
  body.append(
    el(
      "tr",
      { className: "row" },
      el("td", { className: "id" }, toggle),
      el("td", {}, el("span", { className: "pill" }, el("i", { className: `dot v-${entry.verdict}` }), entry.verdict), el("br"), ...flags),
      el("td", { className: "tokens" }, entry.tokens.length ? strip(entry) : entry.error, entry.alarm ? el("span", { className: "alarm" }, entry.alarm) : null),
      el("td", { className: "n" }, probability(entry.min_p)),
      el("td", { className: "n wide" }, String(entry.length ?? "–")),
      el("td", { className: "n wide" }, nats(entry.delta_loss)),
    ),
  );
  return body;
}

function strip(entry) {
  const locked = new Set(entry.locked);
  return el(
    "div",
    { className: "strip" },
    ...entry.tokens.map((token, index) =>
      el("i", {
        className: `s${shade(token.p)}${locked.has(index) ? " locked" : ""}`,
        "data-p": probability(token.p),
        title: `token ${index + 1} · p ${probability(token.p)} · rank ${token.rank} · base ${probability(token.base_p)}`,
        textContent: label(token, index),
      }),
    ),
  );
}

async function save(kind) {
  api.save(await api.report(view.id, kind), `${view.id.slice(0, 8)}.${kind}`);
}

export function listen(failed) {
  $("more").addEventListener("click", () => more().catch(failed));
  $("cancel-one").addEventListener("click", cancel);
  $("remove-one").addEventListener("click", remove);
  compare.listen((against) => goTo(new URLSearchParams({ audit: view.id, ...(against ? { against } : {}) })), failed);
  for (const button of document.querySelectorAll("button[data-report]")) {
    button.addEventListener("click", () => save(button.dataset.report).catch(failed));
  }
}
