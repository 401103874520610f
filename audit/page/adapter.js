// One adapter: its versions, what may be done with it, its audits and its events.

import * as api from "./api.js";
import { register } from "./adapters.js";
import { ask, changed, goTo, say } from "./dialogs.js";
import { el, short, state, thousands, when } from "./format.js";
import { auditRow, cell, differs, eventRow, fill, linkTo, note } from "./tables.js";

const $ = (id) => document.getElementById(id);
const view = { name: "", versions: [], audits: [] };
const REASON = { name: "reason", label: "Reason", hint: "Kept with the event.", maxLength: 2000, autocomplete: "off" };

export const needs = "GET /v1/adapters";
export const within = "adapters";

export async function show(params) {
  const name = params.get("adapter");
  const [one, audits, events] = await Promise.all([
    api.adapter(name),
    api.may("GET /v1/audits") ? api.audits({ adapter: name, limit: 100 }) : [],
    api.may("GET /v1/adapters/{name}/events") ? api.events(name, { limit: 20 }) : { events: [] },
  ]);
  Object.assign(view, { name, one, audits });
  $("adapter-name").textContent = name;
  if (differs($("adapter-facts"), one)) facts(one);
  if (differs($("adapter-steps"), [name, one.live_version, one.previous_version, one.pinned])) steps(one);
  const versions = one.versions ?? [];
  $("adapter-versions").hidden = versions.length === 0;
  fill("versions", versions, (version) => versionRow(one, version));
  compare(audits);
  $("adapter-audits").hidden = !api.may("GET /v1/audits");
  fill("own-audits", audits.slice(0, 20), auditRow);
  $("adapter-events").hidden = !api.may("GET /v1/adapters/{name}/events");
  fill("own-events", [...events.events].reverse(), (event) => eventRow(event, null));
  return audits.some((audit) => ["queued", "running"].includes(audit.state)) || one.state === "auditing";
}

function facts(one) {
  const known = [
    ["State", state(one.state)],
    ["Why", one.reason],
    ["Live version", one.live_version ? el("code", {}, short(one.live_version)) : "none"],
    ["Rank", `${one.rank}, ${thousands(one.effective_parameters)} parameters`],
    ["Held in", one.level && `${one.level}${one.pinned ? ", pinned" : ""}`],
    ["Running", one.running === undefined ? "" : `${one.running} requests`],
    ["Source", one.source],
    ["Last audit", one.stale?.length ? `no longer holds: ${one.stale.join("; ")}` : ""],
    ["Remarks", one.remarks?.join("; ")],
  ];
  $("adapter-facts").replaceChildren(...known.filter(([, what]) => what).flatMap(([name, what]) => [el("dt", {}, name), el("dd", {}, what)]));
}

function steps(one) {
  const button = (text, onclick, className = "") => el("button", { type: "button", onclick, className }, text);
  const can = (what) => api.may(`POST /v1/adapters/{name}/${what}`);
  const made = [
    api.may("POST /v1/audits") && one.live_version && el("a", { href: `#${new URLSearchParams({ order: one.name })}`, className: "button primary" }, "Audit it"),
    api.may("POST /v1/adapters") && button("Swap to another version", () => register(one.name)),
    can("rollback") && one.previous_version && button("Roll back", () => rollback(one)),
    can("pin") && one.live_version && button(one.pinned ? "Unpin" : "Pin", () => pin(one)),
    api.may("DELETE /v1/adapters/{name}") && button("Remove", () => remove(one), "danger"),
  ];
  $("adapter-steps").replaceChildren(...made.filter(Boolean));
}

async function act(what, said) {
  if (!(await ask(what))) return;
  say(said);
  changed();
}

const rollback = ({ name, previous_version: before }) =>
  act({ title: `Roll ${name} back?`, lead: `New requests take version ${short(before)} again. A second rollback undoes this one.`, action: "Roll back", fields: [REASON], act: (form) => api.step(name, "rollback", { reason: form.get("reason") }) }, `${name} was rolled back to ${short(before)}.`);

const pin = ({ name, pinned }) =>
  act({ title: `${pinned ? "Unpin" : "Pin"} ${name}?`, lead: pinned ? "The engine may evict it again." : "The engine keeps it in memory.", action: pinned ? "Unpin" : "Pin", fields: [REASON], act: (form) => api.step(name, "pin", { pinned: !pinned, reason: form.get("reason") }) }, `${name} is ${pinned ? "no longer pinned" : "pinned"}.`);

const override = (name, version) =>
  act({ title: `Let version ${short(version.version)} go live?`, lead: `It is in quarantine: ${version.reason}`, action: "Override the gate", danger: true, fields: [{ ...REASON, required: true }], act: (form) => api.step(name, "override", { version: version.version, reason: form.get("reason") }) }, `${name}: version ${short(version.version)} is live by override.`);

async function remove({ name }) {
  const done = await ask({ title: `Remove ${name}?`, lead: "Running requests finish; then it is unloaded, and none of its versions can be rolled back to.", action: "Remove", danger: true, act: () => api.removeAdapter(name) });
  if (done) goTo("/adapters", `${name} was removed.`);
}

function versionRow(one, version) {
  const may = version.state === "quarantined" && api.may("POST /v1/adapters/{name}/override");
  return el(
    "tr",
    {},
    cell(el("code", {}, short(version.version))),
    el("td", { className: "said" }, state(version.state), note(version.reason)),
    cell(when(version.created_at), "wide"),
    cell(version.created_by, "wide"),
    cell(version.audit_id && api.may("GET /v1/audits/{audit_id}") ? linkTo("audit", version.audit_id, el("code", {}, short(version.audit_id))) : "", "wide"),
    cell(may ? el("button", { type: "button", className: "small", "data-focus": `override ${version.version}`, onclick: () => override(one.name, version) }, "Override") : ""),
  );
}

// Two versions are compared by their newest audits of the same candidates.
function compare(audits) {
  const done = audits.filter((audit) => audit.state === "done");
  const versions = [...new Set(done.map((audit) => audit.version))];
  $("adapter-compare").hidden = versions.length < 2;
  if (versions.length < 2 || !differs($("adapter-compare"), versions)) return;
  const options = () => versions.map((version) => el("option", { value: version }, short(version)));
  $("version-before").replaceChildren(...options());
  $("version-after").replaceChildren(...options());
  $("version-before").value = versions[1];
  $("version-after").value = versions[0];
}

function pair() {
  const of = (version) => view.audits.filter((audit) => audit.state === "done" && audit.version === version);
  for (const after of of($("version-after").value)) {
    const before = of($("version-before").value).find((audit) => audit.candidate_set === after.candidate_set && audit.id !== after.id);
    if (before) return { after, before };
  }
  return null;
}

export function listen() {
  $("adapter-compare").addEventListener("submit", (event) => {
    event.preventDefault();
    const found = pair();
    if (found) goTo(new URLSearchParams({ audit: found.after.id, against: found.before.id }));
    else say("These versions have no two audits of the same candidates: audit the one with what the other was asked.");
  });
}
