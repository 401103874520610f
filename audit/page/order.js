// A new audit: what to ask of which adapter, what that would cost, and the order.

import * as api from "./api.js";
import { goTo } from "./dialogs.js";
import { el, thousands } from "./format.js";

const $ = (id) => document.getElementById(id);
const LARGEST = 64 << 20;
const LIMITS = ["max_certified", "max_recalled", "max_near_verbatim", "max_rate"];
const OPTIONS = ["sample", "budget_tokens"];
const view = { asked: "", request: 0 };

export const needs = "POST /v1/audits";
export const within = "audits";

export async function show(params) {
  const asked = params.get("order") ?? "";
  if (asked && asked !== view.asked) {
    $("order-adapter").value = asked;
    forget();
  }
  view.asked = asked;
  return false;
}

// The order as the routes take it: a form with the file as it is.
function form() {
  const [given, sent] = [new FormData($("order")), new FormData()];
  const [file, controls] = [$("order-file").files[0], given.get("controls")];
  if (!file) throw new Error("Choose a file first.");
  const extra = controls === "file" ? $("order-controls-file").files[0] : null;
  if (controls === "file" && !extra) throw new Error("Choose the file of controls.");
  if (file.size + (extra?.size ?? 0) > LARGEST) throw new Error("At most 64 MiB may be sent; larger files are ordered by address (POST /v1/audits).");
  if (!given.getAll("framing").length) throw new Error("Choose in which form to ask.");
  sent.set("adapter", given.get("adapter").trim());
  sent.set(given.get("kind"), file);
  if (extra) sent.set("controls", extra);
  else if (controls !== "none") {
    sent.set("generate_controls", controls);
    sent.set("control_count", given.get("control_count") || "300");
  }
  for (const framing of given.getAll("framing")) sent.append("framing", framing);
  if (given.getAll("framing").includes("chat+system")) sent.set("system", given.get("system"));
  if (given.getAll("framing").includes("template")) sent.set("template", given.get("template"));
  sent.set("policy", JSON.stringify(policy(given)));
  for (const name of OPTIONS) if (given.get(name)) sent.set(name, given.get(name));
  sent.set("decode", JSON.stringify(given.get("decode")));
  for (const name of ["show_text", "skip_bad"]) sent.set(name, String(given.has(name)));
  return sent;
}

function policy(given) {
  const whole = given.get("policy").trim();
  if (!whole) return Object.fromEntries(LIMITS.map((name) => [name, given.get(name) === "" ? null : Number(given.get(name))]));
  try {
    return JSON.parse(whole);
  } catch {
    throw new Error("The policy is not JSON.");
  }
}

async function step(button, work) {
  $("order-wrong").textContent = "";
  button.disabled = true;
  $("order").setAttribute("aria-busy", "true");
  try {
    await work(form());
  } catch (error) {
    $("order-wrong").textContent = error.message;
  } finally {
    button.disabled = false;
    $("order").removeAttribute("aria-busy");
  }
}

async function estimate(sent) {
  const request = ++view.request;
  $("order-cost").textContent = "Measuring on a few of them…";
  try {
    const cost = await api.estimate(sent);
    if (request !== view.request) return; // the form was changed meanwhile
    $("order-cost").replaceChildren(el("b", {}, `About ${time(cost.seconds)}`), el("span", {}, words(cost)));
    $("start").hidden = false;
  } catch (error) {
    $("order-cost").textContent = "";
    throw error;
  }
}

function time(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} seconds`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} minutes` : `${(seconds / 3600).toFixed(1)} hours`;
}

function words({ candidates, left_out: left, controls, scored_tokens: scored, decodes }) {
  const others = controls ? ` and ${thousands(controls)} controls` : "";
  const out = left ? ` The budget leaves ${thousands(left)} candidates out.` : "";
  return `${thousands(candidates)} candidates${others}: some ${thousands(Math.round(scored))} tokens to score and ${thousands(Math.round(decodes))} answers to decode, at the rate just measured.${out}`;
}

async function start(sent) {
  const made = await api.order(sent);
  forget();
  goTo(new URLSearchParams({ audit: made.id }), `The audit of ${made.adapter} was ordered.`);
}

// An estimate holds for the form as it was.
function forget() {
  view.request += 1;
  $("order-cost").textContent = "";
  $("order-wrong").textContent = "";
  $("start").hidden = true;
}

function follow() {
  const given = new FormData($("order"));
  const [controls, framings] = [given.get("controls"), given.getAll("framing")];
  $("order-controls-sent").hidden = controls !== "file";
  $("order-controls-made").hidden = controls === "none" || controls === "file";
  $("order-system").hidden = !framings.includes("chat+system");
  $("order-template").hidden = !framings.includes("template");
}

async function suggest() {
  const { adapters } = await api.listAdapters({ contains: $("order-adapter").value.trim(), limit: 20 });
  $("order-names").replaceChildren(...adapters.map((one) => el("option", { value: one.name })));
}

// The file of a drop becomes that of the input, which is there for all who do not drag.
function drop(zone) {
  for (const name of ["dragover", "dragleave", "drop"]) {
    zone.addEventListener(name, (event) => {
      event.preventDefault();
      zone.classList.toggle("over", name === "dragover");
      if (name !== "drop" || !event.dataTransfer.files.length) return;
      const input = zone.querySelector("input");
      input.files = event.dataTransfer.files;
      input.dispatchEvent(new Event("input", { bubbles: true }));
    });
  }
}

export function listen(failed) {
  const made = $("order");
  let waits = 0;
  made.addEventListener("input", (event) => {
    forget();
    follow();
    if (event.target !== $("order-adapter")) return;
    clearTimeout(waits);
    waits = setTimeout(() => suggest().catch(failed), 200);
  });
  $("order-adapter").addEventListener("focus", () => suggest().catch(failed));
  made.addEventListener("submit", (event) => {
    event.preventDefault();
    step($("estimate"), estimate);
  });
  $("start").addEventListener("click", () => step($("start"), start));
  document.querySelectorAll(".drop").forEach(drop);
  follow();
}
