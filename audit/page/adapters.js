// The adapters that are served, a page of them at a time, searched on the server; and how one is registered.

import * as api from "./api.js";
import { ask, changed, goTo, say } from "./dialogs.js";
import { el, short, state, thousands, when } from "./format.js";
import { cell, fill, linkTo } from "./tables.js";

const $ = (id) => document.getElementById(id);
const PAGE = 25;
const view = { contains: "", cursors: [""], request: 0 };

export const needs = "GET /v1/adapters";

export async function show() {
  const request = ++view.request;
  const page = await api.listAdapters({ after: view.cursors.at(-1), contains: view.contains, limit: PAGE });
  const names = page.adapters.map((one) => one.name);
  const rows = names.length && api.may("GET /v1/capacity") ? await api.capacity(names) : [];
  if (request !== view.request) return false; // a later search has replaced this one
  const last = new Map(rows.map((row) => [`${row.adapter} ${row.version}`, row])); // the newest comes last
  fill("adapters", page.adapters, (one) => adapterRow(one, last.get(`${one.name} ${one.live_version ?? one.version}`)), rows);
  const from = (view.cursors.length - 1) * PAGE;
  $("adapters-count").textContent = names.length
    ? `${from + 1} to ${from + names.length}${page.has_more ? ", more follow" : ` of ${thousands(from + names.length)}`}`
    : view.contains ? `No name contains “${view.contains}”.` : "";
  $("adapters-before").disabled = view.cursors.length === 1;
  $("adapters-after").disabled = !page.has_more;
  $("adapters-pages").hidden = view.cursors.length === 1 && !page.has_more;
  view.next = names.at(-1);
  $("register").hidden = !api.may("POST /v1/adapters");
  return page.adapters.some((one) => one.state === "auditing");
}

function adapterRow(one, row) {
  const found = row ? linkTo("audit", row.audit_id, when(row.finished_at)) : "never";
  return el(
    "tr",
    {},
    el("td", { className: "name" }, linkTo("adapter", one.name, one.name), one.pinned ? el("span", { className: "flag" }, "pinned") : null),
    cell(state(one.state)),
    cell(String(one.rank), "n"),
    cell(thousands(one.effective_parameters), "n wide"),
    cell(el("code", {}, short(one.live_version ?? one.version)), "wide"),
    el("td", { className: "wide" }, found, stale(one)),
    cell(row ? `${row.recited} of ${row.of}` : "–", `n ${row?.recited ? "leaks" : ""}`),
  );
}

// Also for who cannot point at it: the reasons are the flag's label.
function stale({ stale }) {
  if (!stale?.length) return null;
  const why = stale.join("; ");
  return el("span", { className: "flag stale", title: why, role: "note", "aria-label": `stale: ${why}` }, "stale");
}

// Register a name, or move one to another version: from an address that the server reads, or by sending an archive.
export async function register(name = "") {
  const done = await ask({
    title: name ? `Another version of ${name}` : "Register an adapter",
    lead: name ? "New requests take it at once, or after its audit where this server asks for one; running ones finish on the version before." : "",
    action: name ? "Swap" : "Register",
    fields: [
      { name: "name", label: "Name", value: name, required: true, maxLength: 128, readOnly: Boolean(name), autocomplete: "off", spellcheck: false },
      { name: "source", label: "Address", hint: "hf://org/name, s3://bucket/key, or a folder or archive on the server.", autocomplete: "off", spellcheck: false },
      { name: "file", label: "Or an archive from here", kind: "file", accept: ".zip,.tar,.gz,.tgz", hint: "zip, tar or tar.gz of a PEFT folder." },
      { name: "reason", label: "Reason", hint: "Kept with the event.", maxLength: 2000, autocomplete: "off" },
      { name: "candidates", label: "Candidates of your own", kind: "file", accept: ".jsonl", hint: "JSON Lines, for what an address names. Where an audit admits it, they are asked beside the operator's, and can only add a reason to refuse it." },
      { name: "controls", label: "Controls of your own", kind: "file", accept: ".jsonl" },
      ...(name ? [] : [{ name: "pin", label: "Keep it in the engine's memory", kind: "checkbox" }]),
    ],
    act: async (form) => {
      const [source, file, pin, reason] = [form.get("source").trim(), form.get("file"), form.has("pin"), form.get("reason").trim()];
      if (Boolean(source) === Boolean(file.size)) throw new Error("Give either an address or an archive.");
      const named = form.get("name").trim();
      const own = await snippets(form);
      if (source) return api.addAdapter({ name: named, source, pin, reason, ...own });
      if (Object.keys(own).length) throw new Error("Candidates of your own go with an address: an archive carries none.");
      return api.uploadAdapter(named, file, pin, reason);
    },
  });
  if (!done) return;
  const said = `${done.name}: version ${short(done.version)} is ${done.state}.`;
  if (!name) return goTo(new URLSearchParams({ adapter: done.name }), said);
  say(said);
  changed();
}

// The uploader's own candidates and controls, as the server takes them; the server says what is wrong with one.
async function snippets(form) {
  const own = {};
  for (const name of ["candidates", "controls"]) {
    const file = form.get(name);
    if (!file.size) continue;
    own[name] = (await file.text()).split("\n").flatMap((line, at) => {
      try {
        return line.trim() ? [JSON.parse(line)] : [];
      } catch {
        throw new Error(`${file.name}: line ${at + 1} is not JSON.`);
      }
    });
  }
  return own;
}

export function listen(failed) {
  const turn = () => show().catch(failed);
  let waits = 0;
  $("search").addEventListener("input", () => {
    clearTimeout(waits);
    waits = setTimeout(() => {
      view.contains = $("search").value.trim();
      view.cursors = [""];
      turn();
    }, 200);
  });
  $("adapters-after").addEventListener("click", () => (view.cursors.push(view.next), turn()));
  $("adapters-before").addEventListener("click", () => (view.cursors.pop(), turn()));
  $("register").addEventListener("click", () => register());
}
