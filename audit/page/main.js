// The page: looks at the server every few seconds and hands what it finds to the views.

import * as api from "./api.js";
import * as compare from "./compare.js";
import * as detail from "./detail.js";
import * as phase from "./phase.js";
import { showAdapters, showAudits } from "./tables.js";

const $ = (id) => document.getElementById(id);
const EVERY = { busy: 1000, idle: 5000 };
const asked = new URLSearchParams(location.hash.slice(1));
let chosen = asked.get("audit") ?? "";
let against = asked.get("against") ?? "";
let timer = 0;

function failed(error) {
  const needsKey = error.status === 401 || error.status === 403;
  $("key").hidden = !needsKey && !api.key();
  $("forget").hidden = !api.key();
  $("notice").textContent = needsKey && !api.key() ? "This server asks for an API key with the scope audit." : error.message;
  $("notice").hidden = false;
}

async function look() {
  clearTimeout(timer);
  let busy = false;
  try {
    const [adapters, audits, rows] = await Promise.all([api.adapters(), api.audits(), api.capacity()]);
    adapters.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
    busy = audits.some((one) => one.state === "queued" || one.state === "running");
    $("notice").hidden = true;
    $("key").hidden = !api.key();
    $("forget").hidden = !api.key();
    showAdapters(adapters, rows, choose);
    showAudits(audits, chosen, choose);
    await phase.show(rows, adapters);
    const one = audits.find((audit) => audit.id === chosen);
    $("one").hidden = !one;
    if (one) await detail.show(one, adapters);
    if (one) await compare.show(one, audits, against);
    document.body.dataset.ready = "true";
  } catch (error) {
    failed(error);
  }
  timer = setTimeout(look, busy ? EVERY.busy : EVERY.idle);
}

function choose(id, other = "") {
  chosen = id;
  against = other;
  history.replaceState(null, "", `#audit=${id}${other ? `&against=${other}` : ""}`);
  look();
}

$("key").addEventListener("submit", (event) => {
  event.preventDefault();
  api.setKey($("secret").value.trim());
  $("secret").value = "";
  look();
});
$("forget").addEventListener("click", () => {
  api.setKey("");
  location.reload();
});
phase.listen(failed);
detail.listen(failed);
compare.listen((other) => choose(chosen, other), failed);
look();
