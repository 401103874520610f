// The tables of adapters and of audits.

import { el, short, state, thousands, verdictBar, when } from "./format.js";

const $ = (id) => document.getElementById(id);

function fill(table, rows) {
  $(table).tBodies[0].replaceChildren(...rows);
  $(table).hidden = rows.length === 0;
  $(table).parentElement.querySelector(".empty").hidden = rows.length > 0;
}

export function showAdapters(adapters, rows, choose) {
  const last = new Map(rows.map((row) => [`${row.adapter} ${row.version}`, row])); // the newest comes last
  fill(
    "adapters",
    adapters.map((one) => {
      const version = one.live_version ?? one.version;
      const row = last.get(`${one.name} ${version}`);
      const recited = row ? `${row.recited} of ${row.of}` : "–";
      const found = row
        ? el("button", { type: "button", className: "link", onclick: () => choose(row.audit_id) }, when(row.finished_at))
        : "never";
      return el(
        "tr",
        {},
        el("td", { className: "name" }, one.name),
        el("td", {}, state(one.state)),
        el("td", { className: "n" }, String(one.rank)),
        el("td", { className: "n" }, thousands(one.effective_parameters)),
        el("td", {}, el("code", {}, short(version))),
        el("td", {}, found, stale(one)),
        el("td", { className: `n ${row?.recited ? "leaks" : ""}` }, recited),
      );
    }),
  );
}

// Also for who cannot point at it: the reasons are the flag's label.
function stale({ stale }) {
  if (!stale?.length) return null;
  const why = stale.join("; ");
  return el("span", { className: "flag stale", title: why, role: "note", "aria-label": `stale: ${why}` }, "stale");
}

export function showAudits(audits, chosen, choose) {
  fill(
    "audits",
    audits.map((one) =>
      el(
        "tr",
        { className: one.id === chosen ? "chosen" : "" },
        el("td", {}, el("button", { type: "button", className: "link", onclick: () => choose(one.id) }, el("code", {}, short(one.id)))),
        el("td", { className: "name" }, one.adapter),
        el("td", { className: "n" }, String(one.rank)),
        el("td", {}, one.inputs.candidates.name),
        el("td", {}, one.state === "running" ? progress(one) : state(one.state)),
        el("td", {}, one.summary ? verdictBar(one.summary.verdicts) : one.error),
        el("td", {}, gate(one)),
        el("td", { className: "n" }, when(one.finished_at ?? one.created_at)),
      ),
    ),
  );
}

function gate(one) {
  if (!one.gate) return "";
  return el("span", { className: one.gate.passed ? "clean" : "leaks", title: one.gate.reasons.join("; ") }, one.gate.passed ? "passes" : "fails");
}

function progress({ progress: { done, total } }) {
  const bar = el("i");
  bar.style.width = `${(100 * done) / total}%`;
  return el("span", {}, el("span", { className: "progress" }, bar), `${thousands(done)} of ${thousands(total)}`);
}
