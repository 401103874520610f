// The page: finds the view that the address names, and has it look at the server every few seconds.

import * as adapters from "./adapters.js";
import * as adapter from "./adapter.js";
import * as api from "./api.js";
import * as audits from "./audits.js";
import * as capacity from "./capacity.js";
import * as detail from "./detail.js";
import { arrived } from "./dialogs.js";
import * as events from "./events.js";
import * as keys from "./keys.js";
import * as order from "./order.js";

const $ = (id) => document.getElementById(id);
const EVERY = { busy: 1000, idle: 5000 };
const VIEWS = { adapters, adapter, audits, audit: detail, order, capacity, events, keys };
let timer = 0;
let looks = 0;
let shown = "";

// "#/adapters" is a view; "#adapter=acme" and "#audit=ID&against=ID" are one thing of a view.
function place() {
  const hash = location.hash.slice(1);
  if (hash.startsWith("/")) return { name: hash.slice(1), params: new URLSearchParams() };
  const params = new URLSearchParams(hash);
  return { name: [...params.keys()][0] ?? "", params };
}

function chosen() {
  const { name, params } = place();
  const allowed = Object.keys(VIEWS).filter((one) => api.may(VIEWS[one].needs));
  return allowed.includes(name) ? { name, params } : { name: allowed[0] ?? "", params: new URLSearchParams() };
}

function failed(error) {
  const locked = error.status === 401;
  $("key").hidden = !locked;
  $("notice").textContent = locked && !api.key() ? "This server asks for an API key." : error.message;
  $("notice").hidden = false;
}

function draw(name) {
  for (const section of document.querySelectorAll("[data-view]")) section.hidden = section.dataset.view !== name;
  for (const link of document.querySelectorAll("nav a")) {
    link.hidden = !api.may(VIEWS[link.dataset.of].needs);
    if (link.dataset.of === (VIEWS[name]?.within ?? name)) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

async function look() {
  clearTimeout(timer);
  const turn = ++looks;
  let next = EVERY.idle;
  try {
    if (!document.body.dataset.known) await meet();
    const { name, params } = chosen();
    draw(name);
    const busy = name ? await VIEWS[name].show(params) : false;
    if (turn !== looks) return; // a later look has taken over
    next = busy ? EVERY.busy : (VIEWS[name]?.every ?? EVERY.idle);
    $("notice").hidden = Boolean(name);
    if (!name) $("notice").textContent = "This key may see nothing that the page shows.";
    arrive(name, params);
  } catch (error) {
    if (turn !== looks) return;
    if (error.status === 401) delete document.body.dataset.known;
    if ([401, 404].includes(error.status)) draw(""); // nothing stays that is another thing's
    failed(error);
  }
  if (!document.hidden) timer = setTimeout(look, next);
}

async function meet() {
  const key = await api.whoAmI();
  $("key").hidden = true;
  $("own").hidden = key === null;
  $("own-name").textContent = key === null ? "" : `${key.name} · ${key.scopes.join(", ")}`;
  document.body.dataset.known = "true";
}

// The heading takes the focus where a person came from another view, so that a screen reader says where it is.
function arrive(name, params) {
  const at = `${name}?${params.get(name) ?? ""}`;
  const heading = document.querySelector(`[data-view="${name}"] h1`);
  if (shown && shown !== at) {
    heading?.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
  shown = at;
  document.title = `${heading?.textContent || "Audit"} · lorecall`;
  document.body.dataset.ready = at;
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
addEventListener("hashchange", () => {
  arrived();
  look();
});
document.addEventListener("visibilitychange", () => !document.hidden && look());
document.addEventListener("changed", look);
for (const view of new Set(Object.values(VIEWS))) view.listen?.(failed);
look();
