// The registry's API keys: made once, shown once, revoked.

import * as api from "./api.js";
import { ask, changed, say, tell } from "./dialogs.js";
import { el, thousands, when } from "./format.js";
import { cell, fill } from "./tables.js";

const $ = (id) => document.getElementById(id);
const LIMITS = { requests_per_minute: "requests a minute", tokens_per_minute: "tokens a minute", concurrent: "at once" };
const SCOPES = [
  ["infer", "infer: ask models"],
  ["adapters", "adapters: add, swap, pin and remove adapters"],
  ["audit", "audit: score texts, and order audits"],
  ["admin", "admin: all of this, keys and overrides"],
];

export const needs = "GET /v1/keys";

export async function show() {
  fill("keys", await api.keys(), keyRow);
  $("make-key").hidden = !api.may("POST /v1/keys");
  return false;
}

function keyRow(one) {
  const limits = Object.entries(LIMITS).filter(([name]) => one.limits[name]).map(([name, words]) => `${thousands(one.limits[name])} ${words}`);
  const revoke = () => end(one);
  return el(
    "tr",
    {},
    cell(one.name, "name"),
    cell(one.scopes.join(", ")),
    cell(one.adapters.join(", ")),
    cell(limits.join(", ") || "none", "wide"),
    cell(one.expires_at ? when(one.expires_at) : "never", "wide"),
    cell(api.may("DELETE /v1/keys/{key_id}") ? el("button", { type: "button", className: "small danger", "data-focus": one.id, "aria-label": `Revoke ${one.name}`, onclick: revoke }, "Revoke") : ""),
  );
}

async function end({ id, name }) {
  const lead = "It ends at once, for whoever uses it. A revoked key does not come back.";
  if (!(await ask({ title: `Revoke ${name}?`, lead, action: "Revoke", danger: true, act: () => api.revokeKey(id) }))) return;
  say(`The key ${name} was revoked.`);
  changed();
}

const listed = (text) => text.split(/[\s,]+/).filter(Boolean);

async function make() {
  const made = await ask({
    title: "Make a key",
    action: "Make it",
    fields: [
      { name: "name", label: "Name", required: true, maxLength: 128, autocomplete: "off", hint: "For people: events and logs say it." },
      { name: "scopes", label: "What it may do", kind: "checks", options: SCOPES, value: ["infer"] },
      { name: "adapters", label: "Which models it sees", value: "*", required: true, spellcheck: false, hint: "Patterns with * and ?, separated by commas." },
      ...Object.entries(LIMITS).map(([name, words]) => ({ name, label: `Limit: ${words}`, kind: "number", min: 1, hint: "Empty for none." })),
      { name: "sources", label: "Where it may add adapters from", spellcheck: false, hint: "Prefixes, separated by commas; empty for wherever this server reads." },
      { name: "expires_at", label: "Expires", kind: "datetime-local", hint: "Empty for never." },
    ],
    act: (form) => {
      const limits = Object.fromEntries(Object.keys(LIMITS).filter((name) => form.get(name)).map((name) => [name, Number(form.get(name))]));
      const expires = form.get("expires_at") ? new Date(form.get("expires_at")).toISOString() : null;
      if (!form.getAll("scopes").length) throw new Error("Choose what the key may do.");
      const sources = listed(form.get("sources"));
      return api.addKey({ name: form.get("name"), scopes: form.getAll("scopes"), adapters: listed(form.get("adapters")), limits, expires_at: expires, sources: sources.length ? sources : null });
    },
  });
  if (!made) return;
  const secret = el("input", { id: "made-secret", value: made.secret, readOnly: true, className: "secret", "aria-label": `The key ${made.name}`, onfocus: () => secret.select() });
  const copy = el("button", { type: "button", onclick: () => navigator.clipboard.writeText(made.secret).then(() => (copy.textContent = "Copied"), () => secret.select()) }, "Copy");
  tell({ title: `The key ${made.name}`, lead: "It is shown this once: only its digest is stored. Keep it where secrets are kept.", body: el("div", { className: "once" }, secret, copy), action: "I have it" });
  changed();
}

export const listen = () => $("make-key").addEventListener("click", make);
