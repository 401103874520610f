// How numbers and elements are shown; the same shades and roundings as in the HTML report.

import { VERDICTS } from "./verdicts.js"; // written by the server, the gravest first

const NOTHING = "–";

// The colour class of a probability, 0 to 9; one half itself is still below the line.
export function shade(p) {
  return p > 0.5 ? Math.min(9, 5 + Math.floor((p - 0.5) * 10)) : Math.min(4, Math.floor(p * 10));
}

// Three digits, never rounded onto or over the line.
export function probability(p) {
  if (p === null || p === undefined) return NOTHING;
  if (p > 0 && p < 0.001) return "<.001";
  const shown = (p < 0.5 || p > 0.9995 ? Math.floor(p * 1000) / 1000 : p).toFixed(3);
  return shown === "0.500" && p > 0.5 ? ">.500" : shown.replace(/^0(?=\.)/, "");
}

export const thousands = (n) => n.toLocaleString("en-US");
export const nats = (x) => (x === null || x === undefined ? NOTHING : x.toFixed(2));
export const short = (digest) => (digest ? digest.slice(0, 8) : NOTHING);
export const when = (iso) => (iso ? new Date(iso).toLocaleString() : NOTHING);
export const visible = (text) => text.replaceAll(" ", "·").replaceAll("\n", "↵").replaceAll("\t", "⇥");

// Text where the audit shows it, otherwise the token's place.
export const label = (token, index) => ("text" in token ? visible(token.text) : `t${index + 1}`);

// An element with properties, data and aria attributes, and children; text is never read as HTML.
export function el(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.includes("-")) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function verdictBar(counts) {
  const bar = el("span", { className: "mini", role: "img" });
  const said = [];
  for (const verdict of VERDICTS.filter((name) => counts[name])) {
    const part = el("i", { className: `v-${verdict}`, title: `${counts[verdict]} ${verdict}` });
    part.style.flex = String(counts[verdict]);
    bar.append(part);
    said.push(`${counts[verdict]} ${verdict}`);
  }
  bar.setAttribute("aria-label", said.join(", "));
  return bar;
}

export const state = (name) => el("span", { className: `state state-${name}` }, name);
